"""Files that are fetched at one time: what need not be found out for each of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from hubstate.cache.donors import LEAST, Place, find_chunks
from hubstate.cache.layers import Cache
from hubstate.cache.leases import held
from hubstate.cache.partials import MANY, has_parts
from hubstate.digest import Digest
from hubstate.endpoints.base import Commit
from hubstate.transport.chunks import Chunk
from hubstate.transport.convoy import Convoy, unpack
from hubstate.transport.pace import Pace

__all__ = ["Batch"]

_MOMENT = 0.1  # seconds: a lease that was made within that time is not waited for
_SMALL = 16 << 20  # bytes that one connection brings, where other files have others


class Batch:
    """The files of many releases, to be filled in before the first of them is fetched."""

    def __init__(self) -> None:
        self._searched: frozenset[Digest] = frozenset()
        self._donors: dict[Digest, Place] = {}
        self._held: Mapping[Path, bytes] = {}
        self._due = 0.0
        self._lock = threading.Lock()
        self.convoy = Convoy()
        """Where they are until they are whole."""

    def search(
        self, cache: Cache, files: Mapping[Digest, Iterable[Chunk]], *, near: Sequence[Commit]
    ) -> None:
        """Look through the cache once for what the files have in common with others.

        Args:
            cache: all of its folders are searched.
            files: the chunks of those that are not there, and have no large one in common.
            near: the commits that they are of, which are not looked at.
        """
        self._donors = find_chunks(cache, chain.from_iterable(files.values()), near=near)
        self._searched = frozenset(files)

    def held(self, folder: Path | None) -> Mapping[Path, bytes]:
        """The leases of other processes, as they were a moment ago; see :func:`leases.held`."""
        if time.monotonic() > self._due:
            self._held = held(folder)
            self._due = time.monotonic() + _MOMENT
        return self._held

    def has_begun(self, cache: Cache, folder: Path, key: str) -> bool:
        """Whether there are ranges of a file, by its key, from whomever, since whenever.

        Then what killed processes have left in ``folder`` gets runs of its own; see :func:`unpack`.
        """
        with self._lock:  # what is half unpacked is found by nobody
            if begun := has_parts(cache.folders, key):
                unpack(folder / "partial" / MANY, folder / "partial")
        return begun

    def donors(self, file: Digest | None, chunks: Sequence[Chunk]) -> dict[Digest, Place] | None:
        """Where chunks of a file are to be had, if it was searched for those."""
        if file not in self._searched:
            return None
        if not self._donors:
            return {}
        size = sum(chunk.size for chunk in chunks if chunk.digest in self._donors)
        return self._donors if size >= LEAST else {}

    def pace(self, chunks: Sequence[Chunk]) -> Pace | None:
        """One connection for little, if others are busy with other files."""
        little = sum(chunk.size for chunk in chunks) <= _SMALL
        return Pace(most=1) if little and len(self._searched) > 1 else None
