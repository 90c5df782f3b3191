"""The hashes of the Xet protocol: keyed BLAKE3, and a tree over (hash, size) pairs.

::

    chunk         BLAKE3(data), key DATA
    node          BLAKE3("<hash> : <size>\\n" for each child), key NODE
    xorb          the root of the tree over its chunks
    file          BLAKE3(the root of the tree over its chunks), key of zeros
    verification  BLAKE3(the chunk hashes of one term, joined), key VERIFICATION

A hash is 32 bytes. Its text is not their hexadecimal form: each group of eight bytes is read as
a little-endian number and written with 16 digits, so that every group appears reversed.

Source: the public Xet protocol specification, "Hashing" and "Converting hashes to strings".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from blake3 import blake3

from .errors import XetError

__all__ = [
    "ZERO",
    "Hash",
    "Leaf",
    "format_hash",
    "hash_chunk",
    "hash_file",
    "hash_term",
    "hash_tree",
    "is_eligible",
    "parse_hash",
]

Hash: TypeAlias = bytes
"""32 bytes."""
Leaf: TypeAlias = tuple[bytes, int]
"""A hash, and how many bytes of content it stands for."""

ZERO: Hash = bytes(32)
"""The hash of no content at all."""

_DATA = bytes.fromhex("6697f5775b9550de3135cbaca597181c9de421109beb2b58b4d0b04b93adf229")
_NODE = bytes.fromhex("017ec5c7a5472996fd946666b48a02e65ddd536f37c76dd2f86352e64a53713f")
_VERIFICATION = bytes.fromhex("7f1857d6ce56ed66127ff913e7a5c3f3a4cd26d5b5db49e64124987f28fb94c3")

_GROUPS = struct.Struct("<4Q")
_TEXT = re.compile(r"[0-9a-f]{64}")
_FEWEST, _MOST = 3, 9  # children of a node, unless fewer are left
_MEAN = 4
_ELIGIBLE = 1024


def format_hash(value: Hash) -> str:
    """The text of a hash.

    >>> format_hash(bytes(range(32)))
    '07060504030201000f0e0d0c0b0a090817161514131211101f1e1d1c1b1a1918'
    """
    return "{:016x}{:016x}{:016x}{:016x}".format(*_GROUPS.unpack(value))


def parse_hash(text: str, *, where: str = "hash") -> Hash:
    """The hash that a text names.

    Raises:
        XetError: the text is not 64 lower-case hexadecimal digits.

    >>> parse_hash(format_hash(bytes(range(32)))) == bytes(range(32))
    True
    """
    if not _TEXT.fullmatch(text):
        raise XetError(
            f"expected 64 lower-case hexadecimal digits, found {text[:80]!r}", where=where
        )
    return _GROUPS.pack(*(int(text[at : at + 16], 16) for at in range(0, 64, 16)))


def hash_chunk(data: bytes | bytearray | memoryview) -> Hash:
    """The hash of one chunk's content."""
    return blake3(data, key=_DATA).digest()


def hash_tree(leaves: Iterable[Leaf]) -> Hash:
    """The root over (hash, size) pairs: the hash of a xorb, given its chunks.

    One leaf is its own root, and no leaves give ``ZERO``.
    """
    level = list(leaves)
    while len(level) > 1:
        level = _merge_level(level)
    return level[0][0] if level else ZERO


def hash_file(leaves: Sequence[Leaf]) -> Hash:
    """The hash of a file, given its chunks in order; ``ZERO`` for an empty file."""
    return blake3(hash_tree(leaves), key=ZERO).digest() if leaves else ZERO


def hash_term(chunks: Iterable[Hash]) -> Hash:
    """What an upload states of each term, to prove that it knows the chunks."""
    return blake3(b"".join(chunks), key=_VERIFICATION).digest()


def is_eligible(chunk: Hash) -> bool:
    """Whether a client may ask for this chunk wherever it occurs, not only first in a file."""
    return int.from_bytes(chunk[24:], "little") % _ELIGIBLE == 0


def _merge_level(level: Sequence[Leaf]) -> list[Leaf]:
    merged = []
    at = 0
    while at < len(level):
        stop = _find_cut(level, at)
        merged.append(_merge(level[at:stop]))
        at = stop
    return merged


def _find_cut(level: Sequence[Leaf], at: int) -> int:
    """Where the node that begins at ``at`` ends: at a hash divisible by four, within bounds."""
    most = min(at + _MOST, len(level))
    for stop in range(at + _FEWEST, most):
        # the last eight bytes modulo four are the lowest bits of the first of them
        if level[stop - 1][0][24] % _MEAN == 0:
            return stop
    return most


def _merge(children: Sequence[Leaf]) -> Leaf:
    text = "".join(f"{format_hash(value)} : {size}\n" for value, size in children)
    return blake3(text.encode(), key=_NODE).digest(), sum(size for _, size in children)
