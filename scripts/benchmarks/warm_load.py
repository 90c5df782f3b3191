"""A warm ``resnet50(pretrained=True)`` in a cold process, against what people write today.

Every contender is timed from when torch is imported to when the model is loaded; what else it
imports counts. The first forward pays the page faults of mapped weights, so it is timed too.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from harness import Target, interleave, medians, report

HEAD = """
import json, os, sys, time
began = time.perf_counter()
import torch
imported = time.perf_counter()
def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) * 1024
before = anonymous()
start = time.perf_counter()
"""
TAIL = """
loaded = time.perf_counter()
private = anonymous() - before
model.eval()
with torch.no_grad():
    model(torch.zeros(1, 3, 64, 64))
done = time.perf_counter()
size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
with torch.no_grad():
    model(torch.zeros(1, 3, 64, 64))
again = time.perf_counter()
print(json.dumps({
    "load ms": (loaded - start) * 1e3,
    "1st forward ms": (done - loaded) * 1e3,
    "2nd forward ms": (again - done) * 1e3,
    "private % of weights": 100 * private / size,
    "process s": loaded - began,
}))
"""
BARE = """
import json, time
began = time.perf_counter()
import torch
print(json.dumps({"process s": time.perf_counter() - began}))
"""
OURS = "from hubstate.zoo import resnet50\nmodel = resnet50(pretrained=True{options})\n"
CATALOGUE = """
schema = 1

[[model]]
builder = "resnet50"
tag = "bench"
default = true
repository = "bench/resnet50"
license = "mit"
"""
# Building it with random values, then reading a pickle: what most model zoos do.
CLASSIC = """
from hubstate.zoo import resnet50
model = resnet50()
model.load_state_dict(torch.load(sys.argv[1], weights_only=True))
"""
META = """
from hubstate.zoo import resnet50
from safetensors.torch import load_file
with torch.device("meta"):
    model = resnet50()
model.load_state_dict(load_file(sys.argv[2]), assign=True)
"""
PUBLISH = """
import json, sys, torch, hubstate
from hubstate.zoo import resnet50
from safetensors.torch import save_file
torch.manual_seed(0)
model = resnet50()
hubstate.publish(model, "bench/resnet50", license="mit")
torch.save(model.state_dict(), sys.argv[1])
save_file(model.state_dict(), sys.argv[2])
hubstate.fetch("bench/resnet50").path("model.safetensors")
print(json.dumps({}))
"""


def main(rounds: int) -> None:
    from harness import run

    with tempfile.TemporaryDirectory() as folder:
        pickle, plain = f"{folder}/resnet50.pth", f"{folder}/resnet50.safetensors"
        environment = {
            **os.environ,
            "HUBSTATE_REGISTRY": str(Path(folder) / "registry"),
            "HUBSTATE_CACHE": str(Path(folder) / "cache"),
            "HUBSTATE_CATALOGUE": str(Path(folder) / "catalogue.toml"),
        }
        Path(folder, "catalogue.toml").write_text(CATALOGUE)
        run(PUBLISH, pickle, plain, environment=environment)
        files = (pickle, plain)
        contenders = {
            "bare import torch": (BARE, ()),
            "hubstate": (HEAD + OURS.format(options="") + TAIL, files),
            "hubstate prefault": (HEAD + OURS.format(options=", prefault=True") + TAIL, files),
            "hubstate copy": (HEAD + OURS.format(options=", copy=True") + TAIL, files),
            "init + torch.load": (HEAD + CLASSIC + TAIL, files),
            "meta + load_file + assign": (HEAD + META + TAIL, files),
        }
        rows = interleave(contenders, rounds=rounds, environment=environment)
    middle = medians(rows)
    ours = middle["hubstate"]
    load = ours["load ms"]
    faults = (ours["1st forward ms"] - ours["2nd forward ms"]) / 1e3
    bare = middle["bare import torch"]["process s"]
    targets = [
        Target(
            text="× faster than init + torch.load + load_state_dict",
            value=middle["init + torch.load"]["load ms"] / load,
            at_least=10,
        ),
        Target(
            text="× faster than meta + load_file + assign",
            value=middle["meta + load_file + assign"]["load ms"] / load,
            at_least=2,
        ),
        Target(text="private memory, % of weights", value=ours["private % of weights"], at_most=5),
        Target(
            text=f"process / bare import torch (page faults beside: {faults * 1e3:.0f} ms)",
            value=ours["process s"] / bare,
            at_most=1.05,
        ),
    ]
    report("warm load: resnet50, cached, cold process", rows, targets)
