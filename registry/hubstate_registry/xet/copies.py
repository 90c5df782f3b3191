"""Whole files of what came by Xet, made for plain readers once they have asked for that much.

To put a file together from chunks costs a plain read several times what it costs to send a file
that lies there whole. So once plain readers have read a file's size of it, a thread puts it
together a last time, on disk, hashed, and from then on it is a blob like any other, which nginx
too can send. It costs the file's size on disk; ``gc --copies`` takes the copies away again, and
the files are then read from their chunks as before.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import sqlalchemy as sa

from hubstate_registry.errors import RegistryError
from hubstate_registry.storage import Storage, blobs
from hubstate_registry.storage.blobs import Blob
from hubstate_registry.storage.schema import blobs as rows
from hubstate_registry.storage.xet_schema import xet_files
from hubstate_registry.xet.errors import XetError

__all__ = ["Copies", "drop"]

log = logging.getLogger("hubstate_registry")
_MOST = 10_000  # files whose readers are counted
_FREE = 0.05  # of the disk stays free

Read = Callable[[str], Iterator[bytes]]


class Copies:
    """Counts plain reads, and copies one file at a time."""

    def __init__(self, storage: Storage, read: Read) -> None:
        self._storage, self._read = storage, read
        self._seen: OrderedDict[str, int] = OrderedDict()
        self._wanted: OrderedDict[str, Blob] = OrderedDict()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def note(self, blob: Blob, length: int) -> None:
        """A plain reader has been sent so many bytes of this file."""
        with self._lock:
            seen = self._seen.pop(blob.sha256, 0) + length
            if seen < blob.size:
                self._seen[blob.sha256] = seen
                if len(self._seen) > _MOST:
                    self._seen.popitem(last=False)
                return
            self._wanted[blob.sha256] = blob
            if self._thread is None and not self._stopped.is_set():
                self._thread = threading.Thread(target=self._work, name="copies", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Leave off; what is half-made goes."""
        self._stopped.set()
        thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._wanted or self._stopped.is_set():
                    self._thread = None
                    return
                _, blob = self._wanted.popitem(last=False)
            try:
                self._copy(blob)
            except (RegistryError, XetError, OSError) as error:
                fields = {"sha256": blob.sha256, "reason": str(error)}
                log.warning("a plain copy was not made", extra={"fields": fields})

    def _copy(self, blob: Blob) -> None:
        disk = shutil.disk_usage(self._storage.root)
        if disk.free - blob.size < _FREE * disk.total:
            raise XetError("the disk is nearly full", where=f"sha256:{blob.sha256}")
        files = self._storage.files
        with files.incoming() as incoming:
            for block in self._read(blob.sha256):
                if self._stopped.is_set():
                    return
                incoming.write(block)
            landed = incoming.land(sha256=blob.sha256, size=blob.size)
            with self._storage.database.write() as connection:
                known = blobs.find(connection, blob.sha256)
                if known is not None and known.stored != "file":  # else gc was here, or LFS
                    files.place(landed)
                    blobs.record(connection, blob.sha256, size=blob.size)


def drop(storage: Storage, *, dry_run: bool = False) -> tuple[int, int]:
    """Remove the whole files of what can be read from its chunks; how many, and their bytes.

    A plain read that is being answered goes on; one that begins in this very moment may break
    off, and finds the file again when it is repeated.
    """
    chunks = sa.exists().where(xet_files.c.sha256 == rows.c.sha256)
    copied = sa.select(rows.c.sha256, rows.c.size).where(rows.c.stored == "file", chunks)
    with storage.database.write() as connection:
        found = connection.execute(copied).all()
        if dry_run:
            return len(found), sum(row.size for row in found)
        for row in found:
            here = rows.c.sha256 == row.sha256
            connection.execute(sa.update(rows).where(here).values(stored="xet"))
    for row in found:
        _remove(storage, storage.files.path(row.sha256), row.sha256)
    return len(found), sum(row.size for row in found)


def _remove(storage: Storage, path: Path, sha256: str) -> None:
    with storage.database.write() as connection:  # in which nobody can make it a file again
        known = blobs.find(connection, sha256)
        if known is None or known.stored != "file":
            path.unlink(missing_ok=True)
