"""Files that appear whole or not at all, and blobs named by what they hold.

::

    FOLDER/
    ├── blobs/sha256/ab/<64 hex digits>   never changes; mode 0444 less the umask
    └── tmp/<process>-<random>            what is being written; left behind only by a kill;
                                          or a folder of such files, see hubstate.scratch

A writer fills a file of its own in ``tmp``, has it reach the disk, and renames or links it.
Nothing here takes a lock, so a killed writer holds nobody up, and it works on NFS.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from hubstate.digest import Digest, hash_file
from hubstate.errors import DigestMismatch, Unreachable
from hubstate.scratch import last_write
from hubstate.values import frozen

__all__ = [
    "DAY",
    "Blobs",
    "FileInfo",
    "Stream",
    "check_info",
    "describe_error",
    "link_once",
    "listed",
    "make_folders",
    "move_file",
    "opened",
    "reachable",
    "sync",
    "write_file",
]

DAY = 86_400.0  # seconds; no transfer leaves its temporary untouched for that long


class Stream(Protocol):
    """Where bytes come from: files, ``io.BytesIO`` and urllib3's responses have this method."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill the buffer from its start; the number of bytes, 0 at the end."""
        ...


@frozen
class FileInfo:
    """What is known of a file before its bytes are: its size, and its digest where it is stated."""

    size: int | None
    digest: Digest | None = None


def opened(source: Path | bytes) -> io.RawIOBase | io.BytesIO:
    """A file, or bytes in memory, as a stream to be closed."""
    return io.BytesIO(source) if isinstance(source, bytes) else io.FileIO(source)


@contextmanager
def reachable(what: str) -> Iterator[None]:
    """Turn the operating system's errors into :class:`Unreachable`, naming what was tried."""
    try:
        yield
    except OSError as error:
        raise Unreachable(f"{what}: {describe_error(error)}") from error


def describe_error(error: OSError) -> str:
    """The system's words and the path they are about."""
    where = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{where}"


def make_folders(folder: Path, *, durable: bool = True) -> None:
    """Create a folder and those above it; if durable, they are there after a power cut."""
    if os.path.isdir(folder):  # noqa: PTH112 - it mostly is, and this is the quick way to know
        return
    try:
        folder.mkdir()
    except FileExistsError:
        return
    except FileNotFoundError:
        make_folders(folder.parent, durable=durable)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
    if durable:
        sync(folder.parent)


def listed(folder: Path, pattern: str) -> list[Path]:
    """What is in a folder, by a pattern of names; nothing if it goes away at that moment."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - most are empty, and Path.glob is slow to see
    except OSError:
        return []
    return [folder / name for name in sorted(fnmatch.filter(names, pattern))] if names else []


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk, where the file system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def move_file(source: str | Path, path: Path, *, durable: bool) -> None:
    """Give a file its place, in a folder that is made if need be; if durable, so is that folder."""
    try:  # it mostly is there, and to look first would take as long again
        os.replace(source, path)
    except FileNotFoundError:
        make_folders(path.parent, durable=durable)
        os.replace(source, path)


class _Temporary:
    """A new file of this process alone, open for writing; afterwards it has its place, or is gone.

    The mode is given at creation, so that the kernel applies the umask: asking for the umask
    means changing it, and that is not safe among threads.
    """

    def __init__(self, folder: Path, *, mode: int, durable: bool) -> None:
        self.path = f"{folder}/{os.getpid()}-{os.urandom(8).hex()}"
        self._durable, self._moved = durable, False
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        try:  # it mostly is there, and to look first would take as long again
            self.descriptor = os.open(self.path, flags, mode)
        except FileNotFoundError:
            make_folders(folder, durable=durable)
            self.descriptor = os.open(self.path, flags, mode)

    def __enter__(self) -> _Temporary:
        return self

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]

    def move(self, path: Path) -> None:
        """Give the file its place, in the stead of what was there; durable, if that was said."""
        if self._durable:
            os.fsync(self.descriptor)
        move_file(self.path, path, durable=self._durable)
        self._moved = True
        if self._durable:
            sync(path.parent)

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)
        if not self._moved:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)  # noqa: PTH108 - the path is a string


def write_file(
    path: Path, data: bytes, *, temporaries: Path, mode: int = 0o666, durable: bool = True
) -> None:
    """Write a small file so that readers see the old one or the new one, whole.

    One that is not durable may be lost, or empty, after a power cut.
    """
    with _Temporary(temporaries, mode=mode, durable=durable) as temporary:
        temporary.write(data)
        temporary.move(path)


def link_once(path: Path, data: bytes, *, temporaries: Path) -> bool:
    """Write a small file that must not exist yet; exactly one of several writers gets True."""
    with _Temporary(temporaries, mode=0o444, durable=True) as temporary:
        temporary.write(data)
        os.fsync(temporary.descriptor)
        make_folders(path.parent)
        try:
            os.link(temporary.path, path)
        except FileExistsError:
            # An NFS server may have made the link and its answer got lost; then the retry
            # finds it there. The link count tells: open(2), on O_EXCL.
            return os.stat(temporary.path).st_nlink == 2  # noqa: PTH116
        sync(path.parent)
    return True


@functools.lru_cache(maxsize=4096)
def _place(root: str, hex: str) -> Path:
    return Path(f"{root}/{hex[:2]}/{hex}")  # which is slow to make, and asked for again and again


class Blobs:
    """The blobs below a folder; nothing is created before something is added."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._root = f"{folder}/blobs/sha256"

    @property
    def temporaries(self) -> Path:
        """Where blobs are while they are written."""
        return self.folder / "tmp"

    def path(self, digest: Digest) -> Path:
        """Where a blob is, or would be."""
        return _place(self._root, digest.hex)

    def __iter__(self) -> Iterator[tuple[Digest, Path]]:
        """Every blob there is, in the order of the digests."""
        for path in sorted(Path(self._root).glob("[0-9a-f][0-9a-f]/*")):
            with contextlib.suppress(ValueError):
                yield Digest(path.name), path

    def add(
        self,
        stream: Stream,
        *,
        info: FileInfo,
        what: str,
        replace: bool = True,
        durable: bool = True,
        progress: Callable[[int], object] | None = None,
    ) -> tuple[Digest, os.stat_result]:
        """Store what a stream holds, hashing it as it comes; all of it, or nothing.

        A blob that is there already, with the right size, is left alone if ``replace`` is
        false; its time is set to now, which keeps it from being swept as unused. One that is not
        durable may hold anything after a power cut, or be gone.

        Raises:
            DigestMismatch: it has another size or digest than ``info`` states.
            OSError: the stream cannot be read, or the folder not written.
        """
        from hubstate.copying import copy_stream  # here, as a warm load copies nothing

        with _Temporary(self.temporaries, mode=0o444, durable=durable) as temporary:
            digest, size = copy_stream(
                stream, temporary.descriptor, limit=info.size, progress=progress
            )
            check_info(info, FileInfo(size=size, digest=digest), what=what)
            path = self.path(digest)
            if not replace and (kept := _touch(path, size)):
                return digest, kept
            temporary.move(path)
            return digest, os.fstat(temporary.descriptor)

    def adopt(self, path: Path) -> tuple[Digest, os.stat_result]:
        """Make a blob of a file below ``tmp``, which is whole: it is hashed, and moved.

        Raises:
            OSError: the file cannot be read, or the folder not written.
        """
        digest = hash_file(path)
        place = self.path(digest)
        if kept := _touch(place, path.stat().st_size):
            return digest, kept
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        path.chmod(path.stat().st_mode & 0o444)  # the umask has been taken from it already
        os.utime(path)  # so that it is not swept as unused
        make_folders(place.parent)
        os.replace(path, place)
        sync(place.parent)
        return digest, place.stat()

    def discard_temporaries(self, *, age: float = DAY, dry_run: bool = False) -> list[Path]:
        """Remove what killed writers left behind, once it is older than ``age`` seconds."""
        found = []
        for path in listed(self.temporaries, "*"):
            with contextlib.suppress(OSError):
                if time.time() - last_write(path) > age:
                    if not dry_run:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
                    found.append(path)
        return found


def _touch(path: Path, size: int) -> os.stat_result | None:
    """Mark a blob as used just now; None if it is not there, not whole, or somebody else's."""
    try:
        status = path.stat()
        os.utime(path)
    except OSError:
        return None
    return status if status.st_size == size else None


def check_info(expected: FileInfo, found: FileInfo, *, what: str) -> None:
    """Compare what was promised of a file with what it is.

    Raises:
        DigestMismatch: they differ.
    """
    if expected.size is not None and found.size != expected.size:
        more = found.size is not None and found.size > expected.size
        size = f"more than {expected.size}" if more else str(found.size)
        raise DigestMismatch(f"{what}: expected {expected.size} bytes, found {size}")
    if expected.digest is not None and found.digest != expected.digest:
        raise DigestMismatch(f"{what}: expected {expected.digest}, found {found.digest}")
