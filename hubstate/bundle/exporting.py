"""A bundle from what a lock file pins."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO, cast

from hubstate.blobs import reachable, sync
from hubstate.bundle.layout import blobs_of, check_room, describe
from hubstate.bundle.tar import TarWriter
from hubstate.cache import Cache
from hubstate.digest import Digest
from hubstate.errors import DigestMismatch, InvalidSetting, Unreachable
from hubstate.hub import open_pinned
from hubstate.lock import LockFile, Pin
from hubstate.progress import Hook, bar, quiet, shared
from hubstate.values import frozen
from hubstate.workers import at_once

__all__ = ["Exported", "export_bundle"]


@frozen
class Exported:
    """A bundle that was written."""

    path: Path
    size: int
    digest: Digest
    """Of the tar file, to compare where it arrives; an import verifies it without."""
    releases: tuple[str, ...]


def export_bundle(
    lock: LockFile, target: Path, *, cache: Cache | None = None, progress: Hook | None = None
) -> Exported:
    """Write exactly what a lock file pins to a tar file, which depends on the lock file alone.

    What is not in the cache is fetched first. The file is written whole, or not at all; one that
    is there is replaced, and a link is followed.

    Raises:
        Conflict: it has repositories whose names differ in case only.
        DigestMismatch: a registry has other files than the lock file says.
        HubstateError: a release cannot be had; see :func:`hubstate.hub.open_pinned`.
        InvalidSetting: there is something that is no file, such as a device.
        Unreachable: the file cannot be written, or there is no room for it.
    """
    cache, blobs, described = cache or Cache(), blobs_of(lock), describe(lock)
    total = sum(blobs.values())
    place = Path(os.path.realpath(target))
    with reachable(f"{target} cannot be written"):
        _check_place(target, place.parent)
        check_room(place.parent, total, what=str(target))
    with shared(quiet) as hook:
        found = at_once(lambda pin: _paths(pin, cache, hook), lock.releases.values())
    paths = {digest: path for part in found for digest, path in part.items()}
    shown = bar(target.name, total=total) if progress is None else nullcontext(progress)
    temporary = place.with_name(f".{place.name}.{os.urandom(4).hex()}.part")
    with reachable(f"{target} cannot be written"):
        try:
            with shown as hook, temporary.open("xb") as file:
                hashed = _Hashed(file)
                _write(described, blobs, paths, cast(BinaryIO, hashed), hook)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(place)
            sync(place.parent)
        finally:
            temporary.unlink(missing_ok=True)
    return Exported(
        path=target, size=hashed.size, digest=hashed.digest, releases=tuple(sorted(lock.releases))
    )


def _check_place(target: Path, folder: Path) -> None:
    """See that a file can have its place, before anything is fetched for it."""
    if target.exists() and not target.is_file():  # /dev/stdout would be a file from then on
        raise InvalidSetting(f"{target} is no file, and a bundle is moved to its place as one")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Unreachable(f"{target} cannot be written: {folder} is no folder to write to")


def _paths(pin: Pin, cache: Cache, hook: Hook) -> dict[Digest, Path]:
    release = open_pinned(pin, cache=cache)
    paths = release.fetch(progress=hook)
    return {info.digest: paths[name] for name, info in pin.files.items() if info.digest}


def _write(
    described: Mapping[str, bytes],
    blobs: Mapping[Digest, int],
    paths: Mapping[Digest, Path],
    file: BinaryIO,
    hook: Hook,
) -> None:
    tar = TarWriter(file)
    for name, data in described.items():
        tar.add(name, data, size=len(data))
    for digest, size in blobs.items():
        with paths[digest].open("rb") as content:
            source = _Hashed(content, hook)
            name = f"blobs/sha256/{digest.hex[:2]}/{digest.hex}"
            tar.add(name, cast(BinaryIO, source), size=size)
        if source.digest != digest:
            raise DigestMismatch(f"{paths[digest]}: expected {digest}, found {source.digest}")
    tar.close()


class _Hashed:
    """A file that is read or written from its start to its end, with the digest of that."""

    def __init__(self, file: BinaryIO, hook: Hook = quiet) -> None:
        self._file, self._hook = file, hook
        self._hasher = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> Digest:
        """Of all bytes so far."""
        return Digest(self._hasher.hexdigest())

    def tell(self) -> int:
        return self.size

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._take(data)
        return data

    def write(self, data: bytes) -> int:
        self._take(data)
        return self._file.write(data)

    def _take(self, data: bytes) -> None:
        self._hasher.update(data)
        self.size += len(data)
        self._hook(len(data))
