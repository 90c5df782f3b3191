"""Progress of long transfers, told to whoever wants to hear of it.

A hook is called with the number of bytes that have just arrived. ``bar`` makes one that
draws on a terminal, and does nothing where standard error is not one.

>>> with bar("model.safetensors", total=1 << 20) as advance:
...     advance(1 << 20)
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hubstate.errors import HubstateError

__all__ = ["Hook", "bar", "quiet", "shared", "step"]

Hook = Callable[[int], object]
"""Told of the number of bytes that have just arrived."""


def quiet(count: int, /) -> None:
    """The hook of those who do not want to hear of it."""


@contextmanager
def bar(label: str, *, total: int) -> Iterator[Hook]:
    """A hook that draws a bar on standard error while the block runs, on a terminal only."""
    if not _is_terminal():
        yield quiet
        return
    from tqdm import tqdm  # here, because importing it takes longer than most calls do

    with tqdm(total=total, desc=label, unit="B", unit_scale=True, leave=False) as drawn:
        yield drawn.update


@contextmanager
def shared(hook: Hook) -> Iterator[Hook]:
    """A hook for several threads, told by one at a time; after an error in the block it raises.

    So transfers end that nobody waits for any more, at the next bytes that arrive.
    """
    lock, broken_off = threading.Lock(), False

    def told(count: int, /) -> None:
        with lock:
            if broken_off:
                raise HubstateError("what this was fetched for was broken off")
            hook(count)

    try:
        yield told
    except BaseException:
        with lock:
            broken_off = True
        raise


@contextmanager
def step(label: str) -> Iterator[None]:
    """Say on a terminal what is being done while the block runs, and take it back afterwards."""
    shown = _is_terminal()
    if shown:
        sys.stderr.write(f"{label} …")
        sys.stderr.flush()
    try:
        yield
    finally:
        if shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _is_terminal() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # standard error has been closed
        return False
