"""Branches and tags, moved by compare-and-swap, and the record of who moved them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from hubstate_registry.errors import Conflict, RevisionNotFound, StaleParent
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.repositories import Repository
from hubstate_registry.storage.schema import audit, commits, references

__all__ = ["Actor", "Reference", "create", "delete", "list_references", "note", "resolve", "swap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who does something, for the audit log."""

    user: str
    token: str = ""
    request: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A branch or a tag."""

    kind: str
    name: str
    commit: str

    @property
    def full(self) -> str:
        """The name in git's spelling."""
        return f"refs/{'heads' if self.kind == 'branch' else 'tags'}/{self.name}"


def list_references(connection: Connection, repository: Repository) -> Sequence[Reference]:
    """All branches, then all tags, by name; ``main`` first."""
    statement = (
        sa.select(references.c.kind, references.c.name, references.c.commit)
        .where(references.c.repository == repository.number)
        .order_by(references.c.kind, references.c.name != "main", references.c.name)
    )
    return [
        Reference(kind=kind, name=name, commit=commit)
        for kind, name, commit in connection.execute(statement)
    ]


def resolve(connection: Connection, repository: Repository, *, revision: str) -> str:
    """The commit that a branch, a tag, a commit id or a unique start of one names.

    Raises:
        RevisionNotFound: nothing of that name is here.
    """
    name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
    statement = (
        sa.select(references.c.commit)
        .where(references.c.repository == repository.number, references.c.name == name)
        .order_by(references.c.kind)
    )
    found = connection.execute(statement).scalars().first()
    found = found or _commit(connection, repository, prefix=revision)
    if found is None:
        raise RevisionNotFound(revision)
    return found


def head(connection: Connection, repository: Repository, *, kind: str, name: str) -> str | None:
    """Where one branch or tag points."""
    mine = _mine(repository, kind=kind, name=name)
    return connection.execute(sa.select(references.c.commit).where(mine)).scalar_one_or_none()


def create(
    connection: Connection,
    repository: Repository,
    *,
    reference: Reference,
    actor: Actor,
    message: str = "",
) -> None:
    """Make a branch or a tag.

    Raises:
        Conflict: there is one of that name.
    """
    found = head(connection, repository, kind=reference.kind, name=reference.name)
    if found is not None:
        raise Conflict(f"Reference already exists: {reference.full}")
    connection.execute(
        sa.insert(references).values(
            repository=repository.number,
            kind=reference.kind,
            name=reference.name,
            commit=reference.commit,
            message=message,
            created=time.time(),
        )
    )
    note(
        connection,
        repository,
        action="create",
        reference=reference.full,
        new=reference.commit,
        actor=actor,
    )


def swap(
    connection: Connection, repository: Repository, *, name: str, old: str, new: str, actor: Actor
) -> None:
    """Move a branch from ``old`` to ``new``, if it is still at ``old``.

    Raises:
        StaleParent: it is not.
    """
    mine = _mine(repository, kind="branch", name=name) & (references.c.commit == old)
    moved = connection.execute(sa.update(references).where(mine).values(commit=new))
    if moved.rowcount != 1:
        raise StaleParent(f"The branch {name} is no longer at {old}; read it again and retry")
    full = Reference(kind="branch", name=name, commit=new).full
    note(connection, repository, action="commit", reference=full, old=old, new=new, actor=actor)


def delete(
    connection: Connection, repository: Repository, *, kind: str, name: str, actor: Actor
) -> None:
    """Remove a branch or a tag; its commits stay readable by id until ``gc``.

    Raises:
        RevisionNotFound: there is none of that name.
    """
    old = head(connection, repository, kind=kind, name=name)
    if old is None:
        raise RevisionNotFound(name)
    connection.execute(sa.delete(references).where(_mine(repository, kind=kind, name=name)))
    full = Reference(kind=kind, name=name, commit=old).full
    note(connection, repository, action="delete", reference=full, old=old, actor=actor)


def note(
    connection: Connection,
    repository: Repository,
    *,
    action: str,
    actor: Actor,
    reference: str = "",
    old: str = "",
    new: str = "",
) -> None:
    """Add a line to the audit log, in the transaction of what it tells."""
    connection.execute(
        sa.insert(audit).values(
            at=time.time(),
            actor=actor.user,
            token=actor.token,
            request=actor.request,
            action=action,
            repository=str(repository.id),
            reference=reference,
            old=old,
            new=new,
        )
    )


def _mine(repository: Repository, *, kind: str, name: str) -> sa.ColumnElement[bool]:
    return (
        (references.c.repository == repository.number)
        & (references.c.kind == kind)
        & (references.c.name == name)
    )


def _commit(connection: Connection, repository: Repository, *, prefix: str) -> str | None:
    if not 7 <= len(prefix) <= 40 or not set(prefix) <= set("0123456789abcdef"):
        return None
    statement = sa.select(commits.c.id).where(
        commits.c.repository == repository.number,
        commits.c.id >= prefix,
        commits.c.id <= prefix + "g",
    )
    found = connection.execute(statement.limit(2)).scalars().all()
    return found[0] if len(found) == 1 else None
