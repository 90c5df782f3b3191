"""What a file is fetched in: chunks that are verified one by one, and spans of them.

::

    header │ tensor a │ tensor b              │ tensor c │ …     tiles of the file
    chunk  │ chunk    │ 8 MiB │ 8 MiB │ rest  │ chunk    │ …     each with its digest, if known
           └──────────── span: one request ───┘
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from hubstate.digest import Digest
from hubstate.header import Header, HeaderTensor
from hubstate.manifest import FileRecord, TensorRecord, chunks

__all__ = [
    "Chunk",
    "bridge",
    "cut",
    "is_covered",
    "runs",
    "seal",
    "subtract",
    "tensors_of",
    "tile",
    "twins",
    "union",
]

Range = tuple[int, int]
_TWIN = 64 << 10  # bytes of a chunk that is in a file twice, for it to be fetched once
_WASTE = 0.005  # of the wanted bytes: gaps that are fetched along rather than asked around


class Chunk(NamedTuple):
    """Bytes ``start`` up to ``stop`` of a file, and their digest where it was published."""

    start: int
    stop: int
    digest: Digest | None = None

    @property
    def size(self) -> int:
        """In bytes."""
        return self.stop - self.start


def tile(record: FileRecord) -> tuple[Chunk, ...] | None:
    """The chunks of a file whose manifest has digests for every byte; None if it has not."""
    if record.header is None or not record.tensors:
        return None
    found = [Chunk(0, record.tensors[0].start, record.header)]
    for tensor in record.tensors:
        bounds = chunks(tensor.start, tensor.stop)
        found += [Chunk(*b, digest) for b, digest in zip(bounds, tensor.digests, strict=True)]
    found = [chunk for chunk in found if chunk.size]
    position = 0
    for chunk in found:
        if chunk.start != position:
            return None
        position = chunk.stop
    return tuple(found) if position == record.size else None


def seal(tiles: Sequence[Chunk]) -> Digest:
    """One digest for all of them: a file that fits them can be one file only."""
    hasher = hashlib.sha256()
    for chunk in tiles:
        hasher.update(b"%d %d %s\n" % (chunk.start, chunk.stop, str(chunk.digest).encode()))
    return Digest(hasher.hexdigest())


def tensors_of(source: FileRecord | Header | None) -> Iterable[TensorRecord | HeaderTensor]:
    """The tensors of a file as a manifest or its own header lists them."""
    if source is None:
        return ()
    return source.tensors.values() if isinstance(source, Header) else source.tensors


def union(ranges: Iterable[Range]) -> list[Range]:
    """Ranges in order, without overlap, joined where they touch.

    >>> union([(5, 9), (0, 3), (3, 4)])
    [(0, 4), (5, 9)]
    """
    joined: list[Range] = []
    for start, stop in sorted(r for r in ranges if r[0] < r[1]):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined


def subtract(ranges: Iterable[Range], holes: Iterable[Range]) -> list[Range]:
    """What is in the ranges and in none of the holes.

    >>> subtract([(0, 10)], [(2, 4), (8, 20)])
    [(0, 2), (4, 8)]
    """
    left = union(ranges)
    for hole in union(holes):
        left = [part for whole in left for part in _without(whole, hole)]
    return left


def _without(whole: Range, hole: Range) -> Iterator[Range]:
    if hole[1] <= whole[0] or whole[1] <= hole[0]:
        yield whole
        return
    if whole[0] < hole[0]:
        yield whole[0], hole[0]
    if hole[1] < whole[1]:
        yield hole[1], whole[1]


def is_covered(part: Range, have: Sequence[Range]) -> bool:
    """Whether one of the ranges, which are joined and in order, holds all of a part."""
    index = bisect.bisect_right(have, part[0], key=lambda range: range[0]) - 1
    return part[0] >= part[1] or (index >= 0 and part[1] <= have[index][1])


def cut(ranges: Iterable[Range]) -> list[Chunk]:
    """Chunks without digests that fill the ranges."""
    return [Chunk(*bounds) for range in ranges for bounds in chunks(*range)]


def bridge(tiles: Sequence[Chunk], wanted: Collection[Chunk]) -> list[Chunk]:
    """The wanted chunks, and the narrowest gaps between them while they cost next to nothing.

    A gap that is fetched along saves a request; all of them together stay below 0.5 % of the
    wanted bytes.
    """
    places = [index for index, chunk in enumerate(tiles) if chunk in wanted]
    gaps = [tiles[a + 1 : b] for a, b in itertools.pairwise(places) if b > a + 1]
    budget = int(_WASTE * sum(tiles[index].size for index in places))
    chosen = {tiles[index] for index in places}
    for gap in sorted(gaps, key=lambda gap: gap[-1].stop - gap[0].start):
        budget -= gap[-1].stop - gap[0].start
        if budget < 0:
            break
        chosen.update(gap)
    return [chunk for chunk in tiles if chunk in chosen]


def runs(chunks: Iterable[Chunk]) -> list[list[Chunk]]:
    """Chunks in lists, each without a gap."""
    found: list[list[Chunk]] = []
    for chunk in chunks:
        if found and found[-1][-1].stop == chunk.start:
            found[-1].append(chunk)
        else:
            found.append([chunk])
    return found


def twins(chunks: Sequence[Chunk]) -> tuple[list[Chunk], list[tuple[Chunk, int]]]:
    """Chunks to fetch, and those that can be copied from them, with where they are then."""
    if len({chunk.digest.hex for chunk in chunks if chunk.digest}) == len(chunks):
        return list(chunks), []
    first: dict[Digest | None, Chunk] = {}
    for chunk in chunks:
        if chunk.digest and chunk.size >= _TWIN:
            first.setdefault(chunk.digest, chunk)
    copies = [chunk for chunk in chunks if first.get(chunk.digest, chunk) is not chunk]
    once = [chunk for chunk in chunks if first.get(chunk.digest, chunk) is chunk]
    return once, [(chunk, first[chunk.digest].start) for chunk in copies]
