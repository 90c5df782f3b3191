"""A file while it is being fetched: its bytes, and a journal of those that were verified.

::

    FOLDER/run-<8 hex of the machine>-<process>-<random>/
    ├── part       as long as the file will be; what is not in the journal may be anything
    └── journal    a line for each verified chunk: "start stop sha256"

The journal is locked while its process lives, where the file system can do that. A line is
written after its bytes, so that a killed process leaves a journal that is true, as far as the
disk kept up: whoever goes on hashes again what the journal names.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from hubstate.blobs import listed, move_file, sync
from hubstate.digest import Digest, hash_ranges
from hubstate.transport.chunks import Chunk, Range, union

if TYPE_CHECKING:
    from hubstate.transport.copies import Copy

__all__ = [
    "Part",
    "adopt_run",
    "is_own",
    "lines_of",
    "lock_run",
    "new_run",
    "read_journal",
    "room_of",
    "runs_in",
    "start_run",
]

_LINE = re.compile(rb"(\d{1,18}) (\d{1,18}) ([0-9a-f]{64})\n")
_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0)


class Part:
    """A file that is being fetched by this process, to be used as a context.

    Args:
        folder: of this run.
        journal: the descriptor of its journal, which is locked.
        name: of the file.

    Raises:
        OSError: the folder cannot be written.
    """

    prefix = b""
    """Of each line in the journal."""

    def __init__(self, folder: Path, *, journal: int, name: str = "part") -> None:
        self.folder = folder
        self.path = folder / name
        self.have: list[Chunk] = []
        """What is there and verified."""
        self.moved = False
        """Whether it has another name by now, for good."""
        self._lock = threading.Lock()
        self._journal = journal
        try:
            self._descriptor = os.open(self.path, _FLAGS | os.O_CREAT, 0o666)
        except OSError:
            self.leave_journal()
            raise

    def __enter__(self) -> Part:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)
        self.leave_journal()

    def leave_journal(self) -> None:
        """Be done with the journal, which unlocks it."""
        os.close(self._journal)

    @property
    def covered(self) -> list[Range]:
        """The verified ranges, joined and in order."""
        return union((chunk.start, chunk.stop) for chunk in self.have)

    def resize(self, size: int) -> None:
        """Give the file its length.

        Raises:
            OSError: the file system has no files of that length.
        """
        os.ftruncate(self._descriptor, size)

    def reserve(self, ranges: Iterable[Range]) -> None:
        """Have room for some ranges: that is quicker, and fails early.

        Raises:
            OSError: there is no room.
        """
        if hasattr(os, "posix_fallocate"):
            for start, stop in ranges:
                os.posix_fallocate(self._descriptor, start, stop - start)

    def write(self, view: memoryview, position: int) -> None:
        """Write bytes that are not verified yet.

        Raises:
            OSError: the disk is full, or fails.
        """
        while view:
            count = os.pwrite(self._descriptor, view, position)
            view, position = view[count:], position + count

    def keep(self, chunks: list[Chunk]) -> None:
        """Record chunks whose bytes were written and are right; each has its digest.

        Raises:
            OSError: the disk is full, or fails.
        """
        if chunks:
            with self._lock:
                os.write(self._journal, lines_of(chunks, prefix=self.prefix))
                self.have += chunks

    def recover(self) -> None:
        """Hash again what the journal names, and forget what is not so."""
        right = self._right(read_journal(self.folder / "journal"))
        os.ftruncate(self._journal, 0)
        self.keep(right)

    def copy(
        self,
        copies: Iterable[Copy],
        source: Path,
        *,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Take chunks over from another file, or from elsewhere in this one, if it has them.

        Every chunk is hashed once it is here, so that it does not matter what becomes of the
        source meanwhile.

        Args:
            copies: chunks that are not here yet, and where each begins in the source.
            source: may be gone, cut off or damaged.
            progress: is told of the bytes that were right.

        Returns:
            How many bytes were right.

        Raises:
            OSError: this file cannot be written.
        """
        copies = list(copies)
        if not copies:
            return 0
        from hubstate.copying import copy_range
        from hubstate.transport.copies import batches, join

        try:
            descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError:
            return 0
        total = 0
        try:
            for batch in batches(copies):
                for start, stop, at in join(batch):
                    copy_range(descriptor, self._descriptor, start=start, stop=stop, at=at)
                    self.begin_flush(at, at + stop - start)
                right = self._right([chunk for chunk, _ in batch])
                self.keep(right)
                count = sum(chunk.size for chunk in right)
                total += count
                if progress and count:
                    progress(count)
        finally:
            os.close(descriptor)
        return total

    def _right(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Those whose bytes are here, hashed now."""
        found = hash_ranges(self.path, [(c.start, c.stop) for c in chunks])
        return [c for c, digest in zip(chunks, found, strict=True) if digest == c.digest]

    def begin_flush(self, start: int, stop: int) -> None:
        """Have the disk begin with bytes that were written, so that less is left for the end."""
        from hubstate.copying import begin_flush

        begin_flush(self._descriptor, start, stop)

    def move(self, path: Path, *, durable: bool = True) -> os.stat_result:
        """Give the file another name, for good, once its bytes have reached the disk.

        If durable, the name has reached it too afterwards.

        Raises:
            OSError: the disk fails, or the name cannot be given.
        """
        os.fsync(self._descriptor)
        move_file(self.path, path, durable=False)
        self.moved = True
        if durable:
            sync(path.parent)
        status = os.fstat(self._descriptor)
        if hasattr(os, "fchmod"):
            os.fchmod(self._descriptor, status.st_mode & 0o444)
        return status

    def discard(self) -> None:
        """Remove all of it."""
        try:  # what is known to be there: looking for more takes several times as long
            for path in (self.path, self.folder / "journal"):
                path.unlink(missing_ok=True)
            self.folder.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            shutil.rmtree(self.folder, ignore_errors=True)


def lines_of(chunks: Iterable[Chunk], *, prefix: bytes = b"") -> bytes:
    """What a journal says of chunks."""
    return b"".join(b"%s%d %d %s\n" % (prefix, c.start, c.stop, _hex(c)) for c in chunks)


def _hex(chunk: Chunk) -> bytes:
    assert chunk.digest, "only chunks with a digest are recorded"
    return chunk.digest.hex.encode()


def read_journal(path: Path) -> list[Chunk]:
    """The chunks that a journal names, without a last line that was cut off."""
    try:
        data = path.read_bytes()
    except OSError:
        return []
    lines = _LINE.findall(data)
    return [Chunk(int(start), int(stop), Digest(hex.decode())) for start, stop, hex in lines]


def start_run(folder: Path) -> Part:
    """A new run; others see it once it is locked.

    Raises:
        OSError: the folder cannot be written.
    """
    run, journal = new_run(folder)
    return Part(run, journal=journal)


def new_run(folder: Path, *, file: Path | None = None, lines: bytes = b"") -> tuple[Path, int]:
    """The folder of a new run, and the descriptor of its journal, which is locked.

    Args:
        folder: that it is in.
        file: to be moved into it as what was fetched so far.
        lines: of the journal.

    Raises:
        OSError: the folder cannot be written.
    """
    new = folder / f"new-{os.urandom(8).hex()}"
    new.mkdir()
    journal = os.open(new / "journal", _FLAGS | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        _take_lock(journal)
        os.write(journal, lines)
        if file:
            file.rename(new / "part")
        return new.rename(_name(folder)), journal
    except OSError:
        os.close(journal)
        raise


def _name(folder: Path) -> Path:
    return folder / f"run-{_machine()}-{os.getpid()}-{os.urandom(4).hex()}"


def room_of(path: Path) -> int:
    """The bytes on the disk that a file takes: what was reserved, and not its length."""
    try:
        return int(getattr(path.stat(), "st_blocks", 0)) * 512
    except OSError:
        return 0


def runs_in(folder: Path) -> Iterator[Path]:
    """The runs of all processes, living or not."""
    yield from listed(folder, "run-*-*-*")


def adopt_run(run: Path) -> Part | None:
    """Go on with the run of a killed process of this machine; None if it may be alive.

    The lock tells, and only among processes of one machine; elsewhere a run is copied from.

    Raises:
        OSError: what it has cannot be read.
    """
    journal = lock_run(run)
    if journal is None:
        return None
    try:
        mine = run.rename(_name(run.parent))
    except OSError:  # another process was faster
        os.close(journal)
        return None
    part = Part(mine, journal=journal)
    part.recover()
    return part


def lock_run(run: Path) -> int | None:
    """The descriptor of the journal of a killed process's run, locked; None if it may be alive."""
    if run.name.split("-")[1] != _machine():
        return None
    try:
        journal = os.open(run / "journal", _FLAGS | os.O_APPEND)
    except OSError:
        return None
    if _take_lock(journal):
        return journal
    os.close(journal)
    return None


def is_own(run: Path) -> bool:
    """Whether a run is of this very process."""
    return run.name.split("-")[1:3] == [_machine(), str(os.getpid())]


def _take_lock(descriptor: int) -> bool:
    """Whether nobody else holds the lock of a file; false too where there are no locks."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


@functools.cache
def _machine() -> str:
    """Eight digits that differ between machines, and between two starts of one."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    text = platform.node()
    with contextlib.suppress(OSError):
        text += boot.read_text()
    return hashlib.sha256(text.encode()).hexdigest()[:8]
