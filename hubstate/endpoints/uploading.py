"""How a commit gets to a hub server: through huggingface_hub, which speaks every upload path.

The branch moves by compare-and-swap: the commit names the parent that was looked at, and the
server refuses it if the branch has moved. Afterwards the server's own list is held against what
was sent. A new repository, a new branch and a tag are requests of their own; a publish that is
cut off between them is completed by running it again.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubstate.blobs import FileInfo, opened, reachable
from hubstate.digest import Digest
from hubstate.endpoints.answers import Listing
from hubstate.endpoints.base import TIP, Changes, Commit, check_paths
from hubstate.endpoints.client import api, quiet_bars, status_of, wrapped
from hubstate.errors import (
    Conflict,
    DigestMismatch,
    HubstateError,
    InvalidReference,
    NotFound,
    RepositoryNotFound,
    RevisionNotFound,
)
from hubstate.reference import Reference, check_revision
from hubstate.shards import split
from hubstate.values import frozen, replace

if TYPE_CHECKING:
    from hubstate.endpoints.http import HttpEndpoint

__all__ = ["set_tag", "upload"]

_OWN = frozenset({".gitattributes"})  # what a hub server puts in a repository by itself


_TOGETHER = 16 << 20  # bytes of smaller files that go along with the largest


@frozen
class _Local:
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


def upload(
    hub: HttpEndpoint,
    repo: str,
    changes: Changes,
    *,
    message: str,
    branch: str,
    parent: str | None,
    tag: str | None,
) -> Commit:
    """Change files on a branch of a hub server; see :meth:`Endpoint.commit`."""
    target = _target(repo, branch, tag)
    tip = _tip(hub, target)
    base = _base(hub, target, tip=tip, parent=parent)
    local = {path: _measure(source) for path, source in changes.items() if source is not None}
    _check_result(repo, base, changes)
    wanted = _wanted(base, changes, local)
    if tag:
        _check_tag(hub, target, tag, commit=tip.commit.id if tip and not wanted else None)
    if tip and base and not wanted and tip.commit.id == base.commit.id:
        commit = _with_digests(tip.commit, local)
    else:
        commit = _publish(hub, target, changes, base=base, message=message, local=local)
    if tag:
        set_tag(hub, commit, tag)
    return commit


def set_tag(hub: HttpEndpoint, commit: Commit, tag: str) -> None:
    """Name a commit of a hub server for ever; see :meth:`Endpoint.tag`."""
    target = _target(commit.repo, "main", tag)
    if _check_tag(hub, target, tag, commit=commit.id):
        return
    with wrapped(f"tag {tag!r} of {commit.repo} on {hub.name}"):
        api(hub).create_tag(commit.repo, tag=tag, revision=commit.id)


def _target(repo: str, branch: str, tag: str | None) -> Reference:
    for name in filter(None, (branch, tag)):
        if Reference(repo=repo, revision=check_revision(name)).pinned:
            raise InvalidReference(f"{name!r} would be read as a commit, not as a branch or tag")
    if branch == tag:
        raise InvalidReference(f"{tag!r} cannot be both the branch and the tag")
    return Reference(repo=repo, revision=branch)


def _tip(hub: HttpEndpoint, target: Reference) -> Listing | None:
    """The branch as it is; None where there is nothing, or only what the server put there."""
    try:
        tip = hub.listing(target)
    except NotFound:
        return None
    if target.revision in hub.refs(target.repo).branches:
        return tip
    raise Conflict(f"{target.repo}: {target.revision!r} is a tag, and cannot be a branch as well")


def _base(
    hub: HttpEndpoint, target: Reference, *, tip: Listing | None, parent: str | None
) -> Listing | None:
    """The commit to build on, once it is known to be the one that was meant."""
    if tip and (parent in (TIP, tip.commit.id) or (parent is None and _is_bare(tip))):
        return tip
    if tip:
        raise _overtaken(hub, target, expected=parent)
    return None if parent in (None, TIP) else hub.listing(target.at(str(parent)))


def _is_bare(listing: Listing) -> bool:
    """Whether it is the commit that a server makes together with a repository."""
    return not set(listing.commit.files) - _OWN


def _measure(source: Path | bytes) -> _Local:
    with reachable("cannot publish"), opened(source) as stream:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        whole, block = hashlib.sha256(), memoryview(bytearray(1 << 20))
        git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        while count := stream.readinto(block) or 0:
            whole.update(block[:count])
            git.update(block[:count])
    info = FileInfo(size=size, digest=Digest(whole.hexdigest()))
    return _Local(info=info, oid=git.hexdigest())


def _check_result(repo: str, base: Listing | None, changes: Changes) -> None:
    kept = set(base.commit.files) if base else set()
    paths = (kept | set(changes)) - {path for path, source in changes.items() if source is None}
    check_paths(dict.fromkeys(paths))
    if not paths:
        raise InvalidReference(f"{repo}: expected at least one file to publish, found none")


def _wanted(base: Listing | None, changes: Changes, local: Mapping[str, _Local]) -> Changes:
    """The changes that change something."""
    if base is None:
        return {path: source for path, source in changes.items() if source is not None}
    files = base.commit.files
    return {
        path: source
        for path, source in changes.items()
        if (path in files if source is None else not local[path].is_same(base, path))
    }


def _publish(
    hub: HttpEndpoint,
    target: Reference,
    changes: Changes,
    *,
    base: Listing | None,
    message: str,
    local: Mapping[str, _Local],
) -> Commit:
    start = base or _begin(hub, target)
    made = _make_branch(hub, target, start)
    wanted = _wanted(start, changes if base else _alone(start, changes), local)
    try:
        id = _send(hub, target, wanted, message=message, parent=start)
    except BaseException:
        if made:
            with contextlib.suppress(Exception):
                api(hub).delete_branch(target.repo, branch=target.revision)
        raise
    commit = _verified(hub, target.at(id), changes, local)
    return replace(commit, message=message, parent=start.commit.id if start else None)


def _begin(hub: HttpEndpoint, target: Reference) -> Listing | None:
    """Where a new branch begins: at main, in a repository that is made if there is none."""
    with wrapped(f"{target.repo} on {hub.name}: cannot be made"):
        try:
            return hub.listing(target.at("main"))
        except RepositoryNotFound:
            api(hub).create_repo(target.repo, exist_ok=True)
        except RevisionNotFound:
            return None
    try:
        return hub.listing(target.at("main"))
    except RevisionNotFound:  # a server that makes repositories without a commit
        return None


def _alone(start: Listing | None, changes: Changes) -> Changes:
    """The changes and the removal of everything else, for a branch that is to have no parent."""
    others = set(start.commit.files if start else ()) - _OWN - set(changes)
    return {**changes, **dict.fromkeys(others)}


def _make_branch(hub: HttpEndpoint, target: Reference, start: Listing | None) -> bool:
    if target.revision in hub.refs(target.repo).branches or start is None:
        return False
    with wrapped(f"branch {target} on {hub.name}: cannot be made"):
        api(hub).create_branch(target.repo, branch=target.revision, revision=start.commit.id)
    return True


def _send(
    hub: HttpEndpoint,
    target: Reference,
    changes: Changes,
    *,
    message: str,
    parent: Listing | None,
) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[Any] = [
        CommitOperationDelete(path, is_folder=False)
        if source is None
        else CommitOperationAdd(path, source)
        for path, source in changes.items()
    ]
    title, _, text = message.partition("\n")
    expected = parent.commit.id if parent else None
    with wrapped(f"{target} on {hub.name}: cannot be published"), quiet_bars():
        try:
            for batch in _batches(operations)[:-1]:
                api(hub).preupload_lfs_files(
                    target.repo, batch, revision=target.revision, free_memory=False
                )
            commit = api(hub).create_commit(
                target.repo,
                operations,
                commit_message=title or "Publish",
                commit_description=text.strip(),
                revision=target.revision,
                parent_commit=expected,
            )
        except Exception as error:
            if status_of(error) in (409, 412):
                raise _overtaken(hub, target, expected=expected) from error
            raise
    return str(commit.oid)


def _batches(operations: list[Any]) -> list[list[Any]]:
    """Files to be sent one batch after the other: what is sent together is in memory together."""
    files = {op.path_in_repo: op for op in operations if hasattr(op, "upload_info")}
    sizes = {path: op.upload_info.size for path, op in files.items()}
    groups = split(sizes, max(sizes.values(), default=0) + _TOGETHER)
    return [[files[path] for path in group] for group in groups]


def _verified(
    hub: HttpEndpoint, reference: Reference, changes: Changes, local: Mapping[str, _Local]
) -> Commit:
    """Hold the new commit, as the server lists it, against what was sent."""
    listing = hub.listing(reference)
    wrong = [path for path, file in local.items() if not file.is_same(listing, path)]
    wrong += [p for p, source in changes.items() if source is None and p in listing.commit.files]
    if wrong:
        raise DigestMismatch(
            f"{reference} on {hub.name}: was published, but the server has other content than "
            f"was sent for {', '.join(sorted(wrong)[:10])}"
        )
    return _with_digests(listing.commit, local)


def _with_digests(commit: Commit, local: Mapping[str, _Local]) -> Commit:
    return replace(commit, files={**commit.files, **{p: file.info for p, file in local.items()}})


def _check_tag(hub: HttpEndpoint, target: Reference, tag: str, *, commit: str | None) -> bool:
    """Whether a tag names the commit already.

    Raises:
        Conflict: it names another one, or is a branch.
    """
    try:
        refs = hub.refs(target.repo)
    except RepositoryNotFound:
        return False
    if tag in refs.branches:
        raise Conflict(f"{target.repo}: {tag!r} is a branch, and cannot be a tag as well")
    named = refs.tags.get(tag)
    if named not in (None, commit):
        raise Conflict(
            f"{target.repo}: tag {tag!r} names commit {named} on {hub.name}, and a tag does not "
            "move: choose another name"
        )
    return named is not None


def _overtaken(hub: HttpEndpoint, target: Reference, *, expected: str | None) -> Conflict:
    found = ""
    with contextlib.suppress(HubstateError):
        tip = next(hub.history(target))
        found = f", and is at {tip.id}, published by {tip.author or 'somebody'} at "
        found += f"{tip.date.isoformat(timespec='seconds')}: {tip.message[:80]!r}"
    return Conflict(
        f"{target.repo}: branch {target.revision!r} on {hub.name} was expected at "
        f"{expected or 'no commit yet'}{found}. Nothing of this publish is visible; look at that "
        "release and publish again"
    )
