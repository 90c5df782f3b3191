"""fsck: everything that is promised is there, whole, and leads somewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from hubstate_registry.storage import Storage
from hubstate_registry.storage.blobs import hash_file
from hubstate_registry.storage.schema import blobs, commits, holdings, references, repositories
from hubstate_registry.storage.trees import Tree
from hubstate_registry.xet import upkeep

__all__ = ["Report", "check"]


@dataclass(slots=True, kw_only=True)
class Report:
    """What was looked at, and all that is wrong."""

    problems: list[str] = field(default_factory=list)
    repositories: int = 0
    commits: int = 0
    blobs: int = 0
    orphans: int = 0


def check(storage: Storage, *, hash_bytes: bool = True) -> Report:
    """Look at everything; change nothing."""
    report = Report()
    with storage.database.read() as connection:
        report.problems += _check_database(connection)
        known = {row.sha256: row for row in connection.execute(sa.select(blobs))}
        names = {row.id: row for row in connection.execute(sa.select(repositories))}
        report.repositories = len(names)
        for number, row in names.items():
            name = f"{row.namespace}/{row.name}"
            report.problems += _check_repository(connection, number, name, report)
    report.blobs = len(known)
    for sha256, row in known.items():
        if row.stored == "file":
            report.problems += _check_blob(storage, sha256, size=row.size, hash_bytes=hash_bytes)
    report.problems += upkeep.check(storage, hash_bytes=hash_bytes)
    report.orphans = sum(path.name not in known for path in storage.files.blobs.glob("??/*"))
    return report


def _check_database(connection: sa.Connection) -> Iterator[str]:
    for (line,) in connection.exec_driver_sql("PRAGMA integrity_check"):
        if line != "ok":
            yield f"database: {line}"
    for row in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        yield f"database: a row of {row[0]} leads nowhere"


def _check_repository(
    connection: sa.Connection, number: int, name: str, report: Report
) -> Iterator[str]:
    mine = commits.c.repository == number
    held = set(
        connection.execute(sa.select(holdings.c.sha256).where(holdings.c.repository == number))
        .scalars()
        .all()
    )
    ids = set()
    for row in connection.execute(sa.select(commits.c.id, commits.c.tree).where(mine)):
        ids.add(row.id)
        try:
            missing = {e.sha256 for e in Tree.load(row.tree).values()} - held
        except Exception as error:
            yield f"{name}: commit {row.id}: its tree cannot be read: {error}"
            continue
        yield from (f"{name}: commit {row.id}: sha256:{m} is not held" for m in sorted(missing))
    report.commits += len(ids)
    for row in connection.execute(sa.select(references).where(references.c.repository == number)):
        if row.commit not in ids:
            yield f"{name}: {row.kind} {row.name} is at {row.commit}, which is not there"


def _check_blob(storage: Storage, sha256: str, *, size: int, hash_bytes: bool) -> Iterator[str]:
    path = storage.files.path(sha256)
    if not path.exists():
        yield f"sha256:{sha256}: missing, expected {size} bytes"
    elif path.stat().st_size != size:
        yield f"sha256:{sha256}: expected {size} bytes, found {path.stat().st_size}"
    elif hash_bytes and (found := _hash(path)) != sha256:
        yield f"sha256:{sha256}: damaged, its bytes hash to {found}"


def _hash(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hash_file(file)[0]
