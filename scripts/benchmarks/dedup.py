"""A fine-tune of resnet50 is fetched, with its base in the cache and without: bytes, time, disk.

The bytes are those that the server says it sent, everything included. What a cached file has on
the disk for itself is what its blocks do not share with others; on a file system that can share
blocks, name a folder of it in TMPDIR.
"""

from __future__ import annotations

import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from harness import Row, Target, medians, report, run
from serving import Server, registry, slowed

RATE, LATENCY = 2e6, 0.04  # bytes a second of each connection, and seconds: a registry far away

PUBLISH = """
import torch, hubstate
from hubstate.zoo import resnet50
def publish(name, model, **head):
    torch.manual_seed(7)
    model.fc = torch.nn.Linear(2048, model.fc.out_features)
    hubstate.publish(model, name, license="mit", weights_only=True)
torch.manual_seed(0)
base = resnet50()
hubstate.publish(base, "admin/base", license="mit")
same, other = resnet50(), resnet50(num_classes=100)
for model in (same, other):
    kept = {k: v for k, v in base.state_dict().items() if not k.startswith("fc.")}
    model.load_state_dict(kept, strict=False)
publish("admin/same", same)
publish("admin/other", other)
print("{}")
"""
FETCH = """
import json, sys, time
import requests, hubstate
began, cpu = time.perf_counter(), time.process_time()
release = hubstate.fetch(sys.argv[1])
print(json.dumps({
    "s": time.perf_counter() - began,
    "CPU s": time.process_time() - cpu,
    "path": str(release.path("model.safetensors")),
}))
"""
OWN = """
import fcntl, json, os, struct, sys
def own(path):
    own = 0
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        asked = bytearray(struct.pack("=QQLLLL", 0, 1 << 62, 0, 0, 4096, 0) + bytes(4096 * 56))
        try:
            fcntl.ioctl(file, 0xC020660B, asked)  # FS_IOC_FIEMAP
        except OSError:
            return 512 * os.stat(path).st_blocks
    for at in range(struct.unpack_from("=L", asked, 20)[0]):
        size, flags = struct.unpack_from("=Q16xL", asked, 32 + 56 * at + 16)
        own += 0 if flags & 0x2000 else size  # FIEMAP_EXTENT_SHARED
    return own
print(json.dumps({"own": own(sys.argv[1])}))
"""
CASES = {"another fc, 100 classes": "admin/other", "another fc, 1000 classes": "admin/same"}


def main(rounds: int) -> None:
    rounds = min(rounds, 5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with registry(folder / "registry", "--public-metrics") as server:
            run(PUBLISH, environment=_environment(server, server, folder / "cache"))
            _measure("loopback", server, server, folder, rounds, least=0.9)
            with slowed(server, rate=RATE, latency=LATENCY) as slow:
                _measure("a slow line", server, slow, folder, rounds, least=2)


def _measure(
    label: str, server: Server, front: Server, folder: Path, rounds: int, *, least: float
) -> None:
    rows: dict[str, list[Row]] = {}
    for _ in range(rounds):
        for case, name in CASES.items():
            for base in (False, True):
                row = _fetch(server, front, folder, name, base=base)
                rows.setdefault(f"{case}{', base cached' if base else ''}", []).append(row)
    middle = medians(rows)
    targets = []
    for case, classes in zip(CASES, (100, 1000), strict=True):
        reused, alone = middle[f"{case}, base cached"], middle[case]
        beside = reused["MB moved"] - 4 * classes * 2049 / 1e6
        value = 100 * beside / alone["MB moved"]
        targets.append(Target(text=f"{case}: % beside fc", value=value, at_most=1))
        value = _best(rows[case]) / _best(rows[f"{case}, base cached"])
        targets.append(Target(text=f"{case}: × as fast, best rounds", value=value, at_least=least))
    report(f"dedup {label}: a fine-tune of resnet50", rows, targets)


def _best(rows: Sequence[Row]) -> float:
    """Seconds; the disk, which others use too, takes as long as the rest."""
    return min(row["s"] for row in rows)


def _fetch(server: Server, front: Server, folder: Path, name: str, *, base: bool) -> Row:
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        environment = _environment(server, front, Path(cache))
        if base:
            run(FETCH, "admin/base", environment=environment)
        before = _sent(server)
        row = run(FETCH, name, environment=environment)
        moved = _sent(server) - before
        own = run(OWN, str(row.pop("path")), environment=environment)["own"]
        return {**row, "MB moved": moved / 1e6, "own MB on disk": own / 1e6}


def _environment(server: Server, front: Server, cache: Path) -> dict[str, str]:
    return {
        "HUBSTATE_REGISTRY": front.url,
        "HF_ENDPOINT": front.url,
        "HUBSTATE_CACHE": str(cache),
        "HF_TOKEN": server.token,
        "HOME": str(cache.parent),
    }


def _sent(server: Server) -> float:
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:
        name = b"hubstate_registry_sent_bytes_total "
        return next(float(line.split()[1]) for line in answer if line.startswith(name))
