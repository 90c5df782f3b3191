"""Looking after a cache: what is in it, whether it is sound, and making it smaller."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

from hubstate.blobs import DAY, Blobs, FileInfo
from hubstate.cache.layers import Cache, can_write
from hubstate.cache.leases import discard_leases
from hubstate.cache.outlines import discard_outlines
from hubstate.cache.partials import discard_partials
from hubstate.cache.receipts import drop_receipt
from hubstate.cache.releases import KnownRelease, Releases, commit_id
from hubstate.digest import Digest
from hubstate.errors import RevisionNotFound
from hubstate.reference import Reference
from hubstate.values import frozen

__all__ = [
    "CacheEntry",
    "Freed",
    "Verified",
    "entries",
    "prune",
    "remove",
    "total_size",
    "verify",
]

HOUR = 3600.0  # seconds; a blob is named by its release before it is fetched, so this is ample


@frozen
class CacheEntry:
    """A release that the cache knows of, and how much of it is there."""

    reference: Reference
    endpoint: str
    commit: str
    files: Mapping[str, FileInfo]
    present: frozenset[str]
    """The files that are in the cache, in whichever folder."""
    used: datetime
    """The last use, to the hour."""
    folder: Path

    @property
    def size(self) -> int:
        """The bytes of the files that are there."""
        return sum(self.files[path].size or 0 for path in self.present)


@frozen
class Verified:
    """What re-hashing every blob has come to."""

    blobs: int
    size: int
    damaged: Mapping[Path, tuple[str, ...]]
    """The blobs that are not what they must be, and what needs them: ``org/name@v1: file``."""


@frozen
class Freed:
    """What was removed, or would be."""

    paths: tuple[Path, ...]
    size: int


def entries(cache: Cache) -> list[CacheEntry]:
    """Every release that is known to the cache, sorted by reference."""
    found = [_entry(cache, folder, known) for folder, known in _known(cache)]
    return sorted(found, key=lambda entry: (str(entry.reference), entry.endpoint))


def _known(cache: Cache) -> Iterator[tuple[Path, KnownRelease]]:
    for folder in cache.folders:
        for known in Releases(folder).all():
            yield folder, known


def _entry(cache: Cache, folder: Path, known: KnownRelease) -> CacheEntry:
    files = known.commit.files
    return CacheEntry(
        reference=known.reference,
        endpoint=known.endpoint,
        commit=known.commit.id,
        files=files,
        present=frozenset(path for path, info in files.items() if _is_present(cache, info.digest)),
        used=known.used,
        folder=folder,
    )


def _is_present(cache: Cache, digest: Digest | None) -> bool:
    return digest is not None and any(Blobs(f).path(digest).exists() for f in cache.folders)


def total_size(cache: Cache) -> int:
    """The bytes of all blobs in all folders."""
    return sum(_size(path) for _, _, path in _blobs(cache.folders))


def _blobs(folders: Iterable[Path]) -> Iterator[tuple[Path, Digest, Path]]:
    for folder in folders:
        for digest, path in Blobs(folder):
            yield folder, digest, path


def verify(
    cache: Cache, *, repair: bool = False, progress: Callable[[int], object] | None = None
) -> Verified:
    """Hash every blob anew, on all cores; sound ones get a fresh receipt.

    With ``repair``, what is damaged is removed where it can be, so that it is fetched again.
    """
    blobs = list(_blobs(cache.folders))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        sound = list(pool.map(lambda blob: _is_sound(cache, blob, progress), blobs))
    damaged = [blob for blob, ok in zip(blobs, sound, strict=True) if not ok]
    needs = _needs(cache) if damaged else {}
    size = sum(_size(path) for _, _, path in blobs)
    for folder, digest, path in damaged if repair else ():
        with contextlib.suppress(OSError):
            cache.drop(folder, digest, status=path.stat())
    named = {path: tuple(needs.get(digest, ())) for _, digest, path in damaged}
    return Verified(blobs=len(blobs), size=size, damaged=named)


def _is_sound(
    cache: Cache, blob: tuple[Path, Digest, Path], progress: Callable[[int], object] | None
) -> bool:
    folder, digest, path = blob
    try:
        return cache.check(folder, digest, progress=progress)
    except OSError:
        return not path.exists()  # it was removed meanwhile, which is no damage


def _needs(cache: Cache) -> dict[Digest, list[str]]:
    needs: dict[Digest, list[str]] = {}
    for _, known in _known(cache):
        for path, info in known.commit.files.items():
            if info.digest:
                needs.setdefault(info.digest, []).append(f"{known.reference}: {path}")
    return needs


def remove(cache: Cache, reference: Reference, *, every: bool = False) -> Freed:
    """Forget a release, or ``every`` release of its repository, and what only it needed.

    Blobs that other releases need stay, and so does what is in a folder that cannot be written.

    Raises:
        RevisionNotFound: no folder that can be written knows of it.
    """
    doomed = [known for _, known in _known(cache) if _is_meant(known, reference, every=every)]
    records = [known.path for known in doomed if can_write(known.path.parent)]
    if not records:
        raise RevisionNotFound(f"{reference}: not in the cache, or not where it can be removed")
    freed = [path for path in records if _unlink(path)]
    digests = {info.digest for known in doomed for info in known.commit.files.values()}
    return _join(Freed(paths=tuple(freed), size=0), _sweep(cache, only=digests))


def _is_meant(known: KnownRelease, reference: Reference, *, every: bool) -> bool:
    if known.reference.repo != reference.repo:
        return False
    names = (known.reference.revision, known.commit.id, str(known.commit.manifest))
    return every or reference.revision in names


def prune(
    cache: Cache,
    *,
    unused: float | None = None,
    age: float = HOUR,
    dry_run: bool = False,
) -> Freed:
    """Remove what no known release names, and what killed processes left behind.

    ``unused``: also forget releases that were not used for so many seconds. ``age``: leave
    alone what is younger, in seconds, because somebody may be about to need it.
    """
    old = [known for _, known in _known(cache) if _is_unused(known, unused)]
    records = [known.path for known in old if can_write(known.path.parent)]
    freed = [path for path in records if dry_run or _unlink(path)]
    swept = _sweep(cache, age=age, dry_run=dry_run, without=set(records))
    for folder in filter(can_write, cache.folders):
        freed += Blobs(folder).discard_temporaries(dry_run=dry_run)
        freed += discard_leases(folder, age=DAY, dry_run=dry_run)
    return _join(Freed(paths=tuple(freed), size=0), swept)


def _is_unused(known: KnownRelease, unused: float | None) -> bool:
    return unused is not None and time.time() - known.used.timestamp() > unused


def _sweep(
    cache: Cache,
    *,
    only: Iterable[Digest | None] | None = None,
    age: float = 0,
    dry_run: bool = False,
    without: Iterable[Path] = (),
) -> Freed:
    """Remove blobs, and records of commits, that nothing names (any more)."""
    gone = set(without)
    known = [release for _, release in _known(cache) if release.path not in gone]
    named = {info.digest for release in known for info in release.commit.files.values()}
    candidates = None if only is None else set(only)

    def needed(digest: Digest | None) -> bool:
        return digest in named or (candidates is not None and digest not in candidates)

    paths: list[Path] = []
    size = 0
    for folder, digest, path in _blobs(filter(can_write, cache.folders)):
        if needed(digest) or time.time() - _mtime(path) < age:
            continue
        count = _size(path)
        if dry_run or _unlink(path):
            paths.append(path)
            size += count
        if not dry_run:
            drop_receipt(folder, folder, digest)
    for folder in filter(can_write, cache.folders):
        for path, count in discard_partials(folder, needed, age=age, dry_run=dry_run):
            paths.append(path)
            size += count
        if not dry_run:
            discard_outlines(folder, lambda digest: _is_present(cache, digest))
    return Freed(paths=(*paths, *_sweep_commits(cache, known, age=age, dry_run=dry_run)), size=size)


def _sweep_commits(
    cache: Cache, known: list[KnownRelease], *, age: float, dry_run: bool
) -> Iterator[Path]:
    ids = {release.commit.id for release in known}
    for folder in filter(can_write, cache.folders):
        for path in Releases(folder).commits():
            young = time.time() - _mtime(path) < age
            if commit_id(path) not in ids and not young and (dry_run or _unlink(path)):
                yield path


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True


def _join(*parts: Freed) -> Freed:
    paths = tuple(path for part in parts for path in part.paths)
    return Freed(paths=paths, size=sum(part.size for part in parts))
