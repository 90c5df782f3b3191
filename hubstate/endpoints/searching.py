"""Revisions that a hub server does not know of: a manifest's digest, the first digits of a commit.

They are found by looking: through the branches, the tags, and the history of main, as far as 500
commits. A manifest whose digest the server does not state is read and hashed, each content once.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from hubstate.digest import Digest
from hubstate.endpoints.base import MANIFEST, Commit
from hubstate.errors import RevisionNotFound
from hubstate.reference import Reference
from hubstate.values import replace

if TYPE_CHECKING:
    from hubstate.endpoints.http import HttpEndpoint

__all__ = ["find_manifest", "find_prefix"]

_SEARCHED = 500  # commits


def find_prefix(hub: HttpEndpoint, reference: Reference) -> str | None:
    """The commit that begins with the digits of a reference, among the last ones of main.

    Raises:
        RevisionNotFound: several do.
    """
    prefix = reference.prefix
    if prefix is None or reference.commit:
        return None
    rows = islice(hub.rows(reference.at("main")), _SEARCHED)
    found = [row.id for row in rows if row.id.startswith(prefix)]
    if len(found) > 1:
        raise RevisionNotFound(f"{reference} may be any of {', '.join(found)}")
    return found[0] if found else None


def find_manifest(hub: HttpEndpoint, reference: Reference, wanted: Digest) -> Commit | None:
    """The commit whose manifest has a digest; it comes with that digest."""
    measured: dict[str, Digest] = {}
    for id in islice(_candidates(hub, reference), _SEARCHED):
        commit = _with_manifest(hub, reference.at(id), measured)
        if commit.manifest == wanted:
            return commit
    return None


def _candidates(hub: HttpEndpoint, reference: Reference) -> Iterator[str]:
    refs = hub.refs(reference.repo)
    heads = dict.fromkeys([*refs.branches.values(), *refs.tags.values()])
    yield from heads
    with contextlib.suppress(RevisionNotFound):  # there need be no main
        yield from (row.id for row in hub.rows(reference.at("main")) if row.id not in heads)


def _with_manifest(hub: HttpEndpoint, reference: Reference, measured: dict[str, Digest]) -> Commit:
    listing = hub.listing(reference)
    commit = listing.commit
    if MANIFEST not in commit.files or commit.manifest:
        return commit
    oid = listing.oids.get(MANIFEST, commit.id)
    if oid not in measured:
        measured[oid] = _measure(hub, commit)
    info = replace(commit.files[MANIFEST], digest=measured[oid])
    return replace(commit, files={**commit.files, MANIFEST: info})


def _measure(hub: HttpEndpoint, commit: Commit) -> Digest:
    hasher, block = hashlib.sha256(), memoryview(bytearray(1 << 16))
    with hub.read(commit, MANIFEST) as stream:
        while count := stream.readinto(block) or 0:
            hasher.update(block[:count])
    return Digest(hasher.hexdigest())
