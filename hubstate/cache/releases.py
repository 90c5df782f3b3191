"""What a cache folder remembers of registries: which commit a reference meant, and its files.

::

    FOLDER/endpoints/<12 hex of the digest of the registry's URL>/
    ├── endpoint.json                     {"name": "https://…", "schema": 1}
    └── org/name/                         a repository without an organisation is _/name
        ├── commit-<40 hex>.json          the files of a commit, with their sizes and digests
        └── revision-<quoted>.json        {"commit": "<40 hex>", "resolved": "<date>", …};
                                          the file's time is that of the last use

A record is written without waiting for the disk: one that a power cut has torn counts as absent,
and costs asking again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

from hubstate.blobs import FileInfo, listed, write_file
from hubstate.endpoints.base import Commit
from hubstate.endpoints.records import (
    dump_commit,
    dump_record,
    parse_commit,
    parse_date,
    parse_record,
)
from hubstate.errors import Damaged, reason
from hubstate.reference import Reference, quote_name, unquote_name
from hubstate.values import frozen, replace

__all__ = ["KnownRelease", "Releases", "commit_id"]

# What is merged must not be overwritten by who merged at that time; others need not wait for it.
_MERGING = [threading.Lock() for _ in range(32)]
_COMMIT, _REVISION = "commit-", "revision-"
_USE = 3600.0  # seconds: the time of last use is kept to the hour, which costs nothing to read


def _begin_anew() -> None:
    """In a child: it has none of the threads that held a lock, and would wait for them for ever."""
    _MERGING[:] = [threading.Lock() for _ in _MERGING]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


@frozen
class KnownRelease:
    """What a reference meant when its registry was last asked."""

    endpoint: str
    reference: Reference
    """The one that was asked for; a pinned one may be found under another."""
    commit: Commit
    resolved: datetime
    used: datetime
    path: Path
    """The record that says so."""


class Releases:
    """The releases that one cache folder knows of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, endpoint: str, reference: Reference) -> KnownRelease | None:
        """What a reference last meant; a record that cannot be read counts as absent."""
        path = self._revision(endpoint, reference)
        with contextlib.suppress(OSError, Damaged):
            known = self._read(endpoint, reference, path)
            if _is_meant(known, reference):
                return known
        return self._find_alias(endpoint, reference) if reference.pinned else None

    def _read(self, endpoint: str, reference: Reference, path: Path) -> KnownRelease:
        record = parse_record(path.read_bytes(), what=str(path))
        try:
            id, resolved = str(record["commit"]), parse_date(record["resolved"])
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"{path}: expected a resolved revision, found {reason(error)}") from error
        return KnownRelease(
            endpoint=endpoint,
            reference=reference,
            commit=self._commit(endpoint, reference.repo, id),
            resolved=resolved,
            used=datetime.fromtimestamp(path.stat().st_mtime, UTC),
            path=path,
        )

    def _commit(self, endpoint: str, repo: str, id: str) -> Commit:
        path = self._commit_record(endpoint, repo, id)
        return parse_commit(path.read_bytes(), repo=repo, id=id, what=str(path))

    def _find_alias(self, endpoint: str, reference: Reference) -> KnownRelease | None:
        """A pinned release that was come by under another name; the newest, if several are it."""
        known = self._known(endpoint, reference.repo)
        matches = (release for release in known if _is_meant(release, reference))
        return max(matches, key=lambda release: release.commit.date, default=None)

    def _known(self, endpoint: str, repo: str) -> Iterator[KnownRelease]:
        for path in listed(Path(self._repo(endpoint, repo)), f"{_REVISION}*.json"):
            with contextlib.suppress(OSError, Damaged, ValueError):
                revision = unquote_name(path.stem.removeprefix(_REVISION))
                reference = Reference(repo=repo, revision=revision)
                yield self._read(endpoint, reference, path)

    def all(self) -> Iterator[KnownRelease]:
        """Every release this folder knows of."""
        for mark in sorted((self.folder / "endpoints").glob("*/endpoint.json")):
            with contextlib.suppress(OSError, Damaged, KeyError):
                endpoint = str(parse_record(mark.read_bytes(), what=str(mark))["name"])
                for path in sorted(mark.parent.glob("*/*")):
                    yield from self._known(endpoint, _repo(path))

    def newest(
        self, limit: int, *, repo: str = "*/*", without: Collection[str] = ()
    ) -> list[Commit]:
        """The commits of all registries, or of one repository, that were recorded last.

        ``without``: the ids of commits that are left out.
        """
        name = repo if "/" in repo else f"_/{repo}"
        paths = [path for path in self.commits(name) if commit_id(path) not in without]
        found: list[Commit] = []
        for path in sorted(paths, key=_written, reverse=True)[:limit]:
            with contextlib.suppress(OSError, Damaged):
                data, repo = path.read_bytes(), _repo(path.parent)
                found.append(parse_commit(data, repo=repo, id=commit_id(path), what=str(path)))
        return found

    def commits(self, name: str = "*/*") -> Iterator[Path]:
        """The records of commits, of all repositories or of those with a name like this."""
        return (self.folder / "endpoints").glob(f"*/{name}/{_COMMIT}*.json")

    def record(self, endpoint: str, reference: Reference, commit: Commit) -> None:
        """Remember what a reference means.

        Raises:
            OSError: the folder cannot be written.
        """
        mark = Path(f"{self._endpoint(endpoint)}/endpoint.json")
        if not mark.exists():
            self._write(mark, dump_record({"name": endpoint}, indent=None))
        self._record_commit(endpoint, commit)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record = dump_record({"commit": commit.id, "resolved": now}, indent=None)
        self._write(self._revision(endpoint, reference), record)

    def learn(self, endpoint: str, reference: Reference, commit: Commit) -> None:
        """Remember digests of a commit; what the reference means stays as it was recorded.

        Raises:
            OSError: the folder cannot be written.
        """
        if self._revision(endpoint, reference).exists():
            self._record_commit(endpoint, commit)
        else:  # it is known from a folder below, which cannot be written
            self.record(endpoint, reference, commit)

    def _record_commit(self, endpoint: str, commit: Commit) -> None:
        """Write a commit, unless it is there: another thread or process may measure digests."""
        known = None
        with _MERGING[hash(commit.id) % len(_MERGING)]:
            with contextlib.suppress(OSError, Damaged):
                known = self._commit(endpoint, commit.repo, commit.id)
            merged = merge_digests(commit, known)
            if merged != known:
                path = self._commit_record(endpoint, commit.repo, commit.id)
                self._write(path, dump_commit(merged, indent=None))

    def _write(self, path: Path, data: bytes) -> None:
        write_file(path, data, temporaries=self.folder / "tmp", durable=False)

    def records(self, endpoint: str, reference: Reference, commit: Commit) -> tuple[Path, Path]:
        """Where it is recorded what a reference means, and which files the commit has."""
        record = self._commit_record(endpoint, commit.repo, commit.id)
        return self._revision(endpoint, reference), record

    @staticmethod
    def touch(known: KnownRelease) -> None:
        """Keep the time of last use, to the hour, where it can be kept."""
        if time.time() - known.used.timestamp() > _USE:
            with contextlib.suppress(OSError):
                os.utime(known.path)

    # Joined as text, since each opening of a release needs a dozen of them.

    def _endpoint(self, name: str) -> str:
        return f"{self.folder}/endpoints/{hashlib.sha256(name.encode()).hexdigest()[:12]}"

    def _repo(self, endpoint: str, repo: str) -> str:
        return f"{self._endpoint(endpoint)}/{repo if '/' in repo else f'_/{repo}'}"

    def _revision(self, endpoint: str, reference: Reference) -> Path:
        place = self._repo(endpoint, reference.repo)
        return Path(f"{place}/{_REVISION}{quote_name(reference.revision)}.json")

    def _commit_record(self, endpoint: str, repo: str, id: str) -> Path:
        return Path(f"{self._repo(endpoint, repo)}/{_COMMIT}{id}.json")


def commit_id(path: Path) -> str:
    """The commit that a record is of."""
    return path.stem.removeprefix(_COMMIT)


def _repo(path: Path) -> str:
    """The repository that a folder is of."""
    org, name = path.parts[-2:]
    return name if org == "_" else f"{org}/{name}"


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _is_meant(known: KnownRelease, reference: Reference) -> bool:
    if reference.manifest:
        return known.commit.manifest == reference.manifest
    return known.commit.id == reference.revision or not reference.commit


def merge_digests(commit: Commit, known: Commit | None) -> Commit:
    """A commit with the digests that are known from earlier, where the registry states none."""
    if known is None or known.id != commit.id:
        return commit
    files = {path: _merge(info, known.files.get(path)) for path, info in commit.files.items()}
    return replace(commit, files=files)


def _merge(info: FileInfo, known: FileInfo | None) -> FileInfo:
    return known if known and info.digest is None and info.size in (None, known.size) else info
