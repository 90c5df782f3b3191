"""Health and metrics."""

from __future__ import annotations

import sqlalchemy as sa
from starlette.responses import JSONResponse, PlainTextResponse, Response

from hubstate_registry.context import Call
from hubstate_registry.dispatch import Rule
from hubstate_registry.errors import Forbidden, RegistryError

__all__ = ["RULES"]


def healthz(_call: Call) -> Response:
    """The process answers."""
    return PlainTextResponse("ok\n")


def readyz(call: Call) -> Response:
    """The database answers, the folder can be written, and no stop is under way."""
    problem = "" if call.registry.ready else "stopping"
    try:
        with call.read() as connection:
            connection.execute(sa.text("SELECT 1"))
        with call.storage.files.incoming() as incoming:
            incoming.write(b"ready?")
    except (OSError, sa.exc.SQLAlchemyError, RegistryError) as error:
        problem = type(error).__name__
    return JSONResponse({"ready": not problem, "problem": problem}, 503 if problem else 200)


def metrics(call: Call) -> Response:
    """Counters, for an operator's token unless the settings make them public."""
    if not call.registry.settings.public_metrics:
        call.need_user()
        if not call.principal.is_operator:
            raise Forbidden("Metrics are for the registry's administrators")
    return Response(call.registry.metrics.render(), media_type="text/plain; version=0.0.4")


RULES = [
    Rule(method="GET", pattern="/healthz", handler=healthz, open=True),
    Rule(method="GET", pattern="/readyz", handler=readyz, open=True),
    Rule(method="GET", pattern="/metrics", handler=metrics),
]
