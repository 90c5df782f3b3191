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
from io import FileIO
from pathlib import Path
from typing import Any

__all__ = ["Digest", "hash_file", "hash_ranges"]

_HEX = re.compile(r"[0-9a-f]{64}\Z")
_SCHEME = "sha256:"
_TEXT = re.compile(rf"{_SCHEME}[0-9a-f]{{64}}\Z")
_BLOCK = 1 << 19  # bytes; as fast as any size, and it stays in the cache of its core


class Digest:
    """A SHA-256 digest, FIPS 180-4; ``str()`` gives ``sha256:`` and 64 hex digits."""

    __slots__ = ("hex",)

    hex: str

    def __init__(self, hex: str) -> None:
        if not _HEX.match(hex):
            raise ValueError(f"a SHA-256 digest is 64 lower-case hex digits, not {hex[:80]!r}")
        _set_hex(self, hex)

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
        if _TEXT.match(text):  # then the checks of the constructor are done
            digest = object.__new__(cls)
            _set_hex(digest, text[len(_SCHEME) :])
            return digest
        if not text.startswith(_SCHEME):
            raise ValueError(f"a digest starts with 'sha256:', not {text[:80]!r}")
        return cls(text[len(_SCHEME) :])

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


_set_hex: Any = vars(Digest)["hex"].__set__


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

    Each thread fills one block of memory again and again: reading into fresh memory costs a
    quarter of the time that hashing does. They take ranges from one iterator, which the
    interpreter's lock guards, since handing each over costs more than hashing a small tensor.

    Raises:
        OSError: the file cannot be read.
    """
    digests: dict[int, Digest] = {}
    waiting = iter(enumerate(ranges))

    def work() -> None:
        block = memoryview(bytearray(_BLOCK))
        with path.open("rb", buffering=0) as file:
            for index, bounds in waiting:
                digests[index] = _hash_range(file, bounds, block, progress)

    count = max(1, min(threads or os.cpu_count() or 1, len(ranges)))
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(work) for _ in range(count)]:
            done.result()
    return [digests[index] for index in range(len(ranges))]


def _hash_range(
    file: FileIO,
    bounds: tuple[int, int],
    block: memoryview,
    progress: Callable[[int], object] | None,
) -> Digest:
    position, stop = bounds
    hasher = hashlib.sha256()
    file.seek(position)
    while position < stop and (count := file.readinto(block[: stop - position])):
        hasher.update(block[:count])
        position += count
        if progress:
            progress(count)
    return Digest(hasher.hexdigest())
