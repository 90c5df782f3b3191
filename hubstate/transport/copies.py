"""Chunks that are copied from one file to another, put together so that few calls do it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from hubstate.copying import STEP
from hubstate.transport.chunks import Chunk

__all__ = ["Copy", "batches", "join"]

Copy = tuple[Chunk, int]
"""A chunk, and where its bytes begin in another file."""


def batches(copies: Iterable[Copy]) -> Iterator[list[Copy]]:
    """Copies in the order of their targets, as many as are soon done at a time."""
    ordered = sorted(copies, key=lambda copy: copy[0].start)
    for _, batch in itertools.groupby(ordered, key=lambda copy: copy[0].start // STEP):
        yield list(batch)


def join(copies: Iterable[Copy]) -> list[tuple[int, int, int]]:
    """Start and stop in the source, and start in the target, of what lies together in both.

    >>> join([(Chunk(0, 4), 10), (Chunk(4, 6), 14), (Chunk(8, 9), 18)])
    [(10, 16, 0), (18, 19, 8)]
    """
    joined: list[tuple[int, int, int]] = []
    for chunk, start in copies:
        if (
            joined
            and joined[-1][1] == start
            and start - chunk.start == joined[-1][0] - joined[-1][2]
        ):
            joined[-1] = (joined[-1][0], start + chunk.size, joined[-1][2])
        else:
            joined.append((start, start + chunk.size, chunk.start))
    return joined
