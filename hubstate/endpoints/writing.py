"""How a commit gets into a folder registry; the order of the steps is what makes it atomic."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from hubstate.blobs import FileInfo, opened, reachable
from hubstate.endpoints.base import TIP, Changes, Commit, apply_changes, check_paths
from hubstate.endpoints.moves import Move, push_move, read_move
from hubstate.endpoints.shelf import Shelf
from hubstate.errors import (
    Conflict,
    Damaged,
    InvalidReference,
    RevisionNotFound,
    Unreachable,
)
from hubstate.reference import check_repo, check_revision

__all__ = ["set_tag", "write_commit"]

_COMMIT_LIKE = re.compile(r"[0-9a-fA-F]{40}\Z|sha256:")


def write_commit(
    shelf: Shelf,
    repo: str,
    changes: Changes,
    *,
    message: str,
    author: str,
    branch: str,
    parent: str | None,
    tag: str | None,
) -> Commit:
    """Store files, record a commit, and move a branch to it; see :meth:`Endpoint.commit`."""
    _check_names(repo, branch, tag)
    with reachable(f"{shelf.root}: cannot publish {repo}"):
        shelf.create()
        shelf.claim(repo)
        before = shelf.last(repo, "branches", branch)
        base = _base(shelf, repo, branch=branch, before=before, parent=parent)
        known = base.files if base else {}
        check_paths(_remaining(known, changes))
        files = apply_changes(known, _store(shelf, changes))
        _check_files(repo, files)
        same = base is not None and base.files == files
        _check_free(shelf, repo, branch=branch, tag=tag, commit=base.id if base and same else None)
        commit = base if base and same else _record(shelf, repo, base, files, message, author)
        _move(shelf, commit, branch=branch, before=before, author=author)
        if tag:
            _set_tag(shelf, commit, tag, author)
        _write_refs(shelf, repo)
        return commit


def set_tag(shelf: Shelf, commit: Commit, tag: str, *, author: str) -> None:
    """Name a commit for ever; see :meth:`Endpoint.tag`."""
    _check_names(commit.repo, "main", tag)
    with reachable(f"{shelf.root}: cannot tag {commit.repo}"):
        _check_free(shelf, commit.repo, branch=None, tag=tag, commit=commit.id)
        _set_tag(shelf, commit, tag, author)
        _write_refs(shelf, commit.repo)


def _check_names(repo: str, branch: str, tag: str | None) -> None:
    check_repo(repo)
    for name in filter(None, (branch, tag)):
        check_revision(name)
        if _COMMIT_LIKE.match(name):
            raise InvalidReference(f"{name!r} would be read as a commit, not as a branch or tag")
    if branch == tag:
        raise InvalidReference(f"{tag!r} cannot be both the branch and the tag")


def _base(
    shelf: Shelf, repo: str, *, branch: str, before: Move | None, parent: str | None
) -> Commit | None:
    """The commit to build on, once it is known to be the one that was meant."""
    now = before.commit if before else None
    if parent == TIP:
        parent = now
    elif before and now is not None and parent != now:
        raise _overtaken(shelf, repo, branch, before, expected=parent)
    if parent is None:
        return None
    try:
        return shelf.commit(repo, parent)
    except FileNotFoundError:
        raise RevisionNotFound(
            f"{repo}: the parent {parent} is no commit in {shelf.root}"
        ) from None


def _remaining(known: Mapping[str, FileInfo], changes: Changes) -> Mapping[str, object]:
    """The paths that a commit will have, before any content is stored."""
    removed = {path for path, source in changes.items() if source is None}
    return {path: True for path in {**known, **changes} if path not in removed}


def _store(shelf: Shelf, changes: Changes) -> Mapping[str, FileInfo | None]:
    return {
        path: None if source is None else _store_one(shelf, path, source)
        for path, source in changes.items()
    }


def _store_one(shelf: Shelf, path: str, source: Path | bytes) -> FileInfo:
    if isinstance(source, Path) and shelf.blobs.temporaries in source.parents:
        digest, status = shelf.blobs.adopt(source)
    else:
        with opened(source) as stream:
            info = FileInfo(size=None)
            digest, status = shelf.blobs.add(stream, info=info, what=path, replace=False)
    return FileInfo(size=status.st_size, digest=digest)


def _check_files(repo: str, files: Mapping[str, FileInfo]) -> None:
    if not files:
        raise InvalidReference(f"{repo}: expected at least one file to publish, found none")


def _check_free(
    shelf: Shelf, repo: str, *, branch: str | None, tag: str | None, commit: str | None
) -> None:
    """See, before anything is visible, whether branch and tag can be had."""
    if tag and shelf.last(repo, "branches", tag):
        raise Conflict(f"{repo}: {tag!r} is a branch, and cannot be a tag as well")
    if branch and shelf.last(repo, "tags", branch):
        raise Conflict(f"{repo}: {branch!r} is a tag, and cannot be a branch as well")
    taken = shelf.last(repo, "tags", tag) if tag else None
    if tag and taken and taken.commit not in (None, commit):
        raise _tag_taken(repo, tag, taken)


def _record(
    shelf: Shelf,
    repo: str,
    base: Commit | None,
    files: Mapping[str, FileInfo],
    message: str,
    author: str,
) -> Commit:
    draft = Commit(
        repo=repo,
        id="",
        parent=base.id if base else None,
        message=message,
        author=author,
        date=datetime.now(UTC),
        files=files,
    )
    # Read back what was written: the commit that is returned is the one that others will see.
    return shelf.commit(repo, shelf.add_commit(draft))


def _move(shelf: Shelf, commit: Commit, *, branch: str, before: Move | None, author: str) -> None:
    if before and before.commit == commit.id:
        return
    _check_stored(shelf, commit)
    folder = shelf.moves(commit.repo, "branches", branch)
    moved = push_move(
        folder,
        after=before,
        commit=commit.id,
        author=author,
        date=commit.date,
        temporaries=shelf.blobs.temporaries,
    )
    if not moved:
        # Read by its number: an NFS client may still list the folder as it was before.
        now = read_move(folder, before.number + 1 if before else 1)
        if now.commit == commit.id:  # somebody published the same, at the same time
            return
        raise _overtaken(shelf, commit.repo, branch, now, expected=commit.parent)


def _check_stored(shelf: Shelf, commit: Commit) -> None:
    """See that every blob is there and whole in size, as the last thing before the move."""
    for path, info in commit.files.items():
        status = shelf.blobs.path(info.digest).stat() if info.digest else None
        if status is None or status.st_size != info.size:
            raise Unreachable(f"{shelf.root}: the content of {path} did not stay: publish again")


def _set_tag(shelf: Shelf, commit: Commit, tag: str, author: str) -> None:
    before = shelf.last(commit.repo, "tags", tag)
    if before and before.commit == commit.id:
        return
    moved = push_move(
        shelf.moves(commit.repo, "tags", tag),
        after=before,
        commit=commit.id,
        author=author,
        date=datetime.now(UTC),
        temporaries=shelf.blobs.temporaries,
    )
    now = None if moved else shelf.last(commit.repo, "tags", tag)
    if now and now.commit != commit.id:
        raise _tag_taken(commit.repo, tag, now)


def _write_refs(shelf: Shelf, repo: str) -> None:
    # The publish is complete without it, so it must not fail here.
    with contextlib.suppress(OSError, Damaged):
        shelf.write_refs(repo)


def _overtaken(
    shelf: Shelf, repo: str, branch: str, now: Move, *, expected: str | None
) -> Conflict:
    text = f"{repo}: branch {branch!r} was expected at {expected or 'no commit yet'}"
    if now.commit is None:
        return Conflict(f"{text}, and is no longer there")
    message = ""
    with contextlib.suppress(OSError, Damaged):
        message = f": {shelf.commit(repo, now.commit).message!r}"
    return Conflict(
        f"{text}, and is at {now.commit}, published by {now.author} at "
        f"{now.date.isoformat(timespec='seconds')}{message}. Nothing of this publish is visible; "
        "look at that release and publish again"
    )


def _tag_taken(repo: str, tag: str, now: Move) -> Conflict:
    return Conflict(
        f"{repo}: tag {tag!r} names commit {now.commit} since "
        f"{now.date.isoformat(timespec='seconds')} (by {now.author}), and a tag does not move: "
        "choose another name"
    )
