"""A few calls at one time, in threads that neither Ctrl-C nor the end of the process waits for.

An executor of the standard library is waited for, by its block and at exit: somebody who presses
Ctrl-C would sit through every transfer that is under way.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["at_once", "in_turn"]

T = TypeVar("T")
R = TypeVar("R")
_COUNT = 8
_WAITING = 0.005  # seconds of a call in which nothing was computed, beside as many in which it was


def at_once(call: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """What a call returns for each item, in their order; several are made at one time.

    After an error none is begun any more, and those that were begun are waited for; after a
    ``KeyboardInterrupt`` they are not, and go on until the process ends.

    Raises:
        Exception: the error of the first item, in their order, whose call failed.

    >>> at_once(len, ["a", "bcd"])
    [1, 3]
    """
    from concurrent.futures import Future

    tasks: deque[tuple[T, Future[R]]] = deque((item, Future()) for item in items)
    answers = [future for _, future in tasks]
    count = min(_COUNT, len(tasks))
    working = [
        threading.Thread(target=_work, args=(call, tasks), daemon=True) for _ in range(count)
    ]
    try:
        for thread in working:
            thread.start()
        return [answer.result() for answer in answers]
    except Exception:
        tasks.clear()
        for thread in working:
            thread.join()
        raise
    finally:
        tasks.clear()


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
