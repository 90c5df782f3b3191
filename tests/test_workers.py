"""Several calls at one time, and what becomes of them when somebody has had enough."""

from __future__ import annotations

import _thread
import threading
import time

import pytest

from hubstate.errors import HubstateError
from hubstate.progress import shared
from hubstate.workers import at_once, in_turn


def test_answers_are_in_the_order_of_the_items() -> None:
    def call(number: int) -> int:
        time.sleep(0.001 * (20 - number))
        return -number

    assert at_once(call, range(20)) == [-number for number in range(20)]
    assert at_once(call, []) == []


def test_after_an_error_nothing_is_begun_and_what_was_begun_is_waited_for() -> None:
    begun, done = [], []

    def call(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise ValueError("the first")
        time.sleep(0.05)
        done.append(number)

    with pytest.raises(ValueError, match="the first"):
        at_once(call, range(100))
    assert sorted(begun) == [0, *sorted(done)]
    assert len(begun) < 100


@pytest.mark.parametrize(("busy", "most"), [(0, 8), (99, 2)])
def test_threads_that_wait_are_joined_by_more_and_those_that_compute_are_not(
    monkeypatch: pytest.MonkeyPatch, busy: int, most: int
) -> None:
    monkeypatch.setattr(time, "process_time", lambda: busy * time.perf_counter())
    names: set[int] = set()

    def call(_: int) -> None:
        names.add(threading.get_ident())
        time.sleep(0.05)

    at_once(call, range(20), fewest=2)
    assert len(names) == most


def test_an_error_ends_it_while_there_are_few() -> None:
    begun = []

    def call(number: int) -> None:
        begun.append(number)
        time.sleep(0.02)
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        at_once(call, range(1000), fewest=1)
    assert len(begun) < 100


def test_calls_in_turn_are_made_by_the_caller_until_one_waits() -> None:
    def call(number: int) -> tuple[int, bool]:
        if number >= 5:
            time.sleep(0.02)
        return number, threading.current_thread() is threading.main_thread()

    found = in_turn(call, range(10))
    assert [number for number, _ in found] == list(range(10))
    assert not any(here for _, here in found[6:])
    with pytest.raises(ZeroDivisionError):
        in_turn(lambda number: 1 // number, range(2))
    assert in_turn(call, []) == []


def test_ctrl_c_waits_for_no_call() -> None:
    begun, go_on = [], threading.Event()

    def call(number: int) -> None:
        begun.append(number)
        if number == 7:
            _thread.interrupt_main()
        go_on.wait(20)

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        at_once(call, range(100))
    assert time.monotonic() - start < 5
    go_on.set()
    time.sleep(0.05)
    assert len(begun) == 8


def test_what_was_broken_off_hears_so_with_the_next_bytes() -> None:
    told: list[int] = []
    with pytest.raises(KeyboardInterrupt), shared(told.append) as hook:
        hook(1)
        raise KeyboardInterrupt
    with pytest.raises(HubstateError, match="broken off"):
        hook(2)
    with shared(told.append) as hook:
        hook(3)
    hook(4)
    assert told == [1, 3, 4]
