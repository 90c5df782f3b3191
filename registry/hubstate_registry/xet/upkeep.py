"""gc and fsck for what came by Xet.

A file goes when no repository holds its blob; a xorb, when no file needs it. Neither goes within
the grace: an upload touches its xorbs, and so does an answer that names them to somebody who may
be about to build on them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from hubstate_registry.storage import Storage
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.schema import blobs, holdings
from hubstate_registry.storage.xet import XorbFolder, sweep
from hubstate_registry.storage.xet_schema import xet_files, xet_terms, xorbs
from hubstate_registry.xet.errors import XetError
from hubstate_registry.xet.hashes import format_hash, parse_hash
from hubstate_registry.xet.xorb import Xorb, scan

__all__ = ["Freed", "check", "collect"]

_BATCH = 200
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """What went, or would go."""

    files: int
    xorbs: int
    bytes: int
    """Of xorbs, on disk."""
    orphans: int
    """Xorbs on disk that the database does not know."""


def collect(storage: Storage, *, grace: float, dry_run: bool = False) -> Freed:
    """Remove what nothing needs and is older than ``grace`` seconds.

    Run it after holdings that no commit needs are gone. A dry run counts the xorbs that no file
    needs now, not those that would become free.
    """
    folder, before = XorbFolder(storage.root), time.time() - grace
    if dry_run:
        return _count(storage, before)
    files = 0
    while gone := _forget(storage, before):
        files += gone
    count = size = 0
    while True:
        with storage.database.write() as connection:
            freed = sweep(connection, folder, older=grace, limit=_BATCH)
        if not freed:
            break
        count, size = count + len(freed), size + sum(freed)
    return Freed(files=files, xorbs=count, bytes=size, orphans=_drop_orphans(storage, before))


def check(storage: Storage, *, hash_bytes: bool = True) -> Iterator[str]:
    """A line for each thing that is missing or damaged; changes nothing."""
    folder = XorbFolder(storage.root)
    with storage.database.read() as connection:
        yield from _check_files(connection)
        rows = connection.execute(sa.select(xorbs.c.hash).order_by(xorbs.c.hash)).scalars().all()
    for hash in rows:
        with storage.database.read() as connection:
            index = connection.execute(
                sa.select(xorbs.c.chunks).where(xorbs.c.hash == hash)
            ).scalar_one_or_none()
        if index is not None:  # else it was swept meanwhile
            yield from _check_xorb(folder.path(hash), hash, index, hash_bytes=hash_bytes)


def _unheld(before: float) -> sa.ColumnElement[bool]:
    nobody = ~sa.exists().where(holdings.c.sha256 == blobs.c.sha256)
    return sa.and_(nobody, blobs.c.xet.is_not(None), blobs.c.created < before)


def _count(storage: Storage, before: float) -> Freed:
    used = sa.exists().where(xet_terms.c.xorb == xorbs.c.hash)
    stale = sa.select(xorbs.c.stored).where(~used, xorbs.c.touched < before)
    with storage.database.read() as connection:
        files = connection.execute(sa.select(blobs.c.sha256).where(_unheld(before))).all()
        sizes = connection.execute(stale).scalars().all()
    return Freed(files=len(files), xorbs=len(sizes), bytes=sum(sizes), orphans=0)


def _forget(storage: Storage, before: float) -> int:
    """Forget some blobs, and with them their files and terms; how many there were."""
    with storage.database.write() as connection:
        unheld = sa.select(blobs.c.sha256).where(_unheld(before)).limit(_BATCH)
        gone = connection.execute(unheld).scalars().all()
        connection.execute(sa.delete(blobs).where(blobs.c.sha256.in_(gone)))
        for sha256 in gone:  # some came by LFS as well
            storage.files.path(sha256).unlink(missing_ok=True)
    return len(gone)


def _drop_orphans(storage: Storage, before: float) -> int:
    """Xorbs that a kill left between their rename and the end of its transaction."""
    folder, removed = XorbFolder(storage.root), 0
    for path in folder.folder.glob("??/*"):
        if path.stat().st_mtime >= before:
            continue
        with storage.database.write() as connection:
            known = sa.select(xorbs.c.stored).where(xorbs.c.hash == _name(path))
            if connection.execute(known).first() is None:
                path.unlink(missing_ok=True)
                removed += 1
    return removed


def _check_files(connection: Connection) -> Iterator[str]:
    size = sa.func.coalesce(sa.func.sum(xet_terms.c.size), 0)
    joined = xet_files.outerjoin(xet_terms, xet_terms.c.file == xet_files.c.hash)
    sizes = sa.select(xet_files.c.sha256, xet_files.c.size, size).select_from(joined)
    for sha256, stated, found in connection.execute(sizes.group_by(xet_files.c.hash)):
        if stated != found:
            yield f"sha256:{sha256}: its terms have {found} bytes, expected {stated}"
    some = sa.exists().where(xet_files.c.sha256 == blobs.c.sha256)
    lost = sa.select(blobs.c.sha256).where(blobs.c.stored == "xet", ~some)
    for (sha256,) in connection.execute(lost):
        yield f"sha256:{sha256}: came by Xet, and has no terms"


def _check_xorb(path: Path, hash: bytes, index: bytes, *, hash_bytes: bool) -> Iterator[str]:
    name = f"xorb {format_hash(hash)}"
    try:
        xorb = Xorb.unpack_index(index, hash=hash)
        if (found := path.stat().st_size) != xorb.stored:
            yield f"{name}: expected {xorb.stored} bytes, found {found}"
        elif hash_bytes and scan(_read(path), hash=hash) != xorb:
            yield f"{name}: its chunks are not where its index says"
    except FileNotFoundError:
        yield f"{name}: missing"
    except XetError as error:
        yield f"{name}: damaged: {error}"


def _name(path: Path) -> bytes:
    try:
        return parse_hash(path.name)
    except XetError:
        return b""


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block
