"""Every family at full size: construction without init, and a warm load beside what others do.

The classic way is to build with random values and to read a pickle into the model. It is timed for
the architecture here, and for torchvision's where torchvision can be imported. Each figure is of a
process of its own, which has imported torch and the family and has built nothing but a tiny model.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path

from harness import Row, Target, interleave, medians, report, run

from hubstate.zoo.index import FAMILIES

HEAD = """
import json, sys, time
import torch
import hubstate
from hubstate.building import skip_init
from hubstate.zoo.create import create_model, find_builder
name, pickle = sys.argv[1:]
find_builder(name)
import tomllib, hubstate.endpoints.folder, hubstate.pretrained
def timed(call):
    began = time.perf_counter(); result = call(); return (time.perf_counter() - began) * 1e3, result
"""
PUBLISH = """
model = create_model(name)
hubstate.publish(model, f"bench/{name}", license="mit", weights_only=True)
torch.save(model.state_dict(), pickle)
hubstate.fetch(f"bench/{name}").path("model.safetensors")
print(json.dumps({}))
"""
CONSTRUCT = """
import gc
def skipping():
    with skip_init():
        return create_model(name)
create_model("resnet18_small", width=4)
gc.disable()  # one collection of all that torch has made takes longer than either
print(json.dumps({"ms": timed(skipping if bare else lambda: create_model(name))[0]}))
"""
OURS = """
create_model("resnet18_small", width=4)
elapsed, model = timed(lambda: create_model(name, pretrained=f"bench/{name}"))
print(json.dumps({"ms": elapsed}))
"""
CLASSIC = """
def load():
    model = make()
    model.load_state_dict(torch.load(pickle, weights_only=True))
    return model
print(json.dumps({"ms": timed(load)[0]}))
"""
HERE = "make = lambda: create_model(name)\n"
TORCHVISION = """
try:
    import torchvision.models
except RuntimeError:  # its compiled operators are for another torch; none of them is called
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    import torchvision.models
make = lambda: torchvision.models.get_model(name, weights=None, **fixed)
known = name in torchvision.models.list_models()
fixed = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
"""
TIMM = (
    TORCHVISION
    + """
import timm  # after torchvision, which it imports
make = lambda: timm.create_model(name)
known = timm.is_model(name)
"""
)
TWINS = {"torchvision": TORCHVISION, "timm": TIMM}
SAVE = """
if known:
    torch.save(make().state_dict(), pickle)
print(json.dumps({"known": known}))
"""
FULL_WIDTH = {"mnasnet": "mnasnet1_0", "shufflenetv2": "shufflenet_v2_x1_0"}
"""The usual size of families whose first name is a narrower one."""


def main(rounds: int) -> None:
    for family, names in FAMILIES.items():
        _measure(family, FULL_WIDTH.get(family, names[0]), rounds=min(rounds, 3))


def _measure(family: str, name: str, *, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "HUBSTATE_REGISTRY": str(Path(folder) / "registry"),
            "HUBSTATE_CACHE": str(Path(folder) / "cache"),
        }
        arguments = (name, f"{folder}/weights.pth")
        run(HEAD + PUBLISH, *arguments, environment=environment)
        contenders = {
            "with init": (HEAD + "bare = False\n" + CONSTRUCT, arguments),
            "without init": (HEAD + "bare = True\n" + CONSTRUCT, arguments),
            "hubstate, warm": (HEAD + OURS, arguments),
            "init + torch.load": (HEAD + HERE + CLASSIC, arguments),
        }
        for library in filter(importlib.util.find_spec, TWINS):
            theirs = (name, f"{folder}/{library}.pth")
            if run(HEAD + TWINS[library] + SAVE, *theirs, environment=environment)["known"]:
                code = HEAD + TWINS[library] + CLASSIC
                contenders[f"{library} + torch.load"] = (code, theirs)
                break
        rows = interleave(contenders, rounds=rounds, environment=environment)
    report(f"zoo {family}: {name}", rows, _targets(medians(rows)))


def _targets(middle: dict[str, Row]) -> list[Target]:
    """The twin is the other library's; where there is none, the same network built as usual."""
    construction = middle["without init"]["ms"] / middle["with init"]["ms"]
    *_, twin = middle
    faster = middle[twin]["ms"] / middle["hubstate, warm"]["ms"]
    return [
        Target(text="construction without init / with init", value=construction, at_most=0.2),
        Target(text=f"× faster than {twin}", value=faster, at_least=5),
    ]
