"""How much a caller may ask for: rates by token buckets, bodies by size and by patience."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from threading import Lock

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from hubstate_registry.errors import BadRequest, TooLarge, TooMany, TooSlow
from hubstate_registry.settings import Limits

__all__ = ["Bucket", "check_headers", "read_body", "stream_body"]

_CALLERS = 100_000


class Bucket:
    """Token buckets, one a caller: a minute's worth at once, refilled evenly."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._levels: dict[str, tuple[float, float]] = {}
        self._lock = Lock()

    def take(self, caller: str) -> None:
        """Count one request.

        Raises:
            TooMany: the caller has none left; says when the next one is allowed.
        """
        if not self.per_minute:
            return
        rate, now = self.per_minute / 60, time.monotonic()
        with self._lock:
            if len(self._levels) > _CALLERS:  # never grow without end: start everybody afresh
                self._levels.clear()
            level, seen = self._levels.get(caller, (float(self.per_minute), now))
            level = min(float(self.per_minute), level + (now - seen) * rate)
            if level < 1:
                self._levels[caller] = (level, now)
                raise TooMany("Too many requests; slow down", retry_after=(1 - level) / rate)
            self._levels[caller] = (level - 1, now)


def check_headers(scope: Scope, limits: Limits) -> None:
    """Refuse headers that are too large, or a body in a coding that is not read here.

    Raises:
        TooLarge: the headers together are over their limit.
        BadRequest: the body is compressed, or its length is no number.
    """
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    if sum(len(name) + len(value) for name, value in headers) > limits.header_bytes:
        raise TooLarge(f"the headers are over {limits.header_bytes} bytes")
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise BadRequest("a compressed body (Content-Encoding) is not read here")


def declared_length(scope: Scope) -> int | None:
    """The Content-Length, where there is one.

    Raises:
        BadRequest: it is no number.
    """
    for name, value in scope["headers"]:
        if name == b"content-length":
            if not value.isdigit() or len(value) > 18:
                raise BadRequest("Content-Length is not a number")
            return int(value)
    return None


async def stream_body(
    scope: Scope, receive: Receive, *, limit: int, limits: Limits
) -> AsyncIterator[bytes]:
    """The body as it arrives, in blocks of about a mebibyte.

    Raises:
        TooLarge: it is, or says it will be, over ``limit`` bytes.
        TooSlow: nothing arrived for too long.
        ClientDisconnect: the caller went away.
    """
    length = declared_length(scope)
    if length is not None and length > limit:
        raise TooLarge(f"the body may have {limit} bytes, this one has {length}")
    pending, size, more = bytearray(), 0, True
    while more:
        try:
            async with asyncio.timeout(limits.read_seconds):
                message = await receive()
        except TimeoutError:
            raise TooSlow(f"nothing arrived for {limits.read_seconds} seconds") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect()
        chunk, more = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"the body may have {limit} bytes")
        pending += chunk
        if len(pending) >= 1 << 20 or (not more and pending):
            yield bytes(pending)
            pending.clear()


async def read_body(scope: Scope, receive: Receive, *, limit: int, limits: Limits) -> bytes:
    """The whole body.

    Raises:
        TooLarge: it is over ``limit`` bytes.
        TooSlow: nothing arrived for too long.
        ClientDisconnect: the caller went away.
    """
    blocks = [block async for block in stream_body(scope, receive, limit=limit, limits=limits)]
    return b"".join(blocks)
