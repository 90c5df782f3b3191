"""Who may do what with xorbs and shards: tokens that are short-lived and for one repository.

A token says which of the registry's tokens asked for it, for which repository, and whether to read
or to write. What its caller may do is looked up at each use: it ends at once with the token it was
made for, with the right to read or write there, and with the repository. The address of part of a
xorb is not looked up, and is good for ``SECONDS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from hubstate_registry.auth import ANONYMOUS, Principal, Role
from hubstate_registry.errors import Forbidden, Unauthorized
from hubstate_registry.signing import Signer
from hubstate_registry.storage import accounts
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.repositories import Repository, from_row
from hubstate_registry.storage.schema import repositories
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
    claims = {
        "token": principal.token,
        "repository": repository.number,
        "role": int(role),
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
    caller, repository = _recall(connection, claims), _find(connection, claims["repository"])
    if caller is None or repository is None or not _may(caller, repository, claims["role"]):
        raise Unauthorized("The Xet token was revoked, or its repository is gone")
    if claims["role"] < role:
        raise Forbidden(f"This Xet token may {Role(claims['role'])}, not {role}")
    return Grant(
        repository=repository.number,
        role=Role(claims["role"]),
        reader=Reader(user=caller.user, namespaces=caller.readable),
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


def _recall(connection: Connection, claims: Mapping[str, Any]) -> Principal | None:
    return accounts.recall(connection, claims["token"]) if claims["token"] else ANONYMOUS


def _find(connection: Connection, number: int) -> Repository | None:
    row = connection.execute(sa.select(repositories).where(repositories.c.id == number)).first()
    return None if row is None else from_row(row)


def _may(caller: Principal, repository: Repository, role: int) -> bool:
    is_open = not repository.private and not repository.gated
    return (is_open and role <= Role.READ) or caller.role(repository.id.namespace) >= role
