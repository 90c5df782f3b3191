"""The garbage collector, held off while thousands of small objects are made that all stay alive.

A full collection looks at every object in the process, and importing torch makes a few hundred
thousand of them: one that falls into a warm load takes several times as long as the load.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["collection_paused"]


@contextmanager
def collection_paused() -> Iterator[None]:
    """Collect no garbage inside the block; afterwards all is as it was.

    >>> with collection_paused():
    ...     gc.isenabled()
    False
    >>> gc.isenabled()
    True
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
