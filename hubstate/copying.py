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
import errno
import functools
import hashlib
import io
import os
from typing import TYPE_CHECKING, Any

from hubstate.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["STEP", "begin_flush", "copy_range", "copy_stream", "reserve", "split"]

STEP = 64 << 20
"""Bytes to copy at a time: an interrupt waits for so much, and it is in memory to be hashed."""

_BLOCK = 1 << 20
_SYNC_FILE_RANGE_WRITE = 2
_UNABLE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


def reserve(descriptor: int, start: int, stop: int) -> None:
    """Have room on the disk for bytes ``start`` up to ``stop`` of a file, where the system can.

    ``os.posix_fallocate`` writes to each block where the file system cannot, as across NFS: then
    all of a file would be sent twice.

    Raises:
        OSError: there is no room, or the file may not become so long.
    """
    # Where there is no fallocate64, as in newer musl, all numbers have 64 bits.
    allocate = _system("fallocate64", "iqq") or _system("fallocate", "iqq")
    if start < stop and allocate:
        import ctypes

        while allocate(descriptor, 0, start, stop - start):
            code = ctypes.get_errno()
            if code in _UNABLE:
                return
            if code != errno.EINTR:
                raise OSError(code, os.strerror(code))


def begin_flush(descriptor: int, start: int, stop: int) -> None:
    """Have the disk begin with bytes ``start`` up to ``stop`` of a file, where the system can.

    Nothing is waited for. Whoever does wait in the end, with ``fsync``, then finds most of it
    done; and is told of what has failed: sync_file_range(2).
    """
    if start < stop and (begin := _system("sync_file_range", "qqI")):
        begin(descriptor, start, stop - start, _SYNC_FILE_RANGE_WRITE)


@functools.cache
def _system(name: str, kinds: str) -> Any:
    """A function of the system's library that takes a descriptor and numbers of these kinds.

    None where it has none.
    """
    import ctypes  # here, as a warm load writes nothing

    types = {"i": ctypes.c_int, "I": ctypes.c_uint, "q": ctypes.c_int64}
    library = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    if found := getattr(library, name, None):
        found.argtypes = [ctypes.c_int, *(types[kind] for kind in kinds)]
    return found


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


def copy_stream(
    stream: Any,
    descriptor: int,
    *,
    limit: int | None,
    progress: Callable[[int], object] | None,
) -> tuple[Digest, int]:
    """Write what a stream holds to a descriptor; its digest, and the number of bytes.

    Args:
        stream: has ``readinto``; a file is copied by the system, which may share its blocks.
        descriptor: an empty file, open for reading and writing.
        limit: a stream that goes on past it is cut off soon after.
        progress: is told of bytes.

    Raises:
        OSError: the stream cannot be read, or the file not written.
    """
    hasher, size = hashlib.sha256(), 0
    block = memoryview(bytearray(_BLOCK if limit is None else min(_BLOCK, limit + 1)))
    if isinstance(stream, io.FileIO) and hasattr(os, "copy_file_range") and stream.seekable():
        size = _copy_file(
            stream, descriptor, block=block, update=hasher.update, limit=limit, progress=progress
        )
    # A stream that goes on past its stated size is cut off: it must not fill the disk.
    while (limit is None or size <= limit) and (count := stream.readinto(block) or 0):
        hasher.update(block[:count])
        view = block[:count]
        while view:
            view = view[os.write(descriptor, view) :]
        size += count
        if progress:
            progress(count)
    return Digest(hasher.hexdigest()), size


def _copy_file(
    stream: io.FileIO,
    descriptor: int,
    *,
    block: memoryview,
    update: Callable[[memoryview], object],
    limit: int | None,
    progress: Callable[[int], object] | None,
) -> int:
    """Have the system copy a file, which may share its blocks; the number of bytes.

    What cannot be read is left to whoever reads on from there, and gets the error.
    """
    source, first, size = stream.fileno(), stream.tell(), 0
    end = os.fstat(source).st_size - first if limit is None else limit
    for at in range(0, end, STEP):
        stop = min(end, at + STEP)
        copy_range(source, descriptor, start=first + at, stop=first + stop, at=at)
        while count := os.preadv(descriptor, [block], size):
            update(block[:count])
            size += count
            if progress:
                progress(count)
        if size < stop:
            break
    stream.seek(first + size)
    os.lseek(descriptor, size, os.SEEK_SET)
    return size


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
