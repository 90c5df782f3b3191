"""Xet with the stock client: uploads beside LFS, what is sent again, plain readers, memory."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness import Row, Target, medians, report, run
from serving import CLIENT, DOWNLOAD, Server, environment, nothing, registry

LAYERS, LAYER = 24, 8_380_000  # 201 MB in all

WRITE = """
import sys, numpy
path, seed, changed, count, size = sys.argv[1], *map(int, sys.argv[2:])
with open(path, "wb") as file:
    for layer in range(count):
        fresh = seed + 1000 * (layer >= count - changed) + 10_000 * layer
        values = numpy.random.default_rng(fresh).normal(0, 0.02, size // 2).astype("f4")
        file.write((values.view("u4") >> 16).astype("u2").tobytes())  # bfloat16
print("{}")
"""

# A client with an empty cache each time; begins when it is imported, ends with the commit.
UPLOAD = """
from huggingface_hub import HfApi
port, pid, path, repo = sys.argv[1:]
api = HfApi()
api.create_repo(repo, exist_ok=True)
cpu, own, began = used(pid), time.process_time(), time.perf_counter()
sent = received(port)
api.upload_file(path_or_fileobj=path, path_in_repo="w.safetensors", repo_id=repo)
gigabytes = os.path.getsize(path) / 1e9
print(json.dumps({"s": time.perf_counter() - began,
                  "server CPU s/GB": (used(pid) - cpu) / gigabytes,
                  "client CPU s/GB": (time.process_time() - own) / gigabytes,
                  "sent %": (received(port) - sent) / 1e7 / gigabytes}))
"""
COUNT = """
import urllib.request
def received(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        name = b"hubstate_registry_received_bytes_total "
        return next(float(l.split()[1]) for l in answer if l.startswith(name))
"""


def main(rounds: int) -> None:
    rounds = min(rounds, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with registry(folder / "registry", "--public-metrics") as served:
            _uploads(served, folder, rounds=rounds)
            _again(served, folder)
            _plain(served, rounds=rounds)
        with registry(folder / "fresh", "--public-metrics") as served:
            _memory(served, folder)


def _write(path: Path, seed: int, *, changed: int = 0, count: int = LAYERS) -> str:
    run(WRITE, str(path), str(seed), str(changed), str(count), str(LAYER))
    return str(path)


def _upload(served: Server, folder: Path, path: str, repo: str, **more: str) -> Row:
    with tempfile.TemporaryDirectory(dir=folder) as home:
        arguments = (str(served.port), str(served.pid), path, repo)
        variables = environment(served, Path(home), **more)
        return run(CLIENT + COUNT + UPLOAD, *arguments, environment=variables)


def _uploads(served: Server, folder: Path, *, rounds: int) -> None:
    """The client alone is the client with a server that takes everything and does nothing."""
    rows: dict[str, list[Row]] = {}
    with nothing() as sink:
        for number in range(rounds):
            for at, (way, off) in enumerate((("LFS", "1"), ("Xet", "0"))):
                for name, server in ((way, served), (f"{way}, client alone", sink)):
                    # new bytes: nothing is there already
                    path = _write(folder / "weights", 100 + 2 * number + at)
                    repo = f"admin/{way.lower()}{number}"
                    row = _upload(server, folder, path, repo, HF_HUB_DISABLE_XET=off)
                    rows.setdefault(name, []).append(row)
    middle = medians(rows)
    value = middle["Xet"]["s"] / middle["LFS"]["s"]
    target = Target(text="Xet / LFS, seconds", value=value, at_most=1.5)
    report("xet upload: 201 MB of new bfloat16, stock client", rows, [target])


def _again(served: Server, folder: Path) -> None:
    base = _write(folder / "base", 1)
    names = ("new", "identical, another repository", "last 2 of 24 layers changed")
    files = (base, base, _write(folder / "tuned", 1, changed=2))
    rows: dict[str, Sequence[Row]] = {
        name: [_upload(served, folder, path, f"admin/again{at}", HF_HUB_DISABLE_XET="0")]
        for at, (name, path) in enumerate(zip(names, files, strict=True))
    }
    targets = [
        Target(text=f"{name}: sent, % of the file", value=rows[name][0]["sent %"], at_most=most)
        for name, most in zip(names[1:], (0.5, 10), strict=True)
    ]
    report("xet again: 201 MB after its base was stored, client with no cache", rows, targets)


def _plain(served: Server, *, rounds: int) -> None:
    """The first plain read puts the file together; those after it find it so."""
    rows: dict[str, list[Row]] = {"came by LFS": [], "came by Xet, first": []}
    rows["came by Xet, again"] = []
    size = str(LAYERS * LAYER)
    for number in range(rounds):
        for name, repo in (
            ("came by LFS", "lfs"),
            ("came by Xet, first", "xet"),
            ("came by Xet, again", "xet"),
        ):
            path = f"/admin/{repo}{number}/resolve/main/w.safetensors"
            arguments = (str(served.port), str(served.pid), path, size)
            rows[name].append(run("import time; time.sleep(3)\n" + DOWNLOAD, *arguments))
    middle = medians(rows)
    value = middle["came by Xet, again"]["GB/s"] / middle["came by LFS"]["GB/s"]
    target = Target(text="came by Xet, again / came by LFS", value=value, at_least=0.8)
    report("xet plain: 201 MB over plain HTTP", rows, [target])


def _memory(served: Server, folder: Path) -> None:
    large = _write(folder / "large", 7, count=120)
    size, rows = str(120 * LAYER), dict[str, list[Row]]()
    row = _upload(served, folder, large, "admin/large", HF_HUB_DISABLE_XET="0")
    path = "/admin/large/resolve/main/w.safetensors"
    run(DOWNLOAD, str(served.port), str(served.pid), path, size)
    lfs = _write(folder / "large", 8, count=120)
    _upload(served, folder, lfs, "admin/large2", HF_HUB_DISABLE_XET="1")
    rows["Xet upload, plain read, LFS upload"] = [{**row, "peak MB": served.peak / 1e6}]
    target = Target(text="peak memory of the server, MB", value=served.peak / 1e6, at_most=150)
    report("xet memory: 1 GB of new bytes", rows, [target])
