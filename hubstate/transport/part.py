"""A file while it is being fetched: its bytes, and a journal of those that were verified.

Where both are, see :mod:`hubstate.transport.runs`.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from hubstate.blobs import move_file, sync
from hubstate.digest import hash_ranges
from hubstate.transport.chunks import Chunk, Range, union
from hubstate.transport.runs import claim_run, lines_of, new_run, read_journal

if TYPE_CHECKING:
    from hubstate.transport.copies import Copy

__all__ = ["Part", "adopt_run", "room_of", "start_run"]

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
        # A thread that is late, after a second Ctrl-C, must not write to what is opened next.
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)
        self.leave_journal()
        self._journal = -1

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
        from hubstate.copying import reserve

        for start, stop in ranges:
            reserve(self._descriptor, start, stop)

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
        """Hash again what the journal names, and forget what is not so.

        A journal that is right is left as it is: writing it anew would be the moment to be killed.
        """
        journal = self.folder / "journal"
        right = self._right(read_journal(journal))
        if journal.read_bytes() == lines_of(right):
            self.have += right
            return
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

    def flush(self) -> os.stat_result:
        """Have all bytes reach the disk; the file as it is then, and as it stays when it moves.

        Raises:
            OSError: the disk fails.
        """
        try:
            os.fsync(self._descriptor)
        except OSError:  # whoever asks once more is told that all is well, and bytes may be gone
            self.have.clear()
            raise
        return os.fstat(self._descriptor)

    def move(self, path: Path, *, durable: bool = True) -> os.stat_result:
        """Give the file another name, for good, once its bytes have reached the disk.

        If durable, the name has reached it too afterwards.

        Raises:
            OSError: the disk fails, or the name cannot be given.
        """
        self.flush()
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


def start_run(folder: Path) -> Part:
    """A new run; others see it once it is locked.

    Raises:
        OSError: the folder cannot be written.
    """
    run, journal = new_run(folder)
    return Part(run, journal=journal)


def adopt_run(run: Path) -> Part | None:
    """Go on with the run of a killed process; None if it may be alive: then it is copied from.

    Raises:
        OSError: what it has cannot be read.
    """
    if claimed := claim_run(run):
        folder, journal = claimed
        part = Part(folder, journal=journal)
        part.recover()
        return part
    return None


def room_of(path: Path) -> int:
    """The bytes on the disk that a file takes: what was reserved, and not its length."""
    try:
        return int(getattr(path.stat(), "st_blocks", 0)) * 512
    except OSError:
        return 0
