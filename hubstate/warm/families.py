"""Files that have tensors in common: the first brings them, and the others copy them from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hubstate.digest import Digest
from hubstate.hub import Release

__all__ = ["Task", "each", "families"]

Task = tuple[Release, str]
"""A release, and the name of a file in it."""

_LEAST = 64 << 10  # bytes in one chunk: next to all models have some zeros in common


def each(tasks: Sequence[Task], _absent: Sequence[Task]) -> list[list[Task]]:
    """Every file by itself."""
    return [[task] for task in tasks]


def families(tasks: Sequence[Task]) -> list[list[Task]]:
    """The files in groups; two that have a large chunk in common are in one, in their order."""
    groups: dict[int, list[Task]] = {}
    home: dict[Digest, int] = {}
    for number, task in enumerate(tasks):
        digests = set(_digests(task))
        joined = {home[digest] for digest in digests & home.keys()}
        first = min(joined, default=number)
        for other in sorted(joined - {first}):
            groups[first] += groups.pop(other)
            home |= {digest: first for digest, group in home.items() if group == other}
        groups.setdefault(first, []).append(task)
        home |= dict.fromkeys(digests, first)
    return list(groups.values())


def _digests(task: Task) -> Iterator[Digest]:
    release, name = task
    for chunk in release.source.tiles(name):
        if chunk.digest and chunk.size >= _LEAST:
            yield chunk.digest
