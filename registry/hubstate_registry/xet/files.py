"""Files made of terms: checked when they are uploaded, planned and read when they are wanted.

A plan is the answer to "how do I get bytes a to b of this file": the terms that hold them, cut at
the bounds of chunks, how many bytes of the first term to leave out, and which byte ranges of
which xorbs to fetch. ``read`` follows a plan on the server's own disk, for plain readers.

Source: the public Xet protocol specification, "File Reconstruction".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, Protocol

from .chunks import HEADER, Content, parse_header, unpack
from .errors import OutOfRange, XetError
from .hashes import Hash, format_hash, hash_chunk, hash_file, hash_term
from .shard import ShardFile, ShardXorb, Term
from .xorb import Chunk, Xorb

__all__ = ["Fetch", "Plan", "Readable", "check_file", "check_xorb", "plan", "read", "select"]

Xorbs = Mapping[Hash, Xorb]


class Fetch(NamedTuple):
    """A run of chunks of a xorb, and the bytes that hold it."""

    chunks: range
    bytes: range


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How to put together a range of a file."""

    skip: int
    """Bytes of the first term's content that come before the range."""
    length: int
    """Bytes of the range."""
    terms: tuple[Term, ...]
    fetches: Mapping[Hash, tuple[Fetch, ...]]
    """For each xorb the runs to fetch, disjoint and in order."""

    def to_v1(self, locate: Callable[[Hash, Fetch], str]) -> dict[str, Any]:
        """The answer of ``/v1/reconstructions``; ``locate`` gives the address of a fetch."""
        return self._head() | {
            "fetch_info": {
                format_hash(xorb): [
                    {
                        "range": _chunk_range(fetch.chunks),
                        "url": locate(xorb, fetch),
                        "url_range": _byte_range(fetch.bytes),
                    }
                    for fetch in fetches
                ]
                for xorb, fetches in self.fetches.items()
            }
        }

    def to_v2(self, locate: Callable[[Hash, Fetch], str]) -> dict[str, Any]:
        """The answer of ``/v2/reconstructions``, with one range to each address."""
        return self._head() | {
            "xorbs": {
                format_hash(xorb): [
                    {
                        "url": locate(xorb, fetch),
                        "ranges": [
                            {
                                "chunks": _chunk_range(fetch.chunks),
                                "bytes": _byte_range(fetch.bytes),
                            }
                        ],
                    }
                    for fetch in fetches
                ]
                for xorb, fetches in self.fetches.items()
            }
        }

    def _head(self) -> dict[str, Any]:
        terms = [
            {
                "hash": format_hash(term.xorb),
                "unpacked_length": term.size,
                "range": {"start": term.start, "end": term.stop},
            }
            for term in self.terms
        ]
        return {"offset_into_first_range": self.skip, "terms": terms}


def check_xorb(stated: ShardXorb, xorb: Xorb | None) -> None:
    """Compare what a shard says of a xorb with the xorb that is stored.

    Raises:
        XetError: it is not stored, or has other chunks.
    """
    where = f"shard, xorb {format_hash(stated.hash)}"
    if xorb is None:
        raise XetError("is not stored here", where=where)
    if [(c.hash, c.size) for c in stated.chunks] != [(c.hash, c.size) for c in xorb.chunks]:
        raise XetError("its chunks are not those of the stored xorb", where=where)


def check_file(file: ShardFile, xorbs: Xorbs) -> None:
    """Check all that an upload states of a file but its sha256, which only its content shows.

    Raises:
        XetError: with every problem: a term outside its xorb or over a xorb that is missing, a
            size or a verification hash that is wrong, or a file hash that is not the content's.
    """
    where = f"shard, file {format_hash(file.hash)}"
    if file.verification is None:
        raise XetError("states no verification hashes", where=where)
    pairs = enumerate(zip(file.terms, file.verification, strict=True))
    problems = [f"term {at}: {p}" for at, (t, v) in pairs for p in _check_term(t, v, xorbs)]
    if problems:
        raise XetError("; ".join(problems), where=where)
    runs = (xorbs[term.xorb].chunks[term.start : term.stop] for term in file.terms)
    found = hash_file([(chunk.hash, chunk.size) for chunk in chain.from_iterable(runs)])
    if found != file.hash:
        raise XetError(f"its terms make {format_hash(found)}", where=where)


def plan(terms: Sequence[Term], xorbs: Xorbs, *, start: int = 0, stop: int | None = None) -> Plan:
    """Plan bytes ``start`` to ``stop`` of a file; a ``stop`` beyond the end means the end.

    Raises:
        OutOfRange: the file has no byte ``start``, or ``stop`` is not after it.
    """
    size = sum(term.size for term in terms)
    stop = size if stop is None else min(stop, size)
    if not terms and start == 0:
        return Plan(skip=0, length=0, terms=(), fetches={})
    if not 0 <= start < stop:
        raise OutOfRange(f"no bytes {start} to {stop} in a file of {size}", where="range")
    skip, cut, at = 0, list[Term](), 0
    for term in terms:
        if at < stop and at + term.size > start:
            before, kept = _cut_term(term, xorbs[term.xorb], start=start - at, stop=stop - at)
            skip = skip if cut else before
            cut.append(kept)
        at += term.size
    return Plan(skip=skip, length=stop - start, terms=tuple(cut), fetches=_find_fetches(cut, xorbs))


def select(terms: Sequence[Term], *, start: int, stop: int) -> tuple[Sequence[Term], int]:
    """The terms that hold bytes ``start`` to ``stop``, and where the first of them begins."""
    kept, begins, at = list[Term](), 0, 0
    for term in terms:
        if at < stop and at + term.size > start:
            begins = begins if kept else at
            kept.append(term)
        at += term.size
    return kept, begins


class Readable(Protocol):
    """An open xorb."""

    def pread(self, length: int, offset: int) -> bytes:
        """Up to ``length`` bytes from ``offset``."""


def read(
    wanted: Plan, xorbs: Xorbs, *, open: Callable[[Hash], Readable]
) -> Iterator[bytes | memoryview]:
    """The bytes of a planned range, a chunk at a time, each checked against its hash.

    Raises:
        XetError: the bytes on the disk are no longer the chunk that they were.
    """
    skip, left = wanted.skip, wanted.length
    for term in wanted.terms:
        source = open(term.xorb)
        for chunk in xorbs[term.xorb].chunks[term.start : term.stop]:
            content = memoryview(_read_chunk(source, chunk, format_hash(term.xorb)))
            piece = content[skip : skip + left]
            skip, left = 0, left - len(piece)
            yield piece


def _read_chunk(source: Readable, chunk: Chunk, xorb: str) -> Content:
    where = f"xorb {xorb}, byte {chunk.start}"
    data = source.pread(chunk.stop - chunk.start, chunk.start)
    if len(data) != chunk.stop - chunk.start:
        raise XetError(f"ends after {len(data)} bytes of a chunk", where=where)
    header = parse_header(data, where=where)
    content = unpack(memoryview(data)[HEADER:], header, where=where)
    if hash_chunk(content) != chunk.hash:
        raise XetError(f"is not chunk {format_hash(chunk.hash)} any more", where=where)
    return content


def _check_term(term: Term, verification: Hash, xorbs: Xorbs) -> Iterator[str]:
    xorb = xorbs.get(term.xorb)
    if xorb is None:
        yield f"xorb {format_hash(term.xorb)} is not stored here"
        return
    if term.stop > len(xorb.chunks):
        yield f"chunk {term.stop - 1} of a xorb that has {len(xorb.chunks)}"
        return
    chunks = xorb.chunks[term.start : term.stop]
    if (size := sum(chunk.size for chunk in chunks)) != term.size:
        yield f"stated {term.size} bytes, its chunks have {size}"
    if hash_term(chunk.hash for chunk in chunks) != verification:
        yield "the verification hash is not that of its chunks"


def _cut_term(term: Term, xorb: Xorb, *, start: int, stop: int) -> tuple[int, Term]:
    """Leave out the chunks before ``start`` and after ``stop``, counted within the term."""
    first, last, before, size, at = term.start, term.start, 0, 0, 0
    for index in range(term.start, term.stop):
        length = xorb.chunks[index].size
        if at + length <= start:
            first, before = index + 1, at + length
        elif at < stop:
            last, size = index + 1, size + length
        at += length
    return max(start - before, 0), Term(term.xorb, first, last, size)


def _find_fetches(terms: Sequence[Term], xorbs: Xorbs) -> dict[Hash, tuple[Fetch, ...]]:
    runs: dict[Hash, list[range]] = {}
    for term in sorted(terms, key=lambda term: (term.start, term.stop)):
        known = runs.setdefault(term.xorb, [])
        if known and term.start <= known[-1].stop:
            known[-1] = range(known[-1].start, max(known[-1].stop, term.stop))
        else:
            known.append(range(term.start, term.stop))
    return {
        hash: tuple(_locate_run(run, xorbs[hash]) for run in found) for hash, found in runs.items()
    }


def _locate_run(run: range, xorb: Xorb) -> Fetch:
    chunks = xorb.chunks
    return Fetch(run, range(chunks[run.start].start, chunks[run.stop - 1].stop))


def _chunk_range(run: range) -> dict[str, int]:
    return {"start": run.start, "end": run.stop}


def _byte_range(run: range) -> dict[str, int]:
    return {"start": run.start, "end": run.stop - 1}  # inclusive, as in a Range header
