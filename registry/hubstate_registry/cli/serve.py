"""``hubstate-registry serve``."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click
import uvicorn

from hubstate_registry import app
from hubstate_registry.cli import granian_server
from hubstate_registry.cli.folder import directory, show_first_token
from hubstate_registry.observe import start_logging
from hubstate_registry.patience import PatientProtocol
from hubstate_registry.registry import Registry
from hubstate_registry.settings import Limits, Settings
from hubstate_registry.storage import Storage
from hubstate_registry.xet.routes import XetExtension

__all__ = ["Server", "serve"]

_STOPS = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """uvicorn, whose stop on a signal is an orderly end: not ready at once, exit code 0."""

    def __init__(self, config: uvicorn.Config, registry: Registry) -> None:
        super().__init__(config)
        self._registry = registry

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM while the server runs, and do not raise them again."""
        before = {name: signal.signal(name, self.handle_exit) for name in _STOPS}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; a second SIGINT stops without patience."""
        self._registry.ready = False
        super().handle_exit(sig, frame)


@click.command()
@directory
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535))
@click.option("--base-url", help="What clients call this server, if a proxy hides it.")
@click.option(
    "--behind-proxy",
    metavar="ADDRESSES",
    help="Believe X-Forwarded-For and -Proto from these addresses (comma-separated).",
)
@click.option("--tls-cert", type=click.Path(exists=True, dir_okay=False))
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False))
@click.option("--accel-prefix", help="nginx location of DIR, for X-Accel-Redirect; '/protected'.")
@click.option(
    "--no-plain-copies",
    is_flag=True,
    help="Keep no whole files of what came by Xet; plain reads of it cost more.",
)
@click.option("--no-anonymous", is_flag=True, help="Public repositories need a token too.")
@click.option("--public-metrics", is_flag=True, help="/metrics answers without a token.")
@click.option("--max-file-size", metavar="BYTES", type=int, default=Limits().object_bytes)
@click.option(
    "--rate-limit",
    metavar="N",
    default=Limits().requests_per_minute,
    show_default=True,
    help="Requests a minute for each token or address; 0 is no limit.",
)
@click.option(
    "--min-upload-rate",
    metavar="BYTES",
    default=Limits().pace_bytes,
    show_default=True,
    help="A second, on the average of half a minute, else 408; 0 is no limit.",
)
@click.option("--stop-seconds", default=30, show_default=True, help="Patience of a stop.")
@click.option("--server", type=click.Choice(["uvicorn", "granian"]), default="uvicorn")
@click.option("--quiet", is_flag=True, help="Log warnings only.")
def serve(directory: Path, **options: Any) -> None:
    """Serve the registry in DIR; make it if it is not there.

    The first start prints an administrator's token, once, on standard output.

    \b
    Example:
      hubstate-registry serve /srv/models --host 0.0.0.0 --port 8080
      HF_ENDPOINT=http://localhost:8080 hf auth login
    """
    start_logging(logging.WARNING if options["quiet"] else logging.INFO)
    storage = Storage(directory)
    storage.files.sweep(older=24 * 3600)
    show_first_token(storage)
    settings = Settings(
        root=directory,
        base_url=options["base_url"],
        anonymous=not options["no_anonymous"],
        public_metrics=options["public_metrics"],
        accel_prefix=options["accel_prefix"],
        limits=Limits(
            object_bytes=options["max_file_size"],
            requests_per_minute=options["rate_limit"],
            pace_bytes=options["min_upload_rate"],
        ),
    )
    xet = XetExtension(storage, copies=not options["no_plain_copies"])
    application = app.create(settings, storage=storage, extensions=[xet])
    if options["server"] == "granian":
        granian_server.run(application, options)
    else:
        Server(_config(application, settings, options), application.registry).run()


def _config(
    application: app.Application, settings: Settings, options: dict[str, Any]
) -> uvicorn.Config:
    proxies = options["behind_proxy"]
    return uvicorn.Config(
        application,
        host=options["host"],
        port=options["port"],
        http=PatientProtocol,  # on h11, which bounds the size of a head; httptools does not
        h11_max_incomplete_event_size=settings.limits.header_bytes,
        limit_concurrency=settings.limits.connections,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies or "",
        ssl_certfile=options["tls_cert"],
        ssl_keyfile=options["tls_key"],
        timeout_graceful_shutdown=options["stop_seconds"],
        access_log=False,
        log_config=None,
        server_header=False,
        ws="none",
        lifespan="on",
    )
