"""Servers for tests, on loopback: the real registry, and one that misbehaves on demand."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import requests

_RANGE = re.compile(r"bytes=(\d+)-(\d*)\Z")


@dataclass
class Fault:
    """What one answer with content does wrong; an empty one does nothing wrong."""

    status: int | None = None
    """Answered instead of the content."""
    retry_after: str | None = None
    cut: int | None = None
    """The connection is closed after so many bytes of the body."""
    reset: bool = False
    """It is closed with what is called a reset."""
    flip: int | None = None
    """The byte of the file that is sent with its bits turned."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent instead of the right ones."""


@dataclass
class Seen:
    """A request as it arrived, and how many bytes of a file were sent in answer."""

    path: str
    authorization: str | None
    range: str | None
    sent: int = 0


class Hub:
    """The reading side of the hub protocol over files in memory; its faults are attributes.

    ``files`` are those of ``org/name@main``, whose commit never changes.
    """

    COMMIT = "c" * 40

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.lfs = {path for path in files if path.endswith(".safetensors")}
        self.seen: list[Seen] = []
        self.faults: list[Fault] = []
        """Used up by content requests, one each, in the order of their arrival."""
        self.corrupt: dict[str, int] = {}
        """Bytes that are always wrong, by path."""
        self.ranges = True
        self.elsewhere: str | None = None
        """Another server's base URL, where content is redirected to."""
        self.token: str | None = None
        """The token without which nothing is there."""
        self.etag: dict[str, str] = {}
        self.following: str | None = None
        """The page after the list of repositories."""
        self.rate: float | None = None
        """Bytes a second of each answer."""
        self.latency = 0.0
        self.busy = self.busiest = 0
        """Answers with content under way: now, and at most."""
        self.lock = threading.Lock()
        self.commits = [self.COMMIT]
        self.base = ""
        self.ahead: Callable[[list[dict[str, str]]], bytes] | int = 404
        """What answers for many references at once, or the status with which nothing does."""
        self.posts = 0

    def sent(self, path: str) -> int:
        """The bytes of a file that were sent in all, by answers that have ended if they soon do."""
        end = time.monotonic() + 0.2
        while self.busy and time.monotonic() < end:
            time.sleep(0.001)
        return sum(seen.sent for seen in self.seen if seen.path.endswith("/" + path))

    def tell(self, rows: list[dict[str, str]]) -> bytes:
        """A true answer for many references, to be :attr:`ahead`."""
        texts = {p: data.decode() for p, data in self.files.items() if p not in self.lfs}
        line = json.dumps({"info": self.info(), "files": texts})
        refused = json.dumps({"status": 404, "code": "RepoNotFound"})
        lines = (line if row["repo"] == "org/name" else refused for row in rows)
        return "".join(f"{line}\n" for line in lines).encode()

    def info(self) -> dict[str, Any]:
        siblings = []
        for path, data in self.files.items():
            row: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_oid(data)}
            if path in self.lfs:
                row["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            siblings.append(row)
        return {
            "id": "org/name",
            "author": "org",
            "sha": self.COMMIT,
            "lastModified": "2026-01-31T12:00:00.000Z",
            "siblings": siblings,
        }


@functools.lru_cache(maxsize=64)
def git_oid(data: bytes) -> str:
    """Git's name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True
    hub: Hub

    def do_GET(self) -> None:
        hub = self.hub
        path = unquote(urlsplit(self.path).path)
        seen = Seen(path, self.headers.get("Authorization"), self.headers.get("Range"))
        with hub.lock:
            hub.seen.append(seen)
        if hub.latency:
            time.sleep(hub.latency)
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.refuse(401, "RepoNotFound")
        if path.startswith("/api/models"):
            return self.answer_api(path)
        found = re.fullmatch(r"/org/name/resolve/[^/]+/(.+)", path)
        if not found or found[1] not in hub.files:
            return self.refuse(404, "EntryNotFound")
        if hub.elsewhere:
            return self.send_head(302, {"Location": hub.elsewhere + self.path})
        return self.send_file(found[1], seen)

    def do_POST(self) -> None:
        hub, body = self.hub, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with hub.lock:
            hub.posts += 1
        if isinstance(hub.ahead, int):
            return self.send_head(hub.ahead, {})
        data = hub.ahead(json.loads(body)["releases"])
        self.send_head(200, {"Content-Length": str(len(data))})
        self.wfile.write(data)
        return None

    def answer_api(self, path: str) -> None:
        hub, api = self.hub, "/api/models/org/name"
        if path == "/api/models":
            link = {"Link": f'<{hub.following}>; rel="next"'} if hub.following else {}
            return self.send_json([{"id": "org/name"}, {"id": "other"}], **link)
        if path == f"{api}/refs":
            row = {"name": "main", "targetCommit": hub.COMMIT}
            return self.send_json({"branches": [row], "tags": [{**row, "name": "v1"}]})
        if path.startswith(f"{api}/commits/"):
            rows = [
                {"id": id, "title": "First", "date": "2026-01-31T12:00:00Z"} for id in hub.commits
            ]
            return self.send_json(rows)
        if path in {f"{api}/revision/{name}" for name in ("main", "v1", hub.COMMIT)}:
            return self.send_json(hub.info())
        code = "RevisionNotFound" if path.startswith(api) else "RepoNotFound"
        return self.refuse(404, code)

    def send_file(self, path: str, seen: Seen) -> None:
        hub, data = self.hub, self.hub.files[path]
        with hub.lock:
            fault = hub.faults.pop(0) if hub.faults else Fault()
        if fault.status:
            extra = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            return self.send_head(fault.status, extra)
        start, stop, partly = 0, len(data), False
        if hub.ranges and (match := _RANGE.match(self.headers.get("Range", ""))):
            start, partly = int(match[1]), True
            stop = min(len(data), int(match[2]) + 1) if match[2] else len(data)
            if start >= len(data):
                return self.send_head(416, {"Content-Range": f"bytes */{len(data)}"})
        headers = {
            "Content-Length": str(stop - start),
            "ETag": hub.etag.get(path, f'"{git_oid(data)}"'),
        }
        if partly:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        self.send_head(206 if partly else 200, {**headers, **fault.headers})
        body = memoryview(data)[start:stop]
        for at in (fault.flip, hub.corrupt.get(path)):
            if at is not None and start <= at < stop:
                body = memoryview(bytearray(body))
                body[at - start] ^= 0xFF
        with hub.lock:
            hub.busy += 1
            hub.busiest = max(hub.busiest, hub.busy)
        self.send_body(body[: fault.cut], seen)
        with hub.lock:
            hub.busy -= 1
        if fault.cut is not None:
            self.close_connection = True
        if fault.reset:
            self.wfile.flush()
            # Closed with nothing left to send: https://www.rfc-editor.org/rfc/rfc9293#section-3.6
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
        return None

    def send_body(self, body: memoryview, seen: Seen) -> None:
        step = len(body) if self.hub.rate is None else max(1, int(self.hub.rate / 50))
        with contextlib.suppress(ConnectionError):
            for at in range(0, len(body), max(step, 1)):
                if self.hub.rate is not None:
                    time.sleep(1 / 50)
                self.wfile.write(body[at : at + step])
                seen.sent += len(body[at : at + step])

    def send_head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def send_json(self, value: object, **headers: str) -> None:
        data = json.dumps(value).encode()
        self.send_head(200, {"Content-Length": str(len(data)), **headers})
        self.wfile.write(data)

    def refuse(self, status: int, code: str) -> None:
        self.send_head(status, {"X-Error-Code": code, "X-Error-Message": f"{code} says the hub"})

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, *args: Any) -> None:
        self.connections: list[socket.socket] = []
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def hang_up(self) -> None:
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that hangs up is what many tests are about


@contextmanager
def serving(
    hub: Hub, *, port: int = 0, certificate: Path | None = None, key: Path | None = None
) -> Iterator[str]:
    """Serve a hub; the base URL."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with _Server(("127.0.0.1", port), handler) as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        scheme = "https" if certificate else "http"
        hub.base = f"{scheme}://127.0.0.1:{server.server_address[1]}"
        try:
            yield hub.base
        finally:
            server.shutdown()
            server.hang_up()
            thread.join()


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving_registry(folder: Path) -> Iterator[tuple[str, str]]:
    """Run the real registry on a folder; its URL and the administrator's token."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "hubstate_registry", "serve", str(folder), "--quiet"]
    with subprocess.Popen(
        [*command, "--port", str(port), "--rate-limit", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            token = process.stdout.readline().rpartition(" ")[2].strip()
            _wait(url + "/healthz")
            yield url, token
        finally:
            process.terminate()


def _wait(url: str) -> None:
    for _ in range(300):
        with contextlib.suppress(requests.ConnectionError):
            if requests.get(url, timeout=5).ok:
                return
        time.sleep(0.05)
    raise AssertionError(f"{url} does not answer")
