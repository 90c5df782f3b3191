"""A few calls at one time, in threads that neither Ctrl-C nor the end of the process waits for.

An executor of the standard library is waited for, by its block and at exit: somebody who presses
Ctrl-C would sit through every transfer that is under way.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["at_once", "in_turn"]

T = TypeVar("T")
R = TypeVar("R")
_COUNT = 8
_TICK = 0.1  # seconds
_BUSY = 0.5  # of the processors that so many threads can use
_WAITING = 0.005  # seconds of a call in which nothing was computed, beside as many in which it was


def at_once(call: Callable[[T], R], items: Iterable[T], *, fewest: int = _COUNT) -> list[R]:
    """What a call returns for each item, in their order; several are made at one time.

    At first so many are as ``fewest`` says, and eight once those do not keep the processors busy:
    where they do, more threads would only wait for one another. After an error none is begun any
    more, and those that were begun are waited for; after a ``KeyboardInterrupt`` they are not, and
    go on until the process ends.

    Raises:
        Exception: the error of the first item, in their order, whose call failed.

    >>> at_once(len, ["a", "bcd"])
    [1, 3]
    """
    from concurrent.futures import Future

    tasks: deque[tuple[T, Future[R]]] = deque((item, Future()) for item in items)
    answers = [future for _, future in tasks]
    working: list[threading.Thread] = []

    def begin(count: int) -> None:
        while len(working) < min(count, len(answers)):
            thread = threading.Thread(target=_work, args=(call, tasks), daemon=True)
            working.append(thread)
            thread.start()

    try:
        begin(fewest)
        while tasks and len(working) < _COUNT and not any(map(_failed, answers)):
            if _is_idle(len(working), until=answers[-1]):
                begin(_COUNT)
        return [answer.result() for answer in answers]
    except Exception:
        tasks.clear()
        for thread in working:
            thread.join()
        raise
    finally:
        tasks.clear()


def _failed(answer: Future[Any]) -> bool:
    return answer.done() and answer.exception() is not None


def _is_idle(threads: int, *, until: Future[Any]) -> bool:
    """Whether the threads mostly wait, for a while or until there is an answer."""
    began, work = time.perf_counter(), time.process_time()
    with suppress(TimeoutError):
        until.exception(timeout=_TICK)
    share = (time.process_time() - work) / (time.perf_counter() - began)
    return share < _BUSY * min(threads, os.cpu_count() or 1)


def in_turn(call: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """What a call returns for each item, for calls that are not expected to wait for anything.

    Threads would only take turns with the interpreter, which costs as much again. After a call that
    did wait, for a disk that is across a network for instance, the rest are made at one time.

    Raises:
        Exception: the error of a call, the first one but for those that are made at one time.

    >>> in_turn(len, ["a", "bcd"])
    [1, 3]
    """
    done: list[R] = []
    for item in items:
        began, work = time.perf_counter(), time.thread_time()
        done.append(call(item))
        work = time.thread_time() - work
        if time.perf_counter() - began > 2 * work + _WAITING:
            return done + at_once(call, items[len(done) :])
    return done


def _work(call: Callable[[T], R], tasks: deque[tuple[T, Future[R]]]) -> None:
    while tasks:
        try:
            item, answer = tasks.popleft()
        except IndexError:  # another thread was faster
            return
        try:
            answer.set_result(call(item))
        except BaseException as error:
            answer.set_exception(error)
