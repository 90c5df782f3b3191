"""What a commit to a hub server would change, and its files as they leave this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hubstate.blobs import FileInfo, opened, reachable
from hubstate.digest import Digest
from hubstate.endpoints.answers import Listing
from hubstate.endpoints.base import OWN, Changes, Commit, check_paths
from hubstate.errors import InvalidReference
from hubstate.shards import split
from hubstate.values import frozen, replace

__all__ = [
    "LocalFile",
    "alone",
    "batches",
    "changed",
    "check_result",
    "is_bare",
    "measure",
    "with_digests",
]

_TOGETHER = 16 << 20  # bytes of smaller files that go along with the largest


@frozen
class LocalFile:
    """A file that is to be published, by both names that a server may have for it."""

    info: FileInfo
    oid: str
    """Git's SHA-1 of it."""

    def is_same(self, listing: Listing, path: str) -> bool:
        """Whether a commit has this content at a path, as far as the server tells."""
        listed = listing.commit.files.get(path)
        if listed is None or listed.size not in (None, self.info.size):
            return False
        if listed.digest:
            return listed.digest == self.info.digest
        return listing.oids.get(path) == self.oid


def measure(source: Path | bytes) -> LocalFile:
    """The size of a file and what it is called by its content.

    Raises:
        Unreachable: it cannot be read.
    """
    with reachable("cannot publish"), opened(source) as stream:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        whole, block = hashlib.sha256(), memoryview(bytearray(1 << 20))
        git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        while count := stream.readinto(block) or 0:
            whole.update(block[:count])
            git.update(block[:count])
    info = FileInfo(size=size, digest=Digest(whole.hexdigest()))
    return LocalFile(info=info, oid=git.hexdigest())


def check_result(repo: str, base: Listing | None, changes: Changes) -> None:
    """Look at the names that a commit would have.

    Raises:
        InvalidReference: there would be none, or one that cannot be.
    """
    kept = set(base.commit.files) if base else set()
    paths = (kept | set(changes)) - {path for path, source in changes.items() if source is None}
    check_paths(dict.fromkeys(paths))
    if not paths:
        raise InvalidReference(f"{repo}: expected at least one file to publish, found none")


def changed(base: Listing | None, changes: Changes, local: Mapping[str, LocalFile]) -> Changes:
    """The changes that change something."""
    if base is None:
        return {path: source for path, source in changes.items() if source is not None}
    files = base.commit.files
    return {
        path: source
        for path, source in changes.items()
        if (path in files if source is None else not local[path].is_same(base, path))
    }


def alone(start: Listing | None, changes: Changes) -> Changes:
    """The changes and the removal of everything else, for a branch that is to have no parent."""
    others = set(start.commit.files if start else ()) - OWN - set(changes)
    return {**changes, **dict.fromkeys(others)}


def is_bare(listing: Listing) -> bool:
    """Whether it is the commit that a server makes together with a repository."""
    return not set(listing.commit.files) - OWN


def batches(operations: list[Any]) -> list[list[Any]]:
    """Files to be sent one batch after the other: what is sent together is in memory together."""
    files = {op.path_in_repo: op for op in operations if hasattr(op, "upload_info")}
    sizes = {path: op.upload_info.size for path, op in files.items()}
    groups = split(sizes, max(sizes.values(), default=0) + _TOGETHER)
    return [[files[path] for path in group] for group in groups]


def with_digests(commit: Commit, local: Mapping[str, LocalFile]) -> Commit:
    """A commit with the digests of what was sent, whatever the server tells of them."""
    return replace(commit, files={**commit.files, **{p: file.info for p, file in local.items()}})
