"""What the stock client sends: a server that keeps every body, and one upload to it.

Run as a script, it uploads files in a process of its own, with a home of its own:
``python xet_capture.py URL CACHE FILE…``.
"""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Capture:
    """The bodies of one upload, by path; and the hashes that the client printed, by file."""

    bodies: dict[str, bytes] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)

    @property
    def xorbs(self) -> dict[str, bytes]:
        return {p[-64:]: body for p, body in self.bodies.items() if p.startswith("/v1/xorbs/")}

    @property
    def shard(self) -> bytes:
        return self.bodies["/v1/shards"]


def capture_upload(files: list[Path], home: Path) -> Capture:
    """Upload files with the stock client to a server that accepts everything."""
    found = Capture()
    with _serve(found.bodies) as url:
        command = [sys.executable, __file__, url, str(home), *map(str, files)]
        done = subprocess.run(command, check=True, capture_output=True, timeout=60)
    found.hashes = json.loads(done.stdout)
    return found


@contextmanager
def _serve(bodies: dict[str, bytes]) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(404, b"{}")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.startswith(("/v1/xorbs/", "/v1/shards")):
                bodies[self.path] = body
                self._answer(200, b'{"was_inserted": true, "result": 1}')
            else:
                self._answer(404, b"{}")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _upload(url: str, home: str, files: list[str]) -> None:
    os.environ |= {"HOME": home, "HF_HOME": home, "HF_XET_CACHE": home}
    import hf_xet

    expires = int(time.time()) + 3600
    commit = hf_xet.XetSession().new_upload_commit(
        endpoint=url, token="any", token_expiry_unix_secs=expires
    )
    with commit:
        for file in files:
            commit.start_upload_file(file, sha256=hf_xet.COMPUTE_SHA256)
    hashed = zip(files, hf_xet.hash_files(files), strict=True)
    print(json.dumps({Path(file).name: found.hash for file, found in hashed}))


if __name__ == "__main__":
    _upload(sys.argv[1], sys.argv[2], sys.argv[3:])
