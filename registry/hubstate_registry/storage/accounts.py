"""Users, organisations, memberships and tokens.

A token is ``hsr_`` and 40 random letters and digits. The database has its SHA-256 alone: a
secret of 238 random bits needs no slow hash, and cannot be read back.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import string
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from hubstate_registry.auth import Principal, Role
from hubstate_registry.errors import BadRequest, Conflict
from hubstate_registry.names import parse_namespace
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.schema import memberships, namespaces, repositories, tokens

__all__ = [
    "Token",
    "add_namespace",
    "authenticate",
    "create_token",
    "disable_user",
    "list_tokens",
    "namespace_kind",
    "recall",
    "revoke_token",
    "set_member",
]

_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What may be shown of a token; the secret is not among it."""

    id: str
    user: str
    name: str
    scopes: Mapping[str, Role]
    created: float
    expires: float | None
    revoked: float | None


def add_namespace(
    connection: Connection, name: str, *, kind: str = "user", admin: bool = False
) -> None:
    """Make a user or an organisation.

    Raises:
        BadRequest: the name cannot be used.
        Conflict: it is taken, by either.
    """
    name = parse_namespace(name)
    taken = sa.select(namespaces.c.name).where(namespaces.c.key == name.lower())
    squatted = sa.select(repositories.c.name).where(repositories.c.namespace == name)
    if connection.execute(taken).first() or connection.execute(squatted.limit(1)).first():
        raise Conflict(f"There is already a user or an organisation called {name}")
    connection.execute(
        sa.insert(namespaces).values(
            name=name,
            key=name.lower(),
            kind=kind,
            admin=admin,
            disabled=False,
            created=time.time(),
        )
    )


def namespace_kind(connection: Connection, name: str) -> str | None:
    """``user``, ``organisation``, or None."""
    statement = sa.select(namespaces.c.kind).where(namespaces.c.name == name)
    return connection.execute(statement).scalar_one_or_none()


def disable_user(connection: Connection, name: str, *, disabled: bool = True) -> None:
    """Turn all of a user's tokens off, or on again.

    Raises:
        BadRequest: there is no such user.
    """
    _need(connection, name, kind="user")
    connection.execute(
        sa.update(namespaces).where(namespaces.c.name == name).values(disabled=disabled)
    )


def set_member(connection: Connection, user: str, *, organisation: str, role: Role) -> None:
    """Give a user a role in an organisation; ``Role.NONE`` takes it away.

    Raises:
        BadRequest: there is no such user or organisation.
    """
    _need(connection, user, kind="user")
    _need(connection, organisation, kind="organisation")
    mine = (memberships.c.user == user) & (memberships.c.organisation == organisation)
    connection.execute(sa.delete(memberships).where(mine))
    if role is not Role.NONE:
        row = {"user": user, "organisation": organisation, "role": str(role)}
        connection.execute(sa.insert(memberships).values(**row))


def create_token(
    connection: Connection,
    user: str,
    *,
    name: str = "token",
    scopes: Mapping[str, Role],
    seconds: float | None = None,
) -> str:
    """Make a token and return its secret, which nothing can show again.

    Raises:
        BadRequest: there is no such user, or no scope.
    """
    _need(connection, user, kind="user")
    if not scopes or Role.NONE in scopes.values():
        raise BadRequest("a token needs scopes: read, write or admin, for a namespace or for '*'")
    secret = "hsr_" + "".join(secrets.choice(_ALPHABET) for _ in range(40))
    now = time.time()
    connection.execute(
        sa.insert(tokens).values(
            id=secrets.token_hex(4),
            digest=_digest(secret),
            user=user,
            name=name,
            scopes=json.dumps({namespace: str(role) for namespace, role in scopes.items()}),
            created=now,
            expires=None if seconds is None else now + seconds,
        )
    )
    return secret


def list_tokens(connection: Connection, user: str | None = None) -> Sequence[Token]:
    """All tokens, or those of one user, oldest first."""
    statement = sa.select(tokens).order_by(tokens.c.created)
    if user is not None:
        statement = statement.where(tokens.c.user == user)
    return [_token(row) for row in connection.execute(statement)]


def revoke_token(connection: Connection, token: str) -> None:
    """Turn a token off, by its public id, from the next request on.

    Raises:
        BadRequest: there is no such token.
    """
    statement = sa.update(tokens).where(tokens.c.id == token).values(revoked=time.time())
    if connection.execute(statement).rowcount == 0:
        raise BadRequest(f"there is no token {token!r}; see `token list`")


def authenticate(connection: Connection, secret: str) -> Principal | None:
    """Who this token speaks for, or None if it is unknown, expired, revoked or disabled."""
    return _principal(connection, tokens.c.digest == _digest(secret))


def recall(connection: Connection, token: object) -> Principal | None:
    """Who the token of this public id speaks for now, which may be less than before, or nobody.

    For what was signed earlier for a caller: it must not outlive the caller's own rights.
    """
    return _principal(connection, tokens.c.id == token)


def _principal(connection: Connection, is_it: sa.ColumnElement[bool]) -> Principal | None:
    statement = (
        sa.select(tokens, namespaces.c.admin, namespaces.c.disabled)
        .join(namespaces, namespaces.c.name == tokens.c.user)
        .where(is_it)
    )
    row = connection.execute(statement).one_or_none()
    if row is None or row.disabled or row.revoked is not None:
        return None
    if row.expires is not None and row.expires <= time.time():
        return None
    members = sa.select(memberships.c.organisation, memberships.c.role).where(
        memberships.c.user == row.user
    )
    return Principal(
        user=row.user,
        token=row.id,
        token_name=row.name,
        admin=row.admin,
        scopes=_scopes(row.scopes),
        memberships={org: Role.parse(role) for org, role in connection.execute(members)},
        expires=row.expires,
    )


def _need(connection: Connection, name: str, *, kind: str) -> None:
    if namespace_kind(connection, name) != kind:
        raise BadRequest(f"there is no {kind} called {name!r}")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _scopes(text: str) -> dict[str, Role]:
    return {namespace: Role.parse(role) for namespace, role in json.loads(text).items()}


def _token(row: sa.Row[tuple[object, ...]]) -> Token:
    return Token(
        id=row.id,
        user=row.user,
        name=row.name,
        scopes=_scopes(row.scopes),
        created=row.created,
        expires=row.expires,
        revoked=row.revoked,
    )
