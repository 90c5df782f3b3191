"""Who may do what with xorbs and shards: tokens that are short-lived and for one repository.

A token says which user it was made for, for which repository, to read or to write, and whose
private repositories that user may read. It is checked again at each use: a revoked token, a
disabled user or a deleted repository ends it at once; a membership that ends, within its life.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from hubstate_registry.auth import Principal, Role
from hubstate_registry.errors import Forbidden, Unauthorized
from hubstate_registry.signing import Signer
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.repositories import Repository
from hubstate_registry.storage.schema import namespaces, repositories, tokens
from hubstate_registry.storage.xet import Reader
from hubstate_registry.xet.files import Fetch
from hubstate_registry.xet.hashes import Hash, format_hash, parse_hash

__all__ = ["SECONDS", "Grant", "admit", "issue", "sign_fetch", "verify_fetch"]

SECONDS = 900
"""How long a token, and the address of part of a xorb, is good for."""

_TOKEN, _FETCH = "xet-token", "xet-fetch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a token allows."""

    repository: int
    role: Role
    reader: Reader


def issue(signer: Signer, principal: Principal, *, repository: Repository, role: Role) -> str:
    """A token; whether the caller has this role there is for whoever asks to have checked."""
    names = principal.readable
    claims = {
        "user": principal.user,
        "token": principal.token,
        "repository": repository.number,
        "role": int(role),
        "namespaces": None if names is None else sorted(names),
    }
    return signer.sign(_TOKEN, claims, seconds=SECONDS)


def admit(connection: Connection, signer: Signer, *, token: str, role: Role) -> Grant:
    """What a token allows now.

    Raises:
        Unauthorized: it is forged, expired or revoked; clients then ask for another.
        Forbidden: it is for reading, and this is writing.
    """
    try:
        claims: Mapping[str, Any] = signer.verify(_TOKEN, token)
    except Forbidden as error:
        raise Unauthorized("The Xet token is not good, or not any more") from error
    if not _is_alive(connection, claims):
        raise Unauthorized("The Xet token was revoked, or its repository is gone")
    if claims["role"] < role:
        raise Forbidden(f"This Xet token may {Role(claims['role'])}, not {role}")
    names = claims["namespaces"]
    return Grant(
        repository=claims["repository"],
        role=Role(claims["role"]),
        reader=Reader(user=claims["user"], namespaces=None if names is None else frozenset(names)),
    )


def sign_fetch(signer: Signer, xorb: Hash, fetch: Fetch) -> str:
    """A claim to some bytes of a xorb and to no others."""
    claims = {"xorb": format_hash(xorb), "start": fetch.bytes.start, "stop": fetch.bytes.stop}
    return signer.sign(_FETCH, claims, seconds=SECONDS)


def verify_fetch(signer: Signer, token: str) -> tuple[Hash, range]:
    """The xorb and the bytes that a claim is for.

    Raises:
        Forbidden: it is forged or expired; clients then ask for another.
    """
    claims: Mapping[str, Any] = signer.verify(_FETCH, token)
    return parse_hash(claims["xorb"]), range(claims["start"], claims["stop"])


def _is_alive(connection: Connection, claims: Mapping[str, Any]) -> bool:
    there = sa.select(repositories.c.id).where(repositories.c.id == claims["repository"])
    if connection.execute(there).first() is None:
        return False
    if claims["user"] is None:
        return True
    good = (
        sa.select(tokens.c.id)
        .join(namespaces, namespaces.c.name == tokens.c.user)
        .where(
            tokens.c.id == claims["token"],
            tokens.c.revoked.is_(None),
            sa.or_(tokens.c.expires.is_(None), tokens.c.expires > time.time()),
            sa.not_(namespaces.c.disabled),
        )
    )
    return connection.execute(good).first() is not None
