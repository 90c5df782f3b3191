"""How much room the repositories of a namespace take."""

from __future__ import annotations

import sqlalchemy as sa
from starlette.responses import JSONResponse, Response

from hubstate_registry.auth import Role
from hubstate_registry.context import Call
from hubstate_registry.dispatch import Rule
from hubstate_registry.routes import render
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.schema import blobs, holdings, repositories

__all__ = ["RULES"]


def usage(call: Call) -> Response:
    """The repositories of an organisation, or of the caller, with the bytes that each holds.

    Bytes that several repositories hold are stored once, and count for each.
    """
    call.need_user()
    namespace = call.params.get("name") or str(call.principal.user)
    call.need_role(namespace, role=Role.READ)
    with call.read() as connection:
        rows = _rows(connection, namespace)
    whole = sum(row.storage for row in rows) or 1
    return JSONResponse(
        [
            {
                "id": f"{row.namespace}/{row.name}",
                "type": "model",
                "updatedAt": render.date(row.modified),
                "visibility": "private" if row.private else "public",
                "storage": row.storage,
                "storagePercent": round(100 * row.storage / whole, 2),
            }
            for row in rows
        ]
    )


def _rows(connection: Connection, namespace: str) -> list[sa.Row[tuple[object, ...]]]:
    held = sa.func.coalesce(sa.func.sum(blobs.c.size), 0)
    statement = (
        sa.select(repositories, held.label("storage"))
        .outerjoin(holdings, holdings.c.repository == repositories.c.id)
        .outerjoin(blobs, blobs.c.sha256 == holdings.c.sha256)
        .where(repositories.c.namespace == namespace)
        .group_by(repositories.c.id)
        .order_by(held.desc(), repositories.c.id)
    )
    return list(connection.execute(statement).all())


RULES = [
    Rule(method="GET", pattern="/api/settings/repositories", handler=usage),
    Rule(method="GET", pattern="/api/organizations/{name}/settings/repositories", handler=usage),
]
