"""Looking at releases and files: what they hold, and how two of them differ."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Run
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from toys import Toy, tied, toy

import hubstate
from hubstate.deviation import deviation
from hubstate.weights import save_weights


def trained(seed: int = 0) -> Toy:
    torch.manual_seed(seed)
    model: Toy = toy()
    return model


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry: v1; v2 has another metric, v3 other values, v4 another structure."""
    folder = tmp_path_factory.mktemp("registry")

    def publish(tag: str, *, seed: int = 0, eps: float = 1e-5, **more: Any) -> None:
        model = trained(seed)
        model.bn.eps = eps
        meaning = {"license": "mit", "metrics": {"accuracy": 0.5}, "labels": ["a", "b"], **more}
        hubstate.publish(model, "org/toy", branch=tag, registry=str(folder), **meaning)

    publish("v1")
    publish("v2", metrics={"accuracy": 0.75})
    publish("v3", seed=1)
    publish("v4", eps=0.25, weights_only=True)
    return folder


@pytest.fixture
def releases(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBSTATE_REGISTRY", str(shelf))


@pytest.mark.usefixtures("releases")
def test_a_release_is_shown_as_a_tree(run: Run) -> None:
    code, out, err = run("show", "org/toy@v1")
    assert code == 0, err
    assert "toy(in_chans=3, num_classes=4, width=8)" in out
    for said in ("licence       mit", "accuracy=0.5", "labels        2: a, b"):
        assert said in out
    lines = out.splitlines()
    (weight,) = [line for line in lines if line.startswith("│   ├── weight") and "3 × 3" in line]
    assert weight.split("weight")[1].split(maxsplit=1) == ["float32", "8 × 3 × 3 × 3  864 B"]
    assert any(line.startswith("└── fc") and "Linear" in line for line in lines)


@pytest.mark.usefixtures("releases")
def test_no_weights_are_fetched_to_show_a_release(run: Run) -> None:
    run("show", "org/toy@v1")
    (entry,) = json.loads(run("cache", "ls", "--json")[1])["releases"]
    assert entry["present"] == ["hubstate.json"]


@pytest.mark.usefixtures("releases")
def test_show_as_json_has_every_entry_and_its_bytes(run: Run) -> None:
    release = hubstate.open_release("org/toy@v1")
    assert release.manifest is not None
    data = json.loads(run("show", "org/toy@v1", "--json")[1])
    assert data["commit"] == release.commit.id
    assert data["structure_hash"] == str(release.manifest.structure_hash)
    entries = {entry["path"]: entry for entry in data["structure"]}
    assert entries["conv.weight"]["bytes"] == 8 * 3 * 3 * 3 * 4
    assert entries["bn"]["class"].endswith("BatchNorm2d")
    state = toy().state_dict()
    assert data["totals"]["bytes"] == sum(t.nbytes for t in state.values())
    assert data["totals"]["tensors"] == len(state)
    assert data["totals"]["parameters"] == sum(p.numel() for p in toy().parameters())


@pytest.mark.usefixtures("releases")
def test_the_tree_ends_at_the_depth_that_is_asked_for(run: Run) -> None:
    out = run("show", "org/toy@v1", "--depth", "1")[1]
    assert "running_mean" not in out
    assert "5 tensors" in out
    assert "9 tensors" in run("show", "org/toy@v1", "--depth", "0")[1].splitlines()[-1]


def test_a_tie_is_shown_and_counted_once(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "tied.safetensors"
    save_weights(path, tied().state_dict(keep_vars=True))
    out = run("show", str(path))[1]
    assert "= embed.weight" in out
    data = json.loads(run("show", str(path), "--json")[1])
    assert data["totals"]["bytes"] == 16 * 8 * 4
    assert data["totals"]["ties"] == 1


def test_a_file_alone_is_shown_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a.b": torch.zeros(2, 3)}, path)
    code = (
        "import sys\nfrom hubstate.cli import main\n"
        f"try:\n    main(['show', {str(path)!r}])\n"
        "except SystemExit as end:\n    print(end.code, 'torch' in sys.modules)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.splitlines()[-1] == "0 False", answer.stderr
    assert "2 × 3" in answer.stdout


def test_what_is_not_there_or_damaged_has_its_exit_code(run: Run, tmp_path: Path) -> None:
    assert run("show", "org/none")[0] == 3
    assert run("show", str(tmp_path / "none.safetensors"))[0] == 3
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 20)
    assert run("show", str(tmp_path / "bad.safetensors"))[0] == 5
    (tmp_path / "a.pth").write_bytes(b"PK\x03\x04 and more")
    code, _, err = run("show", str(tmp_path / "a.pth"))
    assert (code, "a.pth" in err, "hubstate import reads other formats" in err) == (5, True, True)


@pytest.mark.usefixtures("releases")
def test_a_release_equals_itself(run: Run) -> None:
    code, out, _ = run("diff", "org/toy@v1", "org/toy@v1", "--json")
    assert code == 0
    same = {"added": [], "removed": [], "reshaped": {}, "changed": [], "meaning": {}}
    assert json.loads(out) == {**same, "equal": 9, "differ": False}


@pytest.mark.usefixtures("releases")
def test_metadata_that_differs_is_shown_old_and_new(run: Run) -> None:
    code, out, _ = run("diff", "org/toy@v1", "org/toy@v2")
    assert code == 1
    assert 'metrics: {"accuracy": 0.5} -> {"accuracy": 0.75}' in out
    data = json.loads(run("diff", "org/toy@v1", "org/toy@v2", "--json")[1])
    assert data["meaning"] == {"metrics": [{"accuracy": 0.5}, {"accuracy": 0.75}]}


@pytest.mark.usefixtures("releases")
def test_releases_are_compared_by_their_manifests_alone(run: Run) -> None:
    data = json.loads(run("diff", "org/toy@v1", "org/toy@v3", "--json")[1])
    assert "conv.weight" in data["changed"]
    for entry in json.loads(run("cache", "ls", "--json")[1])["releases"]:
        assert entry["present"] == ["hubstate.json"]


@pytest.mark.usefixtures("releases")
def test_a_release_is_compared_with_a_file_by_how_much(run: Run, tmp_path: Path) -> None:
    state = trained().state_dict()
    largest = float(state["conv.weight"].abs().max())
    state["conv.weight"][0, 0, 0, 0] += 0.5
    state["fc.extra"] = torch.zeros(1)
    state["fc.weight"] = state["fc.weight"][:2].clone()
    del state["bn.bias"]
    path = tmp_path / "new.safetensors"
    save_file(state, path)
    code, out, err = run("diff", "org/toy@v1", str(path), "--values", "--json")
    assert code == 1, err
    data = json.loads(out)
    assert data["added"] == ["fc.extra"]
    assert data["removed"] == ["bn.bias"]
    assert data["reshaped"] == {"fc.weight": ["float32 (4, 8)", "float32 (2, 8)"]}
    assert data["changed"] == ["conv.weight"]
    amount = data["values"]["conv.weight"]
    assert amount["elements"] == 1
    assert amount["absolute"] == pytest.approx(0.5, rel=1e-6)
    assert amount["relative"] == pytest.approx(0.5 / largest, rel=1e-6)
    text = run("diff", "org/toy@v1", str(path), "--values")[1]
    assert "conv.weight: 1 of 216 values, by 0.5 at most" in text
    assert "tensors alone were compared" in text


@pytest.mark.usefixtures("releases")
def test_another_structure_is_named_by_its_entries(run: Run) -> None:
    out = run("diff", "org/toy@v1", "org/toy@v4")[1]
    assert 'structure: bn.eps: {"kind": "data", "value": 1e-05} -> ' in out
    assert "0.25" in out
    assert "builder: " in out


@given(st.lists(st.floats(width=32), min_size=1, max_size=20), st.data())
def test_a_deviation_is_what_the_definition_says(old: list[float], data: st.DataObject) -> None:
    new = data.draw(st.lists(st.floats(width=32), min_size=len(old), max_size=len(old)))
    found = deviation(torch.tensor(old), torch.tensor(new))
    pairs = [(a, b) for a, b in zip(old, new, strict=True) if a != b and not (a != a and b != b)]
    gaps = [abs(a - b) for a, b in pairs]
    worst = math.nan if any(gap != gap for gap in gaps) else max(gaps, default=0.0)
    assert found.elements == len(pairs)
    assert found.absolute == worst or (math.isnan(worst) and math.isnan(found.absolute))
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.complex64, torch.float8_e4m3fn],
)
def test_every_dtype_has_a_deviation(dtype: torch.dtype) -> None:
    old = torch.tensor([0.0, 1.0, 1.0]).to(dtype)
    new = torch.tensor([0.0, 1.0, 0.0]).to(dtype)
    assert deviation(old, old).elements == 0
    assert (deviation(old, new).elements, deviation(old, new).absolute) == (1, 1.0)


def test_large_integers_that_differ_in_the_last_bit_differ() -> None:
    old = torch.tensor([2**60])
    assert deviation(old, old + 1).elements == 1
    assert deviation(old, torch.tensor([2**60])).elements == 0


def test_names_from_strangers_send_nothing_to_the_terminal(run: Run, tmp_path: Path) -> None:
    evil = tmp_path / "evil.safetensors"
    save_file({"a\x1b[2J\x9b31m\u202e.w": torch.zeros(1)}, evil)
    save_file({"b": torch.zeros(1)}, tmp_path / "b.safetensors")
    for words in (["show", str(evil)], ["diff", str(evil), str(tmp_path / "b.safetensors")]):
        _, out, err = run(*words)
        assert "\\x1b[2J" in out
        assert not {"\x1b", "\x9b", "\u202e"} & {*out, *err}
    _, _, err = run("show", "org/\x1b[2J")
    assert "\x1b" not in err


@pytest.mark.parametrize("command", ["show", "diff"])
def test_every_help_shows_an_example(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"Example:\n    hubstate {command} " in out
