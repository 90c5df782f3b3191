"""The bytes of an answer: exactly as many as were asked for, or an error."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from hubstate.errors import DigestMismatch, Unreachable
from hubstate.transport.failures import Interrupted, RangesRefused, passing_errors
from hubstate.transport.patience import Patience

if TYPE_CHECKING:
    from hubstate.transport.answer import Answer

__all__ = ["Body", "Steady", "open_body", "range_header"]

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)\Z")


def range_header(start: int, stop: int | None) -> dict[str, str]:
    """The header that asks for bytes ``start`` up to ``stop``, or for the whole file.

    >>> range_header(10, 20)
    {'Range': 'bytes=10-19'}
    """
    if start == 0 and stop is None:
        return {}
    return {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}


class Body:
    """The body of an answer as a stream, to be closed."""

    def __init__(self, answer: Answer, *, size: int | None, what: str) -> None:
        self._answer = answer
        self._left = size
        self._what = what
        self._read = _reader(answer)

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the buffer from its start; the number of bytes, 0 at the end.

        Raises:
            Interrupted: the connection broke, or the body ends too early.
        """
        if self._left is not None:
            buffer = buffer[: self._left]
        if not buffer:
            return 0
        with passing_errors(self._what):
            count = self._read(buffer) or 0
        if self._left is not None:
            self._left -= count
            if not count:
                raise Interrupted(f"{self._what}: the body ends {self._left:,} bytes too early")
            if not self._left:
                self._finish()
        return count

    def _finish(self) -> None:
        """Keep the connection for the next request, unless the server means to say more."""
        self._answer.close()

    def abort(self) -> None:
        """Wake whoever reads in another thread, with an error."""
        with contextlib.suppress(Exception):
            self._answer.raw.shutdown()

    def close(self) -> None:
        """Let go of the connection; it is used again only if the body was read to its end."""
        if self._left != 0:
            self._answer.close()


def _reader(answer: Answer) -> Callable[[memoryview], int | None]:
    """Reading without urllib3's two copies, where the body is not encoded.

    urllib3's own ``readinto`` reads bytes and copies them; http.client's, below it, has the
    socket write into the buffer.
    """
    raw: Any = answer.raw
    inner = getattr(raw, "_fp", None)
    direct = getattr(inner, "readinto", None)
    return direct or raw.readinto  # type: ignore[no-any-return]


def open_body(answer: Answer, *, start: int, stop: int | None, size: int | None, what: str) -> Body:
    """The body of a good answer, once its headers agree with what was asked for.

    Args:
        answer: has status 200 or 206.
        start: the first byte that was asked for.
        stop: the byte after the last; None for all of them.
        size: of the whole file, where it is known.
        what: in the errors' words.

    Raises:
        DigestMismatch: the server has a file of another size.
        RangesRefused: it sends the whole file where a part was asked for.
        Unreachable: it sends another part, or an encoded one.
    """
    try:
        length = _length(answer, start=start, stop=stop, size=size, what=what)
    except BaseException:
        answer.close()
        raise
    return Body(answer, size=length, what=what)


def _length(
    answer: Answer, *, start: int, stop: int | None, size: int | None, what: str
) -> int | None:
    if encoding := answer.headers.get("Content-Encoding", "").replace("identity", ""):
        raise Unreachable(f"{what}: expected the bytes as they are, found them {encoding[:40]}")
    if answer.status == 206:
        return _part_length(answer, start=start, stop=stop, size=size, what=what)
    if start:
        raise RangesRefused(
            f"{what}: asked for bytes {start:,}–{'' if stop is None else f'{stop:,}'}, and the "
            "server sends the whole file: it does not serve ranges"
        )
    stated = answer.headers.get("Content-Length", "")
    found = int(stated) if stated.isascii() and stated.isdigit() else None
    if size is not None and found not in (None, size):
        raise DigestMismatch(f"{what}: expected {size} bytes, the server has {found}")
    whole = size if size is not None else found
    return whole if stop is None else min(stop, stop if whole is None else whole)


def _part_length(
    answer: Answer, *, start: int, stop: int | None, size: int | None, what: str
) -> int:
    text = answer.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.match(text)
    if match is None:
        raise Unreachable(f"{what}: expected a Content-Range of bytes, found {text[:80]!r}")
    first, last = int(match[1]), int(match[2])
    total = size if match[3] == "*" else int(match[3])
    if size is not None and total != size:
        raise DigestMismatch(f"{what}: expected {size} bytes, the server has {total}")
    end = stop if total is None or (stop is not None and stop <= total) else total
    if first != start or (end is not None and last + 1 != end):
        raise Unreachable(f"{what}: asked for bytes {start}–{end}, found {text}")
    return last + 1 - first


class Reopen(Protocol):
    """Opens the bytes from ``start`` up to a stop that it knows."""

    def __call__(self, start: int) -> Body: ...


class Steady:
    """A stream that goes on where it broke off, with a new request.

    Args:
        open: makes a body that begins at a byte.
        start: the first byte.
        stop: the byte after the last, where it is known.
        patience: how often to try again without a byte in between.
    """

    def __init__(self, open: Reopen, *, start: int, stop: int | None, patience: Patience) -> None:
        self._open = open
        self._at = start
        self._stop = stop
        self._patience = patience
        self._failures = 0
        self._stopped = threading.Event()
        self._body: Body | None = None

    def open(self) -> None:
        """Have the first request answered, so that errors come before the first byte."""
        self._body = self._patience.ask(lambda: self._open(self._at), stop=self._stopped)

    def readinto(self, buffer: memoryview, /) -> int:
        """As :meth:`Body.readinto`; an interruption is an error only once patience has ended.

        Raises:
            Interrupted: patience has ended, or the stream was aborted.
            HubstateError: the server answers something else now.
        """
        while self._at != self._stop:
            try:
                # What has arrived of a buffer is lost with a reset: a smaller one is full before.
                most = max(1, len(buffer) >> 2 * self._failures)
                count = self._again().readinto(buffer[:most])
            except Interrupted as error:
                self.close()
                self._failures += 1
                self._patience.wait(error, self._failures, stop=self._stopped)
                continue
            self._at += count
            self._failures = 0 if count else self._failures
            return count
        return 0

    def _again(self) -> Body:
        if self._stopped.is_set():
            raise Interrupted("the transfer was stopped")
        if self._body is None:
            self._body = self._open(self._at)
        return self._body

    def abort(self) -> None:
        """End the stream from another thread: whoever reads or waits gets an error at once."""
        self._stopped.set()
        if body := self._body:
            body.abort()

    def close(self) -> None:
        """Let go of the connection."""
        body, self._body = self._body, None
        if body:
            body.close()
