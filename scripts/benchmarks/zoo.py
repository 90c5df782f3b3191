"""Every family at full size: construction without init, and a warm load beside what others do.

The classic way is to build with random values and to read a pickle into the model. It is timed for
the architecture here, and for torchvision's where torchvision can be imported. Each figure is of a
process of its own, which has imported torch and the family and has built nothing but a tiny model.
"""

from __future__ import annotations

import importlib
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
def skipping():
    with skip_init():
        return create_model(name)
create_model("resnet18_small", width=4)
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
THEIRS = """
import torchvision.models
make = lambda: torchvision.models.get_model(name, weights=None)
"""


def main(rounds: int) -> None:
    for family, names in FAMILIES.items():
        _measure(family, names[0], rounds=min(rounds, 3))


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
            "with init": HEAD + "bare = False\n" + CONSTRUCT,
            "without init": HEAD + "bare = True\n" + CONSTRUCT,
            "hubstate, warm": HEAD + OURS,
            "init + torch.load": HEAD + HERE + CLASSIC,
        }
        if _has_torchvision(name):
            contenders["torchvision + torch.load"] = HEAD + THEIRS + CLASSIC
        rows = interleave(
            {title: (code, arguments) for title, code in contenders.items()},
            rounds=rounds,
            environment=environment,
        )
    report(f"zoo {family}: {name}", rows, _targets(medians(rows)))


def _targets(middle: dict[str, Row]) -> list[Target]:
    ours = middle["hubstate, warm"]["ms"]
    construction = middle["without init"]["ms"] / middle["with init"]["ms"]
    twin = "torchvision + torch.load"
    return [
        Target(text="construction without init / with init", value=construction, at_most=0.2),
        *(
            Target(text=f"× faster than {title}", value=middle[title]["ms"] / ours, at_least=5)
            for title in ("init + torch.load", twin)
            if title in middle
        ),
    ]


def _has_torchvision(name: str) -> bool:
    if importlib.util.find_spec("torchvision") is None:
        return False
    try:
        models = importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError):  # built for another torch
        return False
    return name in models.list_models()
