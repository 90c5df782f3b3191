"""Bytes on disk under their SHA-256, written once and never changed.

::

    DIR/
    ├── blobs/sha256/ab/abcdef…      64 hex digits; mode follows the umask
    └── uploads/                     what is arriving; swept when it is a day old
        ├── 5f3c….tmp                one stream
        └── <id>.parts               a multipart upload: parts are written at their offsets

A blob is complete from the moment it has its name: it is hashed while it arrives, flushed to
disk, and only then renamed, inside the transaction that records it. So a kill at any moment
leaves a blob that is whole or no blob, and ``gc``, which deletes inside such transactions too,
can never remove what somebody has just found there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO

import sqlalchemy as sa

from hubstate_registry.errors import ContentMismatch, Full
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.schema import blobs, holdings

__all__ = [
    "Blob",
    "BlobFolder",
    "Incoming",
    "Landed",
    "find",
    "find_many",
    "hash_file",
    "hold",
    "is_held",
    "record",
]

_BATCH = 500  # digests in one statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """What the database knows of some bytes."""

    sha256: str
    size: int
    stored: str
    xet: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """Bytes that have arrived whole, hashed and flushed, and have no name yet."""

    path: Path
    sha256: str
    size: int


class Incoming:
    """A file that is arriving: hashed as it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._hasher = hashlib.sha256()
        self._file: BinaryIO = path.open("xb", buffering=0)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes.

        Raises:
            Full: the disk is full.
        """
        self._hasher.update(data)
        view = memoryview(data)
        with full_disk():
            while view:
                view = view[self._file.write(view) :]
        self.size += len(data)

    def land(self, *, sha256: str | None = None, size: int | None = None) -> Landed:
        """Flush, and check against what was promised.

        Raises:
            ContentMismatch: the bytes are not those that were promised.
            Full: the disk is full.
        """
        found = self._hasher.hexdigest()
        check_content(found, self.size, sha256=sha256, size=size)
        with full_disk():
            os.fsync(self._file.fileno())
        self._file.close()
        return Landed(path=self.path, sha256=found, size=self.size)

    def discard(self) -> None:
        """Close, and remove what has no name yet."""
        self._file.close()
        self.path.unlink(missing_ok=True)


class BlobFolder:
    """The two folders of the drawing above."""

    def __init__(self, root: Path) -> None:
        self.blobs = root / "blobs" / "sha256"
        self.uploads = root / "uploads"
        for folder in (self.blobs, self.uploads):
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where the bytes with this digest are, or would be."""
        return self.blobs / sha256[:2] / sha256

    @contextmanager
    def incoming(self) -> Iterator[Incoming]:
        """A file that arrives within the block; removed unless it got its name."""
        arriving = Incoming(self.uploads / f"{secrets.token_hex(16)}.tmp")
        try:
            yield arriving
        finally:
            arriving.discard()

    def place(self, landed: Landed) -> None:
        """Give landed bytes their name. Call it in the transaction that records them.

        What has that name already is replaced: it is the same, unless the disk has harmed it.
        """
        target = self.path(landed.sha256)
        if target == landed.path:
            return
        target.parent.mkdir(exist_ok=True)
        os.replace(landed.path, target)
        sync_folder(target.parent)

    def sweep(self, *, older: float) -> int:
        """Remove uploads untouched for ``older`` seconds; how many there were."""
        stale = [p for p in self.uploads.iterdir() if time.time() - p.stat().st_mtime > older]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)


def find(connection: Connection, sha256: str) -> Blob | None:
    """What is known of these bytes, whoever they belong to."""
    return next(iter(find_many(connection, [sha256])), None)


def find_many(connection: Connection, digests: Sequence[str]) -> list[Blob]:
    """What is known of those of these bytes that are stored."""
    columns, found = (blobs.c.sha256, blobs.c.size, blobs.c.stored, blobs.c.xet), list[Blob]()
    for at in range(0, len(digests), _BATCH):
        batch = sa.select(*columns).where(blobs.c.sha256.in_(digests[at : at + _BATCH]))
        for sha256, size, stored, xet in connection.execute(batch):
            found.append(Blob(sha256=sha256, size=size, stored=stored, xet=xet))
    return found


def record(
    connection: Connection, sha256: str, *, size: int, stored: str = "file", xet: str | None = None
) -> None:
    """Note that these bytes are stored; a blob already known keeps where it is.

    A blob that was stored as a file and now comes by Xet learns its Xet hash.
    """
    known = find(connection, sha256)
    if known is None:
        row = {"sha256": sha256, "size": size, "stored": stored, "xet": xet}
        connection.execute(sa.insert(blobs).values(**row, created=time.time()))
        return
    changes: dict[str, str] = {}
    if xet and not known.xet:
        changes["xet"] = xet
    if stored == "file" and known.stored != "file":
        changes["stored"] = "file"  # a whole file is the quicker source
    if changes:
        connection.execute(sa.update(blobs).where(blobs.c.sha256 == sha256).values(**changes))


def hold(connection: Connection, repository: int, *, sha256: str) -> None:
    """Let a repository speak of these bytes; keeps them from ``gc`` for its grace."""
    mine = (holdings.c.repository == repository) & (holdings.c.sha256 == sha256)
    now = time.time()
    if connection.execute(sa.update(holdings).where(mine).values(touched=now)).rowcount == 0:
        connection.execute(
            sa.insert(holdings).values(repository=repository, sha256=sha256, touched=now)
        )


def is_held(connection: Connection, repository: int, *, sha256: str) -> bool:
    """Whether a repository may speak of these bytes."""
    mine = (holdings.c.repository == repository) & (holdings.c.sha256 == sha256)
    return connection.execute(sa.select(sa.literal(1)).where(mine)).first() is not None


def check_content(
    found: str, length: int, *, sha256: str | None = None, size: int | None = None
) -> None:
    """Compare what arrived with what was promised.

    Raises:
        ContentMismatch: they differ.
    """
    if size is not None and size != length:
        raise ContentMismatch(f"expected {size} bytes, found {length}; nothing was stored")
    if sha256 is not None and sha256 != found:
        raise ContentMismatch(f"expected sha256 {sha256}, found {found}; nothing was stored")


@contextmanager
def full_disk() -> Iterator[None]:
    """Turn a full disk into its own answer.

    Raises:
        Full: no space, or no quota, is left.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Full("The disk is full; nothing was stored", retry_after=60) from error
        raise


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_file(file: FileIO) -> tuple[str, int]:
    """The SHA-256 and size of what a file has from here to its end."""
    start = file.tell()
    return hashlib.file_digest(file, "sha256").hexdigest(), file.tell() - start
