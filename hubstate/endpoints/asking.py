"""Asking a hub server: one GET with patience, its errors as ours."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from urllib.parse import urlencode, urlsplit

from hubstate import settings
from hubstate.errors import (
    Damaged,
    FileNotInRelease,
    HubstateError,
    InvalidSetting,
    NotFound,
    RepositoryNotFound,
    RevisionNotFound,
    Unreachable,
)
from hubstate.transport import METADATA, Answer, Interrupted, follow, origin, send

__all__ = ["ask", "ask_once", "ask_pages", "normal_url", "refusal", "with_query"]

_LARGEST = 64 << 20  # bytes of an answer; the files of a commit take about 200 bytes each
_PAGES = 10_000
_CODES: Mapping[str, type[NotFound]] = {
    "RepoNotFound": RepositoryNotFound,
    "RevisionNotFound": RevisionNotFound,
    "EntryNotFound": FileNotInRelease,
}


def ask(url: str, *, what: str, missing: type[NotFound] = RepositoryNotFound) -> bytes:
    """The body of the answer to a question.

    Args:
        url: the question.
        what: in the errors' words.
        missing: what a 404 means that does not say what is missing.

    Raises:
        NotFound: there is no such thing.
        Unreachable: no answer, or a refusal.
    """
    return _ask(url, what=what, missing=missing, token=settings.token())[0]


def ask_pages(url: str, *, what: str) -> Iterator[bytes]:
    """The answers on all pages of a list, each asked for when it is needed.

    Raises:
        The same as :func:`ask`.
    """
    at = url
    for _ in range(_PAGES):
        token = settings.token() if origin(at) == origin(url) else None
        data, following = _ask(at, what=what, missing=RepositoryNotFound, token=token)
        yield data
        if not following:
            return
        at = follow(at, following, what=what)


def _ask(
    url: str, *, what: str, missing: type[NotFound], token: str | None
) -> tuple[bytes, str | None]:
    def once() -> tuple[bytes, str | None]:
        answer = send("GET", url, what=what, token=token, headers={"Accept-Encoding": "gzip"})
        with answer:
            if answer.status != 200:
                raise refusal(answer, what=what, missing=missing, token=token)
            return _content(answer, what), answer.following

    return METADATA.ask(once)


def ask_once(url: str, document: object, *, what: str) -> bytes:
    """The body of the answer to a JSON document, without patience: what it asks is advice.

    Raises:
        The same as :func:`ask`.
    """
    token, data = settings.token(), json.dumps(document).encode()
    headers = {"Content-Type": "application/json", "Accept-Encoding": "gzip"}
    with send("POST", url, what=what, token=token, headers=headers, data=data) as answer:
        if answer.status != 200:
            raise refusal(answer, what=what, missing=NotFound, token=token)
        return _content(answer, what)


def _content(answer: Answer, what: str) -> bytes:
    from urllib3.exceptions import HTTPError

    parts, size = [], 0
    try:
        for part in answer.parts(1 << 16):
            parts.append(part)
            size += len(part)
            if size > _LARGEST:
                raise Damaged(f"{what}: the answer has more than {_LARGEST:,} bytes")
    except HTTPError as error:
        raise Interrupted(f"{what}: the answer broke off: {error}") from error
    return b"".join(parts)


def refusal(
    answer: Answer, *, what: str, missing: type[NotFound], token: str | None
) -> HubstateError:
    """The error for an answer that is not the one hoped for; hub servers say why in headers."""
    code = answer.headers.get("X-Error-Code", "")
    said = answer.headers.get("X-Error-Message", "").strip()[:300]
    status = answer.status_line
    detail = said or f"the server answers {status}"
    shown = "the token that was sent" if token else "no token was sent (HUBSTATE_TOKEN names one)"
    if code in _CODES:
        hint = f"; {shown}" if code == "RepoNotFound" and answer.status in (401, 403) else ""
        return _CODES[code](f"{what}: {detail}{hint}")
    if code == "GatedRepo" or answer.status in (401, 403):
        return Unreachable(f"{what}: access is refused: {detail}; {shown}")
    if answer.status in (404, 410):
        return missing(f"{what}: {detail}")
    return Unreachable(f"{what}: {detail if not said else f'{status}: {said}'}")


def with_query(url: str, **fields: str | None) -> str:
    """A URL with the fields that are given."""
    given = {name: value for name, value in fields.items() if value is not None}
    return f"{url}?{urlencode(given)}" if given else url


def normal_url(url: str) -> str:
    """The URL of a server in one spelling.

    Raises:
        InvalidSetting: it has another scheme, no host, credentials, a query or a fragment.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidSetting(f"registry {url[:120]!r}: {error}") from error
    if "@" in parts.netloc:
        raise InvalidSetting(f"registry on {host}: a token belongs in HUBSTATE_TOKEN, not in a URL")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise InvalidSetting(f"registry {url[:120]!r}: expected http(s)://host[:port][/path]")
    shown = f"[{host}]" if ":" in host else host
    if port not in (None, {"http": 80, "https": 443}[parts.scheme]):
        shown += f":{port}"
    return f"{parts.scheme}://{shown}{parts.path.rstrip('/')}"
