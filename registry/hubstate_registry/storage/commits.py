"""Commits: a tree, a parent, and words about it; written with the move of their branch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from hubstate_registry.errors import (
    BadRequest,
    EntryNotFound,
    RevisionNotFound,
    StaleParent,
    TooLarge,
)
from hubstate_registry.storage import blobs, references
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.references import Actor
from hubstate_registry.storage.repositories import Repository, touch
from hubstate_registry.storage.schema import commits
from hubstate_registry.storage.trees import Entry, Tree, git_oid

__all__ = ["Commit", "Removal", "append", "history", "load_tree", "read", "start"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A commit, without its tree."""

    id: str
    parent: str | None
    author: str
    title: str
    message: str
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """Take a file, or a whole folder, out of the tree."""

    path: str
    folder: bool


Change = Entry | Removal
_COLUMNS = [c for c in commits.c if c.name not in ("repository", "tree")]


def read(connection: Connection, repository: Repository, *, ids: Iterable[str]) -> list[Commit]:
    """Those of these commits that the repository has, in no order."""
    wanted = list(set(ids))
    found: list[Commit] = []
    for start_at in range(0, len(wanted), 500):
        batch = wanted[start_at : start_at + 500]
        statement = sa.select(*_COLUMNS).where(
            commits.c.repository == repository.number, commits.c.id.in_(batch)
        )
        found += [_commit(row) for row in connection.execute(statement)]
    return found


def load_tree(connection: Connection, repository: Repository, *, commit: str) -> Tree:
    """The files of a commit.

    Raises:
        RevisionNotFound: the repository has no such commit.
    """
    mine = (commits.c.repository == repository.number) & (commits.c.id == commit)
    data = connection.execute(sa.select(commits.c.tree).where(mine)).scalar_one_or_none()
    if data is None:
        raise RevisionNotFound(commit)
    return Tree.load(data)


def history(
    connection: Connection, repository: Repository, *, commit: str, limit: int
) -> Sequence[Commit]:
    """A commit and its ancestors, newest first."""
    mine = commits.c.repository == repository.number
    first = sa.select(*_COLUMNS, sa.literal(0).label("depth")).where(mine, commits.c.id == commit)
    chain = first.cte("chain", recursive=True)
    step = sa.select(*_COLUMNS, chain.c.depth + 1).where(
        mine, commits.c.id == chain.c.parent, chain.c.depth + 1 < limit
    )
    chain = chain.union_all(step)
    return [_commit(row) for row in connection.execute(sa.select(chain).order_by(chain.c.depth))]


def start(connection: Connection, repository: Repository, *, actor: Actor) -> Commit:
    """The first commit of a new repository: no files, and ``main`` at it."""
    commit = write(
        connection,
        repository,
        parent=None,
        tree=Tree(),
        title="initial commit",
        message="",
        actor=actor,
    )
    main = references.Reference(kind="branch", name="main", commit=commit.id)
    references.create(connection, repository, reference=main, actor=actor)
    return commit


def append(
    connection: Connection,
    repository: Repository,
    *,
    branch: str,
    changes: Sequence[Change],
    title: str,
    message: str,
    parent: str | None,
    actor: Actor,
    limit: int,
) -> tuple[str, Tree]:
    """Commit changes on top of a branch and move it; the new commit and its tree.

    Changes that change nothing make no commit, so that a retry is harmless.

    Raises:
        RevisionNotFound: there is no such branch.
        StaleParent: ``parent`` is named and is not where the branch is.
        EntryNotFound: a removed path is not there.
        BadRequest: a file's bytes were not uploaded, or a path is both file and folder.
        TooLarge: the tree would have more than ``limit`` files.
    """
    old = references.head(connection, repository, kind="branch", name=branch)
    if old is None:
        raise RevisionNotFound(branch)
    if parent is not None and not (len(parent) >= 7 and old.startswith(parent)):
        raise StaleParent(f"A commit has happened since: {branch} is at {old}, not at {parent}")
    before = load_tree(connection, repository, commit=old)
    after = apply(before, changes, commit=old)
    if {p: e.oid for p, e in after.items()} == {p: e.oid for p, e in before.items()}:
        return old, before
    if len(after) > limit:
        raise TooLarge(f"a commit may have {limit} files, this one would have {len(after)}")
    for sha256 in {entry.sha256 for entry in after.values() if not entry.changed}:
        if not blobs.is_held(connection, repository.number, sha256=sha256):
            raise BadRequest(f"the content sha256:{sha256} was not uploaded to this repository")
        blobs.hold(connection, repository.number, sha256=sha256)
    commit = write(
        connection,
        repository,
        parent=old,
        tree=after,
        title=title,
        message=message,
        actor=actor,
    )
    references.swap(connection, repository, name=branch, old=old, new=commit.id, actor=actor)
    touch(connection, repository, at=commit.created)
    return commit.id, after


def write(
    connection: Connection,
    repository: Repository,
    *,
    parent: str | None,
    tree: Tree,
    title: str,
    message: str,
    actor: Actor,
) -> Commit:
    """Store a commit; its id is what git would call it, were its author's address empty."""
    now = time.time()
    head = [f"tree {tree.folders['']}"] + ([f"parent {parent}"] if parent else [])
    who = f"{actor.user} <> {now:.6f} +0000"
    text = "\n".join([*head, f"author {who}", f"committer {who}", "", title, "", message])
    commit = Commit(
        id=git_oid("commit", text.encode()),
        parent=parent,
        author=actor.user,
        title=title,
        message=message,
        created=now,
    )
    insert(connection, repository, commit=commit, tree=tree)
    return commit


def insert(connection: Connection, repository: Repository, *, commit: Commit, tree: Tree) -> None:
    """Add a row for a commit."""
    connection.execute(
        sa.insert(commits).values(
            repository=repository.number,
            id=commit.id,
            parent=commit.parent,
            author=commit.author,
            title=commit.title,
            message=commit.message,
            created=commit.created,
            tree=tree.stamped(commit.id).dump(),
        )
    )


def apply(tree: Tree, changes: Sequence[Change], *, commit: str) -> Tree:
    """The tree after changes, in their order.

    Raises:
        EntryNotFound: a removed path is not there.
        BadRequest: a path is both file and folder.
    """
    files = dict(tree)
    for change in changes:
        if isinstance(change, Entry):
            same = files.get(change.path)
            if same is None or same.oid != change.oid:
                files[change.path] = change
            continue
        gone = [p for p in files if p.startswith(f"{change.path}/")] if change.folder else []
        gone = gone or ([change.path] if not change.folder and change.path in files else [])
        if not gone:
            raise EntryNotFound(
                f"A file with this name doesn't exist: {change.path}", commit=commit
            )
        for path in gone:
            del files[path]
    for path in files:
        if clash := next((a for a in _folders(path) if a in files), None):
            raise BadRequest(f"{clash} cannot be a file and also the folder of {path}")
    return Tree(files.values())


def _folders(path: str) -> Iterable[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _commit(row: sa.Row[tuple[object, ...]]) -> Commit:
    return Commit(
        id=row.id,
        parent=row.parent,
        author=row.author,
        title=row.title,
        message=row.message,
        created=row.created,
    )
