"""One file on a hub server: where its bytes are, and that they stay what they were."""

from __future__ import annotations

import hashlib
import threading

from hubstate import settings
from hubstate.blobs import FileInfo, Stream
from hubstate.endpoints.asking import refusal
from hubstate.errors import DigestMismatch, FileNotInRelease, HubstateError
from hubstate.transport import Answer, Body, Interrupted, open_body, origin, range_header, send

__all__ = ["CheckedFile", "HubFile"]

_STALE = frozenset({400, 401, 403, 404, 410})


class HubFile:
    """A file that is asked for in one or many requests.

    Large files are often redirected to a storage, by a URL that is good for some minutes: it
    is kept, so that each range takes one request, and asked for again once it is refused.
    """

    def __init__(self, url: str, *, size: int | None, what: str) -> None:
        self.what = what
        self._url = url
        self._size = size
        self._lock = threading.Lock()
        self._place: str | None = None
        self._etags: dict[tuple[str, str, int | None], str] = {}

    def open(self, start: int, stop: int | None) -> Body:
        """Bytes from ``start``, up to ``stop`` where it is given; one attempt.

        Raises:
            FileNotInRelease: the server has no such file.
            DigestMismatch: it has one of another size, or has replaced it meanwhile.
            Interrupted: it does not answer now.
            Unreachable: it refuses, or sends another part than was asked for.
        """
        answer = self._request(start, stop)
        self._check_same(answer)
        return open_body(answer, start=start, stop=stop, size=self._size, what=self.what)

    def _request(self, start: int, stop: int | None) -> Answer:
        place = self._place
        try:
            answer = self._send(place or self._url, start, stop)
        except Interrupted:
            self._place = None  # that server may be gone for good, and another one have the file
            raise
        if place and answer.status in _STALE:
            answer.close()
            self._place = None
            answer = self._send(self._url, start, stop)
        if answer.status not in (200, 206):
            with answer:
                raise self._refusal(answer)
        if origin(answer.url) != origin(self._url):
            self._place = answer.url
        return answer

    def _send(self, url: str, start: int, stop: int | None) -> Answer:
        token = settings.token() if origin(url) == origin(self._url) else None
        headers = range_header(start, stop)
        return send("GET", url, what=self.what, token=token, headers=headers)

    def _refusal(self, answer: Answer) -> HubstateError:
        if answer.status == 416:
            size = answer.headers.get("Content-Range", "").rpartition("/")[2]
            return DigestMismatch(f"{self.what}: expected {self._size} bytes, found {size or '?'}")
        return refusal(answer, what=self.what, missing=FileNotInRelease, token=settings.token())

    def _check_same(self, answer: Answer) -> None:
        """Hold the answer to the tag that this host gave the file before."""
        etag = answer.headers.get("ETag", "")
        if not etag or etag.startswith("W/"):
            return
        with self._lock:
            known = self._etags.setdefault(origin(answer.url), etag)
        if known != etag:
            answer.close()
            raise DigestMismatch(
                f"{self.what}: the file was replaced while it was read: its tag was "
                f"{known[:80]}, and is {etag[:80]}"
            )


class CheckedFile:
    """A whole file that is held to git's SHA-1 of it at its end."""

    def __init__(self, stream: Stream, info: FileInfo, oid: str, *, what: str) -> None:
        self._stream = stream
        self._left = info.size
        self._oid = oid
        self._what = what
        # Git names a blob by this: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        self._hasher = hashlib.sha1(b"blob %d\0" % (info.size or 0), usedforsecurity=False)

    def readinto(self, buffer: memoryview, /) -> int | None:
        count = self._stream.readinto(buffer) or 0
        self._hasher.update(buffer[:count])
        if self._left is not None:
            self._left -= count
            if self._left == 0 and self._hasher.hexdigest() != self._oid:
                raise DigestMismatch(
                    f"{self._what}: expected git blob {self._oid}, found {self._hasher.hexdigest()}"
                )
        return count
