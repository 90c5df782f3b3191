"""What can go wrong with a request, told apart by whether asking again may help.

::

    Unreachable
    ├── Interrupted      the same request may succeed a moment later
    └── RangesRefused    the server sends whole files only
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from hubstate.errors import Unreachable

__all__ = ["Interrupted", "RangesRefused", "is_passing", "passing_errors", "retry_after"]

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class Interrupted(Unreachable):
    """A request that failed in a way that may pass; ``after`` is the wait the server asks for."""

    def __init__(self, message: str, *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class RangesRefused(Unreachable):
    """A server that answers a range request with the whole file."""


def is_passing(status: int) -> bool:
    """Whether an HTTP status says that the same request may succeed later."""
    return status in _PASSING


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to wait, from ``Retry-After`` in either of its forms.

    >>> retry_after({"Retry-After": "2"})
    2.0
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, moment - time.time())


@contextmanager
def passing_errors(what: str) -> Iterator[None]:
    """Turn what a connection can do to its reader into :class:`Interrupted`."""
    from http.client import HTTPException

    from urllib3.exceptions import HTTPError

    try:
        yield
    except (OSError, HTTPException, HTTPError) as error:
        raise Interrupted(f"{what}: the connection broke: {error or type(error).__name__}") from (
            error
        )
