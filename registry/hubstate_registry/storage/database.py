"""The SQLite database: write-ahead log, full durability, one writer at a time, many readers."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import OperationalError

from hubstate_registry.errors import Busy, Full

__all__ = ["Connection", "Database", "make_private"]

Connection = sa.Connection
_BUSY_SECONDS = 30


class Database:
    """Connections to one database file, whose schema is brought up to date when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        make_private(path)
        self.engine = sa.create_engine(
            f"sqlite:///{path}",
            connect_args={"timeout": _BUSY_SECONDS},
            pool_size=48,
            max_overflow=16,
        )
        sa.event.listen(self.engine, "connect", _prepare)
        sa.event.listen(self.engine, "begin", _begin)
        self.migrate()

    def migrate(self) -> None:
        """Apply the migrations that this database has not seen; each is one transaction."""
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.set_main_option("path_separator", "os")
        with self.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view of the database; never waits for writers.

        Raises:
            Busy: the database stayed locked.
        """
        with _translated(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction, the only one that writes; rolled back if the block raises.

        Raises:
            Busy: another writer held the database for too long.
            Full: the disk is full.
        """
        with _translated(), self.engine.connect() as connection:
            connection = connection.execution_options(hubstate_write=True)
            with connection.begin():
                yield connection

    def close(self) -> None:
        """Give all connections back; the last one folds the log into the file."""
        self.engine.dispose()


def make_private(path: Path) -> None:
    """Make an empty database, if there is none, that nobody but its owner reads.

    It names private repositories and their files; SQLite's other files take its mode over. A
    database that is there is not opened: closing it would end this process's locks on it.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _prepare(raw: sqlite3.Connection, _record: object) -> None:
    raw.isolation_level = None  # SQLAlchemy begins and ends transactions, not the driver
    cursor = raw.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # an acknowledged commit outlives a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA trusted_schema=OFF")
    cursor.execute("PRAGMA cache_size=-16000")
    cursor.close()


def _begin(connection: Connection) -> None:
    # A writer takes the lock at once: upgrading a read lock later could only fail.
    write = connection.get_execution_options().get("hubstate_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        text = str(error.orig)
        if "locked" in text or "busy" in text:
            raise Busy("The database is busy; try again", retry_after=2) from error
        if "full" in text:
            raise Full("The disk is full", retry_after=60) from error
        raise
