"""Receipts: proof that a blob was hashed, so that it need not be hashed again.

::

    FOLDER/receipts/
    ├── ab/<64 hex>                  of the blob in this folder
    └── below-<12 hex>/ab/<64 hex>   of a blob in a folder below that cannot be written, named
                                     by the digest of that folder's path

    {"inode": 1234, "mtime_ns": 1767225600000000000, "size": 44730000}

``"seal"`` is there too where a blob was not hashed as a whole, but chunk by chunk against the
digests of a manifest: it is the digest of all those digests, and the receipt holds for whoever
comes with the same. Others hash the blob once. Otherwise a manifest that states one file's digest
and another file's chunks could put the other file in the place of the first, for everybody.

Small blobs have none: hashing one takes no longer than reading its receipt. Therefore they need not
wait for the disk either, as others do before a receipt vouches for them.

A receipt holds while the blob's size, time of change and inode are what they were when its
content was verified. One that is lost or torn is none, and costs one hashing and nothing else: so
it is written without waiting for the disk, and in its place at once. Where there is one already, it
is replaced: somebody may be reading it, or have a link to it, or alone be allowed to write to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from hubstate.blobs import make_folders, write_file
from hubstate.digest import Digest

UNRECEIPTED = 64 << 10
"""Bytes from which on a blob has a receipt."""

__all__ = ["UNRECEIPTED", "drop_receipt", "facts_of", "has_receipt", "write_receipt"]


def has_receipt(
    folder: Path,
    blobs: Path,
    digest: Digest,
    *,
    status: os.stat_result,
    seal: Callable[[], Digest | None] | None = None,
) -> bool:
    """Whether ``folder`` holds a receipt for a blob of the cache folder ``blobs``, as it is now.

    ``seal`` gives the digest of the digests of all chunks, where they are known.
    """
    try:
        with open(_path(folder, blobs, digest), "rb") as file:  # noqa: PTH123 - half the time
            facts = json.loads(file.read())
        sealed = facts.pop("seal", None)
    except (OSError, ValueError, AttributeError):
        return False
    if facts != facts_of(status):
        return False
    return sealed is None or (seal is not None and sealed == str(seal()))


def write_receipt(
    folder: Path,
    blobs: Path,
    digest: Digest,
    *,
    status: os.stat_result,
    seal: Digest | None = None,
) -> None:
    """Keep a receipt, if it can be kept."""
    facts = facts_of(status) | ({"seal": str(seal)} if seal else {})
    data, path = json.dumps(facts).encode(), _path(folder, blobs, digest)
    with contextlib.suppress(OSError):
        try:
            descriptor = _create(path)
        except FileExistsError:
            write_file(Path(path), data, temporaries=folder / "tmp", durable=False)
            return
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)


def _create(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    try:  # its folder mostly is there
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        make_folders(Path(path).parent, durable=False)
        return os.open(path, flags, 0o666)


def drop_receipt(folder: Path, blobs: Path, digest: Digest) -> None:
    """Forget that a blob was verified."""
    with contextlib.suppress(OSError):
        os.unlink(_path(folder, blobs, digest))  # noqa: PTH108 - the path is a string


def _path(folder: Path, blobs: Path, digest: Digest) -> str:
    below = "" if folder == blobs else f"below-{_key(blobs)}/"
    return f"{folder}/receipts/{below}{digest.hex[:2]}/{digest.hex}"


def _key(folder: Path) -> str:
    return hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]


def facts_of(status: os.stat_result) -> dict[str, object]:
    """What tells that a file is still the one that was verified."""
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}
