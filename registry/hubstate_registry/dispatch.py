"""From a request to its route and from a refusal to its answer.

Paths are matched while they are still percent-encoded: a revision such as ``dev/x`` arrives as
the one segment ``dev%2Fx``. A pattern is written with ``{repo}`` for an id of one or two
segments, ``{word}`` for one segment, and ``{path}`` at the end for all that is left.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import parse_qsl, unquote

import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from hubstate_registry.auth import ANONYMOUS, Principal
from hubstate_registry.context import Call, Moved, Registry
from hubstate_registry.errors import BadRequest, NoSuchRoute, RegistryError, Unauthorized
from hubstate_registry.limits import check_headers, read_body
from hubstate_registry.names import RESERVED
from hubstate_registry.storage import accounts

__all__ = ["Dispatcher", "Rule", "refusal"]

Plain = Callable[[Call], Response]
Waiting = Callable[[Call], Awaitable[Response]]

_WORDS = "|".join(sorted(map(re.escape, RESERVED)))
_REPO = rf"(?P<repo>[^/]+(?:/(?!(?:{_WORDS})(?:/|$))[^/]+)?)"
_FORM_FIELDS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One route. Handlers that are not coroutines run in a thread, and may block."""

    method: str
    pattern: str
    handler: Plain | Waiting
    waits: bool = False
    """Whether the handler is a coroutine: those that read a body as it arrives are."""
    body: Literal["none", "json", "form"] = "none"
    open: bool = False
    """Whether it answers without looking at any token: health, and signed addresses."""


class Dispatcher:
    """The ASGI application of the protocol."""

    def __init__(self, registry: Registry, rules: Sequence[Rule]) -> None:
        self.registry = registry
        self._rules = [(re.compile(_regex(rule.pattern)), rule) for rule in rules]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        scope.setdefault("state", {})
        try:
            response = await self._answer(scope, receive)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        try:
            check_headers(scope, self.registry.settings.limits)
            rule, match = self._match(scope)
            scope["state"]["route"] = rule.pattern
            call = await self._call(scope, receive, rule=rule, match=match)
            if rule.waits:
                return await cast(Waiting, rule.handler)(call)
            return await anyio.to_thread.run_sync(cast(Plain, rule.handler), call)
        except Moved as moved:
            return Response(status_code=307, headers={"Location": moved.location})
        except RegistryError as error:
            return refusal(error)

    def _match(self, scope: Scope) -> tuple[Rule, re.Match[str]]:
        path = scope["raw_path"].decode("latin-1")
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        allowed = []
        for regex, rule in self._rules:
            if match := regex.fullmatch(path):
                if rule.method == method:
                    return rule, match
                allowed.append(rule.method)
        if allowed:
            raise _method_not_allowed(allowed)
        raise NoSuchRoute("This registry does not serve that; docs/protocol.md lists what it does")

    async def _call(
        self, scope: Scope, receive: Receive, *, rule: Rule, match: re.Match[str]
    ) -> Call:
        request = Request(scope, receive)
        principal = ANONYMOUS if rule.open else await self._principal(request)
        scope["state"]["user"] = principal.user
        caller = principal.token or (request.client.host if request.client else "")
        if not rule.pattern.startswith(("/healthz", "/readyz")):
            self.registry.requests.take(caller)
        return Call(
            registry=self.registry,
            request=request,
            principal=principal,
            params={name: _decode(value) for name, value in match.groupdict("").items()},
            raw_repo=match.groupdict("").get("repo", ""),
            body=await self._body(scope, receive, rule=rule),
        )

    async def _principal(self, request: Request) -> Principal:
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        if not scheme:
            return ANONYMOUS
        found: Principal | None = None
        if scheme.lower() == "bearer" and secret:
            found = await anyio.to_thread.run_sync(self._authenticate, secret.strip())
        if found is None:
            self.registry.failures.take(request.client.host if request.client else "")
            raise Unauthorized("Invalid credentials in Authorization header")
        return found

    def _authenticate(self, secret: str) -> Principal | None:
        with self.registry.storage.database.read() as connection:
            return accounts.authenticate(connection, secret)

    async def _body(self, scope: Scope, receive: Receive, *, rule: Rule) -> object:
        if rule.body == "none":
            return None
        limits = self.registry.settings.limits
        data = await read_body(scope, receive, limit=limits.json_bytes, limits=limits)
        if rule.body == "json":
            return parse_json(data)
        try:
            pairs = parse_qsl(data.decode(), keep_blank_values=True, max_num_fields=_FORM_FIELDS)
        except ValueError as error:
            raise BadRequest("the body is no form, or has too many fields") from error
        return pairs


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


def _decode(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise BadRequest("the address is not UTF-8") from error
