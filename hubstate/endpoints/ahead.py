"""Asking a server for many releases in one request, where it is a registry that answers that.

::

    POST {base}/api/hubstate/releases
        {"releases": [{"repo": "org/name", "revision": "main"}, …], "inline": 1048576}
    a line of JSON for each, in their order
        {"info": <what a single request for it answers>, "files": {"hubstate.json": "<text>", …}}

It is advice: of a server that has no such address, answers something else, or refuses, each
release is asked for by itself. What it says is taken for what the single requests would have
answered, and is checked as that.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from hubstate.endpoints.answers import Told, parse_told
from hubstate.endpoints.asking import ask_once
from hubstate.errors import Damaged, HubstateError
from hubstate.reference import Reference

__all__ = ["ask_many"]

_AT_ONCE = 100  # references, of which a server takes no more
_INLINE = 1 << 20  # bytes of a file that may be sent along
_log = logging.getLogger(__name__)


def ask_many(base: str, references: Sequence[Reference]) -> Iterator[tuple[Reference, Told]]:
    """What the server at ``base`` says of those references of which it says anything."""
    for at in range(0, len(references), _AT_ONCE):
        some = references[at : at + _AT_ONCE]
        try:
            lines = _ask(base, some).splitlines()
        except HubstateError as error:
            _log.info("%s: is asked for one release after another: %s", base, error)
            return
        yield from _told(base, some, lines)


def _ask(base: str, references: Sequence[Reference]) -> bytes:
    rows = [{"repo": one.repo, "revision": one.revision} for one in references]
    document = {"releases": rows, "inline": _INLINE}
    what = f"{len(references)} releases on {base}"
    return ask_once(f"{base}/api/hubstate/releases", document, what=what)


def _told(
    base: str, references: Sequence[Reference], lines: Sequence[bytes]
) -> Iterator[tuple[Reference, Told]]:
    for reference, line in zip(references, lines, strict=False):
        try:
            told = parse_told(line, repo=reference.repo, what=f"{reference} on {base}")
        except Damaged as error:
            _log.info("%s", error)
            continue
        if told and reference.commit in (None, told.listing.commit.id):
            yield reference, told
