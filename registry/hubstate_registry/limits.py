"""How much a caller may ask for: rates by token buckets, and headers by size."""

from __future__ import annotations

import time
from itertools import chain
from threading import Lock

from starlette.types import Scope

from hubstate_registry.errors import BadRequest, TooLarge, TooMany
from hubstate_registry.settings import Limits

__all__ = ["Bucket", "check_headers"]

_CALLERS = 100_000


class Bucket:
    """Token buckets, one a caller: a minute's worth at once, refilled evenly."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._levels: dict[str, tuple[float, float]] = {}
        self._lock = Lock()

    def take(self, caller: str, count: int = 1) -> None:
        """Count requests; of more than a minute's worth, no more than can ever be there.

        Raises:
            TooMany: the caller has none left; says when the next one is allowed.
        """
        if not self.per_minute:
            return
        rate, now = self.per_minute / 60, time.monotonic()
        count = min(count, max(1, self.per_minute - 1))  # one is gone for the request itself
        with self._lock:
            if len(self._levels) > _CALLERS:  # never grow without end: start everybody afresh
                self._levels.clear()
            level, seen = self._levels.get(caller, (float(self.per_minute), now))
            level = min(float(self.per_minute), level + (now - seen) * rate)
            if level < count:
                self._levels[caller] = (level, now)
                raise TooMany("Too many requests; slow down", retry_after=(count - level) / rate)
            self._levels[caller] = (level - count, now)


def check_headers(scope: Scope, limits: Limits) -> None:
    """Refuse headers that are too large, or a body in a coding that is not read here.

    Raises:
        TooLarge: the headers together are over their limit.
        BadRequest: the body is compressed.
    """
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    if sum(map(len, chain.from_iterable(headers))) > limits.header_bytes:
        raise TooLarge(f"the headers are over {limits.header_bytes} bytes")
    if b"content-encoding" not in scope["state"]["headers"]:
        return
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise BadRequest("a compressed body (Content-Encoding) is not read here")
