"""What came by Xet: xorbs on disk, and in the database what they hold and which files they make.

::

    DIR/xorbs/ab/abcdef…        chunks, without any footer; 64 digits, the text of the hash

    xorbs ─┬─< xorb_uploads     who has brought all of its bytes
           ├─< xorb_chunks      the chunks that clients may ask for
           └─< xet_terms >── xet_files >── blobs    a file is terms, and has a sha256

Who may use what. A file may be read where its blob is held. A run of chunks may become part of a
new file, and is named in answers, only for a caller who may read a file with that run, or who
has brought the whole xorb: so neither a hash nor a neighbour in a xorb opens anything.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hubstate_registry.storage import blobs
from hubstate_registry.storage.blobs import sync_folder
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.schema import holdings, repositories
from hubstate_registry.storage.xet_schema import (
    xet_files,
    xet_terms,
    xorb_chunks,
    xorb_uploads,
    xorbs,
)
from hubstate_registry.xet.hashes import Hash, format_hash, is_eligible
from hubstate_registry.xet.shard import ShardFile, Term
from hubstate_registry.xet.xorb import INDEX_ENTRY, Xorb

__all__ = [
    "Reader",
    "XorbFolder",
    "add_file",
    "add_xorb",
    "find_file",
    "find_old",
    "find_related",
    "find_runs",
    "find_terms",
    "keep",
    "load_xorbs",
    "sweep",
]

_MOST_FILES, _MOST_XORBS = 8, 128  # in one answer about a chunk
_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Whose files may be looked at: the public ones, and those of some namespaces."""

    user: str | None
    namespaces: Collection[str] | None
    """Whose private and gated repositories this caller reads; None means all."""

    @property
    def may_read(self) -> sa.ColumnElement[bool]:
        """A condition on the repositories table."""
        if self.namespaces is None:
            return sa.true()
        is_open = sa.not_(repositories.c.private) & (repositories.c.gated == "")
        return sa.or_(is_open, repositories.c.namespace.in_(sorted(self.namespaces)))


class XorbFolder:
    """The folder of the drawing above."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "xorbs"
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, xorb: Hash) -> Path:
        """Where a xorb is, or would be."""
        name = format_hash(xorb)
        return self.folder / name[:2] / name

    def place(self, landed: Path, xorb: Hash) -> None:
        """Give checked and flushed bytes their name, in the transaction that records them."""
        target = self.path(xorb)
        target.parent.mkdir(exist_ok=True)
        os.replace(landed, target)
        sync_folder(target.parent)


def load_xorbs(connection: Connection, hashes: Iterable[Hash]) -> dict[Hash, Xorb]:
    """The indexes of those xorbs that are stored."""
    wanted, found = list(set(hashes)), dict[Hash, Xorb]()
    for at in range(0, len(wanted), _BATCH):
        batch = xorbs.c.hash.in_(wanted[at : at + _BATCH])
        for row in connection.execute(sa.select(xorbs.c.hash, xorbs.c.chunks).where(batch)):
            found[row.hash] = Xorb.unpack_index(row.chunks, hash=row.hash)
    return found


def add_xorb(
    connection: Connection, folder: XorbFolder, xorb: Xorb, *, landed: Path, user: str
) -> bool:
    """Store a checked xorb that a user has brought; whether this user brings it first.

    A xorb that is stored keeps its own bytes: the same chunks may be compressed in other ways.
    """
    row = {"stored": xorb.stored, "chunks": xorb.pack_index(), "touched": time.time()}
    known = connection.execute(
        sa.update(xorbs).where(xorbs.c.hash == xorb.hash).values(touched=row["touched"])
    ).rowcount
    is_new = not known or not folder.path(xorb.hash).exists()
    if not known:
        connection.execute(sa.insert(xorbs).values(hash=xorb.hash, **row))
        eligible = [at for at, chunk in enumerate(xorb.chunks) if is_eligible(chunk.hash)]
        _index_chunks(connection, xorb, eligible)
    elif is_new:  # a sweep was killed between the bytes and the row
        connection.execute(sa.update(xorbs).where(xorbs.c.hash == xorb.hash).values(**row))
    if is_new:
        folder.place(landed, xorb.hash)
    mine = (xorb_uploads.c.xorb == xorb.hash) & (xorb_uploads.c.user == user)
    if connection.execute(sa.select(xorb_uploads.c.user).where(mine)).first():
        return False
    connection.execute(sa.insert(xorb_uploads).values(xorb=xorb.hash, user=user))
    return True


def add_file(
    connection: Connection,
    file: ShardFile,
    *,
    sha256: str,
    repository: int,
    first: Xorb,
) -> None:
    """Note a checked file, and let a repository hold it; ``first`` is its first term's xorb."""
    blobs.record(connection, sha256, size=file.size, stored="xet", xet=format_hash(file.hash))
    blobs.hold(connection, repository, sha256=sha256)
    if find_file(connection, file.hash) is not None:
        return
    row = {"hash": file.hash, "sha256": sha256, "size": file.size, "created": time.time()}
    connection.execute(sa.insert(xet_files).values(**row))
    rows = [
        {"file": file.hash, "position": position, **term._asdict()}
        for position, term in enumerate(file.terms)
    ]
    connection.execute(sa.insert(xet_terms), rows)
    _index_chunks(connection, first, [file.terms[0].start])


def find_file(connection: Connection, file: Hash) -> str | None:
    """The sha256 of a file, by its Xet hash."""
    statement = sa.select(xet_files.c.sha256).where(xet_files.c.hash == file)
    return connection.execute(statement).scalar_one_or_none()


def find_terms(
    connection: Connection, *, file: Hash | None = None, sha256: str | None = None
) -> Sequence[Term]:
    """The terms of a file, by either of its names; none if it is not stored this way."""
    chosen = xet_terms.c.file == file
    if file is None:
        same = sa.select(xet_files.c.hash).where(xet_files.c.sha256 == sha256)
        chosen = xet_terms.c.file == same.order_by(xet_files.c.hash).limit(1).scalar_subquery()
    columns = (xet_terms.c.xorb, xet_terms.c.start, xet_terms.c.stop, xet_terms.c.size)
    statement = sa.select(*columns).where(chosen).order_by(xet_terms.c.position)
    return [Term(*row) for row in connection.execute(statement)]


def find_runs(
    connection: Connection, hashes: Iterable[Hash], *, reader: Reader
) -> Mapping[Hash, list[range]]:
    """The runs of chunks of these xorbs that a caller may build on, in order."""
    wanted, found = list(set(hashes)), dict[Hash, list[range]]()
    for at in range(0, len(wanted), _BATCH):
        batch = wanted[at : at + _BATCH]
        columns = (xet_terms.c.xorb, xet_terms.c.start, xet_terms.c.stop)
        read = _read_by(reader, sa.select(*columns)).where(xet_terms.c.xorb.in_(batch))
        for xorb, start, stop in connection.execute(read.distinct()):
            found.setdefault(xorb, []).append(range(start, stop))
        brought = _brought_by(reader, batch)
        for xorb, chunks in connection.execute(brought):
            found[xorb] = [range(chunks)]
    return {xorb: _merge(runs) for xorb, runs in found.items()}


def find_related(connection: Connection, chunk: Hash, *, reader: Reader) -> list[Hash]:
    """The xorbs worth naming to somebody who has this chunk, at most 128 of them.

    Those that hold it and that the caller may build on, and those that follow them in the files
    that are made of them: who has one chunk of a file often has the rest.
    """
    held = sa.select(xorb_chunks.c.xorb).where(xorb_chunks.c.chunk == chunk).distinct()
    near = list(connection.execute(held).scalars())
    if not near:  # as for nearly all that clients ask about
        return []
    found = dict.fromkeys(row.hash for row in connection.execute(_brought_by(reader, near)))
    files = _read_by(reader, sa.select(xet_files.c.hash, xet_files.c.created))
    newest = files.where(xet_terms.c.xorb.in_(near)).distinct()
    newest = newest.order_by(xet_files.c.created.desc()).limit(_MOST_FILES)
    for file, _ in connection.execute(newest).all():
        terms = find_terms(connection, file=file)
        begin = next(at for at, term in enumerate(terms) if term.xorb in near)
        found |= dict.fromkeys(term.xorb for term in terms[begin:])
    return list(found)[:_MOST_XORBS]


def find_old(connection: Connection, hashes: Iterable[Hash], *, older: float) -> list[Hash]:
    """Those of these xorbs that were last touched ``older`` seconds ago."""
    wanted, found, before = list(hashes), list[Hash](), time.time() - older
    for at in range(0, len(wanted), _BATCH):
        batch = xorbs.c.hash.in_(wanted[at : at + _BATCH]) & (xorbs.c.touched < before)
        found += connection.execute(sa.select(xorbs.c.hash).where(batch)).scalars()
    return found


def keep(connection: Connection, hashes: Sequence[Hash]) -> None:
    """Let the grace of xorbs begin anew."""
    for at in range(0, len(hashes), _BATCH):
        batch = xorbs.c.hash.in_(hashes[at : at + _BATCH])
        connection.execute(sa.update(xorbs).where(batch).values(touched=time.time()))


def sweep(
    connection: Connection, folder: XorbFolder, *, older: float, limit: int = _BATCH
) -> list[int]:
    """Remove xorbs that no file needs and nobody touched for ``older`` seconds; their sizes.

    Call it in a transaction that writes: then nothing can come to need them meanwhile.
    """
    used = sa.select(xet_terms.c.file).where(xet_terms.c.xorb == xorbs.c.hash).exists()
    stale = sa.select(xorbs.c.hash, xorbs.c.stored).where(
        sa.not_(used), xorbs.c.touched < time.time() - older
    )
    freed = []
    for hash, stored in connection.execute(stale.limit(limit)).all():
        connection.execute(sa.delete(xorbs).where(xorbs.c.hash == hash))
        folder.path(hash).unlink(missing_ok=True)
        freed.append(stored)
    return freed


def _read_by(reader: Reader, statement: sa.Select[Any]) -> sa.Select[Any]:
    """Limit a statement about terms to the files that a caller may read."""
    return (
        statement.select_from(xet_terms)
        .join(xet_files, xet_files.c.hash == xet_terms.c.file)
        .join(holdings, holdings.c.sha256 == xet_files.c.sha256)
        .join(repositories, repositories.c.id == holdings.c.repository)
        .where(reader.may_read)
    )


def _brought_by(reader: Reader, hashes: Sequence[Hash]) -> sa.Select[Any]:
    return (
        sa.select(xorbs.c.hash, sa.func.length(xorbs.c.chunks) // INDEX_ENTRY)
        .join(xorb_uploads, xorb_uploads.c.xorb == xorbs.c.hash)
        .where(xorb_uploads.c.user == (reader.user or ""), xorbs.c.hash.in_(hashes))
    )


def _index_chunks(connection: Connection, xorb: Xorb, positions: Iterable[int]) -> None:
    for position in positions:
        row = {"chunk": xorb.chunks[position].hash, "xorb": xorb.hash, "position": position}
        same = sa.and_(*(xorb_chunks.c[name] == value for name, value in row.items()))
        if not connection.execute(sa.select(xorb_chunks.c.position).where(same)).first():
            connection.execute(sa.insert(xorb_chunks).values(**row))


def _merge(runs: Iterable[range]) -> list[range]:
    merged: list[range] = []
    for run in sorted(runs, key=lambda run: run.start):
        if merged and run.start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, run.stop))
        else:
            merged.append(run)
    return merged
