"""One request, sent with requests: what it says of us, where it may be redirected, its errors.

The token goes to the origin it was meant for and nowhere else: redirects are followed here, by
hand, and a hop to another scheme, host or port goes without it. Proxies are what requests makes
of the usual variables, and of the system's settings; certificates come from
:func:`hubstate.settings.ca_bundle`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from hubstate import settings
from hubstate.errors import Unreachable
from hubstate.transport.failures import Interrupted, is_passing, retry_after

if TYPE_CHECKING:
    import requests

__all__ = ["origin", "send"]

_TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two arrivals of bytes
_HOPS = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONNECTIONS = 32  # kept open for each host


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: what a token belongs to.

    >>> origin("https://Hub.example/a") == origin("https://hub.example:443/b")
    True
    """
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname or "", port


def send(
    method: str,
    url: str,
    *,
    what: str,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
    fields: Iterable[tuple[str, str]] | None = None,
) -> requests.Response:
    """The answer to one request, redirects followed, its body not read yet.

    Args:
        method: the HTTP method.
        url: where to.
        what: what is being asked for, in the errors' words.
        token: shown to the origin of ``url`` only.
        headers: to send beside the usual ones.
        fields: a form to send as the body.

    Raises:
        Interrupted: no connection, no answer in time, or a status that may pass.
        Unreachable: an answer that no patience mends, such as a redirect in a circle.
    """
    at = url
    for _ in range(_HOPS):
        shown = token if origin(at) == origin(url) else None
        answer = _send(method, at, what=what, token=shown, headers=headers, fields=fields)
        if answer.status_code not in _REDIRECTS or "Location" not in answer.headers:
            return _checked(answer, what)
        answer.close()
        at = _next(at, answer.headers["Location"], what)
    raise Unreachable(f"{what}: {url} redirects more than {_HOPS} times")


def _next(at: str, location: str, what: str) -> str:
    target = urljoin(at, location)
    downgraded = at.startswith("https:") and not target.startswith("https:")
    if downgraded or not target.startswith(("http:", "https:")):
        raise Unreachable(f"{what}: {at} redirects to {target[:200]}, which is not secure")
    return target


def _checked(answer: requests.Response, what: str) -> requests.Response:
    if not is_passing(answer.status_code):
        return answer
    after = retry_after(answer.headers)
    answer.close()
    text = f"{answer.status_code} {answer.reason or ''}".strip()
    raise Interrupted(f"{what}: {_host(answer.url)} answers {text}", after=after)


def _send(
    method: str,
    url: str,
    *,
    what: str,
    token: str | None,
    headers: Mapping[str, str] | None,
    fields: Iterable[tuple[str, str]] | None,
) -> requests.Response:
    import requests

    try:
        return _session(os.getpid()).request(
            method,
            url,
            headers=dict(headers or {}),
            data=None if fields is None else list(fields),
            auth=_Bearer(token),
            timeout=_TIMEOUT,
            allow_redirects=False,
            stream=True,
            proxies=_proxies(url),
            verify=settings.ca_bundle() or True,
        )
    except (requests.exceptions.SSLError, requests.exceptions.InvalidURL) as error:
        raise Unreachable(f"{what}: {_host(url)}: {_words(error)}") from error
    except requests.exceptions.RequestException as error:
        raise Interrupted(f"{what}: {_host(url)} does not answer: {_words(error)}") from error
    except OSError as error:  # a CA bundle that is not there
        raise Unreachable(f"{what}: {_host(url)}: {error}") from error


class _Bearer:
    """Authorization by token, or none at all: requests would else look into ``~/.netrc``."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _proxies(url: str) -> dict[str, str]:
    """The proxies for a URL, looked for once: requests walks through all variables each time."""
    parts = urlsplit(url)
    return _find_proxies(f"{parts.scheme}://{parts.netloc}", settings.proxy_variables())


@functools.lru_cache(maxsize=256)
def _find_proxies(place: str, _variables: tuple[str | None, ...]) -> dict[str, str]:
    from requests.utils import get_environ_proxies

    return get_environ_proxies(place)


@functools.cache
def _session(_process: int) -> requests.Session:
    """The connections of a process; a forked child must not speak on those of its parent."""
    from http.cookiejar import DefaultCookiePolicy

    import requests
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    session.trust_env = False  # what it would look up for every request is given to it
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.update({"User-Agent": "hubstate", "Accept-Encoding": "identity"})
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_connections=8, pool_maxsize=_CONNECTIONS))
    return session


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _words(error: Exception) -> str:
    """The innermost reason, without the layers that the libraries put around it."""
    reason: object = error
    while isinstance(reason, Exception):
        inner = getattr(reason, "reason", None) or next(iter(reason.args), None)
        if not isinstance(inner, Exception):
            break
        reason = inner
    text = str(reason)
    # "HTTPConnection(host='…', port=…): Failed to establish a new connection: …"
    return text.rpartition("): ")[2][:300] or type(error).__name__
