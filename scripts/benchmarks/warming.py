"""Many small models at once beside their bytes in one file, and what a cached file costs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from fetching import front, publish, registry_of
from harness import Target, interleave, medians, report
from serving import CLIENT, READY, Server, slowed

COUNT, SIZE = 50, 10_000_000
SMALL = [f"admin/small{number}" for number in range(COUNT)]
REAL = [f"admin/real{number}" for number in range(COUNT)]  # with as many tensors as a network has
LAYER = 68_000  # bytes of each
LINES = (  # bytes a second, seconds
    ("warm far: by a line of 1 Gbit/s, 20 ms", 125e6, 0.02),
    ("warm near: by a line of 3 Gbit/s, 5 ms", 375e6, 0.005),
)

# Into an empty folder, timed, with the processor time of both sides. What it leaves is emptied,
# and removed with all else at the end: to make a file, ext4 without a journal goes through every
# inode that was freed in the last minutes, so that the next round would pay for the removal.
MEASURED = (
    CLIENT
    + READY
    + """
import tempfile
from pathlib import Path
pids, total, *repos = sys.argv[1:]
def spent():
    return sum(map(used, pids.split(","))) + time.process_time()
def measured(work):
    place = tempfile.mkdtemp(dir=os.environ["PLACES"])
    ready(int(total))
    cpu, began = spent(), time.perf_counter()
    size = work(place)
    seconds, cpu = time.perf_counter() - began, spent() - cpu
    for path in Path(place).rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            os.truncate(path, 0)
    print(json.dumps({"s": seconds, "MB/s": size / 1e6 / seconds, "CPU s": cpu}))
"""
)
WARM = (
    MEASURED
    + """
import requests
from hubstate.cache import Cache
from hubstate.warm import named, warm
def work(place):
    proofs = warm(named(repos), cache=Cache([Path(place)]))
    assert all(proof.complete for proof in proofs), [str(p.error) for p in proofs if p.error][:3]
    return sum(file.size for proof in proofs for file in proof.files)
measured(work)
"""
)

# The same requests, and the weights hashed and written, and nothing else: no manifest is read,
# nothing is compared, recorded or resumed, and no file waits for another's name.
FLOOR = (
    MEASURED
    + """
import hashlib, os
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from threading import local
host = os.environ["HUBSTATE_REGISTRY"].rpartition("/")[2]
headers = {"Authorization": "Bearer " + os.environ["HUBSTATE_TOKEN"]}
mine = local()
def ask(path):
    if not hasattr(mine, "connection"):
        mine.connection, mine.buffer = HTTPConnection(host), memoryview(bytearray(1 << 20))
    mine.connection.request("GET", path, headers=headers)
    return mine.connection.getresponse()
def fetch(place, repo):
    ask(f"/api/models/{repo}/revision/main?blobs=true").read()
    for name in ("hubstate.json", "README.md"):
        ask(f"/{repo}/resolve/main/{name}").read()
    answer, hasher, size = ask(f"/{repo}/resolve/main/model.safetensors"), hashlib.sha256(), 0
    path = f"{place}/{repo.replace('/', '-')}"
    with open(path + ".tmp", "wb", buffering=0) as file:
        while count := answer.readinto(mine.buffer):
            hasher.update(mine.buffer[:count])
            file.write(mine.buffer[:count])
            size += count
        os.fsync(file.fileno())
    os.rename(path + ".tmp", path)
    return size
def work(place):
    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(lambda repo: fetch(place, repo), repos))
measured(work)
"""
)

# The bytes alone: two connections bring the halves of one file, which are hashed and written, and
# nothing else is asked for, recorded or compared.
BYTES = (
    MEASURED
    + """
import hashlib
from threading import Thread
port = os.environ["HUBSTATE_REGISTRY"].rpartition(":")[2]
def fetch(file, start, stop):
    connection, buffer, hasher = connect(port), memoryview(bytearray(1 << 20)), hashlib.sha256()
    lines = [f"GET /{repos[0]}/resolve/main/model.safetensors HTTP/1.1", "Host: x",
        f"Range: bytes={start}-{stop - 1}", "Connection: close",
        "Authorization: Bearer " + os.environ["HUBSTATE_TOKEN"], "", ""]
    connection.sendall("\\r\\n".join(lines).encode())
    while count := connection.recv_into(buffer):
        hasher.update(buffer[:count])
        start += os.pwrite(file.fileno(), buffer[:count], start)
    assert start >= stop, (start, stop)
def work(place):
    size = int(total)
    with open(f"{place}/file", "wb", buffering=0) as file:
        bounds = [(file, 0, size // 2), (file, size // 2, size)]
        threads = [Thread(target=fetch, args=bound) for bound in bounds]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        os.fsync(file.fileno())
    return size
measured(work)
"""
)

# A warm hit: the file's path once its receipt was held against it; and the receipt's reading.
HIT = """
import json, sys, time
from dataclasses import replace
from pathlib import Path
from hubstate.cache import Cache
from hubstate.fetching import fetch
from hubstate.hub import open_release
cache, name = Cache(), "model.safetensors"
release = fetch(sys.argv[1])
pinned = str(release.pinned)
folder, digest = cache.folders[0], release.source.info(name).digest
receipt = f"{folder}/receipts/{digest.hex[:2]}/{digest.hex}"
def best(work):
    times = []
    for _ in range(30):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1e3 * sorted(times)[len(times) // 2]
def hit():
    source = replace(release.source, paths={}, infos=dict(release.source.infos))
    replace(release, source=source).path(name)
print(json.dumps({
    "receipt ms": best(lambda: json.loads(Path(receipt).read_bytes())),
    "file ms": best(hit),
    "fetch ms": best(lambda: fetch(pinned)),
}))
"""


def main(rounds: int) -> None:
    """Run all of it."""
    with tempfile.TemporaryDirectory() as name, front(Path(name)) as served:
        variables = publish(served, Path(name), *SMALL, size=SIZE, layer=SIZE // 10)
        publish(served, Path(name), *REAL, size=SIZE, layer=LAYER)
        publish(served, Path(name), "admin/one", size=COUNT * SIZE)
        variables["PLACES"] = str(Path(name, "places"))
        Path(variables["PLACES"]).mkdir()
        _many("warm many: on loopback", served, variables, rounds=rounds)
        for title, rate, latency in LINES:
            with slowed(served, rate=rate, latency=latency, shared=True) as line:
                far = {**variables, **registry_of(line)}
                _many(title, line, far, rounds=min(rounds, 2))
        _hits(variables, rounds=min(rounds, 5))


def _many(title: str, served: Server, variables: Mapping[str, str], *, rounds: int) -> None:
    pids, size = ",".join(map(str, served.pids)), str(COUNT * SIZE)
    contenders = {
        f"{COUNT} models": (WARM, [pids, size, *SMALL]),
        f"… of {SIZE // LAYER} tensors": (WARM, [pids, size, *REAL]),
        "one of their size": (WARM, [pids, size, "admin/one"]),
        "floor": (FLOOR, [pids, size, *SMALL]),
        "bytes alone": (BYTES, [pids, size, "admin/one"]),
    }
    rows = interleave(contenders, rounds=rounds, environment=variables)
    many, _, one, _, alone = (min(row["s"] for row in some) for some in rows.values())
    targets = [
        Target(text="seconds / those of their bytes alone", value=many / alone, at_most=1.3),
        Target(text="seconds / those of one file of ours", value=many / one, at_most=1.3),
    ]
    report(f"{title}, {COUNT} models of {SIZE // 10**6} MB", rows, targets)


def _hits(variables: Mapping[str, str], *, rounds: int) -> None:
    rows = interleave({"hubstate": (HIT, [SMALL[0]])}, rounds=rounds, environment=variables)
    middle = medians(rows)["hubstate"]
    value = middle["file ms"] - middle["receipt ms"]
    target = Target(text="ms more than reading the receipt", value=value, at_most=2)
    report("warm hits: of 10 MB, cached", rows, [target])
