"""What nearly every request asks of the database, in microseconds.

A statement by way of SQLAlchemy costs some hundred microseconds, and to hand it to a thread as
much again; SQLite itself needs five. So what the metadata routes ask, a few rows by their keys,
is written out here once more as SQL, for the event loop's own thread: this connection only reads,
and a reader never waits for a writer. Whatever is not found, or is large, is left to a thread.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any, NoReturn

from hubstate_registry.names import RepoId
from hubstate_registry.storage.blobs import Blob
from hubstate_registry.storage.repositories import Repository
from hubstate_registry.storage.trees import Tree

__all__ = ["Beyond", "Glance"]

_LARGE = 8192  # bytes of a stored tree: from some 80 files on, it takes time worth a thread

_REPOSITORY = """
    SELECT id, namespace, name, private, gated, created, modified, card
    FROM repositories WHERE key = ?"""
_HEAD = "SELECT \"commit\" FROM refs WHERE repository = ? AND kind = 'branch' AND name = ?"
_TREE = """
    SELECT CASE WHEN length(tree) <= ? THEN tree END
    FROM commits WHERE repository = ? AND id = ?"""
_BLOB = "SELECT sha256, size, stored, xet FROM blobs WHERE sha256 = ?"


class Beyond(Exception):
    """More than a glance is needed: ask the database properly."""


class Glance:
    """One connection for one thread."""

    def __init__(self, database: Path) -> None:
        self._connection = sqlite3.connect(
            database, isolation_level=None, check_same_thread=False, timeout=30
        )

    def version(self) -> int:
        """Another number than before, once any other connection has committed anything."""
        row = self._connection.execute("PRAGMA data_version").fetchone()
        return int(row[0])

    def repository(self, id: RepoId) -> Repository:
        """The repository of this very key; not the one that once had it.

        Raises:
            Beyond: there is none.
        """
        number, namespace, name, private, gated, created, modified, card = self._row(
            _REPOSITORY, id.key
        )
        return Repository(
            number=number,
            id=RepoId(namespace=namespace, name=name),
            private=bool(private),
            gated=gated,
            created=created,
            modified=modified,
            card={} if card == "{}" else json.loads(card),
        )

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
        data = self._row(_TREE, _LARGE, repository.number, commit)[0]
        if data is None:
            raise Beyond
        return Tree.load(data)

    def blob(self, sha256: str) -> Blob:
        """Where some bytes are.

        Raises:
            Beyond: nothing is known of them.
        """
        digest, size, stored, xet = self._row(_BLOB, sha256)
        return Blob(sha256=digest, size=size, stored=stored, xet=xet)

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
