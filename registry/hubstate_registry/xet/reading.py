"""The content of stored xorbs, a chunk at a time, each checked against its hash."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hubstate_registry.storage import xet as tables
from hubstate_registry.storage.database import Database
from hubstate_registry.storage.xet import XorbFolder
from hubstate_registry.xet import files
from hubstate_registry.xet.errors import XetError
from hubstate_registry.xet.shard import Term

__all__ = ["ChunkReader", "join_pieces"]


class ChunkReader:
    """Reads what terms name; memory holds one chunk and the index of one xorb."""

    def __init__(self, database: Database, folder: XorbFolder) -> None:
        self._database, self._folder = database, folder

    def read(
        self, terms: Sequence[Term], *, start: int = 0, stop: int | None = None
    ) -> Iterator[bytes | memoryview]:
        """Bytes ``start`` to ``stop`` of what the terms make together.

        Raises:
            XetError: a xorb is missing from the disk, or its bytes are damaged.
        """
        stop = sum(term.size for term in terms) if stop is None else stop
        kept, at = files.select(terms, start=start, stop=stop)
        for term in kept:
            with self._database.read() as connection:
                known = tables.load_xorbs(connection, [term.xorb])
            wanted = files.plan([term], known, start=max(start - at, 0), stop=stop - at)
            with _OpenXorb(self._folder.path(term.xorb)) as source:
                yield from files.read(wanted, known, open={term.xorb: source}.__getitem__)
            at += term.size


def join_pieces(pieces: Iterable[bytes | memoryview], *, size: int) -> Iterator[bytes]:
    """The same bytes in blocks of about ``size``."""
    block, length = list[bytes | memoryview](), 0
    for piece in pieces:
        block.append(piece)
        length += len(piece)
        if length >= size:
            yield b"".join(block)
            block, length = [], 0
    if block:
        yield b"".join(block)


class _OpenXorb:
    """A xorb on disk."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise XetError("is missing from the disk", where=f"xorb {path.name}") from error

    def __enter__(self) -> _OpenXorb:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def pread(self, length: int, offset: int) -> bytes:
        return os.pread(self._file.fileno(), length, offset)
