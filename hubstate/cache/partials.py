"""Files of which only some ranges are in the cache: those of the tensors that were wanted.

::

    FOLDER/partial/<64 hex>/       the key of one file, see hubstate.cache.fetching
    ├── <16 hex>.part              as long as the file, with holes; the name is that of its ranges
    ├── <16 hex>.json              {"digest": …, "facts": …, "ranges": [[start, stop, sha256], …]}
    └── run-…/                     a transfer, see hubstate.transport.runs
    FOLDER/partial/many/run-…/     transfers of several files, see hubstate.transport.convoy

A partial file never loses a range, so that a path stays good once it was given to somebody: one
that has more is put in its place, as a link. The record holds while the file's size, time of
change and inode are what they were when its ranges were verified; else, as in a cache that was
copied, they are hashed again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hubstate.blobs import DAY, listed, make_folders, write_file
from hubstate.cache.receipts import facts_of
from hubstate.digest import Digest, hash_ranges
from hubstate.transport.chunks import Chunk, Range, is_covered, seal, union
from hubstate.transport.convoy import find_members, has_member
from hubstate.transport.part import Part, room_of
from hubstate.transport.runs import read_journal, runs_in
from hubstate.values import frozen

__all__ = [
    "MANY",
    "Partial",
    "Partials",
    "discard_partials",
    "find_parts",
    "forget_partial",
    "has_parts",
    "partial_digests",
    "read_partial",
]

MANY = "many"
"""The folder among those of the keys in which several files have one run."""


@frozen
class Partial:
    """A file with holes, and what is not a hole."""

    path: Path
    chunks: tuple[Chunk, ...]

    @property
    def covered(self) -> list[Range]:
        """The ranges that are there, joined and in order."""
        return union((chunk.start, chunk.stop) for chunk in self.chunks)


class Partials:
    """What one cache folder has of one file."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = Path(f"{folder}/partial/{key}")
        self._temporaries = Path(f"{folder}/tmp")

    def __iter__(self) -> Iterator[Partial]:
        """Those whose record still holds."""
        for record in listed(self.folder, "*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                yield _read(record)

    @property
    def begun(self) -> int:
        """The bytes on the disk that a partial file takes, and transfers, broken off or not."""
        alone = (run / "part" for run in runs_in(self.folder))
        members = find_members(self.folder.parent / MANY, self.folder.name)
        transfers = sum(map(room_of, (*alone, *(path for path, _ in members))))
        return transfers + max(map(room_of, listed(self.folder, "*.part")), default=0)

    def find(self, wanted: Sequence[Range]) -> Path | None:
        """A file that has all of the wanted ranges."""
        for partial in self:
            covered = partial.covered
            if all(is_covered(part, covered) for part in wanted):
                with contextlib.suppress(OSError):
                    os.utime(partial.path.with_suffix(".json"))  # the last use
                return partial.path
        return None

    def publish(self, part: Part, *, digest: Digest | None) -> Path:
        """Keep what a transfer has verified, under a name of its own.

        Raises:
            OSError: the folder cannot be written.
        """
        make_folders(self.folder, durable=False)
        chunks = tuple(sorted(part.have, key=lambda chunk: chunk.start))
        path = self.folder / f"{seal(chunks).hex[:16]}.part"
        # The record comes first: a file without one is of no use, and a kill would lose its bytes.
        self._record(path, chunks, part.flush(), digest)
        part.move(path)
        self.supersede(path, chunks, digest=digest)
        return path

    def _record(
        self,
        path: Path,
        chunks: Sequence[Chunk],
        status: os.stat_result,
        digest: Digest | None,
    ) -> None:
        record = {
            "digest": digest.hex if digest else None,
            "facts": facts_of(status),
            "ranges": [[c.start, c.stop, c.digest.hex if c.digest else None] for c in chunks],
        }
        data = json.dumps(record).encode()
        write_file(path.with_suffix(".json"), data, temporaries=self._temporaries, durable=False)

    def supersede(
        self, path: Path, chunks: Sequence[Chunk] | None, *, digest: Digest | None
    ) -> None:
        """Put a file that has more in the place of those that have less, which frees their room.

        ``chunks`` is None for a file that is whole.
        """
        have = None if chunks is None else union((chunk.start, chunk.stop) for chunk in chunks)
        for partial in self:
            less = have is None or all(is_covered(r, have) for r in partial.covered)
            if less and partial.path != path:
                with contextlib.suppress(OSError):
                    self._replace(partial, path, digest)

    def _replace(self, partial: Partial, path: Path, digest: Digest | None) -> None:
        link = partial.path.with_suffix(f".{os.urandom(4).hex()}.tmp")
        os.link(path, link)
        os.replace(link, partial.path)
        self._record(partial.path, partial.chunks, path.stat(), digest)

    def discard(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(record: Path) -> Partial:
    """A partial file as its record says.

    Raises:
        ValueError: the record is no longer true, or none.
    """
    fields: Any = json.loads(record.read_bytes())
    path = record.with_suffix(".part")
    ranges = ((int(a), int(b), Digest(hex) if hex else None) for a, b, hex in fields["ranges"])
    chunks, facts = tuple(Chunk(*range) for range in ranges), facts_of(path.stat())
    if fields["facts"] != facts:
        _check_again(path, chunks)
        with contextlib.suppress(OSError):
            data = json.dumps(fields | {"facts": facts}).encode()
            write_file(record, data, temporaries=record.parents[2] / "tmp", durable=False)
    return Partial(path=path, chunks=chunks)


def _check_again(path: Path, chunks: Sequence[Chunk]) -> None:
    """Hash the ranges of a file that is not the one of its record; it may be a copy of that.

    Raises:
        OSError: it cannot be read.
        ValueError: it has other bytes.
    """
    found = hash_ranges(path, [(chunk.start, chunk.stop) for chunk in chunks], threads=1)
    if found != [chunk.digest for chunk in chunks]:
        raise ValueError("changed since")


def read_partial(path: Path) -> tuple[Chunk, ...]:
    """What a partial file is said to have, each with the digest that it had when it arrived.

    Raises:
        OSError: there is no record of it.
        ValueError: the record is no longer true, or none.
    """
    return _read(path.with_suffix(".json")).chunks


def forget_partial(path: Path) -> None:
    """Use a partial file no more, where that can be written down."""
    with contextlib.suppress(OSError):
        path.with_suffix(".json").unlink()


def find_parts(folders: Iterable[Path], key: str) -> Iterator[tuple[Path, Sequence[Chunk]]]:
    """Files with ranges of one file, and what they are said to have: partial files, transfers."""
    for folder in folders:
        partials = Partials(folder, key)
        for partial in partials:
            yield partial.path, partial.chunks
        for run in runs_in(partials.folder):
            yield run / "part", read_journal(run / "journal")
        yield from find_members(folder / "partial" / MANY, key)


def has_parts(folders: Iterable[Path], key: str) -> bool:
    """Whether :func:`find_parts` may find anything of one file."""
    # A file leaves its convoy for its folder, and not the other way round.
    homes = (folder / "partial" for folder in folders)
    return any(has_member(home / MANY, key) or (home / key).is_dir() for home in homes)


def partial_digests(folders: Iterable[Path]) -> set[Digest]:
    """The digests of all files of which there are partial ones."""
    places = (place for folder in folders for place in listed(folder / "partial", "*"))
    records = (record for place in places for record in listed(place, "*.json"))
    return {digest for record in records for digest in _digest(record) if digest}


def discard_partials(
    folder: Path, needed: Callable[[Digest | None], bool], *, age: float, dry_run: bool = False
) -> Iterator[tuple[Path, int]]:
    """Remove the partial files of a cache folder that are not needed, and what kills left behind.

    Args:
        folder: of the cache.
        needed: by the digest of the whole file, None where no registry stated it.
        age: in seconds; what was used within that time is left alone.
        dry_run: only say what would go.

    Yields:
        The paths, and the bytes they take on the disk.
    """
    for place in listed(folder / "partial", "*"):
        digests = {digest for record in listed(place, "*.json") for digest in _digest(record)}
        idle = [*listed(place, "run-*"), *listed(place, "new-*")]
        doomed = [path for path in idle if _age(path) > max(age, DAY)]
        if not any(map(needed, digests)) and not idle and _age(place) > age:
            doomed = [place]
        for path in doomed:
            yield path, sum(file.stat().st_blocks * 512 for file in path.rglob("*"))
            if not dry_run:
                shutil.rmtree(path, ignore_errors=True)


def _digest(record: Path) -> Iterator[Digest | None]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        hex = json.loads(record.read_bytes())["digest"]
        yield Digest(hex) if hex else None


def _age(path: Path) -> float:
    """The seconds since anything in a folder was last written or used."""
    times = [time.time()]
    with contextlib.suppress(OSError):
        times = [file.stat().st_mtime for file in (path, *path.rglob("*"))]
    return time.time() - max(times)
