"""Many small models at once beside one file of their size, and what a cached file costs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from fetching import front, publish, registry_of
from harness import Target, interleave, medians, report
from serving import slowed

COUNT, SIZE = 50, 10_000_000
SMALL = [f"admin/small{number}" for number in range(COUNT)]

WARM = """
import json, sys, tempfile, time
from pathlib import Path
import requests
from hubstate.cache import Cache
from hubstate.warm import named, warm
repos = sys.argv[1:]
with tempfile.TemporaryDirectory() as place:
    began = time.perf_counter()
    proofs = warm(named(repos), cache=Cache([Path(place)]))
    seconds = time.perf_counter() - began
assert all(proof.complete for proof in proofs), [str(p.error) for p in proofs if p.error][:3]
size = sum(file.size for proof in proofs for file in proof.files)
print(json.dumps({"s": seconds, "MB/s": size / 1e6 / seconds}))
"""

# A warm hit: the file's path once its receipt was held against it; and the receipt's reading.
HIT = """
import json, sys, time
from dataclasses import replace
from pathlib import Path
from hubstate.cache import Cache
from hubstate.hub import fetch, open_release
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
        publish(served, Path(name), "admin/one", size=COUNT * SIZE)
        _many("warm many", "on loopback", variables, rounds=min(rounds, 5))
        with slowed(served, rate=125e6, latency=0.02, shared=True) as line:
            place = "by a line of 1 Gbit/s, 20 ms"
            far = {**variables, **registry_of(line)}
            _many("warm far", place, far, rounds=min(rounds, 2))
        _hits(variables, rounds=min(rounds, 5))


def _many(name: str, place: str, variables: Mapping[str, str], *, rounds: int) -> None:
    contenders = {
        f"{COUNT} models": (WARM, SMALL),
        "one of their size": (WARM, ["admin/one"]),
    }
    rows = interleave(contenders, rounds=rounds, environment=variables)
    many, one = (min(row["s"] for row in some) for some in rows.values())
    value = many / one
    target = Target(text="seconds / those of their bytes", value=value, at_most=1.3)
    report(f"{name}: {COUNT} models of {SIZE // 10**6} MB {place}", rows, [target])


def _hits(variables: Mapping[str, str], *, rounds: int) -> None:
    rows = interleave({"hubstate": (HIT, [SMALL[0]])}, rounds=rounds, environment=variables)
    middle = medians(rows)["hubstate"]
    value = middle["file ms"] - middle["receipt ms"]
    target = Target(text="ms more than reading the receipt", value=value, at_most=2)
    report("warm hits: of 10 MB, cached", rows, [target])
