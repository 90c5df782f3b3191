"""One request: what it says of us, where it may be redirected, its errors.

The token goes to the origin it was meant for and nowhere else: redirects are followed here, by
hand, and a hop to another scheme, host or port goes without it. Proxies are what requests makes
of the usual variables, and of the system's settings; certificates come from
:func:`hubstate.settings.ca_bundle`.

requests makes the connections to each host, once. A request goes to them directly, since all that
requests looks up anew for each takes as long as what is then done.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from hubstate import settings
from hubstate.errors import Unreachable
from hubstate.transport.answer import Answer
from hubstate.transport.failures import Interrupted, is_passing, retry_after

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["follow", "origin", "send"]

_TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two arrivals of bytes
_HOPS = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONNECTIONS = 32  # kept open for each host
_PORTS = {"http": 80, "https": 443}
_HEADERS = {"User-Agent": "hubstate", "Accept-Encoding": "identity", "Accept": "*/*"}


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: what a token belongs to.

    >>> origin("https://Hub.example/a") == origin("https://hub.example:443/b")
    True
    """
    parts = urlsplit(url)
    port = parts.port or _PORTS.get(parts.scheme)
    return parts.scheme, parts.hostname or "", port


def send(
    method: str,
    url: str,
    *,
    what: str,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
    data: bytes | None = None,
) -> Answer:
    """The answer to one request, redirects followed, its body not read yet.

    Args:
        method: the HTTP method.
        url: where to.
        what: what is being asked for, in the errors' words.
        token: shown to the origin of ``url`` only.
        headers: to send beside the usual ones.
        data: to send as the body.

    Raises:
        Interrupted: no connection, no answer in time, or a status that may pass.
        Unreachable: an answer that no patience mends, such as a redirect in a circle.
    """
    at = url
    for _ in range(_HOPS):
        shown = token if at == url or origin(at) == origin(url) else None
        answer = _send(method, at, what=what, token=shown, headers=headers or {}, data=data)
        if answer.status not in _REDIRECTS or "Location" not in answer.headers:
            return _checked(answer, what)
        answer.close()
        at = follow(at, answer.headers["Location"], what=what)
    raise Unreachable(f"{what}: {url} redirects more than {_HOPS} times")


def follow(at: str, location: str, *, what: str) -> str:
    """The URL that an answer from another one leads to.

    Raises:
        Unreachable: it is none, or not as secure.
    """
    try:
        target = urljoin(at, location)
        origin(target)
        # "//a\@b" leads to a for some, as for browsers, and to b for others.
        if "\\" in urlsplit(target).netloc:
            raise ValueError("a host has no backslash")
    except ValueError as error:
        raise Unreachable(f"{what}: {at} leads to {location[:200]!r}: {error}") from error
    downgraded = at.startswith("https:") and not target.startswith("https:")
    if downgraded or not target.startswith(("http:", "https:")):
        raise Unreachable(f"{what}: {at} redirects to {target[:200]}, which is not secure")
    return target


def _checked(answer: Answer, what: str) -> Answer:
    if not is_passing(answer.status):
        return answer
    after = retry_after(answer.headers)
    answer.close()
    raise Interrupted(f"{what}: {_host(answer.url)} answers {answer.status_line}", after=after)


def _send(
    method: str,
    url: str,
    *,
    what: str,
    token: str | None,
    headers: Mapping[str, str],
    data: bytes | None,
) -> Answer:
    from urllib3.exceptions import HTTPError, LocationValueError, SSLError

    line = _find_line(url, what)
    shown = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        raw = line.pool.urlopen(
            method,
            line.target(url),
            body=data,
            headers={**_HEADERS, **headers, **shown},
            timeout=line.timeout,
            retries=False,
            redirect=False,
            assert_same_host=False,
            preload_content=False,
            decode_content=False,
        )
    except (SSLError, LocationValueError) as error:
        kind = Interrupted if _is_hang_up(error) else Unreachable
        raise kind(f"{what}: {_host(url)}{line.way}: {_words(error)}") from error
    except (HTTPError, OSError) as error:
        said = f"{_host(url)} does not answer{line.way}: {_words(error)}"
        raise Interrupted(f"{what}: {said}") from error
    return Answer(raw, url=url)


def _is_hang_up(error: Exception) -> bool:
    """Whether a server has gone in the middle of a handshake, as one does that restarts."""
    import ssl  # here, as urllib3 has imported it by now

    return any(isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError) for cause in error.args)


class _Line(NamedTuple):
    """The connections to one host, or to the proxy that speaks to it."""

    pool: Any
    timeout: Any
    whole: bool
    """Whether the proxy is to be told of the host too."""

    @property
    def way(self) -> str:
        """By which proxy it goes, in words."""
        return f" by the proxy {_host(str(self.pool.proxy))}" if self.pool.proxy else ""

    def target(self, url: str) -> str:
        """What the request line says."""
        path = urlsplit(url)._replace(scheme="", netloc="", fragment="").geturl() or "/"
        return f"{_place(url)}{path}" if self.whole else path


def _place(url: str) -> str:
    """Where a token that belongs to the URL goes: in its text, others might find another host.

    >>> _place("https://Hub.example:443/a"), _place("http://user@[::1]:8080/b")
    ('https://hub.example', 'http://[::1]:8080')
    """
    scheme, host, port = origin(url)
    place = f"{scheme}://{f'[{host}]' if ':' in host else host}"
    return place if port in (None, _PORTS.get(scheme)) else f"{place}:{port}"


def _find_line(url: str, what: str) -> _Line:
    import requests

    place, variables = _place(url), settings.proxy_variables()
    try:
        return _line(os.getpid(), place, variables, settings.ca_bundle())
    except (requests.exceptions.RequestException, OSError) as error:  # no such CA bundle, say
        raise Unreachable(f"{what}: {_host(url)}: {_words(error)}") from error


@functools.lru_cache(maxsize=256)
def _line(
    _process: int, place: str, _variables: tuple[str | None, ...], bundle: str | None
) -> _Line:
    """The line to a host; a forked child must not speak on those of its parent."""
    import requests
    from requests.adapters import HTTPAdapter
    from requests.utils import get_environ_proxies
    from urllib3 import Timeout

    adapter: Any = HTTPAdapter(pool_connections=1, pool_maxsize=_CONNECTIONS)
    request, proxies = requests.Request("GET", place).prepare(), get_environ_proxies(place)
    pool = adapter.get_connection_with_tls_context(request, bundle or True, proxies=proxies)
    adapter.cert_verify(pool, place, bundle or True, None)
    connect, read = _TIMEOUT
    return _Line(
        pool,
        timeout=Timeout(connect=connect, read=read),
        whole=adapter.request_url(request, proxies) != request.path_url,
    )


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
    # "HTTPConnection(host='…', port=…): Failed to establish a new connection: …", or that in quotes
    return text.rpartition("): ")[2].removesuffix('"))')[:300] or type(error).__name__
