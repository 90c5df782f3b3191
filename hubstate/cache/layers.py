"""The cache folders, one above the other: all are read, the first that can be is written.

::

    FOLDER/                        one of HUBSTATE_CACHE
    ├── CACHEDIR.TAG               backup programs pass by, https://bford.info/cachedir/
    ├── blobs/sha256/ab/<64 hex>   verified content, see hubstate.blobs
    ├── receipts/…                 see hubstate.cache.receipts
    ├── endpoints/…                see hubstate.cache.releases
    ├── outlines/…                 see hubstate.cache.outlines
    ├── leases/…                   see hubstate.cache.leases
    ├── partial/…                  see hubstate.cache.partials
    └── tmp/

A blob is verified while it is written, and renamed into place whole, so that any number of
processes may use one folder, each knowing nothing of the others.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

from hubstate import settings
from hubstate.blobs import Blobs, FileInfo, Stream, make_folders, reachable, sync, write_file
from hubstate.cache.outlines import find_outline, has_outline, write_outline
from hubstate.cache.receipts import UNRECEIPTED, drop_receipt, has_receipt, write_receipt
from hubstate.cache.releases import KnownRelease, Releases, merge_digests
from hubstate.digest import Digest, hash_file
from hubstate.endpoints.base import Commit
from hubstate.errors import DigestMismatch, Unreachable
from hubstate.outline import Outline
from hubstate.reference import Reference
from hubstate.values import frozen

__all__ = ["Cache", "Found", "can_write"]

_TAG = b"""Signature: 8a477f597d28d172789f06886806bc55
# A cache of hubstate. `hubstate cache prune` makes it smaller.
"""
_FLUSHES = 8  # at one time
_log = logging.getLogger(__name__)


@frozen
class Found:
    """What looking for a blob has come to."""

    path: Path | None
    damaged: tuple[Path, ...] = ()
    """The places where something else was found under its name."""


class Cache:
    """The folders of :func:`hubstate.settings.cache_folders`, or those that are given.

    >>> import io, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = Cache([Path(folder)])
    ...     path, digest = cache.store(io.BytesIO(b"abc"), info=FileInfo(size=3), what="abc")
    ...     cache.find(digest).path == path
    True
    """

    def __init__(self, folders: Sequence[Path] | None = None) -> None:
        given = settings.cache_folders() if folders is None else folders
        self.folders = tuple(Path(os.path.abspath(folder)) for folder in given)  # noqa: PTH100
        self._tidied = self._made = False

    @cached_property
    def writable(self) -> Path | None:
        """The folder that is written to: the first that can be, or could be made."""
        return next((folder for folder in self.folders if can_write(folder)), None)

    def find(
        self,
        digest: Digest,
        *,
        size: int | None = None,
        seal: Callable[[], Digest | None] | None = None,
    ) -> Found:
        """A blob whose content is known to be right; one that is not is dropped where it can be.

        A blob with a receipt is not hashed, one without is hashed once, and a small one, which
        never has a receipt, each time. For ``seal``, see :mod:`hubstate.cache.receipts`.

        Raises:
            DigestMismatch: what has that digest is not of that size.
        """
        damaged: list[Path] = []
        for folder in self.folders:
            path = Blobs(folder).path(digest)
            try:
                status = path.stat()
                if self._is_sound(folder, path, digest, status=status, size=size, seal=seal):
                    return Found(path=path, damaged=tuple(damaged))
            except OSError:  # it is not there, or cannot be read: then it is no use
                continue
            self.drop(folder, digest, status=status)
            damaged.append(path)
        return Found(path=None, damaged=tuple(damaged))

    def _is_sound(
        self,
        folder: Path,
        path: Path,
        digest: Digest,
        *,
        status: os.stat_result,
        size: int | None,
        seal: Callable[[], Digest | None] | None,
    ) -> bool:
        if size is not None and status.st_size != size:
            if not self.check(folder, digest):
                return False
            # Whoever states that is wrong, and must not cost the others a good blob.
            raise DigestMismatch(f"expected {size} bytes, {digest} has {status.st_size}")
        if status.st_size < UNRECEIPTED:
            return Digest.of(path.read_bytes()) == digest
        keepers = [folder] if self.writable in (folder, None) else [folder, self.writable]
        for keeper in filter(None, keepers):
            if has_receipt(keeper, folder, digest, status=status, seal=seal):
                return True
        return self.check(folder, digest)

    def check(
        self, folder: Path, digest: Digest, *, progress: Callable[[int], object] | None = None
    ) -> bool:
        """Hash a blob of one folder, and keep a receipt if it is sound.

        Raises:
            OSError: it cannot be read.
        """
        path = Blobs(folder).path(digest)
        status = path.stat()
        if hash_file(path, progress=progress) != digest:
            return False
        # A folder that is not the one to be written may still be writable: its own is better.
        keeper = folder if can_write(folder) else self.writable
        if keeper and status.st_size >= UNRECEIPTED:
            write_receipt(keeper, folder, digest, status=status)
        return True

    def drop(self, folder: Path, digest: Digest, *, status: os.stat_result) -> bool:
        """Remove a damaged blob, unless a good one has taken its place or it cannot be removed."""
        path = Blobs(folder).path(digest)
        _log.warning("%s is damaged, and is not used", path)
        with contextlib.suppress(OSError):
            drop_receipt(folder, folder, digest)
            if path.stat().st_ino == status.st_ino and can_write(folder):
                path.unlink()
                return True
        return False

    def doubt(self, digest: Digest) -> None:
        """Have a blob hashed again, in whichever folder, before it is used the next time."""
        for folder in self.folders:
            for keeper in filter(None, (folder, self.writable)):
                drop_receipt(keeper, folder, digest)

    def store(
        self,
        stream: Stream,
        *,
        info: FileInfo,
        what: str,
        progress: Callable[[int], object] | None = None,
    ) -> tuple[Path, Digest]:
        """Write what a stream holds to the cache, verified; all of it, or nothing.

        Raises:
            DigestMismatch: it has another size or digest than ``info`` states.
            Unreachable: no folder can be written, or it has no room.
        """
        folder = self.ready(info.size or 0, what)
        blobs = Blobs(folder)
        with reachable(f"{what}: cannot be written to the cache {folder}"):
            self._discard_temporaries(blobs)
            source = stream if isinstance(stream, io.FileIO) else _Guarded(stream, what)
            durable = info.size is None or info.size >= UNRECEIPTED
            digest, status = blobs.add(
                source, info=info, what=what, durable=durable, progress=progress
            )
        if status.st_size >= UNRECEIPTED:
            write_receipt(folder, folder, digest, status=status)
        return blobs.path(digest), digest

    def _discard_temporaries(self, blobs: Blobs) -> None:
        """Look for what killed writers left behind, once."""
        if not self._tidied:
            self._tidied = True
            blobs.discard_temporaries()

    def ready(self, size: int, what: str) -> Path:
        """The folder that is written to, once it is there and has room for so many bytes.

        Raises:
            Unreachable: no folder can be written, or it has no room.
        """
        folder = self.writable
        if folder is None:
            places = os.pathsep.join(map(str, self.folders))
            raise Unreachable(
                f"{what}: is in none of the cache folders, and none of them can be written: "
                f"{places}. Name one that can be in HUBSTATE_CACHE"
            )
        with reachable(f"cache folder {folder}"):
            if not (self._made and os.path.isdir(folder)):  # noqa: PTH112 - half the time
                self._make(folder)
            room = os.statvfs(folder)
        if room.f_bavail * room.f_frsize < size:
            free = room.f_bavail * room.f_frsize
            raise Unreachable(f"{what}: needs {size} bytes, the cache {folder} has {free} left")
        return folder

    def _make(self, folder: Path) -> None:
        make_folders(folder, durable=False)
        tag = folder / "CACHEDIR.TAG"
        if not tag.exists():
            write_file(tag, _TAG, temporaries=folder / "tmp", durable=False)
        self._made = True

    def known(self, endpoint: str, reference: Reference) -> KnownRelease | None:
        """What a reference meant when a registry was last asked, in whichever folder."""
        found = [Releases(folder).find(endpoint, reference) for folder in self.folders]
        return max(filter(None, found), key=lambda known: known.resolved, default=None)

    def record(
        self, endpoint: str, reference: Reference, commit: Commit, *, known: KnownRelease | None
    ) -> Commit:
        """Remember what a reference means, where something can be written.

        The commit comes back with the digests that were measured earlier, which ``known`` has.
        """
        commit = merge_digests(commit, known.commit if known else None)
        if known and known.commit == commit and known.reference == reference:
            Releases.touch(known)
        elif self.writable:
            with contextlib.suppress(OSError):
                Releases(self.writable).record(endpoint, reference, commit)
        return commit

    def records(self, endpoint: str, reference: Reference, commit: Commit) -> tuple[Path, ...]:
        """The files that say what a reference means, where something can be written."""
        folder = self.writable
        return Releases(folder).records(endpoint, reference, commit) if folder else ()

    def outline(self, manifest: Digest) -> Outline | None:
        """The outline of a manifest, in whichever folder."""
        found = (find_outline(folder, manifest) for folder in self.folders)
        return next(filter(None, found), None)

    def keep_outline(self, manifest: Digest, make: Callable[[], Outline | None]) -> None:
        """Keep the outline of a manifest, where there is none and something can be written."""
        if self.writable is None or any(has_outline(each, manifest) for each in self.folders):
            return
        if outline := make():
            write_outline(self.writable, manifest, outline)

    def settle(self, paths: Iterable[Path]) -> None:
        """Have files reach the disk that were written without waiting for it.

        They are asked for together, since the disk then takes hardly longer than for one.
        """
        from concurrent.futures import ThreadPoolExecutor

        whole = list(set(paths))
        with ThreadPoolExecutor(_FLUSHES) as pool:  # a call for each would cost as much again
            for _ in pool.map(_sync_all, (whole[at::_FLUSHES] for at in range(_FLUSHES))):
                pass

    def learn(self, endpoint: str, reference: Reference, commit: Commit) -> None:
        """Remember the digests of files that were measured, where something can be written."""
        if self.writable:
            with contextlib.suppress(OSError):
                Releases(self.writable).learn(endpoint, reference, commit)


def _sync_all(paths: Iterable[Path]) -> None:
    for path in paths:
        sync(path)


class _Guarded:
    """A stream whose errors are not mistaken for those of the cache that it is written to."""

    def __init__(self, stream: Stream, what: str) -> None:
        self._stream = stream
        self._what = what

    def readinto(self, buffer: memoryview, /) -> int | None:
        with reachable(f"{self._what}: cannot be read"):
            return self._stream.readinto(buffer)


def can_write(folder: Path) -> bool:
    """Whether files can be made in a folder, or in the one that it would be made in."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)
