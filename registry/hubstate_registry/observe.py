"""One line of JSON a request, an id that follows it, and its counters.

The line holds no query: upload addresses carry their signature there. Nor does it hold headers
or bodies, so no token can end up in a log.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from contextlib import suppress
from functools import lru_cache
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hubstate_registry.metrics import Metrics

__all__ = ["JsonLines", "Observer", "log"]

log = logging.getLogger("hubstate_registry")
_ID = re.compile(r"[A-Za-z0-9._:=;-]{1,128}\Z")
_encode = json.JSONEncoder(check_circular=False).encode
_METHODS = frozenset(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])


class JsonLines(logging.Formatter):
    """Log records as JSON, one a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        entry = _entry(record.created, record.levelname.lower(), record.getMessage())
        entry.update(getattr(record, "fields", {}))
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class Lines(logging.StreamHandler[Any]):
    """Writes JSON lines; those of requests, the most by far, without a record for each."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(JsonLines())

    def write(self, event: str, fields: dict[str, Any]) -> None:
        """Write one line of level info."""
        line = _encode(_entry(time.time(), "info", event) | fields)
        with suppress(OSError, ValueError):  # nobody reads it any more
            self.stream.write(f"{line}\n")
            self.stream.flush()


def _entry(moment: float, level: str, event: str) -> dict[str, Any]:
    text = f"{_second(int(moment))}.{int(moment % 1 * 1000):03d}Z"
    return {"time": text, "level": level, "event": event}


@lru_cache(maxsize=2)
def _second(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))


class Observer:
    """Wraps the whole application: ids, log lines, metrics, and the last line of defence."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and note what became of it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        seen = _Seen(scope, receive=receive, send=send)
        self.metrics.running += 1
        try:
            await self.app(scope, seen.on_receive, seen.on_send)
        except Exception:
            fields = {"request_id": seen.id}
            log.error("a request failed", exc_info=True, extra={"fields": fields})
            if not seen.status:
                answer = JSONResponse({"error": "Internal error"}, status_code=500)
                await answer(scope, receive, seen.on_send)
        finally:
            self.metrics.running -= 1
            self._note(scope, seen)

    def _note(self, scope: Scope, seen: _Seen) -> None:
        seconds = time.perf_counter() - seen.started
        route = scope["state"].get("route", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.metrics.note(route, method, seen.status, seconds=seconds)
        self.metrics.received += seen.received
        self.metrics.sent += seen.sent
        if not log.isEnabledFor(logging.INFO):
            return
        client = scope.get("client")
        fields = {
            "request_id": seen.id,
            "method": method,
            "path": scope["raw_path"].decode("latin-1")[:2000],
            "route": route,
            "status": seen.status,
            "ms": round(seconds * 1000, 2),
            "received": seen.received,
            "sent": seen.sent,
            "user": scope["state"].get("user"),
            "client": client[0] if client else None,
        }
        for handler in log.handlers:
            if isinstance(handler, Lines):
                handler.write("request", fields)
                return
        log.info("request", extra={"fields": fields})


class _Seen:
    """What is seen of one request; a status of 0 is a caller who left before any answer."""

    def __init__(self, scope: Scope, *, receive: Receive, send: Send) -> None:
        self.started = time.perf_counter()
        self.status = self.received = self.sent = 0
        self.id = _request_id(scope)
        self._receive, self._send = receive, send
        scope.setdefault("state", {})["request_id"] = self.id
        scope.setdefault("raw_path", scope["path"].encode())

    async def on_receive(self) -> Message:
        message = await self._receive()
        self.received += len(message.get("body", b""))
        return message

    async def on_send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", []), (b"x-request-id", self.id.encode())]
            message = {**message, "headers": headers}
        self.sent += len(message.get("body", b""))
        await self._send(message)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name in (b"x-request-id", b"x-amzn-trace-id") and _ID.match(value.decode("latin-1")):
            return str(value.decode("latin-1"))
    return os.urandom(16).hex()


def start_logging(level: int = logging.INFO) -> None:
    """Send the registry's and the web server's own lines to standard error, as JSON."""
    handler = Lines()
    for name in ("hubstate_registry", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler] if name != "uvicorn.error" else []
        logger.propagate = name == "uvicorn.error"
        logger.setLevel(level)
