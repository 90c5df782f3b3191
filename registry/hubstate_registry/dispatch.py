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

from hubstate_registry.answers import Answers, key_of
from hubstate_registry.auth import ANONYMOUS, Principal
from hubstate_registry.bodies import read_body
from hubstate_registry.context import Call, Moved, Registry
from hubstate_registry.errors import BadRequest, NoSuchRoute, RegistryError, Unauthorized
from hubstate_registry.limits import check_headers
from hubstate_registry.names import RESERVED
from hubstate_registry.storage import accounts
from hubstate_registry.storage.glance import Beyond

__all__ = ["Dispatcher", "Rule", "refusal"]

Plain = Callable[[Call], Response]
Waiting = Callable[[Call], Awaitable[Response]]

_WORDS = "|".join(sorted(map(re.escape, RESERVED)))
_REPO = rf"(?P<repo>[^/]+(?:/(?!(?:{_WORDS})(?:/|$))[^/]+)?)"
_FORM_FIELDS = 10_000
_PATHS = 4096  # whose routes are remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One route. Handlers that are not coroutines run in a thread, and may block."""

    method: str
    pattern: str
    handler: Plain | Waiting
    waits: bool = False
    """Whether the handler is a coroutine: those that read a body as it arrives are."""
    body: Literal["none", "json", "form"] = "none"
    kept: bool = False
    """Whether the answer depends on nothing but the address, the caller and the database."""
    open: bool = False
    """Whether it answers without looking at any token: health, and signed addresses."""


class Dispatcher:
    """The ASGI application of the protocol."""

    def __init__(self, registry: Registry, rules: Sequence[Rule]) -> None:
        self.registry = registry
        self.answers = Answers(registry.storage.glance)
        self._rules: dict[str, list[tuple[re.Pattern[str], Rule]]] = {}
        self._found: dict[tuple[str, bytes], tuple[Rule, re.Match[str]]] = {}
        for rule in rules:
            compiled = (re.compile(_regex(rule.pattern)), rule)
            self._rules.setdefault(rule.method, []).append(compiled)

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
            request = Request(scope, receive)
            version = self.answers.refresh()
            headers = dict(reversed(scope["headers"]))  # of several, the first counts
            secret = headers.get(b"authorization", b"")
            principal = await self._admit(request, rule, header=secret, version=version)
            data = await self._data(request, principal, rule=rule)
            key = key_of(scope, headers, principal, data) if rule.kept else None
            response = self.answers.get(key)
            if response is None:
                call = self._call(request, principal, rule=rule, match=match, data=data)
                response = await _handle(rule, call)
                self.answers.keep(key, response, version=version)
            return response
        except Moved as moved:
            return Response(status_code=307, headers={"Location": moved.location})
        except RegistryError as error:
            return refusal(error)

    def _match(self, scope: Scope) -> tuple[Rule, re.Match[str]]:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        found = self._found.get((method, scope["raw_path"]))
        if found is not None:
            return found
        path = scope["raw_path"].decode("latin-1")
        for regex, rule in self._rules.get(method, ()):
            if match := regex.fullmatch(path):
                if len(self._found) >= _PATHS:
                    self._found.clear()
                if rule.kept and len(path) < 1000:
                    self._found[method, scope["raw_path"]] = rule, match
                return rule, match
        allowed = [
            rule.method
            for rules in self._rules.values()
            for regex, rule in rules
            if regex.fullmatch(path)
        ]
        if allowed:
            raise _method_not_allowed(allowed)
        raise NoSuchRoute("This registry does not serve that; docs/protocol.md lists what it does")

    async def _admit(
        self, request: Request, rule: Rule, *, header: bytes, version: int
    ) -> Principal:
        """Find out who is calling, and count the call."""
        principal = ANONYMOUS
        if header and not rule.open:
            principal = await self._principal(request, header=header, version=version)
        request.scope["state"]["user"] = principal.user
        if rule.pattern not in ("/healthz", "/readyz"):
            self.registry.requests.take(principal.token or _address(request))
        return principal

    def _call(
        self,
        request: Request,
        principal: Principal,
        *,
        rule: Rule,
        match: re.Match[str],
        data: bytes,
    ) -> Call:
        return Call(
            registry=self.registry,
            request=request,
            principal=principal,
            params={name: _decode(value) for name, value in match.groupdict("").items()},
            raw_repo=match.groupdict("").get("repo", ""),
            body=_parse_body(data, rule),
            facts=self.answers.facts if rule.kept else None,
        )

    async def _principal(self, request: Request, *, header: bytes, version: int) -> Principal:
        scheme, _, secret = header.decode("latin-1").partition(" ")
        if not scheme:
            return ANONYMOUS
        secret = secret.strip() if scheme.lower() == "bearer" else ""
        found = self.answers.principal(secret)
        if found is None and secret:
            found = await anyio.to_thread.run_sync(self._authenticate, secret)
            if found is not None:
                self.answers.keep_principal(secret, found, version=version)
        if found is None:
            self.registry.failures.take(_address(request))
            raise Unauthorized("Invalid credentials in Authorization header")
        return found

    def _authenticate(self, secret: str) -> Principal | None:
        with self.registry.storage.database.read() as connection:
            return accounts.authenticate(connection, secret)

    async def _data(self, request: Request, principal: Principal, *, rule: Rule) -> bytes:
        if rule.body == "none":
            return b""
        limits = self.registry.settings.limits
        limit = limits.json_bytes if principal.user else limits.anonymous_bytes
        return await read_body(request.scope, request.receive, limit=limit, limits=limits)


def _parse_body(data: bytes, rule: Rule) -> object:
    if rule.body == "none":
        return None
    if rule.body == "json":
        return parse_json(data)
    try:
        return parse_qsl(data.decode(), keep_blank_values=True, max_num_fields=_FORM_FIELDS)
    except ValueError as error:
        raise BadRequest("the body is no form, or has too many fields") from error


async def _handle(rule: Rule, call: Call) -> Response:
    if rule.waits:
        return await cast(Waiting, rule.handler)(call)
    if rule.kept:
        try:
            call.in_loop = True
            return cast(Plain, rule.handler)(call)
        except Beyond:
            call.in_loop = False
    return await anyio.to_thread.run_sync(cast(Plain, rule.handler), call)


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


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
