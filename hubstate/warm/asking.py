"""Asking each registry once about all that is wanted of it, where it can answer that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from hubstate import settings
from hubstate.cache import Cache
from hubstate.endpoints import Endpoint
from hubstate.errors import HubstateError
from hubstate.reference import Reference
from hubstate.warm.wanted import Wanted

__all__ = ["Answered", "ask_ahead"]


class Answered(NamedTuple):
    """What has become of asking."""

    registries: Mapping[int, Endpoint]
    """The first one to ask for each release that is wanted, by the ``id()`` of what wants it."""
    all: bool
    """Whether there is an answer for each by now."""


def ask_ahead(wanted: Sequence[Wanted], cache: Cache) -> Answered:
    """Ask each registry that is the first to ask for several releases."""
    registries: dict[str, Endpoint] = {}
    first: dict[int, Endpoint] = {}
    questions: dict[str, dict[Reference, None]] = {}
    for one in wanted:
        with suppress(HubstateError):  # whoever opens it is told
            endpoint = one.endpoints[0]
            first[id(one)] = registries.setdefault(endpoint.name, endpoint)
            if not (_is_known(one, cache) or (endpoint.remote and _is_in_a_folder(one))):
                questions.setdefault(endpoint.name, {})[one.places[0]] = None
    missing = 0
    for name, references in questions.items():
        missing += len(references)
        if len(references) > 1 and not (registries[name].remote and settings.offline()):
            missing -= registries[name].ask_ahead(list(references))
    return Answered(first, all=missing == 0)


def _is_in_a_folder(wanted: Wanted) -> bool:
    """Whether a folder has what is pinned, so that no server is waited for behind an air gap."""
    for endpoint in wanted.endpoints if wanted.pin else ():
        if not endpoint.remote:
            with suppress(HubstateError):
                return bool(endpoint.resolve(wanted.places[0]))
    return False


def _is_known(wanted: Wanted, cache: Cache) -> bool:
    """Whether the cache knows what it means for ever, so that nobody is asked."""
    return wanted.places[0].pinned and any(
        cache.known(endpoint.name, place)
        for endpoint in wanted.endpoints
        for place in wanted.places
    )
