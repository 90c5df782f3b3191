"""SHA-256 digests as values, and hashing that uses every core.

>>> Digest.of(b"abc")
Digest('sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["Digest", "hash_file", "hash_ranges"]

_HEX = re.compile(r"[0-9a-f]{64}\Z")
_BLOCK = 1 << 20  # read 1 MiB at a time: large enough to release the GIL for, small enough to cache


class Digest:
    """A SHA-256 digest, FIPS 180-4; ``str()`` gives ``sha256:`` and 64 hex digits."""

    __slots__ = ("hex",)

    hex: str

    def __init__(self, hex: str) -> None:
        if not _HEX.match(hex):
            raise ValueError(f"a SHA-256 digest is 64 lower-case hex digits, not {hex[:80]!r}")
        object.__setattr__(self, "hex", hex)

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview) -> Digest:
        """The digest of bytes in memory."""
        return cls(hashlib.sha256(data).hexdigest())

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read ``sha256:<64 hex digits>``.

        Raises:
            ValueError: the text is anything else.
        """
        scheme, _, hex = text.partition(":")
        if scheme != "sha256":
            raise ValueError(f"a digest starts with 'sha256:', not {text[:80]!r}")
        return cls(hex)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Digest does not change")

    def __str__(self) -> str:
        return f"sha256:{self.hex}"

    def __repr__(self) -> str:
        return f"Digest('{self}')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Digest) and other.hex == self.hex

    def __hash__(self) -> int:
        return hash(self.hex)

    def __reduce__(self) -> tuple[type[Digest], tuple[str]]:
        return (Digest, (self.hex,))


def hash_file(path: Path, *, progress: Callable[[int], object] | None = None) -> Digest:
    """The digest of a whole file; ``progress`` is told of the bytes as they are read.

    Raises:
        OSError: the file cannot be read.
    """
    hasher = hashlib.sha256()
    block = bytearray(_BLOCK)
    view = memoryview(block)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            hasher.update(view[:count])
            if progress:
                progress(count)
    return Digest(hasher.hexdigest())


def hash_ranges(
    path: Path,
    ranges: Sequence[tuple[int, int]],
    *,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[Digest]:
    """The digest of each ``(start, stop)`` byte range of a file, on all cores.

    A range that reaches past the end of the file is hashed as far as the file goes, so
    that it cannot match a digest of the whole range.

    Raises:
        OSError: the file cannot be read.
    """
    threads = threads or os.cpu_count() or 1
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        if threads == 1 or len(ranges) == 1:
            return [_hash_range(descriptor, bounds, progress) for bounds in ranges]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda bounds: _hash_range(descriptor, bounds, progress), ranges))
    finally:
        os.close(descriptor)


def _hash_range(
    descriptor: int, bounds: tuple[int, int], progress: Callable[[int], object] | None
) -> Digest:
    position, stop = bounds
    hasher = hashlib.sha256()
    while position < stop:
        block = os.pread(descriptor, min(_BLOCK, stop - position), position)
        if not block:
            break
        hasher.update(block)
        position += len(block)
        if progress:
            progress(len(block))
    return Digest(hasher.hexdigest())
