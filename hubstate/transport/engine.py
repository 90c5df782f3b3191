"""Fetching chunks of one file over several connections, each verified as it arrives.

::

    queue of runs ── span ──> worker: read ─> hash ─> write ─┐
                  ── span ──> worker: …                      ├─> journal ─> progress
                  ── span ──> worker: …                      ┘
                       ▲ as many workers as Pace says

A worker has one buffer of 2 MiB, so that memory does not grow with the file, and fills as much of
it as arrives in a moment: what was not written when a process is killed is fetched again. A chunk
that is not what its digest says is asked for once more, and the second time is an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from hubstate.blobs import Stream
from hubstate.digest import Digest
from hubstate.errors import DigestMismatch
from hubstate.transport.chunks import Chunk, runs
from hubstate.transport.pace import FEWEST, Pace
from hubstate.transport.part import Part

__all__ = ["Read", "transfer"]

_BLOCK = 2 << 20  # what is written at once may lie in one piece of memory, which costs less
_FIRST, _LEAST = 256 << 10, 64 << 10  # bytes
_MOMENT = 0.1  # seconds
_SHORTEST, _LONGEST = 8 << 20, 64 << 20  # bytes of one request, where there is so much in a row
_MANY = 8  # requests that there will be at least: one connection more, as one is mostly waiting
_TICK = 0.1  # seconds
_FLUSH = 2 << 20  # bytes that are left to the disk at one time


class Read(Protocol):
    """Opens bytes ``start`` up to ``stop`` of the file, as often as it takes."""

    def __call__(self, start: int, stop: int) -> AbstractContextManager[Stream]: ...


def transfer(
    read: Read,
    chunks: Iterable[Chunk],
    part: Part,
    *,
    what: str,
    pace: Pace | None = None,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Fetch chunks into a part; what was verified before an error stays in its journal.

    Args:
        read: opens a range; it does its own waiting and trying again.
        chunks: in the order of their offsets.
        part: takes the bytes and remembers what is right.
        what: in the errors' words.
        pace: how many connections to have.
        progress: is told of verified bytes, from several threads, one at a time.

    Raises:
        DigestMismatch: bytes that are wrong twice.
        HubstateError: whatever reading raises; the first of several errors.
        OSError: the part cannot be written.
    """
    work = _Transfer(read, chunks, part, what, progress)
    work.run(pace or Pace(fewest=FEWEST if work.pieces < _MANY else FEWEST + 1))


class _Intake(threading.local):
    """A thread's buffer, again for each file: new memory costs more than what is done to it."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(_BLOCK))
        self._size = _FIRST

    def read(self, stream: Stream, most: int) -> memoryview:
        """The next bytes, as many as are expected within a moment."""
        size, began = self._size, time.perf_counter()
        count = stream.readinto(self._buffer[: min(size, most)]) or 0
        if count == size:
            expected = count * _MOMENT / max(time.perf_counter() - began, 1e-6)
            self._size = int(min(max(expected, _LEAST), _BLOCK))
        return self._buffer[:count]


_intake = _Intake()


class _Transfer:
    def __init__(
        self,
        read: Read,
        chunks: Iterable[Chunk],
        part: Part,
        what: str,
        progress: Callable[[int], object] | None,
    ) -> None:
        self._read, self._part, self._what, self._progress = read, part, what, progress
        self._queue = deque(runs(chunks))
        self._left = sum(chunk.size for run in self._queue for chunk in run)
        self._total, self._arrived = self._left, 0
        self._flowing: set[threading.Thread] = set()
        self._suspects: set[int] = set()
        self._change = threading.Condition()
        self._workers: dict[threading.Thread, Any] = {}
        self._wanted = 0
        self._error: BaseException | None = None
        self._stopped = False

    @property
    def pieces(self) -> int:
        """How many there are with gaps between them."""
        return len(self._queue)

    def run(self, pace: Pace) -> None:
        if pace.connections == pace.most == 1:
            self._wanted = 1
            self._work()
        else:
            self._employ(pace)
        if self._error:
            raise self._error

    def _employ(self, pace: Pace) -> None:
        """Have threads do the work, as many as is worth while, until it is done."""
        try:
            with self._change:
                while self._error is None and (self._workers or self._queue):
                    self._wanted = pace.tell(self._arrived, flowing=len(self._flowing))
                    while len(self._workers) < min(self._wanted, self._useful()):
                        self._start()
                    self._change.wait(_TICK)
        finally:
            self._stop()

    def _useful(self) -> int:
        """The workers that there is something to do for."""
        more = max(len(self._queue), self._left // _SHORTEST) if self._queue else 0
        return len(self._workers) + more

    def _start(self) -> None:
        worker = threading.Thread(target=self._work, name="hubstate-transfer", daemon=True)
        self._workers[worker] = None
        worker.start()

    def _stop(self) -> None:
        with self._change:
            self._stopped = True
            workers = list(self._workers.items())
        for _, stream in workers:
            if abort := getattr(stream, "abort", None):
                abort()
        for worker, stream in workers:
            # One that has no stream yet is waiting for a server, and will write nothing.
            worker.join(None if stream else 1.0)

    def _work(self) -> None:
        me = threading.current_thread()
        try:
            while span := self._take():
                self._fetch(span)
        except BaseException as error:
            with self._change:
                self._error = self._error or error
        finally:
            with self._change:
                self._workers.pop(me, None)
                self._flowing.discard(me)
                self._change.notify_all()

    def _take(self) -> list[Chunk]:
        """The chunks of the next request: few at first, and fewer again the nearer the end is.

        What has yet to arrive, shared among the connections, would have all of them end at one
        moment if they were equally fast; a quarter less leaves something for the faster. What
        has arrived tells how fast they are: where that is little, there may soon be more of them.
        """
        with self._change:
            done = self._stopped or self._error or len(self._workers) > self._wanted
            if done or not self._queue:
                return []
            share = 3 * (self._total - self._arrived) // (4 * self._wanted)
            run = self._queue.popleft()
            size = min(share, self._total // 8 + self._arrived, _LONGEST)
            count = _count_to(run, max(size, _SHORTEST))
            if count < len(run):
                self._queue.appendleft(run[count:])
            self._left -= sum(chunk.size for chunk in run[:count])
            return run[:count]

    def _fetch(self, span: list[Chunk]) -> None:
        with self._read(span[0].start, span[-1].stop) as stream, self._watched(stream):
            checker, flushed = _Checker(span), span[0].start
            while not checker.done and not self._stopped:
                block = _intake.read(stream, checker.left)
                self._count(len(block))
                self._part.write(block, checker.position)
                self._keep(checker.take(block))
                if checker.position - flushed >= _FLUSH:
                    self._part.begin_flush(flushed, checker.position)
                    flushed = checker.position
                if checker.wrong:
                    break
                if not block:
                    raise DigestMismatch(f"{self._what}: ends at byte {checker.position:,}")
            if checker.done and _intake.read(stream, 1):
                raise DigestMismatch(f"{self._what}: goes on after byte {checker.position:,}")
        if checker.wrong:
            self._ask_again(checker)

    @contextlib.contextmanager
    def _watched(self, stream: Stream) -> Any:
        """Let :meth:`_stop` know the stream that this thread may be waiting for."""
        me = threading.current_thread()
        with self._change:
            self._workers[me] = stream
        try:
            yield
        finally:
            with self._change:
                self._workers[me] = None

    def _count(self, count: int) -> None:
        with self._change:
            self._arrived += count
            self._flowing.add(threading.current_thread())

    def _keep(self, chunks: list[Chunk]) -> None:
        if chunks:
            self._part.keep(chunks)
            if self._progress:
                with self._change:
                    self._progress(sum(chunk.size for chunk in chunks))

    def _ask_again(self, checker: _Checker) -> None:
        wrong, found = checker.span[checker.index], checker.wrong
        if wrong.start in self._suspects:
            raise DigestMismatch(
                f"{self._what}: bytes {wrong.start:,}–{wrong.stop:,}: expected {wrong.digest}, "
                f"found {found}"
            )
        rest = checker.span[checker.index :]
        with self._change:
            self._suspects.add(wrong.start)
            self._queue.append(rest)
            self._left += sum(chunk.size for chunk in rest)


def _count_to(run: list[Chunk], size: int) -> int:
    """How many chunks have so many bytes; all of them, if the others are not worth a request."""
    end = run[0].start + size
    count = next((index for index, chunk in enumerate(run, 1) if chunk.stop >= end), len(run))
    worth = run[-1].stop - run[count - 1].stop >= _SHORTEST // 2
    return count if worth else len(run)


class _Checker:
    """Follows a span as its bytes arrive, and says which chunks are complete and right."""

    def __init__(self, span: list[Chunk]) -> None:
        self.span = span
        self.index = 0
        self.position = span[0].start
        self.wrong: Digest | None = None
        self._hasher = hashlib.sha256()

    @property
    def left(self) -> int:
        """The bytes to come."""
        return self.span[-1].stop - self.position

    @property
    def done(self) -> bool:
        return self.index == len(self.span)

    def take(self, view: memoryview) -> list[Chunk]:
        """The chunks that end within these bytes, with their digests; it stops at a wrong one."""
        right = []
        while view and not self.wrong:
            chunk = self.span[self.index]
            piece = view[: chunk.stop - self.position]
            self._hasher.update(piece)
            self.position += len(piece)
            view = view[len(piece) :]
            if self.position == chunk.stop:
                right += self._close(chunk)
        return right

    def _close(self, chunk: Chunk) -> list[Chunk]:
        found = self._hasher.hexdigest()
        if chunk.digest and chunk.digest.hex != found:
            self.wrong = Digest(found)
            return []
        self.index += 1
        self._hasher = hashlib.sha256()
        return [chunk if chunk.digest else Chunk(chunk.start, chunk.stop, Digest(found))]
