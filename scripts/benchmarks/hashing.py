"""What publish and verify hash per second, against hashlib on all cores."""

from __future__ import annotations

import tempfile

from harness import Row, Target, interleave, medians, report

CODE = """
import hashlib, json, os, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
path = Path(sys.argv[1])
from hubstate.manifest import hash_weights, verify_file
size = path.stat().st_size
data = bytes(64 << 20)
cores = os.cpu_count()
def timed(call):
    began = time.perf_counter(); call(); return time.perf_counter() - began
path.read_bytes()  # into the page cache
def everywhere():
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(lambda _: hashlib.sha256(data).digest(), range(4 * cores)))
record = hash_weights(path)
rates = {"hashlib": 4 * cores * len(data) / timed(everywhere) / 1e9}
rates["publish"] = 2 * size / timed(lambda: hash_weights(path)) / 1e9  # file and tensors: twice
rates["verify"] = size / timed(lambda: verify_file(path, record)) / 1e9
print(json.dumps({f"{name} GB/s": rate for name, rate in rates.items()}))
"""
WRITE = """
import json, sys, torch
from safetensors.torch import save_file
save_file({f"t{i}": torch.rand(4 << 20) for i in range(40)}, sys.argv[1])
print(json.dumps({}))
"""


def main(rounds: int) -> None:
    from harness import run

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/large.safetensors"
        run(WRITE, path)
        rows: dict[str, list[Row]] = interleave({"640 MiB": (CODE, (path,))}, rounds=rounds)
    middle = medians(rows)["640 MiB"]
    targets = [
        Target(
            text=f"{name} / hashlib on all cores",
            value=middle[f"{name} GB/s"] / middle["hashlib GB/s"],
            at_least=0.8,
        )
        for name in ("publish", "verify")
    ]
    report("hashing: all cores", rows, targets)
