"""From a request to its route and from a refusal to its answer.

Paths are matched while they are still percent-encoded: a revision such as ``dev/x`` arrives as
the one segment ``dev%2Fx``. A pattern is written with ``{repo}`` for an id of one or two
segments, ``{word}`` for one segment, and ``{path}`` at the end for all that is left.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import anyio.to_thread
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from hubstate_registry.addresses import Moved, Place
from hubstate_registry.auth import ANONYMOUS, Principal
from hubstate_registry.bodies import read_body
from hubstate_registry.context import Call
from hubstate_registry.errors import BadRequest, NoSuchRoute, RegistryError, Unauthorized
from hubstate_registry.limits import check_headers
from hubstate_registry.memory import Memory
from hubstate_registry.names import RESERVED
from hubstate_registry.registry import Registry
from hubstate_registry.storage import accounts
from hubstate_registry.storage.glance import Beyond

__all__ = ["Dispatcher", "Rule", "refusal"]

Plain = Callable[[Call], Response]
Waiting = Callable[[Call], Awaitable[Response]]

_WORDS = "|".join(sorted(map(re.escape, RESERVED)))
_REPO = rf"(?P<repo>[^/]+(?:/(?!(?:{_WORDS})(?:/|$))[^/]+)?)"
_PATHS = 16_384  # whose places are remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One route. Handlers that are not coroutines run in a thread, and may block."""

    method: str
    pattern: str
    handler: Plain | Waiting
    waits: bool = False
    """Whether the handler is a coroutine: those that read a body as it arrives are."""
    body: Literal["none", "json", "bytes"] = "none"
    kept: bool = False
    """Whether the answer may rest on what is known of the database, if it has not changed."""
    open: bool = False
    """Whether it answers without looking at any token: health, and signed addresses."""


class Dispatcher:
    """The ASGI application of the protocol."""

    def __init__(self, registry: Registry, rules: Sequence[Rule]) -> None:
        self.registry = registry
        self.memory = Memory(registry.storage.glance)
        self._fresh = False
        self._rules: dict[str, list[tuple[re.Pattern[str], Rule]]] = {}
        self._places: dict[tuple[str, bytes], Place] = {}
        for rule in rules:
            compiled = (re.compile(_regex(rule.pattern)), rule)
            self._rules.setdefault(rule.method, []).append(compiled)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            response = await self._answer(scope, receive)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        try:
            check_headers(scope, self.registry.settings.limits)
            place = self._place(scope)
            rule = place.rule
            scope["state"]["route"] = rule.pattern
            self._refresh()
            call = Call(self.registry, place, scope=scope, receive=receive)
            header = scope["state"]["headers"].get(b"authorization")
            if header and not rule.open:
                principal = self.memory.principals.find(header)
                call.principal = principal or await self._principal(scope, header)
            self._count(call, rule)
            if rule.body != "none":
                await self._read(call, rule)
            if rule.kept:
                call.rely_on(self.memory)
                try:
                    return cast(Plain, rule.handler)(call)
                except Beyond:
                    call.memory = None
            elif rule.waits:
                return await cast(Waiting, rule.handler)(call)
            return await anyio.to_thread.run_sync(cast(Plain, rule.handler), call)
        except Moved as moved:
            return Response(status_code=307, headers={"Location": moved.location})
        except RegistryError as error:
            return refusal(error)

    def _refresh(self) -> None:
        """Forget what has changed; under load not for each request, but once for all that wait.

        A request that arrives after this has looked is queued behind the end of this turn of the
        event loop. So whoever still finds it fresh had begun before.
        """
        if not self._fresh:
            self.memory.refresh()
            self._fresh = True
            asyncio.get_running_loop().call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._fresh = False

    def _place(self, scope: Scope) -> Place:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        found = self._places.get((method, scope["raw_path"]))
        if found is not None:
            return found
        path = scope["raw_path"].decode("latin-1")
        for regex, rule in self._rules.get(method, ()):
            if match := regex.fullmatch(path):
                found = Place(rule, match.groupdict(""))
                if rule.kept and len(path) < 1000:
                    if len(self._places) >= _PATHS:
                        self._places.clear()
                    self._places[method, scope["raw_path"]] = found
                return found
        allowed = [
            rule.method
            for rules in self._rules.values()
            for regex, rule in rules
            if regex.fullmatch(path)
        ]
        if allowed:
            raise _method_not_allowed(allowed)
        raise NoSuchRoute("This registry does not serve that; docs/protocol.md lists what it does")

    def _count(self, call: Call, rule: Rule) -> None:
        call.scope["state"]["user"] = call.principal.user
        if rule.pattern not in ("/healthz", "/readyz"):
            self.registry.requests.take(call.caller)

    async def _principal(self, scope: Scope, header: bytes) -> Principal:
        principals = self.memory.principals  # to keep it in, unless they are others by then
        scheme, _, secret = header.decode("latin-1").partition(" ")
        if not scheme:
            return ANONYMOUS
        secret = secret.strip() if scheme.lower() == "bearer" else ""
        found = None
        if secret:
            found = await anyio.to_thread.run_sync(self._authenticate, secret)
        if found is None:
            self.registry.failures.take(_address(scope))
            raise Unauthorized("Invalid credentials in Authorization header")
        principals.keep(header, found)
        return found

    def _authenticate(self, secret: str) -> Principal | None:
        with self.registry.storage.database.read() as connection:
            return accounts.authenticate(connection, secret)

    async def _read(self, call: Call, rule: Rule) -> None:
        limits = self.registry.settings.limits
        limit = limits.json_bytes if call.principal.user else limits.anonymous_bytes
        call.data = await read_body(call.scope, call.receive, limit=limit, limits=limits)
        if rule.body == "json":
            call.body = parse_json(call.data)


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def parse_json(data: bytes) -> object:
    """Read JSON.

    Raises:
        BadRequest: it is none, or is too deep.
    """
    try:
        return json.loads(data) if data.strip() else {}
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body is not JSON, or is nested too deeply") from error


def refusal(error: RegistryError) -> Response:
    """The answer to a refusal, as the stock client reads it."""
    message = error.message.encode("ascii", "backslashreplace").decode()
    headers = {"X-Error-Message": re.sub(r"[^\x20-\x7e]+", " ", message)[:1000], **error.headers}
    if error.code:
        headers["X-Error-Code"] = error.code
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": message, **error.body}, status_code=error.status, headers=headers)


def _method_not_allowed(allowed: Sequence[str]) -> RegistryError:
    error = BadRequest("this address does not take that method")
    error.status = 405
    error.headers = {"Allow": ", ".join(sorted(set(allowed)))}
    return error


def _regex(pattern: str) -> str:
    text = re.escape(pattern).replace(r"\{", "{").replace(r"\}", "}")
    text = text.replace("{repo}", _REPO).replace("/{path}", r"(?:/(?P<path>.*))?")
    return re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", text)
