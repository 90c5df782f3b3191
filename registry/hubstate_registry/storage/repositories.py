"""Repositories: made, found, moved, deleted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from hubstate_registry.errors import Conflict
from hubstate_registry.names import RepoId
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.schema import redirects, repositories, repository_tags

__all__ = [
    "Repository",
    "change_settings",
    "create",
    "delete",
    "find",
    "move",
    "set_card",
    "touch",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository, without its commits."""

    number: int
    id: RepoId
    private: bool
    gated: str
    created: float
    modified: float
    card: Mapping[str, object]


def from_row(row: sa.Row[tuple[object, ...]]) -> Repository:
    """Read a row of the repositories table."""
    return Repository(
        number=row.id,
        id=RepoId(namespace=row.namespace, name=row.name),
        private=row.private,
        gated=row.gated,
        created=row.created,
        modified=row.modified,
        card=json.loads(row.card),
    )


def find(connection: Connection, id: RepoId, *, moved: bool = True) -> Repository | None:
    """The repository of this id; with ``moved``, also the one that once had it."""
    mine = repositories.c.key == id.key
    if moved:  # in one statement: two would tell by their time whether the first finds something
        there = sa.select(redirects.c.repository).where(redirects.c.key == id.key)
        mine = mine | (repositories.c.id == there.scalar_subquery())
    rows = connection.execute(sa.select(repositories).where(mine)).all()
    found = next((row for row in rows if row.key == id.key), rows[0] if rows else None)
    if found is None or (not moved and (found.namespace, found.name) != (id.namespace, id.name)):
        return None
    return from_row(found)


def create(
    connection: Connection, id: RepoId, *, private: bool = False, at: float | None = None
) -> Repository:
    """Make an empty repository, without any commit.

    Raises:
        Conflict: the id is taken, in any spelling of upper and lower case.
    """
    taken = sa.select(repositories.c.id).where(repositories.c.key == id.key)
    if connection.execute(taken).first():
        raise Conflict(f"You already created this model repo: {id}")
    connection.execute(sa.delete(redirects).where(redirects.c.key == id.key))
    now = time.time() if at is None else at
    row = {"namespace": id.namespace, "name": id.name, "key": id.key, "private": private}
    connection.execute(
        sa.insert(repositories).values(**row, gated="", created=now, modified=now, card="{}")
    )
    made = find(connection, id)
    assert made is not None
    return made


def delete(connection: Connection, repository: Repository) -> None:
    """Remove a repository with its commits, references and holdings; ``gc`` frees the bytes."""
    connection.execute(sa.delete(repositories).where(repositories.c.id == repository.number))


def move(connection: Connection, repository: Repository, *, to: RepoId) -> None:
    """Give a repository another id; the old one redirects until it is taken again.

    Raises:
        Conflict: the new id is taken.
    """
    taken = sa.select(repositories.c.id).where(repositories.c.key == to.key)
    other = connection.execute(taken).scalar_one_or_none()
    if other is not None and other != repository.number:
        raise Conflict(f"There is already a repository called {to}")
    connection.execute(sa.delete(redirects).where(redirects.c.key == to.key))
    values = {"namespace": to.namespace, "name": to.name, "key": to.key}
    mine = repositories.c.id == repository.number
    connection.execute(sa.update(repositories).where(mine).values(**values))
    if to.key != repository.id.key:
        row = {"key": repository.id.key, "repository": repository.number}
        connection.execute(sa.insert(redirects).values(**row))


def change_settings(
    connection: Connection,
    repository: Repository,
    *,
    private: bool | None = None,
    gated: str | None = None,
) -> None:
    """Make a repository private or public, gated or open."""
    values: dict[str, object] = {}
    if private is not None:
        values["private"] = private
    if gated is not None:
        values["gated"] = gated
    mine = repositories.c.id == repository.number
    connection.execute(sa.update(repositories).where(mine).values(**values))


def touch(connection: Connection, repository: Repository, *, at: float) -> None:
    """Note when the repository last changed."""
    mine = repositories.c.id == repository.number
    connection.execute(sa.update(repositories).where(mine).values(modified=at))


def set_card(
    connection: Connection,
    repository: Repository,
    *,
    card: Mapping[str, object],
    tags: Iterable[str],
) -> None:
    """Replace what the model card says, and the tags that it is found by."""
    number = repository.number
    mine = repositories.c.id == number
    connection.execute(sa.update(repositories).where(mine).values(card=json.dumps(card)))
    connection.execute(sa.delete(repository_tags).where(repository_tags.c.repository == number))
    rows: Sequence[dict[str, object]] = [{"repository": number, "tag": tag} for tag in set(tags)]
    if rows:
        connection.execute(sa.insert(repository_tags), rows)
