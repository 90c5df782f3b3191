"""The folders of transfers: who has one, and what was verified in it.

::

    FOLDER/run-<8 hex of the machine>-<process>-<random>/
    ├── part       as long as the file will be; what is not in the journal may be anything
    └── journal    a line for each verified chunk: "start stop sha256"

The journal is locked while its process lives, where the file system can do that. A line is
written after its bytes, so that a killed process leaves a journal that is true, as far as the
disk kept up: whoever goes on hashes again what the journal names.

A run whose lock tells nothing, since it is of another machine, or of this one before it was started
anew, or since there are no locks, is copied from, and taken over once it has been idle for hours.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from hubstate.blobs import listed
from hubstate.digest import Digest
from hubstate.scratch import last_write
from hubstate.transport.chunks import Chunk

__all__ = [
    "claim_run",
    "discard_runs",
    "is_own",
    "lines_of",
    "lock_run",
    "new_run",
    "read_journal",
    "runs_in",
]

_LINE = re.compile(rb"(\d{1,18}) (\d{1,18}) ([0-9a-f]{64})\n")
_IDLE = 7200.0  # seconds without a byte; the patience of transfers ends within one hour
_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0)


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
    pid = os.getpid()
    return folder / f"run-{_machine()}-{pid}-{_process(pid)}{os.urandom(2).hex()}"


@functools.cache
def _process(_pid: int) -> str:
    """What tells this process from one before it: a container's has the same number each time."""
    return os.urandom(4).hex()


def runs_in(folder: Path) -> Iterator[Path]:
    """The runs of all processes, living or not."""
    yield from listed(folder, "run-*-*-*")


def claim_run(run: Path) -> tuple[Path, int] | None:
    """The run of a killed process, now of this one, and its journal's descriptor.

    None if that process may be alive: the lock tells, among processes of one machine.
    """
    journal = lock_run(run)
    if journal is None:
        return None
    try:
        return run.rename(_name(run.parent)), journal
    except OSError:  # another process was faster
        os.close(journal)
        return None


def discard_runs(folder: Path) -> None:
    """Remove the runs of killed processes."""
    for run in runs_in(folder):
        if claimed := claim_run(run):
            mine, journal = claimed
            shutil.rmtree(mine, ignore_errors=True)
            os.close(journal)


def lock_run(run: Path) -> int | None:
    """The descriptor of the journal of a killed process's run, locked; None if it may be alive."""
    if run.name.split("-")[1] != _machine() and not _is_idle(run):
        return None
    try:
        journal = os.open(run / "journal", _FLAGS | os.O_APPEND)
    except OSError:
        return None
    locked = _take_lock(journal)
    if locked or (locked is None and _is_idle(run)):
        return journal
    os.close(journal)
    return None


def _is_idle(run: Path) -> bool:
    """Whether nobody has written to it for hours."""
    with contextlib.suppress(OSError):
        return time.time() - last_write(run) > _IDLE
    return False


def is_own(run: Path) -> bool:
    """Whether a run is of this very process."""
    _, machine, pid, random = run.name.split("-", 3)
    mine = os.getpid()
    return (machine, pid) == (_machine(), str(mine)) and random.startswith(_process(mine))


def _take_lock(descriptor: int) -> bool | None:
    """Whether nobody else holds the lock of a file; None where there are no locks."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


@functools.cache
def _machine() -> str:
    """Eight digits that differ between machines, and between two starts of one."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    text = platform.node()
    with contextlib.suppress(OSError):
        text += boot.read_text()
    return hashlib.sha256(text.encode()).hexdigest()[:8]
