"""A xorb: up to 8192 chunks one after another, named by the tree over their hashes.

::

    chunk 0 | chunk 1 | … | chunk n-1 | footer, or nothing

Clients of today send no footer; an older one repeats what the chunks say already, so it is
recognised, bounded and left out. What a store keeps of a xorb is its chunks and this index:

::

    n × ( hash 32 bytes | end of the stored chunk u32 | content size u32 )

Source: the public Xet protocol specification, "Xorb Formation & Serialization Format".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from .chunks import HEADER, MAX_DATA, ChunkHeader, Content, parse_header, unpack
from .errors import XetError
from .hashes import Hash, format_hash, hash_chunk, hash_tree

__all__ = [
    "INDEX_ENTRY",
    "MAX_CHUNKS",
    "MAX_CONTENT",
    "MAX_STORED",
    "Chunk",
    "Scanner",
    "Xorb",
    "scan",
]

MAX_CHUNKS = 8192
MAX_CONTENT = 64 << 20
"""The most bytes of content in a xorb."""
MAX_STORED = MAX_CONTENT + (1 << 20)
"""The most bytes of an uploaded xorb: content that does not compress, headers and a footer."""

_FOOTER = b"XETBLOB"
_FOOTER_FIXED = 7 + 1 + 32  # identifier, version, hash of the xorb
_MAX_FOOTER = 1024 + 48 * MAX_CHUNKS
_MOST = HEADER + MAX_DATA
_ENTRY = struct.Struct("<32sII")
INDEX_ENTRY = _ENTRY.size
"""Bytes of the index for each chunk."""


class Chunk(NamedTuple):
    """One chunk of a xorb."""

    hash: Hash
    start: int
    """Offset of its header in the stored xorb, in bytes."""
    stop: int
    size: int
    """Bytes of content."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Xorb:
    """A name, and what stands where under it."""

    hash: Hash
    chunks: tuple[Chunk, ...]

    @property
    def stored(self) -> int:
        """Bytes of all chunks as they are stored, without any footer."""
        return self.chunks[-1].stop

    @property
    def size(self) -> int:
        """Bytes of content."""
        return sum(chunk.size for chunk in self.chunks)

    def pack_index(self) -> bytes:
        """The index, 40 bytes for each chunk."""
        return b"".join(_ENTRY.pack(chunk.hash, chunk.stop, chunk.size) for chunk in self.chunks)

    @classmethod
    def unpack_index(cls, index: bytes, *, hash: Hash) -> Xorb:
        """The xorb of that name, from its index.

        Raises:
            XetError: the index is not one that ``pack_index`` wrote.
        """
        if not index or len(index) % _ENTRY.size:
            raise XetError(f"an index of {len(index)} bytes", where=f"xorb {format_hash(hash)}")
        chunks, start = [], 0
        for value, stop, size in _ENTRY.iter_unpack(index):
            chunks.append(Chunk(value, start, stop, size))
            start = stop
        return cls(hash=hash, chunks=tuple(chunks))


class Scanner:
    """Checks a xorb while it arrives, and never holds more than one piece and one chunk.

    Every chunk is decoded and hashed. ``finish`` gives the index, under the name that the
    content has; whether that is the name it was sent under is for the caller to compare.

    >>> from hubstate_registry.xet.chunks import pack
    >>> scanner = Scanner()
    >>> scanner.feed(pack(b"some content"))
    >>> scanner.finish().size
    12
    """

    def __init__(self, sink: Callable[[Content], object] | None = None) -> None:
        """``sink`` is given the content of each chunk, in order."""
        self._sink = sink
        self._rest = bytearray()
        self._chunks: list[Chunk] = []
        self._end = 0
        self._size = 0
        self._received = 0
        self._in_footer = False

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes, as many as there are.

        Raises:
            XetError: they break the format or a limit; the scan is over.
        """
        self._received += len(data)
        if self._received > MAX_STORED:
            raise XetError(f"more than {MAX_STORED} bytes", where="xorb")
        with memoryview(data) as view:
            used = self._take_begun(view) if self._rest else 0
            while not self._in_footer and (taken := self._take(view[used:])):
                used += taken
            self._rest += view[used:]
        if self._in_footer and len(self._rest) > _MAX_FOOTER:
            raise XetError(f"footer: more than {_MAX_FOOTER} bytes", where="xorb")

    def finish(self) -> Xorb:
        """The xorb, once all of it was fed.

        Raises:
            XetError: it stops within a chunk, holds none, or its footer names another xorb.
        """
        if not self._chunks:
            raise XetError("no whole chunk", where="xorb")
        if self._rest and not self._in_footer:
            raise XetError(f"{len(self._rest)} bytes after the last whole chunk", where="xorb")
        xorb = Xorb(
            hash=hash_tree((chunk.hash, chunk.size) for chunk in self._chunks),
            chunks=tuple(self._chunks),
        )
        if self._in_footer:
            _check_footer(self._rest, xorb)
        return xorb

    def _take_begun(self, data: memoryview) -> int:
        """Check the chunk that the bytes before ``data`` begin; how much of ``data`` is done with.

        Only that chunk is copied, and not the block that ends it.
        """
        begun = self._rest
        block = b"".join((begun, data[:_MOST]))
        taken = 0 if self._in_footer else self._take(memoryview(block))
        if not taken:
            begun += data
            return len(data)
        self._rest = bytearray()
        return taken - len(begun)

    def _take(self, data: memoryview) -> int:
        """Check the chunk that ``data`` begins with; its bytes, 0 if not all of it is here."""
        if len(data) < HEADER:
            return 0
        where = f"xorb, chunk {len(self._chunks)}"
        if self._chunks and data[: len(_FOOTER)] == _FOOTER:
            self._in_footer = True
            return 0
        header = parse_header(data, where=where)
        self._check_limits(header, where)
        taken = HEADER + header.stored
        if len(data) < taken:
            return 0
        self._add(data[HEADER:taken], header, where)
        return taken

    def _check_limits(self, header: ChunkHeader, where: str) -> None:
        if len(self._chunks) == MAX_CHUNKS:
            raise XetError(f"more than {MAX_CHUNKS} chunks", where=where)
        if self._size + header.size > MAX_CONTENT:
            raise XetError(f"more than {MAX_CONTENT} bytes of content", where=where)

    def _add(self, data: memoryview, header: ChunkHeader, where: str) -> None:
        content = unpack(data, header, where=where)
        stop = self._end + HEADER + header.stored
        self._chunks.append(Chunk(hash_chunk(content), self._end, stop, header.size))
        self._end, self._size = stop, self._size + header.size
        if self._sink is not None:
            self._sink(content)


def scan(pieces: Iterable[bytes], *, hash: Hash) -> Xorb:
    """Check a whole xorb against the name it was sent under.

    Raises:
        XetError: it is not a xorb, or not that one.
    """
    scanner = Scanner()
    for piece in pieces:
        scanner.feed(piece)
    xorb = scanner.finish()
    if xorb.hash != hash:
        problem = f"expected content named {format_hash(hash)}, found {format_hash(xorb.hash)}"
        raise XetError(problem, where="xorb")
    return xorb


def _check_footer(footer: bytes | bytearray, xorb: Xorb) -> None:
    if len(footer) < _FOOTER_FIXED:
        raise XetError(f"footer: {len(footer)} bytes are too few", where="xorb")
    if footer[7] > 1:
        raise XetError(f"footer version: expected 0 or 1, found {footer[7]}", where="xorb")
    if footer[8:_FOOTER_FIXED] != xorb.hash:
        named = format_hash(bytes(footer[8:_FOOTER_FIXED]))
        raise XetError(f"footer: names {named}, not {format_hash(xorb.hash)}", where="xorb")
