"""One chunk of a xorb: its header, its compression, its content.

::

    byte 0      version, 0
    bytes 1-3   size of the data that follows, little-endian
    byte 4      scheme: 0 none, 1 LZ4 frame, 2 LZ4 frame over byte groups of four
    bytes 5-7   size of the content
    …           the data

Source: the public Xet protocol specification, "Chunk Format".
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple, TypeAlias

import lz4.frame  # type: ignore[import-untyped]

from .errors import XetError

__all__ = [
    "HEADER",
    "MAX_CONTENT",
    "MAX_DATA",
    "ChunkHeader",
    "Content",
    "Scheme",
    "pack",
    "parse_header",
    "unpack",
]

Content: TypeAlias = bytes | bytearray
HEADER = 8
"""Bytes of a header."""
MAX_CONTENT = 128 * 1024
"""The most bytes that a chunk may hold."""
MAX_DATA = MAX_CONTENT + 1024
"""The most bytes of data: a frame around content that does not compress adds a little."""
_HEADER = struct.Struct("<II")  # each a byte, and three that are a number


class Scheme(IntEnum):
    """How the data of a chunk holds its content."""

    NONE = 0
    LZ4 = 1
    GROUPED = 2


_SCHEMES = dict(enumerate(Scheme))


class ChunkHeader(NamedTuple):
    """What stands before the data of a chunk."""

    stored: int
    """Bytes of data."""
    scheme: Scheme
    size: int
    """Bytes of content."""


def parse_header(data: bytes | memoryview, at: int = 0, *, where: str) -> ChunkHeader:
    """Read the 8 bytes before a chunk's data, from ``at``.

    Raises:
        XetError: a version or scheme that does not exist, or a size beyond its limits.
    """
    first, second = _HEADER.unpack_from(data, at)
    version, stored, scheme, size = first & 255, first >> 8, second & 255, second >> 8
    if version != 0:
        raise XetError(f"chunk version: expected 0, found {version}", where=where)
    if scheme not in _SCHEMES:
        raise XetError(f"compression scheme: expected 0, 1 or 2, found {scheme}", where=where)
    if not 0 < size <= MAX_CONTENT:
        raise XetError(f"content size: expected 1 to {MAX_CONTENT}, found {size}", where=where)
    if not 0 < stored <= MAX_DATA:
        raise XetError(f"data size: expected 1 to {MAX_DATA}, found {stored}", where=where)
    return ChunkHeader(stored, _SCHEMES[scheme], size)


def unpack(data: bytes | memoryview, header: ChunkHeader, *, where: str) -> Content:
    """The content of a chunk, never more than ``header.size`` bytes of it.

    Raises:
        XetError: the data does not decode to exactly that many bytes.
    """
    if header.scheme is Scheme.NONE:
        _check_size(len(data), header.size, where)
        return bytes(data)
    content = _decode(data, header.size, where)
    _check_size(len(content), header.size, where)
    return _ungroup(content) if header.scheme is Scheme.GROUPED else content


def pack(content: bytes, *, scheme: Scheme = Scheme.NONE) -> bytes:
    """Header and data of one chunk; what a client would send.

    >>> packed = pack(b"abcdefgh" * 100, scheme=Scheme.GROUPED)
    >>> header = parse_header(packed, where="example")
    >>> unpack(packed[HEADER:], header, where="example") == b"abcdefgh" * 100
    True
    """
    data = content
    if scheme is not Scheme.NONE:
        data = lz4.frame.compress(_group(content) if scheme is Scheme.GROUPED else content)
    sizes = (len(data).to_bytes(3, "little"), len(content).to_bytes(3, "little"))
    return b"\0" + sizes[0] + bytes([scheme]) + sizes[1] + data


def _decode(data: bytes | memoryview, size: int, where: str) -> bytearray:
    # One byte of room more than promised shows a bomb without letting it go off.
    context = lz4.frame.create_decompression_context()
    content: bytearray
    try:
        content, used, whole = lz4.frame.decompress_chunk(
            context, data, max_length=size + 1, return_bytearray=True
        )
    except (RuntimeError, EOFError, MemoryError) as error:
        raise XetError(f"LZ4 frame: {error}", where=where) from error
    if len(content) <= size and (not whole or used != len(data)):
        raise XetError("LZ4 frame: the data is longer or shorter than the frame", where=where)
    return content


def _check_size(found: int, size: int, where: str) -> None:
    if found != size:
        text = f"more than {size}" if found > size else f"{found}"
        raise XetError(f"content: expected {size} bytes, found {text}", where=where)


def _group(content: bytes) -> bytes:
    return b"".join(content[at::4] for at in range(4))


def _ungroup(groups: bytearray) -> bytearray:
    # From one bytearray into another: anything else would be copied once more on the way.
    content, at = bytearray(len(groups)), 0
    for offset in range(4):
        length = len(range(offset, len(groups), 4))
        content[offset::4] = groups[at : at + length]
        at += length
    return content
