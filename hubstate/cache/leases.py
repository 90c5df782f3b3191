"""Taking turns: of many processes that want one file, one fetches it and the others wait.

::

    FOLDER/leases/<64 hex>     {"host": "node-7", "machine": "<16 hex>", "pid": 4711,
                                "turn": "<8 hex>"}
                               who is fetching that file; touched every second meanwhile

A lease is advice and no lock. What is fetched goes to a file of its own and is renamed into place
once it is whole, so that two processes that fetch the same cost time and nothing else; therefore
nothing here needs ``flock``, which network file systems may not have, or clocks that agree. A
lease whose process is gone, on this machine, or that was not touched for some seconds, on any, is
taken over. One that cannot be written at all is done without.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from hubstate import settings
from hubstate.blobs import listed

__all__ = ["Watch", "discard_leases", "held", "take_turns"]

T = TypeVar("T")
_BEAT = 1.0  # seconds between two touches of a lease
_STALE = 10.0  # seconds without one after which its holder is taken for dead
_SHORTEST, _LONGEST = 0.02, 0.25  # seconds between two looks at somebody else's lease
_COURTESY = 0.3  # seconds that the other processes of torchrun leave to the first
_TURNS = 3  # failures of others after which one tries by oneself
_log = logging.getLogger(__name__)


def take_turns(
    folder: Path | None,
    key: str,
    *,
    find: Callable[[], T | None],
    fetch: Callable[[], T],
) -> T:
    """What ``find`` finds, or else what ``fetch`` returns, which one process at a time calls.

    Args:
        folder: the cache folder that is written to; without one, nobody waits.
        key: what is fetched, as a file name.
        find: looks whether it is there by now.
        fetch: makes it so that the ``find`` of others finds it.
    """
    if folder is None:
        return fetch()
    path = folder / "leases" / key
    if settings.local_rank():
        _leave_to_the_first(path)
    for _ in range(_TURNS):
        with _lease(path) as ours:
            if ours:
                return fetch() if (found := find()) is None else found
        _wait(path)
        if (found := find()) is not None:
            return found
    return fetch()  # those before have failed: that need not happen to all, one after another


def held(folder: Path | None) -> dict[Path, bytes]:
    """The leases of other processes in a cache folder, each as its holder wrote it."""
    own, mine = _pulse.paths, _mark()  # one that was just made is not among the paths yet
    paths = [p for p in listed(folder / "leases", "*") if p not in own] if folder else []
    found = {path: seen.data for path in paths if not path.suffix and (seen := _look(path))}
    return {path: data for path, data in found.items() if data and not data.endswith(mine)}


def discard_leases(folder: Path, *, age: float, dry_run: bool = False) -> list[Path]:
    """Remove the leases of a cache folder that nobody has touched for so many seconds."""
    found = []
    for path in (folder / "leases").glob("*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > age:
                if not dry_run:
                    path.unlink()
                found.append(path)
    return found


def _leave_to_the_first(path: Path) -> None:
    end = time.monotonic() + _COURTESY
    while time.monotonic() < end and not path.exists():
        time.sleep(_SHORTEST)


@contextmanager
def _lease(path: Path) -> Iterator[bool]:
    """Hold a lease; False if somebody else does."""
    try:
        descriptor = _create(path)
    except FileExistsError:
        yield False
        return
    except OSError as error:
        _log.info("%s cannot be written, and nobody will wait: %s", path, error)
        yield True
        return
    _pulse.begin(descriptor, path)
    try:
        yield True
    finally:
        _pulse.end(descriptor)
        _give_back(descriptor, path)
        os.close(descriptor)


def _give_back(descriptor: int, path: Path) -> None:
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            path.unlink()


def _create(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, flags, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o666)
    turn = json.dumps({"host": platform.node(), "turn": os.urandom(4).hex()}).encode()
    with contextlib.suppress(OSError):  # an empty one serves as well
        os.write(descriptor, turn[:-1] + b", " + _mark())
    return descriptor


def _mark() -> bytes:
    """What every lease of this process ends with, and no other."""
    return b'"machine": "%s", "pid": %d}' % (_machine().encode(), os.getpid())


class _Pulse:
    """One thread that touches every lease of this process, as long as there is any."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._held: dict[int, Path] = {}
        self._thread: threading.Thread | None = None

    @property
    def paths(self) -> set[Path]:
        """Of the leases that are held."""
        with self._change:
            return set(self._held.values())

    def begin(self, descriptor: int, path: Path) -> None:
        with self._change:
            if not self._held:
                self._change.notify()
            self._held[descriptor] = path
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, daemon=True)
                self._thread.start()

    def end(self, descriptor: int) -> None:
        """Afterwards the descriptor may be closed, and mean another file."""
        with self._change:
            self._held.pop(descriptor, None)

    def stop(self) -> None:
        """Give back what threads hold that nobody waits for, as the process ends."""
        with self._change:
            for descriptor, path in self._held.items():
                _give_back(descriptor, path)
            self._held.clear()

    def _beat(self) -> None:
        with self._change:
            while self._held:  # looked at once a beat, so that short leases share one thread
                self._change.wait(_BEAT)
                for descriptor, path in self._held.items():
                    with contextlib.suppress(OSError):  # on NFS, once somebody has taken it away
                        os.utime(descriptor if os.utime in os.supports_fd else path)
            self._thread = None


_pulse = _Pulse()
atexit.register(_pulse.stop)
if hasattr(os, "register_at_fork"):  # a child has neither the thread nor the leases
    os.register_at_fork(after_in_child=_pulse.__init__)  # type: ignore[misc]


class _Seen(NamedTuple):
    """A lease as it was at one moment."""

    data: bytes
    inode: int
    touched: int


def _look(path: Path) -> _Seen | None:
    """The lease, if there is one; opened, since that is when NFS asks its server."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            return _Seen(file.read(), status.st_ino, status.st_mtime_ns)
    except OSError:
        return None


class Watch:
    """Somebody else's lease, which is looked at until it is over.

    Args:
        path: of the lease.
        holder: what it said when it was seen first; nothing for whatever it says now.
    """

    def __init__(self, path: Path, *, holder: bytes = b"") -> None:
        self._path, self._holder = path, holder
        self._last, self._since = _look(path), time.monotonic()

    def is_over(self) -> bool:
        """Whether it was given back, maybe to somebody else, or its holder is taken for dead."""
        seen, now = _look(self._path), time.monotonic()
        if self._last is None or seen is None or self._holder not in (b"", seen.data):
            return True
        self._holder = seen.data
        if seen != self._last:
            self._last, self._since = seen, now
        if not _is_dead(seen) and now - self._since <= _STALE:
            return False
        _log.warning("%s: its holder is gone, and is not waited for: %r", self._path, seen.data)
        _take_away(self._path, seen)
        return True


def _wait(path: Path) -> None:
    """Wait until whoever has a lease gives it back or is taken for dead."""
    watch, pause = Watch(path), _SHORTEST
    while not watch.is_over():
        time.sleep(pause)
        pause = min(_LONGEST, pause * 1.5)


def _take_away(path: Path, seen: _Seen) -> None:
    """Remove a lease, unless another one has taken its place meanwhile."""
    aside = path.with_name(f"{path.name}.{os.urandom(4).hex()}")
    with contextlib.suppress(OSError):
        if not _is_still(path, seen):
            return
        path.rename(aside)
        if not _is_still(aside, seen):  # it was replaced between the look and the renaming
            with contextlib.suppress(OSError):
                os.link(aside, path)
        aside.unlink()


def _is_still(path: Path, seen: _Seen) -> bool:
    now = _look(path)  # an inode alone says little, since its number is soon used again
    return now is not None and (now.data, now.inode) == (seen.data, seen.inode)


def _is_dead(seen: _Seen) -> bool:
    """Whether the holder was a process of this machine, and is no more."""
    try:
        holder: Any = json.loads(seen.data)
        pid, here = int(holder["pid"]), holder["machine"] == _machine()
    except (ValueError, KeyError, TypeError):
        return False
    return here and sys.platform != "win32" and not _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    with contextlib.suppress(OSError, IndexError):  # one that nobody has waited for is dead too
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return True


@functools.cache
def _machine() -> str:
    """What tells those apart whose process numbers mean different things."""
    text = platform.node()
    with contextlib.suppress(OSError):
        text += Path("/proc/sys/kernel/random/boot_id").read_text()
        text += str(Path("/proc/self/ns/pid").readlink())  # a container counts by itself
    return hashlib.sha256(text.encode()).hexdigest()[:16]
