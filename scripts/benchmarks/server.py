"""The registry server: metadata, whole files, nginx in front, and a crowd of clients.

Each is measured beside what the same web server, or nginx, does without a registry.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import Row, Target, interleave, medians, report, run
from serving import CLIENT, Server, environment, find_nginx, nginx, python_server, registry

GIB = 1 << 30

# 16 connections that stay open, each with one request at a time, for two seconds.
METADATA = """
import itertools, selectors
port, pid, path, token, vary = sys.argv[1:]
numbers = itertools.count(int(time.time() * 1e6) % 10**9)
def request():
    query = f"?n={next(numbers):012}" if vary else ""
    return (f"GET {path}{query} HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\n"
            f"Authorization: Bearer {token}\\r\\n\\r\\n").encode()
first = connect(port)
first.sendall(request())
answer = b""
while b"\\r\\n\\r\\n" not in answer:
    answer += first.recv(65536)
assert b" 200 " in answer[:20], answer
length = answer.index(b"\\r\\n\\r\\n") + 4
length += int(re.search(rb"content-length: (\\d+)", answer, re.I)[1])
connections = [connect(port) for _ in range(16)]
left = {}
chosen = selectors.DefaultSelector()
for one in connections:
    chosen.register(one, selectors.EVENT_READ)
def go(seconds):
    done, stop = 0, time.perf_counter() + seconds
    for one in connections:
        left[one] = length
        one.sendall(request())
    while left:
        for key, _ in chosen.select():
            one = key.fileobj
            left[one] -= len(one.recv(65536))
            if left[one] == 0:
                done += 1
                if time.perf_counter() < stop:
                    left[one] = length
                    one.sendall(request())
                else:
                    del left[one]
    return done
go(0.3)
cpu, began = used(pid), time.perf_counter()
done = go(2)
seconds = time.perf_counter() - began
print(json.dumps({"requests/s": done / seconds, "server CPU us": (used(pid) - cpu) / done * 1e6}))
"""

DOWNLOAD = """
port, pid, path, size = sys.argv[1:]
buffer = memoryview(bytearray(1 << 20))
connection = connect(port)
cpu, began, got = used(pid.split(",")[0]), time.perf_counter(), 0
cpu = sum(map(used, pid.split(",")))
connection.sendall(f"GET {path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n".encode())
head = bytes(buffer[: connection.recv_into(buffer)])
assert b" 200 " in head[:20], head[:500]
while count := connection.recv_into(buffer):
    got += count
seconds, gigabytes = time.perf_counter() - began, int(size) / 1e9
assert got >= int(size) - len(head), (got, size)
print(json.dumps({"GB/s": gigabytes / seconds,
                  "server CPU s/GB": (sum(map(used, pid.split(","))) - cpu) / gigabytes}))
"""

UPLOAD = """
import sys
from huggingface_hub import HfApi
api = HfApi()
api.create_repo(sys.argv[2], exist_ok=True)
api.upload_file(path_or_fileobj=sys.argv[1], path_in_repo="w.bin", repo_id=sys.argv[2])
print("{}")
"""

# In one process: 64 threads fetch 8 MiB each, 16 publish 2 MiB each as the stock client's LFS
# does, all begin at once. Plain requests: their count of errors is exact, nothing is retried.
CROWD = """
import collections, hashlib, threading, requests
url, token, path = sys.argv[1:]
bearer = {"Authorization": f"Bearer {token}"}
seen, errors, times = collections.Counter(), [], {"fetch": [], "publish": []}
def ask(method, address, **options):
    answer = requests.request(method, address, timeout=120, **options)
    seen[answer.status_code // 100] += 1
    answer.raise_for_status()
    return answer
def fetch(number):
    for _ in range(4):
        began = time.perf_counter()
        assert len(ask("GET", f"{url}{path}", headers=bearer).content) == 8 << 20
        times["fetch"].append(time.perf_counter() - began)
def publish(number):
    name = f"admin/crowd{number}"
    requests.post(f"{url}/api/repos/create", headers=bearer, json={"name": name.split("/")[1]})
    for _ in range(4):
        began = time.perf_counter()
        data = os.urandom(2 << 20)
        oid = hashlib.sha256(data).hexdigest()
        told = ask("POST", f"{url}/{name}.git/info/lfs/objects/batch", headers=bearer,
                   json={"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]})
        ask("PUT", told.json()["objects"][0]["actions"]["upload"]["href"], data=data)
        value = {"path": "w.bin", "algo": "sha256", "oid": oid, "size": len(data)}
        lines = [{"key": "header", "value": {"summary": "m"}}, {"key": "lfsFile", "value": value}]
        ask("POST", f"{url}/api/models/{name}/commit/main", headers=bearer,
            data="\\n".join(map(json.dumps, lines)))
        times["publish"].append(time.perf_counter() - began)
def guarded(work, number):
    try:
        work(number)
    except Exception as error:
        errors.append(repr(error))
threads = [threading.Thread(target=guarded, args=(fetch, n)) for n in range(64)]
threads += [threading.Thread(target=guarded, args=(publish, n)) for n in range(16)]
began = time.perf_counter()
for one in threads: one.start()
for one in threads: one.join()
seconds = time.perf_counter() - began
for problem in errors[:3]: print(problem, file=sys.stderr)
def slowest(name):
    return sorted(times[name])[int(len(times[name]) * 0.95)]
print(json.dumps({"errors": len(errors), "5xx": seen[5], "seconds": seconds,
                  "fetch p95 s": slowest("fetch"), "publish p95 s": slowest("publish"),
                  "fetches/s": len(times["fetch"]) / seconds,
                  "publishes/s": len(times["publish"]) / seconds}))
"""


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with registry(folder / "registry") as served:
            path = _publish(served, folder)
            with _bare(served, folder) as bare:
                _metadata(served, bare, rounds=rounds)
                _download(served, bare, path, rounds=rounds)
            _crowd(served, folder, rounds=rounds)
        _behind_nginx(folder, path, rounds=rounds)


def _publish(served: Server, folder: Path) -> str:
    """A repository with 1 GiB, and its files' address."""
    with (folder / "large").open("wb") as file:
        for at in range(1024):
            file.write(hashlib.shake_128(at.to_bytes(4, "big")).digest(1 << 20))
    _upload(served, folder, folder / "large", "admin/bench")
    return "/admin/bench/resolve/main/w.bin"


def _upload(served: Server, folder: Path, file: Path, repo: str) -> None:
    plain = environment(served, folder / "home", HF_HUB_DISABLE_XET="1")
    run(UPLOAD, str(file), repo, environment=plain)


def _bare(served: Server, folder: Path):  # type: ignore[no-untyped-def]
    """The same answer and the same file, without a registry."""
    request = urllib.request.Request(
        f"{served.url}/api/models/admin/bench", headers={"Authorization": f"Bearer {served.token}"}
    )
    with urllib.request.urlopen(request) as answer:
        return python_server(json.loads(answer.read()), folder / "large")


def _metadata(served: Server, bare: Server, *, rounds: int) -> None:
    def arguments(server: Server, vary: str) -> Sequence[str]:
        path = "/api/models/admin/bench"
        return (str(server.port), str(server.pid), path, server.token or "hsr_none", vary)

    contenders = {
        "bare Starlette route": (CLIENT + METADATA, arguments(bare, "")),
        "registry, asked before": (CLIENT + METADATA, arguments(served, "")),
        "bare, never asked": (CLIENT + METADATA, arguments(bare, "vary")),
        "registry, never asked": (CLIENT + METADATA, arguments(served, "vary")),
    }
    rows: Mapping[str, list[Row]] = interleave(contenders, rounds=rounds)
    middle = medians(rows)
    targets = [
        _ratio("asked before / bare route", middle, "registry, asked before", contenders, at=0),
        _ratio("never asked / bare route", middle, "registry, never asked", contenders, at=2),
    ]
    report("server metadata: GET /api/models/{id}, 16 connections", rows, targets)


def _ratio(
    text: str, middle: Mapping[str, Row], ours: str, contenders: Mapping[str, object], *, at: int
) -> Target:
    theirs = list(contenders)[at]
    value = middle[ours]["requests/s"] / middle[theirs]["requests/s"]
    return Target(text=text, value=value, at_least=0.7)


def _download(served: Server, bare: Server, path: str, *, rounds: int) -> None:
    size = str(GIB)
    contenders = {
        "FileResponse": (CLIENT + DOWNLOAD, (str(bare.port), str(bare.pid), "/file", size)),
        "registry": (CLIENT + DOWNLOAD, (str(served.port), str(served.pid), path, size)),
    }
    rows = interleave(contenders, rounds=rounds)
    middle = medians(rows)
    value = middle["registry"]["GB/s"] / middle["FileResponse"]["GB/s"]
    peak = Target(
        text="registry's peak memory after all this, MB", value=served.peak / 1e6, at_most=150
    )
    target = Target(text="registry / FileResponse", value=value, at_least=0.8)
    report("server download: 1 GiB, one connection", rows, [target, peak])


def _crowd(served: Server, folder: Path, *, rounds: int) -> None:
    small = folder / "small"
    small.write_bytes((folder / "large").open("rb").read(8 << 20))
    _upload(served, folder, small, "admin/small")
    arguments = (served.url, served.token, "/admin/small/resolve/main/w.bin")
    rows = interleave({"64 fetch, 16 publish": (CLIENT + CROWD, arguments)}, rounds=min(rounds, 3))
    every = rows["64 fetch, 16 publish"]
    targets = [
        Target(text=text, value=sum(row[text] for row in every), at_most=0)
        for text in ("errors", "5xx")
    ]
    report("server crowd: 64 × 4 downloads of 8 MiB, 16 × 4 publishes of 2 MiB", rows, targets)


def _behind_nginx(folder: Path, path: str, *, rounds: int) -> None:
    if find_nginx() is None:
        print("\nserver nginx: skipped, nginx is not installed (Debian: apt install nginx-light)")
        return
    options = ("--accel-prefix", "/protected", "--quiet")
    with registry(folder / "registry", *options, token="none") as served:
        sites = (
            f"location / {{ proxy_pass http://127.0.0.1:{served.port}; proxy_http_version 1.1; }}\n"
            f"location /protected/ {{ internal; alias {folder}/registry/; }}\n"
            f"location /static/ {{ alias {folder}/; }}\n"
        )
        with nginx(folder, sites) as front:
            both = f"{front.pid},{served.pid}"
            contenders = {
                name: (CLIENT + DOWNLOAD, (str(front.port), both, address, str(GIB)))
                for name, address in (("static", "/static/large"), ("X-Accel-Redirect", path))
            }
            rows = interleave(contenders, rounds=rounds)
    middle = medians(rows)
    value = middle["X-Accel-Redirect"]["GB/s"] / middle["static"]["GB/s"]
    target = Target(text="X-Accel-Redirect / nginx static", value=value, at_least=0.9)
    report("server nginx: 1 GiB, one connection", rows, [target])
