"""gc: commits that nothing leads to, holdings that no commit needs, bytes that nobody holds.

Everything that somebody may be about to use is younger than the grace: an upload that landed,
or an "already stored" answer, touches the holding of its repository. Files are removed inside
the transaction that forgets them, and an upload gets its name inside a transaction as well, so
the two cannot cross.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import sqlalchemy as sa

from hubstate_registry.storage import Storage
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.schema import blobs, commits, holdings, references, repositories
from hubstate_registry.storage.trees import Tree
from hubstate_registry.xet import copies, upkeep

__all__ = ["Report", "collect"]

_BATCH = 200


@dataclass(slots=True, kw_only=True)
class Report:
    """What went, or would go."""

    commits: int = 0
    blobs: int = 0
    bytes: int = 0
    uploads: int = 0
    orphans: int = 0
    copies: int = 0
    copied_bytes: int = 0


class _DryRun(Exception):
    """Rolls a transaction back."""


def collect(
    storage: Storage, *, grace: float, dry_run: bool = False, plain_copies: bool = False
) -> Report:
    """Remove what nothing needs and is older than ``grace`` seconds.

    With ``plain_copies`` also the whole files of what can be read from its chunks.
    """
    report, before = Report(), time.time() - grace
    with storage.database.read() as connection:
        numbers = connection.execute(sa.select(repositories.c.id)).scalars().all()
    for number in numbers:
        _in_transaction(storage, dry_run, lambda c, n=number: _trim(c, n, before, report))
    if plain_copies:
        report.copies, report.copied_bytes = copies.drop(storage, dry_run=dry_run)
    if dry_run:
        _count_unheld(storage, before, report)
        return report
    while _in_transaction(storage, dry_run, lambda c: _free(storage, c, before, report)):
        pass
    freed = upkeep.collect(storage, grace=grace)
    report.blobs += freed.files
    report.bytes += freed.bytes
    report.uploads = storage.files.sweep(older=grace)
    report.orphans = freed.orphans + _remove_orphans(storage, before)
    return report


def _in_transaction(storage: Storage, dry_run: bool, work: object) -> bool:
    assert callable(work)
    try:
        with storage.database.write() as connection:
            more = bool(work(connection))
            if dry_run:
                raise _DryRun
            return more
    except _DryRun:
        return False


def _trim(connection: Connection, number: int, before: float, report: Report) -> None:
    """Forget a repository's lost commits, and the holdings that the rest does not need."""
    mine = commits.c.repository == number
    parents = {
        row.id: (row.parent, row.created)
        for row in connection.execute(
            sa.select(commits.c.id, commits.c.parent, commits.c.created).where(mine)
        )
    }
    heads = connection.execute(
        sa.select(references.c.commit).where(references.c.repository == number)
    ).scalars()
    young = [id for id, (_, created) in parents.items() if created >= before]
    kept = _ancestry([*heads, *young], parents)
    lost = sorted(set(parents) - kept)
    for start in range(0, len(lost), _BATCH):
        batch = lost[start : start + _BATCH]
        connection.execute(sa.delete(commits).where(mine, commits.c.id.in_(batch)))
    report.commits += len(lost)
    needed: set[str] = set()
    for (data,) in connection.execute(sa.select(commits.c.tree).where(mine)):
        needed.update(entry.sha256 for entry in Tree.load(data).values())
    old = sa.select(holdings.c.sha256).where(
        holdings.c.repository == number, holdings.c.touched < before
    )
    idle = sorted(set(connection.execute(old).scalars()) - needed)
    for start in range(0, len(idle), _BATCH):
        batch = idle[start : start + _BATCH]
        connection.execute(
            sa.delete(holdings).where(holdings.c.repository == number, holdings.c.sha256.in_(batch))
        )


def _ancestry(heads: list[str], parents: dict[str, tuple[str | None, float]]) -> set[str]:
    kept: set[str] = set()
    for head in heads:
        id: str | None = head
        while id is not None and id in parents and id not in kept:
            kept.add(id)
            id = parents[id][0]
    return kept


def _unheld(before: float) -> sa.Select[tuple[str, int]]:
    """Blobs that came by LFS or in a commit; those of Xet have their own collection."""
    nobody = ~sa.exists().where(holdings.c.sha256 == blobs.c.sha256)
    return sa.select(blobs.c.sha256, blobs.c.size).where(
        nobody, blobs.c.created < before, blobs.c.xet.is_(None)
    )


def _count_unheld(storage: Storage, before: float, report: Report) -> None:
    with storage.database.read() as connection:
        rows = connection.execute(_unheld(before)).all()
    freed = upkeep.collect(storage, grace=time.time() - before, dry_run=True)
    report.blobs = len(rows) + freed.files
    report.bytes = sum(row.size for row in rows) + freed.bytes


def _free(storage: Storage, connection: Connection, before: float, report: Report) -> bool:
    """Remove some blobs; whether there may be more."""
    rows = connection.execute(_unheld(before).limit(_BATCH)).all()
    for row in rows:
        connection.execute(sa.delete(blobs).where(blobs.c.sha256 == row.sha256))
        storage.files.path(row.sha256).unlink(missing_ok=True)
        report.blobs += 1
        report.bytes += row.size
    return bool(rows)


def _remove_orphans(storage: Storage, before: float) -> int:
    """Files that a kill left between their rename and the end of its transaction."""
    removed = 0
    for path in storage.files.blobs.glob("??/*"):
        if path.stat().st_mtime >= before:
            continue
        with storage.database.write() as connection:
            known = sa.select(blobs.c.sha256).where(blobs.c.sha256 == path.name)
            if connection.execute(known).first() is None:
                path.unlink(missing_ok=True)
                removed += 1
    return removed
