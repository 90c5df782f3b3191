"""One line of JSON a request, an id that follows it, and its counters.

The line holds no query: upload addresses carry their signature there. Nor does it hold headers
or bodies, so no token can end up in a log.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hubstate_registry.metrics import Metrics

__all__ = ["JsonLines", "Observer", "log"]

log = logging.getLogger("hubstate_registry")
_ID = re.compile(r"[A-Za-z0-9._:=;-]{1,128}\Z")
_quote = json.encoder.encode_basestring_ascii
_METHODS = frozenset(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])


class JsonLines(logging.Formatter):
    """Log records as JSON, one a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        entry: dict[str, Any] = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class Lines(logging.StreamHandler[Any]):
    """Writes JSON lines; those of requests, the most by far, without a record for each."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(JsonLines())
        self._waiting: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of a record, behind all that came before."""
        self._write()
        super().emit(record)

    def note(self, event: str, fields: str) -> None:
        """Write a line of level info; ``fields`` is the inside of a JSON object.

        Under load, the lines of all requests of one turn of the event loop are written at once.
        """
        begin = f'{{"time": "{_time(time.time())}", "level": "info", "event": "{event}", '
        self._waiting.append(f"{begin}{fields}}}\n")
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        lines, self._waiting = self._waiting, []
        if lines:
            with suppress(OSError, ValueError):  # nobody reads it any more
                self.stream.write("".join(lines))
                self.stream.flush()


def _time(moment: float) -> str:
    return f"{_second(int(moment))}.{int(moment % 1 * 1000):03d}Z"


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
        if log.isEnabledFor(logging.INFO):
            _log(_fields(scope, seen, route=route, method=method, seconds=seconds))


def _fields(scope: Scope, seen: _Seen, *, route: str, method: str, seconds: float) -> str:
    """What a line says; put together by hand, as this is done for every request."""
    user, client = scope["state"].get("user"), scope.get("client")
    path = scope["raw_path"].decode("latin-1")[:2000]
    return (
        f'"request_id": "{seen.id}", "method": "{method}", "path": {_quote(path)}, '
        f'"route": {_quote(route)}, "status": {seen.status}, "ms": {seconds * 1000:.2f}, '
        f'"received": {seen.received}, "sent": {seen.sent}, '
        f'"user": {_quote(user) if user else "null"}, '
        f'"client": {_quote(client[0]) if client else "null"}'
    )


def _log(fields: str) -> None:
    for handler in log.handlers:
        if isinstance(handler, Lines):
            handler.note("request", fields)
            return
    log.info("request", extra={"fields": json.loads(f"{{{fields}}}")})


class _Seen:
    """What is seen of one request; a status of 0 is a caller who left before any answer."""

    def __init__(self, scope: Scope, *, receive: Receive, send: Send) -> None:
        self.started = time.perf_counter()
        self.status = self.received = self.sent = 0
        headers = dict(reversed(scope["headers"]))  # of several, the first counts
        self.id = _request_id(headers)
        scope.setdefault("state", {}).update(headers=headers, request_id=self.id)
        scope.setdefault("raw_path", scope["path"].encode())
        self._receive, self._send = receive, send

    async def on_receive(self) -> Message:
        message = await self._receive()
        self.received += len(message.get("body", b""))
        return message

    async def on_send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message.get("headers", ())  # of an answer that may be given again
            message["headers"] = [*headers, (b"x-request-id", self.id.encode())]
        self.sent += len(message.get("body", b""))
        await self._send(message)


def _request_id(headers: Mapping[bytes, bytes]) -> str:
    for name in (b"x-request-id", b"x-amzn-trace-id"):
        if name in headers and _ID.match(given := headers[name].decode("latin-1")):
            return given
    return os.urandom(16).hex()


def start_logging(level: int = logging.INFO) -> None:
    """Send the registry's and the web server's own lines to standard error, as JSON."""
    handler = Lines()
    for name in ("hubstate_registry", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler] if name != "uvicorn.error" else []
        logger.propagate = name == "uvicorn.error"
        logger.setLevel(level)
