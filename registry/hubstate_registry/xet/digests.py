"""SHA-256 of files, begun before anybody has said which files they are.

A SHA-256 takes bytes in order, and only the shard, which comes last, says in which order xorbs
make a file. But clients send the xorbs of a file in its order, one after another. So the xorbs
that a caller brings for a repository are hashed as they arrive, as if they made one file, and
what was found is kept under the names of the xorbs so far:

::

    xorb A ───────── xorb B ───────── xorb C          arrivals, up to the next shard
       └─ state of A    └─ state of AB   └─ state of ABC

A file is then read back only from where the longest such run of its own xorbs ends: usually not
at all. Where the guess was wrong (several files at once, or xorbs side by side), it is read back
and hashed whole. States are facts about content, so it harms nobody who made use of whose.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from .hashes import ZERO, Hash, hash_term

__all__ = ["Beginnings", "Growth", "Hashing"]

_BLOCK = 1 << 20
_MOST = 4096  # states and callers, of some hundred bytes each
_MOMENT = 2.0  # seconds

State = Any  # what hashlib makes
Piece = bytes | bytearray | memoryview


class Hashing:
    """Hashes in a thread, beside whoever brings the bytes and never more than a block behind."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._pieces: list[Piece] = []
        self._length = 0
        self._thread = ThreadPoolExecutor(1)
        self._before: Future[None] | None = None

    def take(self, piece: Piece) -> None:
        """Hash these bytes next."""
        self._pieces.append(piece)
        self._length += len(piece)
        if self._length >= _BLOCK:
            self._hand_on()

    def finish(self) -> State:
        """The state after all bytes that were taken."""
        self._hand_on()
        self.close()
        return self._state

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _hand_on(self) -> None:
        if self._before is not None:
            self._before.result()
        self._before = self._thread.submit(self._update, self._pieces)
        self._pieces, self._length = [], 0

    def _update(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            self._state.update(piece)


@dataclass(slots=True, kw_only=True)
class _Run:
    """The xorbs that a caller has brought since the last shard."""

    name: Hash = ZERO
    state: State | None = field(default_factory=hashlib.sha256)
    """None from when it became unknown what comes next."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Growth:
    """A xorb on its way in, hashed as the next one of its run."""

    def __init__(self, run: _Run, state: State, *, keep: Callable[[Hash, State], None]) -> None:
        self._run, self._keep = run, keep
        self._hashing = Hashing(state.copy())
        self.take = self._hashing.take
        self.close = self._hashing.close

    def finish(self, xorb: Hash) -> None:
        """All of it is here, and this is its name."""
        name, state = _extend(self._run.name, xorb), self._hashing.finish()
        self._keep(name, state)
        if self._run.state is not None:  # else another one did not wait
            self._run.name, self._run.state = name, state


class Beginnings:
    """The states of the drawing above; callers arrive in one event loop, and finish in threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._states: OrderedDict[Hash, State] = OrderedDict()
        self._runs: OrderedDict[Hashable, _Run] = OrderedDict()

    @asynccontextmanager
    async def growing(self, caller: Hashable) -> AsyncIterator[Growth | None]:
        """A xorb that arrives within the block; None if nobody can say what it follows.

        It waits a moment for the one before, and if that takes longer, none waits any more.
        """
        with self._lock:
            run = self._runs.setdefault(caller, _Run())
            _trim(self._runs)
        async with _turn(run) as state:
            growth = None if state is None else Growth(run, state, keep=self._keep)
            try:
                yield growth
            finally:
                if growth is not None:
                    growth.close()

    def end(self, caller: Hashable) -> None:
        """A shard has come: what the caller brings next begins another file."""
        with self._lock:
            self._runs.pop(caller, None)

    def find(self, xorbs: Iterable[Hash]) -> tuple[int, State]:
        """Of how many of these xorbs, from the first, a state is known; and a copy of it."""
        names = [ZERO]
        for xorb in xorbs:
            names.append(_extend(names[-1], xorb))
        with self._lock:
            for count in range(len(names) - 1, 0, -1):
                if names[count] in self._states:
                    return count, self._states[names[count]].copy()
        return 0, hashlib.sha256()

    def _keep(self, name: Hash, state: State) -> None:
        with self._lock:
            self._states[name] = state
            _trim(self._states)


@asynccontextmanager
async def _turn(run: _Run) -> AsyncIterator[State | None]:
    """What is known of those before, once they are all here; None if that takes too long."""
    try:
        async with asyncio.timeout(_MOMENT if run.state is not None else 0):
            await run.turn.acquire()
    except TimeoutError:
        run.state = None
        yield None
        return
    try:
        yield run.state
    finally:
        run.turn.release()


def _extend(name: Hash, xorb: Hash) -> Hash:
    return hash_term((name, xorb))


def _trim(known: OrderedDict[Any, Any]) -> None:
    if len(known) > _MOST:
        known.popitem(last=False)
