"""Files that other processes are fetching now, and that have most of what is missing here.

A hundred jobs that load a hundred fine-tunes of one backbone at one moment would fetch it a hundred
times. Instead, who finds at work another one that fetches what it misses waits, and copies::

    leases held by others ─> manifests of the releases those files are of
                                 │ half of what is missing, or more, is in one of them
                                 ▼
                             wait until one of them is there ─> copy

Only a lease that was there before one's own was taken is waited for, so that no circle of
processes can wait for one another.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from hubstate.cache.donors import Place, find_chunks, find_sharing
from hubstate.cache.layers import Cache
from hubstate.cache.leases import Watch
from hubstate.digest import Digest
from hubstate.endpoints.base import Commit
from hubstate.transport.chunks import Chunk

__all__ = ["wait_for_siblings"]

_LOOK = 0.1  # seconds


def wait_for_siblings(
    cache: Cache,
    chunks: Sequence[Chunk],
    places: Mapping[Digest, Place],
    *,
    near: Sequence[Commit],
    leases: Mapping[Path, bytes],
) -> Mapping[Digest, Place]:
    """Where chunks are to be had, once no other process at work brings the most of them.

    Args:
        cache: all of its folders are searched.
        chunks: that are missing, with their digests.
        places: where some of them are to be had already.
        near: the commits that they are of.
        leases: of other processes, from before one's own was taken; see
            :func:`hubstate.cache.leases.held`.
    """
    if not leases or _are_most(places, chunks):
        return places
    keys = {path.name: path for path in leases}
    sharing = find_sharing(cache, chunks, near=near, files=keys)
    half = sum(chunk.size for chunk in chunks) / 2
    paths = [keys[key] for key, size in sharing.items() if size >= half]
    watches = [Watch(path, holder=leases[path]) for path in paths]
    while watches and not _are_most(places, chunks):
        if len(left := [watch for watch in watches if not watch.is_over()]) < len(watches):
            watches, places = left, find_chunks(cache, chunks, near=near)
        else:
            time.sleep(_LOOK)
    return places


def _are_most(places: Collection[Digest], chunks: Sequence[Chunk]) -> bool:
    found = sum(chunk.size for chunk in chunks if chunk.digest in places)
    return 2 * found >= sum(chunk.size for chunk in chunks)
