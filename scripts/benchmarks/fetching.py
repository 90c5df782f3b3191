"""Downloads: 1 GB beside the stock client and the floor, slow connections, parts, memory.

The targets compare the best rounds: what else runs on the machine takes a second here and there,
which is as long as all of a download.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from harness import Target, interleave, medians, report, run
from serving import CLIENT, READY, Server, environment, find_nginx, nginx, registry, slowed

__all__ = ["front", "publish", "registry_of"]

GB = 1_000_000_000
LAYER = 10_000_000
REPO = "admin/gb1"

# Weights files with their manifests; every tensor differs from every other.
PUBLISH = """
import json, sys, tempfile
from pathlib import Path
import numpy
from hubstate.header import dump_header
from hubstate.hub import publish_files
from hubstate.manifest import Entry, Manifest, dump, hash_weights
layers, layer, *repos = sys.argv[1:]
layers, layer = int(layers), int(layer)
shapes = {f"layer{at:03}.weight": ("float32", (layer // 4000, 1000)) for at in range(layers)}
for number, repo in enumerate(repos):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        with path.open("wb") as file:
            file.write(dump_header(shapes, {}))
            for at in range(layers):
                file.write(numpy.random.default_rng([layers, layer, number, at]).bytes(layer))
        record = hash_weights(path, name=path.name)
        tensors = [Entry(path=t.name, kind="param", shape=t.shape, dtype=t.dtype, trainable=True)
                   for t in record.tensors]
        modules = [Entry(path=p, kind="module") for p in ["", *(n.split(".")[0] for n in shapes)]]
        manifest = dump(Manifest(structure=(*modules, *tensors), files=(record,)))
        files = {path.name: path, "hubstate.json": manifest, "README.md": repo.encode()}
        publish_files(repo, files, message="First")
print("{}")
"""

# What every client does: import first, then measure, into an empty cache.
MEASURED = (
    CLIENT
    + READY
    + """
import shutil, tempfile
from pathlib import Path
pids, *words = sys.argv[1:]
def spent():
    return sum(map(used, pids.split(","))) + time.process_time()
def measured(work, size):
    place = tempfile.mkdtemp()
    ready(int(size))
    cpu, began = spent(), time.perf_counter()
    work(place)
    seconds, gigabytes = time.perf_counter() - began, int(size) / 1e9
    cpu = spent() - cpu
    shutil.rmtree(place)
    print(json.dumps({"s": seconds, "GB/s": gigabytes / seconds, "CPU s/GB": cpu / gigabytes}))
"""
)
OURS = (
    MEASURED
    + """
import ctypes, requests
import hubstate.cache.arrival, hubstate.endpoints.http, hubstate.transport.engine
from hubstate.cache import Cache
from hubstate.hub import open_release
repo, size, *names = words
def work(place):
    release = open_release(repo, cache=Cache([Path(place)]))
    if names:
        release.tensors_path("model.safetensors", names)
    else:
        release.path("model.safetensors")
measured(work, size)
"""
)
STOCK = (
    MEASURED
    + """
from huggingface_hub import hf_hub_download
measured(lambda place: hf_hub_download(words[0], "model.safetensors", cache_dir=place), words[1])
"""
)

# One connection that is read, hashed and written, and waits for nothing else.
SINGLE = (
    MEASURED
    + """
import hashlib
port, token, address, size = words
def work(place):
    connection, buffer = connect(port), memoryview(bytearray(1 << 20))
    connection.sendall((f"GET {address} HTTP/1.1\\r\\nHost: x\\r\\nRange: bytes=0-{int(size) - 1}"
        f"\\r\\nAuthorization: Bearer {token}\\r\\nConnection: close\\r\\n\\r\\n").encode())
    hasher, got = hashlib.sha256(), 0
    with open(f"{place}/file", "wb") as file:
        while count := connection.recv_into(buffer):
            hasher.update(buffer[:count])
            file.write(buffer[:count])
            got += count
    assert got >= int(size), got
measured(work, size)
"""
)

# Each step of a verified download by itself, on all processors: what no client can do without.
FLOOR = (
    MEASURED
    + """
import hashlib
from threading import Thread
port, token, address, size = words
size, cores = int(size), len(os.sched_getaffinity(0))
bounds = [(size * n // cores, size * (n + 1) // cores) for n in range(cores)]
def receive(start, stop):
    connection, buffer, got = connect(port), memoryview(bytearray(1 << 20)), 0
    connection.sendall((f"GET {address} HTTP/1.1\\r\\nHost: x\\r\\nRange: bytes={start}-{stop - 1}"
        f"\\r\\nAuthorization: Bearer {token}\\r\\nConnection: close\\r\\n\\r\\n").encode())
    while count := connection.recv_into(buffer):
        got += count
    assert got >= stop - start, got
def digest(start, stop):
    block, hasher = memoryview(os.urandom(1 << 20)), hashlib.sha256()
    for at in range(start, stop, 1 << 20):
        hasher.update(block[: stop - at])
def write(start, stop):
    block = memoryview(bytearray(1 << 20))
    for at in range(start, stop, 1 << 20):
        os.pwrite(file.fileno(), block[: stop - at], at)
def everywhere(work):
    threads = [Thread(target=work, args=bound) for bound in bounds]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
def steps(place):
    global file
    with open(f"{place}/file", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
        for step in (receive, digest, write):
            everywhere(step)
measured(steps, size)
"""
)

MEMORY = """
import json, re, sys, tempfile
from pathlib import Path
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
before = peak()
from hubstate.cache import Cache
from hubstate.fetching import fetch
with tempfile.TemporaryDirectory() as place:
    fetch(sys.argv[1], cache=Cache([Path(place)]))
print(json.dumps({"interpreter MB": before / 1e6, "more MB": (peak() - before) / 1e6}))
"""


def main(rounds: int) -> None:
    """Run all of it."""
    with tempfile.TemporaryDirectory() as name, front(Path(name)) as served:
        variables = publish(served, Path(name), REPO, size=GB)
        _whole(served, variables, rounds=min(rounds, 5))
        _slow(served, variables, rounds=min(rounds, 2))
        _parts(served, variables, rounds=min(rounds, 5))
        publish(served, Path(name), "admin/gb4", size=4 * GB)
        _memory(variables)


@contextmanager
def front(folder: Path) -> Iterator[Server]:
    """The registry, behind nginx where there is one."""
    with registry(folder / "registry") as served:
        token = served.token
        if find_nginx() is None:
            yield served
            return
    options = ("--accel-prefix", "/protected", "--quiet")
    kept = ("ETag $upstream_http_etag", "X-Repo-Commit $upstream_http_x_repo_commit")
    linked = ("Etag $upstream_http_x_linked_etag", "Size $upstream_http_x_linked_size")
    headers = [*kept, *(f"X-Linked-{one}" for one in linked)]
    with registry(folder / "registry", *options, token=token) as served:
        sites = (
            "location / { proxy_pass http://upstream;"
            " proxy_request_buffering off; client_max_body_size 0; }\n"
            f"location /protected/ {{ internal; alias {folder}/registry/; etag off;"
            + "".join(f" add_header {header};" for header in headers)
            + " }\n"
        )
        with nginx(folder, sites, upstream=served) as server:
            yield Server(port=server.port, pid=server.pid, behind=(served.pid,), token=token)


def publish(
    served: Server, folder: Path, *repos: str, size: int, layer: int = LAYER
) -> dict[str, str]:
    """Publish weights of so many bytes to each repository; a client's environment."""
    home = environment(served, folder / "home", HF_HUB_DISABLE_XET="1")
    variables = {**home, **registry_of(served), "HUBSTATE_CACHE": str(folder / "cache")}
    run(PUBLISH, str(size // layer), str(layer), *repos, environment=variables)
    return variables


def registry_of(served: Server) -> dict[str, str]:
    """The variables that name a server."""
    return {"HUBSTATE_REGISTRY": served.url, "HUBSTATE_TOKEN": served.token}


def _pids(served: Server) -> str:
    return ",".join(map(str, served.pids))


def _plain(served: Server, *, size: int = GB) -> tuple[str, ...]:
    """What a client without a library is told."""
    address = f"/{REPO}/resolve/main/model.safetensors"
    return _pids(served), str(served.port), served.token, address, str(size)


def _whole(served: Server, variables: Mapping[str, str], *, rounds: int) -> None:
    contenders = {
        "hubstate": (OURS, (_pids(served), REPO, str(GB))),
        "hf_hub_download": (STOCK, (_pids(served), REPO, str(GB))),
        "floor": (FLOOR, _plain(served)),
    }
    rows = interleave(contenders, rounds=rounds, environment=variables)
    speed = {name: max(row["GB/s"] for row in many) for name, many in rows.items()}
    work = {name: min(row["CPU s/GB"] for row in many) for name, many in rows.items()}
    targets = [
        Target(
            text="× faster than hf_hub_download, which verifies nothing",
            value=speed["hubstate"] / speed["hf_hub_download"],
            at_least=3,
        ),
        Target(
            text="of the floor's speed",
            value=speed["hubstate"] / speed["floor"],
            at_least=0.85,
        ),
        Target(
            text="of our processor time is the floor's",
            value=work["floor"] / work["hubstate"],
            at_least=0.85,
        ),
    ]
    report("fetch whole: 1 GB, verified", rows, targets)


def _slow(served: Server, variables: Mapping[str, str], *, rounds: int) -> None:
    with slowed(served, rate=30e6, latency=0.04) as line:
        contenders = {
            "hubstate": (OURS, (_pids(line), REPO, str(GB))),
            "one connection, 100 MB": (SINGLE, _plain(line, size=GB // 10)),
        }
        rows = interleave(contenders, rounds=rounds, environment={**variables, **registry_of(line)})
    middle = medians(rows)
    value = middle["hubstate"]["GB/s"] / middle["one connection, 100 MB"]["GB/s"]
    target = Target(text="× one connection", value=value, at_least=4.5)
    report("fetch slowly: 1 GB, 30 MB/s a connection, 40 ms", rows, [target])


def _parts(served: Server, variables: Mapping[str, str], *, rounds: int) -> None:
    names = [f"layer{at:03}.weight" for at in range(GB // LAYER)]
    chosen = {"all": [], "half": names[50:], "every other": names[::2], "a quarter": names[20:45]}
    contenders = {
        name: (OURS, (_pids(served), REPO, str(len(part or names) * LAYER), *part))
        for name, part in chosen.items()
    }
    rows = interleave(contenders, rounds=rounds, environment=variables)
    speed = {name: max(row["GB/s"] for row in many) for name, many in rows.items()}
    targets = [
        Target(
            text=f"{name}: seconds a byte / those of the whole",
            value=speed["all"] / speed[name],
            at_most=1.15,
        )
        for name in list(chosen)[1:]
    ]
    report("fetch parts: of 1 GB", rows, targets)


def _memory(variables: Mapping[str, str]) -> None:
    rows = {
        name: [run(MEMORY, repo, environment=variables)]
        for name, repo in (("1 GB", REPO), ("4 GB", "admin/gb4"))
    }
    targets = [
        Target(text=f"{name}: MB over the interpreter", value=many[0]["more MB"], at_most=60)
        for name, many in rows.items()
    ]
    report("fetch memory: peak of a process", rows, targets)
