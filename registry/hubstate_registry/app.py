"""The application: a folder, settings and routes, put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.types import Receive, Scope, Send

from hubstate_registry.dispatch import Dispatcher
from hubstate_registry.limits import Bucket
from hubstate_registry.metrics import Metrics
from hubstate_registry.observe import Observer
from hubstate_registry.registry import Extension, Registry
from hubstate_registry.routes import RULES
from hubstate_registry.settings import Settings
from hubstate_registry.storage import Storage

__all__ = ["Application", "create"]


class Application:
    """The registry as an ASGI application; ready between its start and its stop."""

    def __init__(self, registry: Registry, dispatcher: Dispatcher) -> None:
        self.registry = registry
        self._http = Observer(dispatcher, registry.metrics)

    def close(self) -> None:
        """End what runs in the background, and close the database."""
        for extension in self.registry.extensions.values():
            extension.close()
        self.registry.storage.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or live through start and stop."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message: dict[str, Any] = dict(await receive())
            if message["type"] == "lifespan.startup":
                self.registry.ready = True
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                self.registry.ready = False
                self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


def create(
    settings: Settings, *, storage: Storage | None = None, extensions: Sequence[Extension] = ()
) -> Application:
    """The application over the folder that the settings name."""
    registry = Registry(
        settings=settings,
        storage=storage or Storage(settings.root),
        metrics=Metrics(),
        requests=Bucket(settings.limits.requests_per_minute),
        failures=Bucket(settings.limits.failures_per_minute),
        extensions={extension.name: extension for extension in extensions},
    )
    rules = [*(rule for e in extensions for rule in e.rules()), *RULES]
    return Application(registry, Dispatcher(registry, rules))
