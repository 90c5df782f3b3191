"""A shard: which terms make which files, and which chunks make which xorbs.

::

    header    tag 32 bytes | version u64 = 2 | footer size u64 (0 without a footer)
    files     for each file:  hash 32 | flags u32 | terms u32 | 8 unused
                for each term:  xorb 32 | flags u32 | size u32 | first chunk u32 | end chunk u32
                flag bit 31, for each term:  verification hash 32 | 16 unused
                flag bit 30:  sha256 32 | 16 unused
    bookend   32 × 0xFF | 16 unused
    xorbs     for each xorb:  hash 32 | flags u32 | chunks u32 | size u32 | stored size u32
                for each chunk:  hash 32 | content offset u32 | size u32 | flags u32 | 4 unused
    bookend
    footer    200 bytes, or nothing

Every record but header and footer has 48 bytes; numbers are little-endian; a sha256 is laid out
like the other hashes, in reversed groups.

Source: the public Xet protocol specification, "MDB Shard File Format Specification".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .errors import XetError
from .hashes import ZERO, Hash, format_hash
from .xorb import MAX_CHUNKS, Xorb

__all__ = [
    "MAX_SHARD",
    "Shard",
    "ShardChunk",
    "ShardFile",
    "ShardXorb",
    "Term",
    "describe_xorb",
    "parse",
    "write",
]

MAX_SHARD = 64 << 20
"""The most bytes of an uploaded shard."""

_TAG = b"HFRepoMetaData\0" + bytes.fromhex("556967456a7b815783a5bdd95ccdd14aa9")
_HEADER = struct.Struct("<32sQQ")
_RECORD = struct.Struct("<32sIIII")
_FOOTER = struct.Struct("<9Q32sQQ48x4Q")
_BOOKEND = _RECORD.pack(b"\xff" * 32, 0, 0, 0, 0)
_VERSION = 2
_VERIFIED, _WITH_SHA256 = 1 << 31, 1 << 30


class Term(NamedTuple):
    """Part of a file: a run of chunks of one xorb."""

    xorb: Hash
    start: int
    """Index of the first chunk."""
    stop: int
    size: int
    """Bytes of content."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardFile:
    """A file, as an upload describes it."""

    hash: Hash
    terms: tuple[Term, ...]
    verification: tuple[Hash, ...] | None
    """One hash for each term."""
    sha256: str | None
    """Of the whole content, as the client says: 64 hexadecimal digits."""

    @property
    def size(self) -> int:
        """Bytes of content."""
        return sum(term.size for term in self.terms)


class ShardChunk(NamedTuple):
    """A chunk, as a shard describes it."""

    hash: Hash
    offset: int
    """Where it begins in the content of the xorb, in bytes."""
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardXorb:
    """A xorb, as a shard describes it."""

    hash: Hash
    chunks: tuple[ShardChunk, ...]
    stored: int
    """Bytes as stored; clients leave it 0."""

    @property
    def size(self) -> int:
        """Bytes of content."""
        return sum(chunk.size for chunk in self.chunks)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """What one shard says."""

    files: tuple[ShardFile, ...]
    xorbs: tuple[ShardXorb, ...]


def parse(data: bytes) -> Shard:
    """Read a shard, with or without its footer.

    Raises:
        XetError: it breaks the format, or it contradicts itself.
    """
    if len(data) > MAX_SHARD:
        raise XetError(f"{len(data)} bytes, at most {MAX_SHARD} are read", where="shard")
    records = _Records(data, _check_header(data))
    files = tuple(_read_files(records))
    xorbs = tuple(_read_xorbs(records))
    _check_end(data, records.at)
    return Shard(files=files, xorbs=xorbs)


def write(shard: Shard, *, created: int, expires: int) -> bytes:
    """A shard with its footer, as an answer to a question about a chunk.

    ``created`` and ``expires`` are in seconds since 1970; a client stops using the shard then.

    >>> shard = Shard(files=(), xorbs=())
    >>> parse(write(shard, created=0, expires=60)) == shard
    True
    """
    files = b"".join(_write_file(file) for file in shard.files) + _BOOKEND
    xorbs = b"".join(_write_xorb(xorb) for xorb in shard.xorbs) + _BOOKEND
    header = _HEADER.pack(_TAG, _VERSION, _FOOTER.size)
    middle, end = len(header) + len(files), len(header) + len(files) + len(xorbs)
    stored, size = (sum(getattr(x, name) for x in shard.xorbs) for name in ("stored", "size"))
    total = sum(file.size for file in shard.files)
    # The three look-up tables are empty, and the chunk hashes are keyed by nothing.
    tables = (end, 0, end, 0, end, 0)
    footer = _FOOTER.pack(
        1, len(header), middle, *tables, ZERO, created, expires, stored, total, size, end
    )
    return header + files + xorbs + footer


def describe_xorb(xorb: Xorb, *, visible: Iterable[range] | None = None) -> ShardXorb:
    """A stored xorb as a shard describes it, with the chunks outside ``visible`` left nameless.

    A nameless chunk keeps its place and its size, and has the hash ``ZERO``.
    """
    seen = None if visible is None else {index for run in visible for index in run}
    chunks, offset = [], 0
    for index, chunk in enumerate(xorb.chunks):
        name = chunk.hash if seen is None or index in seen else ZERO
        chunks.append(ShardChunk(name, offset, chunk.size))
        offset += chunk.size
    return ShardXorb(hash=xorb.hash, chunks=tuple(chunks), stored=xorb.stored)


class _Records:
    """Reads 48 bytes after 48 bytes, and says where they end too early."""

    def __init__(self, data: bytes, at: int) -> None:
        self.at = at
        self._data = data

    def take(self, what: str) -> tuple[Hash, int, int, int, int]:
        if self.at + _RECORD.size > len(self._data):
            raise XetError(f"ends within {what}", where=f"shard, byte {self.at}")
        record = _RECORD.unpack_from(self._data, self.at)
        self.at += _RECORD.size
        return record

    def require(self, count: int, what: str) -> None:
        """Refuse a count that the data cannot hold, before anything is made for it."""
        if count * _RECORD.size > len(self._data) - self.at:
            raise XetError(f"{count} {what} do not fit in the data", where=f"shard, byte {self.at}")


def _check_header(data: bytes) -> int:
    if len(data) < _HEADER.size:
        raise XetError(f"{len(data)} bytes are too few for a header", where="shard")
    tag, version, footer = _HEADER.unpack_from(data)
    if tag != _TAG:
        raise XetError("does not begin as a shard does", where="shard")
    if version != _VERSION:
        raise XetError(f"version: expected {_VERSION}, found {version}", where="shard")
    if footer not in (0, _FOOTER.size):
        raise XetError(f"footer size: expected 0 or {_FOOTER.size}, found {footer}", where="shard")
    return _HEADER.size


def _check_end(data: bytes, at: int) -> None:
    """After the records: nothing, or look-up tables and a footer that this server never needs."""
    footer = _HEADER.unpack_from(data)[2]
    if not footer:
        if at != len(data):
            raise XetError(f"{len(data) - at} bytes after its end", where=f"shard, byte {at}")
        return
    if len(data) - at < footer:
        raise XetError(f"footer: expected {footer} bytes", where=f"shard, byte {at}")
    fields = _FOOTER.unpack_from(data, len(data) - footer)
    if fields[0] != 1 or fields[-1] != len(data) - footer:
        raise XetError("footer: wrong version or offset", where="shard")


def _read_files(records: _Records) -> Iterator[ShardFile]:
    while True:
        hash, flags, count, _, _ = records.take("the list of files")
        if hash == b"\xff" * 32:
            return
        records.require(count * (2 if flags & _VERIFIED else 1), "terms")
        yield _read_file(records, hash, flags=flags, count=count)


def _read_file(records: _Records, hash: Hash, *, flags: int, count: int) -> ShardFile:
    where = f"shard, file {format_hash(hash)}"
    terms = tuple(_read_term(records, f"{where}, term {index}") for index in range(count))
    verification = sha256 = None
    if flags & _VERIFIED:
        verification = tuple(records.take("verification hashes")[0] for _ in range(count))
    if flags & _WITH_SHA256:
        sha256 = format_hash(records.take("the sha256 of a file")[0])
    return ShardFile(hash=hash, terms=terms, verification=verification, sha256=sha256)


def _read_term(records: _Records, where: str) -> Term:
    xorb, _, size, start, stop = records.take("the terms of a file")
    if not start < stop <= MAX_CHUNKS:
        raise XetError(f"chunks {start} to {stop} are no run of chunks", where=where)
    if not size:
        raise XetError("no content", where=where)
    return Term(xorb, start, stop, size)


def _read_xorbs(records: _Records) -> Iterator[ShardXorb]:
    while True:
        hash, _, count, size, stored = records.take("the list of xorbs")
        if hash == b"\xff" * 32:
            return
        where = f"shard, xorb {format_hash(hash)}"
        if not 0 < count <= MAX_CHUNKS:
            raise XetError(f"chunks: expected 1 to {MAX_CHUNKS}, found {count}", where=where)
        records.require(count, "chunks")
        chunks = tuple(_read_chunks(records, count, where=where))
        xorb = ShardXorb(hash=hash, chunks=chunks, stored=stored)
        if xorb.size != size:
            raise XetError(f"size: stated {size}, its chunks have {xorb.size}", where=where)
        yield xorb


def _read_chunks(records: _Records, count: int, *, where: str) -> Iterator[ShardChunk]:
    expected = 0
    for index in range(count):
        hash, offset, size, _, _ = records.take("the chunks of a xorb")
        if offset != expected:
            problem = f"chunk {index}: expected at {expected}, found at {offset}"
            raise XetError(problem, where=where)
        expected += size
        yield ShardChunk(hash, offset, size)


def _write_file(file: ShardFile) -> bytes:
    flags = (_VERIFIED if file.verification is not None else 0) | (
        _WITH_SHA256 if file.sha256 is not None else 0
    )
    records = [_RECORD.pack(file.hash, flags, len(file.terms), 0, 0)]
    records += [_RECORD.pack(t.xorb, 0, t.size, t.start, t.stop) for t in file.terms]
    records += [_RECORD.pack(hash, 0, 0, 0, 0) for hash in file.verification or ()]
    if file.sha256 is not None:
        groups = bytes.fromhex(file.sha256)
        digest = b"".join(groups[at : at + 8][::-1] for at in range(0, 32, 8))
        records.append(_RECORD.pack(digest, 0, 0, 0, 0))
    return b"".join(records)


def _write_xorb(xorb: ShardXorb) -> bytes:
    head = _RECORD.pack(xorb.hash, 0, len(xorb.chunks), xorb.size, xorb.stored)
    return head + b"".join(_RECORD.pack(c.hash, c.offset, c.size, 0, 0) for c in xorb.chunks)
