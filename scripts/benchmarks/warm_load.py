"""A warm ``resnet50(pretrained=True)`` in a cold process, against what people write today.

What each contender imports is timed apart from what it then does; the whole process counts both.
The first forward pays the page faults of mapped weights, so it is timed too. Private memory is
what a process cannot share with others that load the same file. A process is compared with the
``import torch`` that it began with: between two processes that alone differs by more than all the
rest takes. Linux only: it reads /proc.
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
"""
IMPORTED = """
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
    "import ms": (start - imported) * 1e3,
    "load ms": (loaded - start) * 1e3,
    "1st forward ms": (done - loaded) * 1e3,
    "2nd forward ms": (again - done) * 1e3,
    "private % of weights": 100 * private / size,
    "import torch s": imported - began,
    "process s": loaded - began,
    "process / import torch": (loaded - began) / (imported - began),
}))
"""
OUR_IMPORTS = """
from hubstate.zoo import resnet50
import tomllib, hubstate.building, hubstate.endpoints.folder, hubstate.pretrained
"""
OURS = "model = resnet50(pretrained=True{options})\n"
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
CLASSIC_IMPORTS = "from hubstate.zoo import resnet50\n"
CLASSIC = """
model = resnet50()
model.load_state_dict(torch.load(sys.argv[1], weights_only=True))
"""
META_IMPORTS = """
from hubstate.zoo import resnet50
from safetensors.torch import load_file
"""
META = """
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


def _code(imports: str, load: str) -> str:
    return HEAD + imports + IMPORTED + load + TAIL


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
            "hubstate": (_code(OUR_IMPORTS, OURS.format(options="")), files),
            "hubstate prefault": (
                _code(OUR_IMPORTS, OURS.format(options=", prefault=True")),
                files,
            ),
            "hubstate copy": (_code(OUR_IMPORTS, OURS.format(options=", copy=True")), files),
            "init + torch.load": (_code(CLASSIC_IMPORTS, CLASSIC), files),
            "meta + load_file + assign": (_code(META_IMPORTS, META), files),
        }
        rows = interleave(contenders, rounds=rounds, environment=environment)
    middle = medians(rows)
    ours = middle["hubstate"]
    load = ours["load ms"]
    faults = (ours["1st forward ms"] - ours["2nd forward ms"]) / 1e3
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
            text=f"process / its import torch (page faults beside: {faults * 1e3:.0f} ms)",
            value=ours["process / import torch"],
            at_most=1.05,
        ),
    ]
    report("warm load: resnet50, cached, cold process", rows, targets)
