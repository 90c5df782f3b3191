"""The registry server: metadata, whole files, nginx in front, and a crowd of clients.

Each is measured beside what the same web server, or nginx, does without a registry.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from harness import Row, Target, interleave, medians, report, run
from serving import (
    CLIENT,
    DOWNLOAD,
    Server,
    environment,
    find_nginx,
    nginx,
    python_server,
    registry,
)

from hubstate_registry.names import RepoId
from hubstate_registry.storage import Storage, accounts, blobs, commits, repositories
from hubstate_registry.storage.references import Actor
from hubstate_registry.storage.trees import large_entry, small_entry

GIB = 1 << 30

# 16 connections that stay open, each with one request at a time. They ask for the same address
# again and again, for a new address each time, or each time about another repository: once
# something has changed, or once an account has, so that nothing is known of any of them.
METADATA = """
port, pid, token, head, body, count, how, new = sys.argv[1:]
import selectors, urllib.request
def request(number):
    told = head.format(f"{number if how in ('after a change', 'nothing known') else 0:04}")
    told += f"?{new}={number:06}" if how == "new address" else ""
    return (f"{told} HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\nAuthorization: Bearer {token}\\r\\n"
            f"Content-Type: application/x-www-form-urlencoded\\r\\n"
            f"Content-Length: {len(body)}\\r\\n\\r\\n{body}").encode()
def forget():
    data = json.dumps({"name": new}).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/api/repos/create", data)
    asked.add_header("Authorization", f"Bearer {token}")
    urllib.request.urlopen(asked).close()
if how == "after a change":
    forget()
connections = [connect(port) for _ in range(16)]
first = connections[0]
first.sendall(request(0))
answer = b""
while b"\\r\\n\\r\\n" not in answer:
    answer += first.recv(65536)
assert b" 200 " in answer[:20], answer
length = answer.index(b"\\r\\n\\r\\n") + 4
size = re.search(rb"content-length: (\\d+)", answer, re.I)
length += 0 if head.startswith("HEAD") else int(size[1])
got = len(answer)
while got < length:
    got += len(first.recv(65536))
chosen = selectors.DefaultSelector()
for one in connections:
    chosen.register(one, selectors.EVENT_READ)
def go(numbers):
    left = {}
    for one in connections:
        left[one] = length
        one.sendall(request(next(numbers)))
    while left:
        for key, _ in chosen.select():
            one = key.fileobj
            left[one] -= len(one.recv(65536))
            assert left[one] >= 0
            if left[one] == 0:
                number = next(numbers, None)
                if number is None:
                    del left[one]
                else:
                    left[one] = length
                    one.sendall(request(number))
go(iter(range(1, 301)))
cpu, began = used(pid), time.perf_counter()
go(iter(range(301, int(count))))
seconds, done = time.perf_counter() - began, int(count) - 301
print(json.dumps({"requests/s": done / seconds, "server CPU us": (used(pid) - cpu) / done * 1e6}))
"""

REPOSITORIES = 2500
WAYS = ("asked before", "new address", "after a change", "nothing known")
QUESTIONS = {
    "model_info": ("GET /api/models/admin/r{}", ""),
    "HEAD resolve": ("HEAD /admin/r{}/resolve/main/model.safetensors", ""),
    "tree": ("GET /api/models/admin/r{}/tree/main", ""),
    "paths-info": (
        "POST /api/models/admin/r{}/paths-info/main",
        "paths=model.safetensors&paths=config.json&expand=false",
    ),
}

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
            _fill(folder / "registry")
            with python_server(_answers(served), folder / "large") as bare:
                _metadata(served, bare, folder / "registry", rounds=rounds)
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


def _fill(root: Path) -> None:
    """Repositories of five files, whose answers are all equally long."""
    storage, actor = Storage(root), Actor(user="admin")
    with storage.database.write() as connection:
        for number in range(REPOSITORIES):
            id = RepoId(namespace="admin", name=f"r{number:04}")
            repository = repositories.create(connection, id)
            commits.start(connection, repository, actor=actor)
            digest = hashlib.sha256(str(number).encode()).hexdigest()
            files = [large_entry("model.safetensors", sha256=digest, size=100_000_000)]
            for path in ("README.md", "config.json", "hubstate.json", ".gitattributes"):
                files.append(small_entry(path, f"{path} {number:04}".encode()))
            for file in files:
                blobs.record(connection, file.sha256, size=file.size)
                blobs.hold(connection, repository.number, sha256=file.sha256)
            commits.append(
                connection,
                repository,
                branch="main",
                changes=files,
                title="files",
                message="",
                parent=None,
                actor=actor,
                limit=10,
            )
    storage.close()


def _answers(served: Server) -> dict[str, tuple[object, Mapping[str, str]]]:
    """What the registry answers to each question."""
    answers = dict[str, tuple[object, Mapping[str, str]]]()
    for name, (head, body) in QUESTIONS.items():
        method, path = head.format("0000").split()
        request = urllib.request.Request(
            served.url + path,
            method=method,
            data=body.encode() or None,
            headers={"Authorization": f"Bearer {served.token}"},
        )
        with urllib.request.urlopen(request) as answer:
            told = answer.headers.items()
            headers = {k: v for k, v in told if k.lower() not in ("date", "connection")}
            answers[name] = (None if method == "HEAD" else json.loads(answer.read()), headers)
    return answers


def _metadata(served: Server, bare: Server, root: Path, *, rounds: int) -> None:
    rows: dict[str, list[Row]] = {}
    targets = []
    for name, (head, body) in QUESTIONS.items():
        for number in range(min(rounds, 5)):
            for how in ("bare", *WAYS):
                server = bare if how == "bare" else served
                new = f"{name.split()[0]}{number}"
                values = (server.port, server.pid, server.token or "hsr_none", head, body)
                arguments = map(str, (*values, REPOSITORIES, how, new))
                if how == "nothing known":
                    _change_accounts(root, new)
                row = run(CLIENT + METADATA, *arguments)
                rows.setdefault(f"{name}, {how}", []).append(row)
        targets += [_rate(rows, name, how) for how in WAYS]
    report("server metadata: 16 connections, beside bare Starlette routes", rows, targets)


def _change_accounts(root: Path, name: str) -> None:
    """After this the server goes by nothing that it knew, as accounts decide who may see what."""
    storage = Storage(root)
    with storage.database.write() as connection:
        accounts.add_namespace(connection, name)
    storage.close()


def _rate(rows: Mapping[str, list[Row]], name: str, how: str) -> Target:
    """By the processor's time: a server on one core makes as many answers as that allows."""
    bare, mine = (
        min(row["server CPU us"] for row in rows[f"{name}, {one}"]) for one in ("bare", how)
    )
    return Target(text=f"{name}, {how}: rate / bare, best of each", value=bare / mine, at_least=0.7)


def _download(served: Server, bare: Server, path: str, *, rounds: int) -> None:
    size = str(GIB)
    contenders = {
        "FileResponse": (DOWNLOAD, (str(bare.port), str(bare.pid), "/file", size)),
        "registry": (DOWNLOAD, (str(served.port), str(served.pid), path, size)),
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
            "location / { proxy_pass http://upstream; }\n"
            f"location /protected/ {{ internal; alias {folder}/registry/; }}\n"
            f"location /static/ {{ alias {folder}/; }}\n"
        )
        stored = (file for file in (folder / "registry" / "blobs").rglob("*") if file.is_file())
        same = max(stored, key=lambda file: file.stat().st_size).relative_to(folder)
        with nginx(folder, sites, upstream=served) as front:
            both = f"{front.pid},{served.pid}"
            # One file both ways: how a copy of it lies in the page cache makes 20 % in itself.
            addresses = {
                "static": f"/static/{same}",
                "static, a copy": "/static/large",
                "X-Accel-Redirect": path,
            }
            contenders = {
                name: (DOWNLOAD, (str(front.port), both, address, str(GIB)))
                for name, address in addresses.items()
            }
            rows = interleave(contenders, rounds=rounds)
    middle = medians(rows)
    value = middle["X-Accel-Redirect"]["GB/s"] / middle["static"]["GB/s"]
    target = Target(text="X-Accel-Redirect / nginx static", value=value, at_least=0.9)
    report("server nginx: 1 GiB, one connection", rows, [target])
