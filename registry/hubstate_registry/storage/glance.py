"""What nearly every request asks of the database, in microseconds.

A statement by way of SQLAlchemy costs some hundred microseconds, and to hand it to a thread as
much again; SQLite itself needs five. So what the metadata routes ask, a few rows by their keys,
is written out here once more as SQL, for the event loop's own thread: this connection only reads,
and a reader never waits for a writer. Whatever is not found, or is large, is left to a thread.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from hubstate_registry.names import RepoId
from hubstate_registry.storage.blobs import Blob
from hubstate_registry.storage.repositories import Repository
from hubstate_registry.storage.trees import Tree

__all__ = ["EVERYTHING", "Beyond", "Glance", "Look"]

EVERYTHING = 0
"""The journal's word for a change that is not about one repository."""

_FEW_BLOBS = 20  # that are looked up one by one
_LARGE = 8192  # bytes of a stored tree: from some 80 files on, it takes time worth a thread

_LOOK = """
    SELECT r.id, r.namespace, r.name, r.private, r.gated, r.created, r.modified, r.card,
        head."commit", CASE WHEN length(c.tree) <= ? THEN c.tree END
    FROM repositories AS r
    LEFT JOIN refs AS head
        ON head.repository = r.id AND head.kind = 'branch' AND head.name = ?
    LEFT JOIN commits AS c ON c.repository = r.id AND c.id = head."commit"
    WHERE r.key = ?"""
_HEAD = "SELECT \"commit\" FROM refs WHERE repository = ? AND kind = 'branch' AND name = ?"
_TREE = """
    SELECT CASE WHEN length(tree) <= ? THEN tree END
    FROM commits WHERE repository = ? AND id = ?"""
_BLOB = "SELECT sha256, size, stored, xet FROM blobs WHERE sha256 = ?"
_CHANGES = "SELECT number, repository FROM changes WHERE number > ? ORDER BY number LIMIT ?"
_NEWEST = "SELECT coalesce(max(number), 0) FROM changes"
_MOST_CHANGES = 1000  # that are gone through one by one


class Beyond(Exception):
    """More than a glance is needed: ask the database properly."""


class Look(NamedTuple):
    """A repository, and where a branch of it is."""

    repository: Repository
    commit: str | None


class Glance:
    """One connection for one thread."""

    def __init__(self, database: Path) -> None:
        self._connection = sqlite3.connect(
            database, isolation_level=None, check_same_thread=False, timeout=30
        )
        self._tree: tuple[tuple[int, str | None], bytes | None] = (0, None), None
        """The files that the last look brought along: its commit, and their stored form."""

    def version(self) -> int:
        """Another number than before, once any other connection has committed anything."""
        row = self._connection.execute("PRAGMA data_version").fetchone()
        return int(row[0])

    def changes(self, *, since: int) -> list[int] | None:
        """The numbers of the repositories that changed after the ``since``-th change, in order.

        None if more than that changed, or the journal no longer tells.
        """
        rows = self._connection.execute(_CHANGES, (since, _MOST_CHANGES)).fetchall()
        numbers = [repository for _, repository in rows]
        gap = bool(rows) and rows[0][0] != since + 1
        return None if gap or len(rows) == _MOST_CHANGES or EVERYTHING in numbers else numbers

    def newest_change(self) -> int:
        """How many changes there were."""
        return int(self._connection.execute(_NEWEST).fetchone()[0])

    def look(self, id: RepoId, *, branch: str) -> Look:
        """The repository of this very key, not the one that once had it, and one of its branches.

        Raises:
            Beyond: there is none.
        """
        row = self._row(_LOOK, _LARGE, branch, id.key)
        number, namespace, name, private, gated, created, modified, card, commit, tree = row
        repository = Repository(
            number=number,
            id=RepoId(namespace=namespace, name=name),
            private=bool(private),
            gated=gated,
            created=created,
            modified=modified,
            card={} if card == "{}" else json.loads(card),
        )
        self._tree = (number, commit), tree
        return Look(repository=repository, commit=commit)

    def head(self, repository: Repository, *, branch: str) -> str:
        """Where a branch is.

        Raises:
            Beyond: there is none of that name.
        """
        return str(self._row(_HEAD, repository.number, branch)[0])

    def tree(self, repository: Repository, *, commit: str) -> Tree:
        """The files of a commit.

        Raises:
            Beyond: there is no such commit, or it has many files.
        """
        data = self._tree[1] if self._tree[0] == (repository.number, commit) else None
        data = data or self._row(_TREE, _LARGE, repository.number, commit)[0]
        if data is None:
            raise Beyond
        return Tree.load(data)

    def blobs(self, digests: Sequence[str]) -> list[Blob]:
        """Where some bytes are.

        Raises:
            Beyond: nothing is known of one of them, or they are many.
        """
        if len(digests) > _FEW_BLOBS:
            raise Beyond
        rows = [self._row(_BLOB, sha256) for sha256 in digests]
        return [Blob(sha256=row[0], size=row[1], stored=row[2], xet=row[3]) for row in rows]

    def execute(self, *_: object) -> NoReturn:
        """Stands where a route goes on to ask for more.

        Raises:
            Beyond: always.
        """
        raise Beyond

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _row(self, statement: str, *values: object) -> tuple[Any, ...]:
        try:
            row: tuple[Any, ...] | None = self._connection.execute(statement, values).fetchone()
        except sqlite3.OperationalError:  # locked, say: who waits for it shall be a thread
            row = None
        if row is None:
            raise Beyond
        return row
