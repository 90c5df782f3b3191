"""How a commit gets to a hub server: through huggingface_hub, which speaks every upload path.

The branch moves by compare-and-swap: the commit names the parent that was looked at, and the
server refuses it if the branch has moved. Afterwards the server's own list is held against what
was sent. A new repository, a new branch and a tag are requests of their own; a publish that is
cut off between them is completed by running it again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hubstate.endpoints.answers import Listing
from hubstate.endpoints.base import TIP, Changes, Commit
from hubstate.endpoints.client import api, quiet_bars, status_of, wrapped
from hubstate.endpoints.outgoing import (
    LocalFile,
    alone,
    batches,
    changed,
    check_result,
    is_bare,
    measure,
    with_digests,
)
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
from hubstate.values import replace

if TYPE_CHECKING:
    from hubstate.endpoints.http import HttpEndpoint

__all__ = ["set_tag", "upload"]


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
    local = {path: measure(source) for path, source in changes.items() if source is not None}
    check_result(repo, base, changes)
    wanted = changed(base, changes, local)
    if tag:
        _check_tag(hub, target, tag, commit=tip.commit.id if tip and not wanted else None)
    if tip and base and not wanted and tip.commit.id == base.commit.id:
        commit = with_digests(tip.commit, local)
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
    if tip and (parent in (TIP, tip.commit.id) or (parent is None and is_bare(tip))):
        return tip
    if tip:
        raise _overtaken(hub, target, expected=parent)
    return None if parent in (None, TIP) else hub.listing(target.at(str(parent)))


def _publish(
    hub: HttpEndpoint,
    target: Reference,
    changes: Changes,
    *,
    base: Listing | None,
    message: str,
    local: Mapping[str, LocalFile],
) -> Commit:
    start = base or _begin(hub, target)
    made = _make_branch(hub, target, start)
    wanted = changed(start, changes if base else alone(start, changes), local)
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
            for batch in batches(operations)[:-1]:
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


def _verified(
    hub: HttpEndpoint, reference: Reference, changes: Changes, local: Mapping[str, LocalFile]
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
    return with_digests(listing.commit, local)


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
