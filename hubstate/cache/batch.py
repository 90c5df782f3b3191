"""Files that are fetched at one time: what need not be found out for each of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain

from hubstate.cache.donors import LEAST, Place, find_chunks
from hubstate.cache.layers import Cache
from hubstate.digest import Digest
from hubstate.endpoints.base import Commit
from hubstate.manifest import FileRecord
from hubstate.transport.chunks import Chunk, tile
from hubstate.transport.convoy import Convoy
from hubstate.transport.pace import Pace

__all__ = ["Batch"]

_SMALL = 16 << 20  # bytes that one connection brings, where other files have others


class Batch:
    """The files of many releases, to be filled in before the first of them is fetched."""

    def __init__(self) -> None:
        self._searched: frozenset[Digest] = frozenset()
        self._donors: dict[Digest, Place] = {}
        self.convoy = Convoy()
        """Where they are until they are whole."""

    def search(
        self, cache: Cache, records: Collection[FileRecord], *, near: Sequence[Commit]
    ) -> None:
        """Look through the cache once for what the files have in common with others.

        Args:
            cache: all of its folders are searched.
            records: files that are not there, and have no large chunk in common.
            near: the commits that they are of, which are not looked at.
        """
        missing = chain.from_iterable(tile(record) or () for record in records)
        self._donors = find_chunks(cache, missing, near=near)
        self._searched = frozenset(record.digest for record in records)

    def donors(self, file: Digest | None, chunks: Sequence[Chunk]) -> dict[Digest, Place] | None:
        """Where chunks of a file are to be had, if it was searched for those."""
        if file not in self._searched:
            return None
        size = sum(chunk.size for chunk in chunks if chunk.digest in self._donors)
        return self._donors if size >= LEAST else {}

    def pace(self, chunks: Sequence[Chunk]) -> Pace | None:
        """One connection for little, if others are busy with other files."""
        little = sum(chunk.size for chunk in chunks) <= _SMALL
        return Pace(most=1) if little and len(self._searched) > 1 else None
