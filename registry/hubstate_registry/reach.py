"""Which bytes a caller may name by hash alone.

A hash is not a permission. Bytes count as "already stored" for a repository if the repository
holds them, or if the caller may read another repository that holds them (and could thus
download them and upload them again). Everyone else uploads, and learns nothing.
"""

from __future__ import annotations

import sqlalchemy as sa

from hubstate_registry.context import Call
from hubstate_registry.storage import blobs
from hubstate_registry.storage.blobs import Blob
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.repositories import Repository, from_row
from hubstate_registry.storage.schema import holdings, repositories

__all__ = ["may_name", "take_hold"]


def may_name(connection: Connection, call: Call, *, repository: Repository, sha256: str) -> bool:
    """Whether the caller may use these bytes in this repository without sending them."""
    if blobs.is_held(connection, repository.number, sha256=sha256):
        return True
    statement = (
        sa.select(repositories)
        .join(holdings, holdings.c.repository == repositories.c.id)
        .where(holdings.c.sha256 == sha256)
    )
    return any(_may_download(call, from_row(row)) for row in connection.execute(statement))


def take_hold(
    connection: Connection, call: Call, *, repository: Repository, sha256: str
) -> Blob | None:
    """The bytes, now held by this repository; None if the caller has to send them."""
    blob = blobs.find(connection, sha256)
    if blob is None:
        return None
    if not may_name(connection, call, repository=repository, sha256=sha256):
        return None
    blobs.hold(connection, repository.number, sha256=sha256)
    return blob


def _may_download(call: Call, repository: Repository) -> bool:
    if not call.may_read(repository):
        return False
    return not repository.gated or call.principal.role(repository.id.namespace) > 0
