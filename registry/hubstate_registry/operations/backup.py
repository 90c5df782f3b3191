"""backup: a consistent copy of a running registry, taken again cheaply.

The database is copied first, by SQLite's own online backup, and every blob that this copy knows
after it: blobs never change, so the copy is consistent. Run it before ``gc``, not beside it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from hubstate_registry.errors import BadRequest, Conflict
from hubstate_registry.storage import Storage
from hubstate_registry.storage.blobs import BlobFolder, sync_folder
from hubstate_registry.storage.database import make_private

__all__ = ["Report", "backup"]


@dataclass(slots=True, kw_only=True)
class Report:
    """What was copied."""

    copied: int = 0
    kept: int = 0
    bytes: int = 0


def backup(storage: Storage, target: Path) -> Report:
    """Bring ``target`` up to date with the registry.

    Raises:
        BadRequest: ``target`` is the registry itself, or within it.
        Conflict: a blob went missing meanwhile: run ``fsck``, or do not run ``gc`` beside it.
    """
    if target.resolve().is_relative_to(storage.root.resolve()):
        raise BadRequest("a backup cannot be inside the registry that it copies")
    target.mkdir(parents=True, exist_ok=True)
    database = target / f"registry.sqlite3.{secrets.token_hex(4)}"
    report = Report()
    try:
        _copy_database(storage.database.path, database)
        for sha256, size in _blobs(database):
            _copy_blob(storage, BlobFolder(target), sha256=sha256, size=size, report=report)
        _copy_others(storage.root, target, report)
        for suffix in ("-wal", "-shm"):
            (target / f"registry.sqlite3{suffix}").unlink(missing_ok=True)
        os.replace(database, target / "registry.sqlite3")
        sync_folder(target)
    finally:
        database.unlink(missing_ok=True)
    return report


def _copy_database(source: Path, target: Path) -> None:
    make_private(target)
    origin, copy = sqlite3.connect(source), sqlite3.connect(target)
    try:
        origin.backup(copy, pages=4096)
        copy.execute("PRAGMA journal_mode=DELETE")
    finally:
        origin.close()
        copy.close()


def _blobs(database: Path) -> list[tuple[str, int]]:
    connection = sqlite3.connect(database)
    try:
        rows = connection.execute("SELECT sha256, size FROM blobs WHERE stored = 'file'")
        return [(str(sha256), int(size)) for sha256, size in rows]
    finally:
        connection.close()


def _copy_blob(
    storage: Storage, target: BlobFolder, *, sha256: str, size: int, report: Report
) -> None:
    place = target.path(sha256)
    if place.exists() and place.stat().st_size == size:
        report.kept += 1
        return
    try:
        with target.incoming() as incoming, storage.files.path(sha256).open("rb") as file:
            while block := file.read(1 << 20):
                incoming.write(block)
            target.place(incoming.land(sha256=sha256, size=size))
    except FileNotFoundError as error:
        raise Conflict(f"sha256:{sha256} is missing; run fsck") from error
    report.copied += 1
    report.bytes += size


def _copy_others(root: Path, target: Path, report: Report) -> None:
    """The key, and the folders of extensions, whose files are content-addressed as well."""
    _copy_file(root / "secret.key", target / "secret.key")
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and folder.name not in ("blobs", "uploads"):
            _copy_missing(folder, target / folder.name, report)


def _copy_missing(source: Path, target: Path, report: Report) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for item in sorted(source.iterdir()):
        place = target / item.name
        if item.is_dir():
            _copy_missing(item, place, report)
        elif place.exists() and place.stat().st_size == item.stat().st_size:
            report.kept += 1
        else:
            report.copied += 1
            report.bytes += _copy_file(item, place)
    sync_folder(target)


def _copy_file(source: Path, target: Path) -> int:
    """Copy a file and who may read it, flushed before it has its name; its size."""
    temporary = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
    with source.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
            size = copy.tell()
    os.replace(temporary, target)
    return size
