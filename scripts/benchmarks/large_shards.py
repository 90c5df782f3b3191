"""A state over the default limit of one file: 6 GB are published, loaded again and compared.

Takes 20 GB of the disk, 13 GB of memory and some ten minutes, so that it runs only if it is named.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from harness import Row, Target, medians, report, run
from serving import CLIENT, environment, registry
from sharding import PUBLISH

MODEL = """
from torch import nn
from hubstate.zoo.builders import register_model

class Large(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5000, 5000, bias=False) for _ in range(60))

    def forward(self, x):
        x = x.flatten(1)[:, :5000]
        for layer in self.layers:
            x = layer(x).relu()
        return x

@register_model
def large(*, num_classes: int = 1, in_chans: int = 3):
    return Large()
"""
LOAD = """
import torch, hubstate, large
place, name, builder = sys.argv[1:]
began = time.perf_counter()
model = hubstate.create_model(builder, pretrained=name)
seconds = time.perf_counter() - began
torch.manual_seed(len(name))
true = hubstate.create_model(builder).state_dict()
assert all(torch.equal(true[key], tensor) for key, tensor in model.state_dict().items())
print(json.dumps({"fetch and load s": seconds}))
"""


def main(_: int) -> None:
    rows: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as name, registry(Path(name, "server")) as served:
        folder = Path(name)
        (folder / "large.py").write_text(MODEL)
        for kind, place in {"folder": str(folder / "registry"), "server": served.url}.items():
            with tempfile.TemporaryDirectory(dir=folder) as cache:
                more = {"HUBSTATE_CACHE": cache, "HUBSTATE_REGISTRY": place, "PYTHONPATH": name}
                stock = environment(served, folder / "home", HUBSTATE_TOKEN=served.token, **more)
                words = (place, "admin/large", "large")
                row = run(CLIENT + "import large\n" + PUBLISH, *words, "", environment=stock)
                row |= run(CLIENT + LOAD, *words, environment=stock)
            rows[f"to a {kind}"] = [row]
    targets = [
        Target(text=f"{kind}: {figure}", value=row[figure], at_most=row["largest MB"] + 200)
        for kind, row in medians(rows).items()
        for figure in ("peak here MB", "private, gate too MB")
    ]
    report("large shards: memory of publishing 6 GB besides the model", rows, targets)
