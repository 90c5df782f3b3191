"""Bytes of one file into another, without passing through this process if possible.

::

    source  ──┤head├────── blocks ──────┤tail├──
    target  ──┤head├────── blocks ──────┤tail├──────

Where both begin equally far into a block, the blocks between are asked for by themselves: file
systems that can share them (XFS, Btrfs and others) then do, and nothing is written. Others copy
them in the kernel, or on the server that has them.
"""

from __future__ import annotations

import contextlib
import os

__all__ = ["STEP", "copy_range", "split"]

STEP = 64 << 20
"""Bytes to copy at a time: an interrupt waits for so much, and it is in memory to be hashed."""

_BLOCK = 1 << 20


def copy_range(source: int, target: int, *, start: int, stop: int, at: int) -> None:
    """Copy bytes ``start`` up to ``stop`` of one descriptor to ``at`` in another.

    What the source does not have, or cannot give, is left out: whoever needs it hashes the target.

    Raises:
        OSError: the target cannot be written.
    """
    shift = at - start
    for begin, end in split(start, stop, shift=shift, block=os.fstat(target).st_blksize):
        done = _copy_in_kernel(source, target, begin, end, shift)
        _copy_through_memory(source, target, done, end, shift)


def split(start: int, stop: int, *, shift: int, block: int) -> list[tuple[int, int]]:
    """A range in front of, of and behind whole blocks, if its copy has whole blocks there too.

    >>> split(1000, 9000, shift=8192, block=4096)
    [(1000, 4096), (4096, 8192), (8192, 9000)]
    >>> split(1000, 9000, shift=24, block=4096)
    [(1000, 9000)]
    """
    first, last = -(-start // block) * block, stop // block * block
    if shift % block or first >= last:
        return [(start, stop)]
    parts = [(start, first), (first, last), (last, stop)]
    return [part for part in parts if part[0] < part[1]]


def _copy_in_kernel(source: int, target: int, start: int, stop: int, shift: int) -> int:
    """Copy as far as the kernel can, and say how far: systems and file systems differ in that."""
    if hasattr(os, "copy_file_range"):
        with contextlib.suppress(OSError):
            while start < stop:
                size = min(STEP, stop - start)
                count = os.copy_file_range(source, target, size, start, start + shift)
                if not count:
                    break
                start += count
    return start


def _copy_through_memory(source: int, target: int, start: int, stop: int, shift: int) -> None:
    while start < stop:
        try:
            block = os.pread(source, min(_BLOCK, stop - start), start)
        except OSError:  # a disk or a server that fails; the bytes can be had elsewhere
            return
        if not block:
            return
        start += os.pwrite(target, block, start + shift)
