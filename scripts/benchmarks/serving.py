"""Servers as processes of their own, to be measured from outside."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "CLIENT",
    "DOWNLOAD",
    "READY",
    "Server",
    "environment",
    "nginx",
    "nothing",
    "python_server",
    "registry",
    "slowed",
]

# What every client's code begins with: what a server has used, and a client that costs little.
CLIENT = """
import json, os, re, socket, sys, time
TICK = os.sysconf("SC_CLK_TCK")
def tree(pid):
    children = [pid]
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/children") as file:
                children += [n for c in file.read().split() for n in tree(int(c))]
        except FileNotFoundError:  # a thread that has just ended
            pass
    return children
def used(pid):
    total = 0.0
    for one in tree(int(pid)):
        with open(f"/proc/{one}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / TICK
    return total
def connect(port):
    made = socket.create_connection(("127.0.0.1", int(port)))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made
"""

# What every client does before it is timed: have the disk idle, and as much memory from the host as
# it will fill. A virtual machine gets its memory page by page when it is first touched, writing to
# such a page takes ten times as long, and what is free goes back to the host within half a second:
# so it is kept, and given away as the process writes its files.
READY = """
import mmap, threading
def written():
    with open("/proc/self/io") as file:
        return int(re.search(r"wchar: (\\d+)", file.read())[1])
def ready(size, ahead=16 << 20, page=2 << 20):
    kept = mmap.mmap(-1, (size + ahead) // page * page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        kept.madvise(14)  # MADV_HUGEPAGE
    except OSError:  # where the kernel has none
        pass
    for at in range(0, len(kept), mmap.PAGESIZE):
        kept[at] = 1
    os.sync()
    began = written()
    def give():
        given = 0
        while given < len(kept):
            due = min(len(kept), (written() - began + ahead) // page * page)
            if due > given:
                kept.madvise(mmap.MADV_DONTNEED, given, due - given)
            given = due
            time.sleep(0.003)
    threading.Thread(target=give, daemon=True).start()
    time.sleep(0.02)
"""

# A file, and what the processes that serve it (their numbers, joined by commas) take for it.
DOWNLOAD = (
    CLIENT
    + """
port, pids, path, size = sys.argv[1:]
def taken():
    return sum(map(used, pids.split(",")))
buffer = memoryview(bytearray(1 << 20))
connection = connect(port)
cpu, began, got = taken(), time.perf_counter(), 0
connection.sendall(f"GET {path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n".encode())
head = bytes(buffer[: connection.recv_into(buffer)])
assert b" 200 " in head[:20], head[:500]
while count := connection.recv_into(buffer):
    got += count
seconds, gigabytes = time.perf_counter() - began, int(size) / 1e9
assert got >= int(size) - len(head), (got, size)
print(json.dumps({"GB/s": gigabytes / seconds, "server CPU s/GB": (taken() - cpu) / gigabytes}))
"""
)

# Routes that answer what the registry answers to the same, without a registry.
BARE = """
import json, sys
import uvicorn
from starlette.applications import Starlette
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from hubstate_registry.patience import PatientProtocol
ANSWERS = json.load(sys.stdin)
def told(name):
    content, headers = ANSWERS[name]
    async def answer(request):
        if request.method == "POST":
            await request.body()
        return Response(headers=headers) if content is None else JSONResponse(content)
    return answer
async def file(request):
    return FileResponse(sys.argv[2])
one = "/api/models/{org}/{name}"
routes = [
    Route(one, told("model_info")),
    Route(one + "/tree/main", told("tree")),
    Route(one + "/paths-info/main", told("paths-info"), methods=["POST"]),
    Route("/{org}/{name}/resolve/main/{path:path}", told("HEAD resolve"), methods=["HEAD"]),
    Route("/file", file),
]
uvicorn.run(Starlette(routes=routes), port=int(sys.argv[1]), http=PatientProtocol,
            access_log=False, log_level="warning", server_header=False)
"""

# What takes every upload of the stock client, and does nothing with it: what is left is the client.
NOTHING = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def setup(self):
        super().setup()
        self.buffer = memoryview(bytearray(1 << 20))
    def answer(self, content, status=200):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", "none")
        self.end_headers()
        self.wfile.write(body)
    def take(self):
        left, last = int(self.headers.get("Content-Length", 0)), 0
        while left:
            last = self.rfile.readinto1(self.buffer[:left])
            left -= last
            self.server.received += last
        return self.buffer[:last].tobytes()
    def do_GET(self):
        if self.path == "/metrics":
            self.answer(b"hubstate_registry_received_bytes_total %d" % self.server.received)
        elif "-token/" in self.path:
            url = f"http://127.0.0.1:{self.server.server_port}/xet"
            self.answer({"casUrl": url, "accessToken": "none", "exp": 1 << 32})
        else:
            self.answer({}, 404)
    def do_POST(self):
        path, body = self.path, self.take()
        url = f"http://127.0.0.1:{self.server.server_port}"
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            rest = {"uploadMode": "lfs", "shouldIgnore": False}
            self.answer({"files": [{"path": name, **rest} for name in names]})
        elif path.endswith("/objects/batch"):
            objects = json.loads(body)["objects"]
            for one in objects:
                one["actions"] = {"upload": {"href": f"{url}/put"}}
            self.answer({"transfer": "basic", "objects": objects})
        elif "/xorb-grants/" in path or "/telemetry" in path:
            self.answer({}, 404)
        else:
            more = {"commitOid": "0" * 40, "commitUrl": f"{url}/a/b", "url": f"{url}/a/b"}
            self.answer({"was_inserted": True, "type": "result", "result": 1, **more})
    def do_PUT(self):
        self.take()
        self.answer({})
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
server.received = 0
server.serve_forever()
"""

# A long line: each connection, or all of them together, are held to a rate, and every question
# takes a while to arrive.
LINE = """
import socket, sys, threading, time
port, to, rate, latency, shared = (kind(word) for kind, word in
                                   zip((int, int, float, float, int), sys.argv[1:]))
lock, line = threading.Lock(), [0.0]
def ask(client, server):
    while data := client.recv(65536):
        time.sleep(latency)
        server.sendall(data)
    server.shutdown(socket.SHUT_RDWR)
def answer(server, client):
    buffer, due = memoryview(bytearray(1 << 16)), line if shared else [0.0]
    while count := server.recv_into(buffer):
        with lock:
            due[0] = max(due[0], time.monotonic() - 0.01) + count / rate
            wait = due[0] - time.monotonic()
        time.sleep(max(0, wait))
        client.sendall(buffer[:count])
    client.shutdown(socket.SHUT_RDWR)
def guarded(work, *sockets):
    try:
        work(*sockets)
    except OSError:
        for one in sockets: one.close()
def serve(client):
    time.sleep(latency)
    server = socket.create_connection(("127.0.0.1", to))
    for one in (client, server): one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=guarded, args=(ask, client, server), daemon=True).start()
    guarded(answer, server, client)
listener = socket.create_server(("127.0.0.1", port))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server."""

    port: int
    pid: int
    token: str = ""
    behind: tuple[int, ...] = ()
    """The servers that this one asks."""

    @property
    def pids(self) -> tuple[int, ...]:
        """All that work for an answer."""
        return self.pid, *self.behind

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def peak(self) -> float:
        """The most memory that it ever had, in bytes."""
        with Path(f"/proc/{self.pid}/status").open() as file:
            return next(1024.0 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def environment(server: Server, home: Path, **more: str) -> dict[str, str]:
    """What a process of the stock client needs, and nothing of this machine's user."""
    return {
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": server.url,
        "HF_TOKEN": server.token,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        **more,
    }


@contextmanager
def registry(folder: Path, *options: str, token: str = "") -> Iterator[Server]:
    """The registry as it is served by default; a folder that has a token takes that."""
    port = _free_port()
    command = ["-m", "hubstate_registry", "serve", str(folder), "--rate-limit", "0"]
    with _process([sys.executable, *command, "--port", str(port), *options], port) as process:
        assert process.stdout is not None
        token = token or process.stdout.readline().decode().rpartition(" ")[2].strip()
        yield Server(port=port, pid=process.pid, token=token)


@contextmanager
def python_server(answers: object, file: Path) -> Iterator[Server]:
    """Starlette routes and a FileResponse, on the same web server with the same settings."""
    port = _free_port()
    command = [sys.executable, "-c", BARE, str(port), str(file)]
    with _process(command, port, told=json.dumps(answers)) as process:
        yield Server(port=port, pid=process.pid)


@contextmanager
def nothing() -> Iterator[Server]:
    """A server that takes every upload and keeps nothing of it."""
    port = _free_port()
    with _process([sys.executable, "-c", NOTHING, str(port)], port) as process:
        yield Server(port=port, pid=process.pid, token="none")


@contextmanager
def nginx(folder: Path, sites: str, *, upstream: Server) -> Iterator[Server]:
    """nginx with these contents of its ``server`` block; ``sites`` leaves out ``listen``, and calls
    the server behind it ``upstream``, to which connections stay open."""
    port, place = _free_port(), folder / "nginx"
    place.mkdir()
    user = "user root;" if os.geteuid() == 0 else ""
    (place / "nginx.conf").write_text(
        f"daemon off; pid {place}/pid; error_log {place}/error.log; {user}\n"
        "events { worker_connections 512; }\n"
        f"http {{ access_log off; sendfile on; client_body_temp_path {place}/body;"
        f" proxy_temp_path {place}/proxy; fastcgi_temp_path {place}/fastcgi;"
        f" uwsgi_temp_path {place}/uwsgi; scgi_temp_path {place}/scgi;\n"
        f"upstream upstream {{ server 127.0.0.1:{upstream.port}; keepalive 32; }}\n"
        'proxy_http_version 1.1; proxy_set_header Connection "";'
        " proxy_set_header Host $http_host;\n"
        f"server {{ listen 127.0.0.1:{port};\n{sites}\n}} }}\n"
    )
    program = find_nginx()
    assert program is not None
    command = [program, "-p", str(place), "-c", str(place / "nginx.conf"), "-e", f"{place}/early"]
    with _process(command, port) as process:
        yield Server(port=port, pid=process.pid)


@contextmanager
def slowed(
    server: Server, *, rate: float, latency: float, shared: bool = False
) -> Iterator[Server]:
    """The same server by a line of ``rate`` bytes a second for each connection, or for all."""
    port = _free_port()
    words = (str(port), str(server.port), str(rate), str(latency), str(int(shared)))
    with _process([sys.executable, "-c", LINE, *words], port) as process:
        behind = (server.pid, *server.behind)
        yield Server(port=port, pid=process.pid, token=server.token, behind=behind)


def find_nginx() -> str | None:
    """The program, if there is one: Debian keeps it where users do not look."""
    return shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


@contextmanager
def _process(command: list[str], port: int, *, told: str = "") -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None
    process.stdin.write(told.encode())
    process.stdin.close()
    try:
        while not _answers(port):
            if process.poll() is not None:
                raise SystemExit(f"a server did not start: {command}")
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
