"""The same application on granian, for those who installed that extra."""

from __future__ import annotations

import asyncio
import importlib
import signal
from pathlib import Path
from typing import Any

import click

from hubstate_registry.app import Application

__all__ = ["run"]


def run(application: Application, options: dict[str, Any]) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        click.ClickException: granian is not installed, or lacks what an option asks for.
    """
    try:
        embed = importlib.import_module("granian.server.embed")  # optional: no plain import
    except ImportError as error:
        raise click.ClickException("install it first: pip install './registry[granian]'") from error
    if options["behind_proxy"]:
        raise click.ClickException("granian does not read X-Forwarded-For; use uvicorn for that")
    server = embed.Server(
        application,
        address=options["host"],
        port=options["port"],
        interface="asgi",
        websockets=False,
        ssl_cert=options["tls_cert"] and Path(options["tls_cert"]),
        ssl_key=options["tls_key"] and Path(options["tls_key"]),
    )
    asyncio.run(_serve(application, server))


async def _serve(application: Application, server: Any) -> None:
    def stop() -> None:
        application.registry.ready = False
        server.stop()

    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop)
    await server.serve()
