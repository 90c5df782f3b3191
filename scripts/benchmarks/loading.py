"""``loadmodel`` in place against torch's own ``load_state_dict``, and how fast it can refuse."""

from __future__ import annotations

from harness import Row, Target, interleave, medians, report

CODE = """
import json, statistics, time, torch
from hubstate import loadmodel, state
from hubstate.zoo import resnet50
model, source = resnet50(), resnet50()
flat, tree = source.state_dict(), state(source)
def timed(call):
    began = time.perf_counter(); call(); return (time.perf_counter() - began) * 1e3
own, flats, trees = [], [], []
for _ in range(9):
    own.append(timed(lambda: model.load_state_dict(flat)))
    flats.append(timed(lambda: loadmodel(model, flat)))
    trees.append(timed(lambda: loadmodel(model, tree)))
class Many(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for i in range(1000):
            self.register_parameter(f"p{i}", torch.nn.Parameter(torch.zeros(4)))
many, wrong = Many(), {f"q{i}": torch.zeros(4) for i in range(1000)}
def fail():
    try:
        loadmodel(many, wrong)
    except ValueError as error:
        assert len(error.issues) == 2000 and str(error)
    else:
        raise AssertionError
failing = [timed(fail) for _ in range(5)]
middle = statistics.median
print(json.dumps({"load_state_dict ms": middle(own), "loadmodel(dict) ms": middle(flats),
    "loadmodel(state) ms": middle(trees), "1000 wrong names ms": middle(failing)}))
"""


def main(rounds: int) -> None:
    rows: dict[str, list[Row]] = interleave({"resnet50": (CODE, ())}, rounds=max(2, rounds // 2))
    middle = medians(rows)["resnet50"]
    own = middle["load_state_dict ms"]
    targets = [
        Target(
            text=f"{name} / load_state_dict",
            value=middle[f"{name} ms"] / own,
            at_most=1.3,
        )
        for name in ("loadmodel(dict)", "loadmodel(state)")
    ]
    targets.append(
        Target(
            text="ms to refuse 1000 wrong names", value=middle["1000 wrong names ms"], at_most=50
        )
    )
    report("loading: in place, resnet50", rows, targets)
