"""Answers kept until anything at all changes in the database.

Most requests of a registry ask the same few things again. SQLite says cheaply whether any
connection, of this process or another, has committed since (``PRAGMA data_version``); so the
answers are kept exactly that long, and a request that begins after a change was acknowledged
never sees what was before it. An answer is kept for one caller, address, query and host, from the
second time on that it is asked for.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping

from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from hubstate_registry.auth import Principal
from hubstate_registry.storage.glance import Glance

__all__ = ["Answers", "Key", "key_of"]

Key = tuple[str, bytes, bytes, str, bytes, str, bytes]
_MOST_BYTES, _MOST = 32 << 20, 4096
_MOST_ASKED = 65_536
_LONG = 4096  # bytes of a body


class Answers:
    """What may be said again; used by the event loop's thread alone."""

    def __init__(self, glance: Glance) -> None:
        self._glance = glance
        self._version: int | None = None
        self._bytes = 0
        self.facts: dict[object, object] = {}
        """What routes have found out since the version; another one for each version."""
        self._answers: dict[Key, Response] = {}
        self._principals: dict[bytes, Principal] = {}
        self._asked: set[int] = set()

    def refresh(self) -> int:
        """Forget everything, if anything has changed; the version from which to keep things.

        Call it first for each request. What was found out since a version may be kept only
        while that is still the version: it may be older than the change that ended it.
        """
        version = self._glance.version()
        if version != self._version:
            self._clear()
            self._version = version
        return version

    def principal(self, secret: str) -> Principal | None:
        """Who this token is known to speak for, if it has not expired meanwhile."""
        found = self._principals.get(_digest(secret))
        if found is not None and found.expires is not None and found.expires <= time.time():
            return None
        return found

    def keep_principal(self, secret: str, principal: Principal, *, version: int) -> None:
        """Remember who this token speaks for."""
        if version == self._version and len(self._principals) < _MOST:
            self._principals[_digest(secret)] = principal

    def get(self, key: Key | None) -> Response | None:
        """The answer to the same request."""
        return None if key is None else self._answers.get(key)

    def keep(self, key: Key | None, response: Response, *, version: int) -> None:
        """Remember a whole, successful answer that does not depend on anything else."""
        if key is None or response.status_code != 200 or not _is_plain(response):
            return
        if version != self._version or not self._is_asked_again(key):
            return
        size = 1024 + sum(map(len, key)) + len(getattr(response, "body", b""))
        if self._bytes + size > _MOST_BYTES or len(self._answers) >= _MOST:
            self._clear()
        if size <= _MOST_BYTES // 16:
            self._answers[key] = response
            self._bytes += size

    def _is_asked_again(self, key: Key) -> bool:
        """Most addresses are asked for once: to keep those answers costs more than it saves."""
        if (mark := hash(key)) in self._asked:
            return True
        if len(self._asked) >= _MOST_ASKED:
            self._asked.clear()
        self._asked.add(mark)
        return False

    def _clear(self) -> None:
        self._answers.clear()
        self._principals.clear()
        self.facts = {}  # a route that still runs goes on with the old one, and harms nobody
        self._bytes = 0


def key_of(
    scope: Scope, headers: Mapping[bytes, bytes], principal: Principal, body: bytes
) -> Key | None:
    """What an answer may depend on; None if it may depend on more, or on much."""
    if b"if-none-match" in headers or len(body) > _LONG:
        return None
    place = headers.get(b"host", b"")
    return (
        scope["method"],
        scope["raw_path"],
        scope["query_string"],
        principal.token,
        place,
        scope["scheme"],
        body,
    )


def _is_plain(response: Response) -> bool:
    """Whether the very same object can be sent again; files that are whole on disk can."""
    return type(response) in (Response, JSONResponse) or getattr(response, "repeats", False)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
