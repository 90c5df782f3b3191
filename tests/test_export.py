"""Weights for elsewhere: the same bits when they come back, and nothing half-written."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from commands import Run
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import load_file
from torch import nn
from toys import Toy, tied, toy

import hubstate
from hubstate.convert import export_weights, layout_rules, read_foreign
from hubstate.convert.hdf5 import load_hdf5
from hubstate.errors import Conflict, HubstateError, InvalidSetting, InvalidWeights
from hubstate.subject import Subject, open_subject
from hubstate.transforms import resolve
from hubstate.weights import save_weights
from hubstate.zoo import resnet18

STATE = {
    "conv.weight": torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1)),
    "conv.bias": torch.tensor([0.0, float("nan"), float("inf"), -0.0]),
    "bn.num_batches_tracked": torch.tensor(7),
    "mask": torch.tensor([True, False]),
    "half": torch.randn(5, generator=torch.Generator().manual_seed(2)).half(),
    "empty": torch.zeros(0, 3),
}


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    path = tmp_path / "source.safetensors"
    save_weights(path, STATE)
    return open_subject(str(path))


def same_bits(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype
        and a[n].shape == b[n].shape
        and a[n].numpy().tobytes() == b[n].numpy().tobytes()
        for n in a
    )


ENDINGS = {"pth": "a.pth", "npz": "a.npz", "hdf5": "a.h5", "safetensors": "a.safetensors"}


@pytest.mark.parametrize(("to", "name"), ENDINGS.items())
def test_every_format_brings_back_every_bit(
    to: str, name: str, subject: Subject, tmp_path: Path
) -> None:
    export_weights(subject, tmp_path / name, to=to)
    found = read_foreign(tmp_path / name, key=".").tensors
    assert same_bits({n: found[n] for n in sorted(found)}, {n: STATE[n] for n in sorted(STATE)})
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "source.safetensors"])


@pytest.mark.parametrize("to", ["pth", "npz", "hdf5", "safetensors"])
def test_the_owners_of_a_format_read_it(to: str, subject: Subject, tmp_path: Path) -> None:
    path = tmp_path / "out"
    export_weights(subject, path, to=to)
    if to == "pth":
        found = torch.load(path, weights_only=True)["conv.weight"]
    elif to == "npz":
        found = torch.from_numpy(np.load(path, allow_pickle=False)["conv.weight"])
    elif to == "hdf5":
        with h5py.File(path) as file:
            found = torch.from_numpy(file["conv/weight"][()])
    else:
        found = load_file(path)["conv.weight"]
    assert torch.equal(found, STATE["conv.weight"])


@pytest.mark.parametrize("to", ["pth", "npz", "safetensors"])
def test_equal_weights_give_equal_files(to: str, subject: Subject, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_weights(subject, tmp_path / name, to=to)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_tie_is_one_tensor_in_a_pth_and_each_name_elsewhere(tmp_path: Path) -> None:
    source, path = tmp_path / "s.safetensors", tmp_path / "out"
    save_weights(source, tied().state_dict(keep_vars=True))
    subject = open_subject(str(source))
    export_weights(subject, path, to="pth")
    found = torch.load(path, weights_only=True)
    assert found["embed.weight"].data_ptr() == found["out.weight"].data_ptr()
    assert list(found) == ["embed.weight", "out.weight"]
    export_weights(subject, path, to="npz", force=True)
    with np.load(path) as arrays:
        assert sorted(arrays.files) == ["embed.weight", "out.weight"]


def test_what_numpy_lacks_is_named_and_widened_when_asked(tmp_path: Path) -> None:
    source = tmp_path / "s.safetensors"
    weight = torch.randn(4).bfloat16()
    save_weights(
        source, {"a": weight, "b": torch.zeros(1).to(torch.float8_e5m2), "c": weight.float()}
    )
    subject = open_subject(str(source))
    for to in ("npz", "hdf5"):
        path = tmp_path / to
        with pytest.raises(InvalidWeights, match=r"a: NumPy has no bfloat16(.|\n)*b: NumPy has no"):
            export_weights(subject, path, to=to)
        assert not path.exists()
        written = export_weights(subject, path, to=to, widen=True)
        assert written["a"].dtype == torch.float32
        assert torch.equal(written["a"].bfloat16(), weight)
    assert torch.equal(read_foreign(tmp_path / "npz", format="npz").tensors["a"], weight.float())


def test_transforms_are_applied_and_lead_back(subject: Subject, tmp_path: Path) -> None:
    rules = [{"transpose": r"conv\.weight", "order": [2, 3, 1, 0]}, {"rename": {"mask": "m"}}]
    export_weights(subject, tmp_path / "a.npz", to="npz", transforms=rules)
    found = read_foreign(tmp_path / "a.npz").tensors
    assert found["conv.weight"].shape == (3, 3, 3, 4)
    back = resolve(resolve(rules, STATE).inverse(), found).apply(found)
    assert same_bits(back, {n: STATE[n] for n in back})
    assert back.keys() == STATE.keys()


def test_a_layouts_inverse_exports_to_its_framework(tmp_path: Path) -> None:
    """Keras's weights come in, and the inverse of the same rules writes them as they were."""
    torch.manual_seed(0)
    names = {"conv.kernel": (3, 2, 3, 4), "conv.bias": (4,), "fc.kernel": (4, 5), "bn.gamma": (4,)}
    keras = {name: torch.randn(shape) for name, shape in names.items()}
    there = resolve(layout_rules("keras", keras), keras)
    save_weights(tmp_path / "ours.safetensors", there.apply(keras))
    subject = open_subject(str(tmp_path / "ours.safetensors"))
    export_weights(subject, tmp_path / "back.h5", to="hdf5", transforms=there.inverse())
    assert same_bits(
        dict(sorted(load_hdf5(tmp_path / "back.h5").items())), dict(sorted(keras.items()))
    )


def test_what_is_there_is_not_replaced(subject: Subject, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_text("mine")
    with pytest.raises(Conflict, match="there is something already"):
        export_weights(subject, path, to="pth")
    assert path.read_text() == "mine"
    export_weights(subject, path, to="pth", force=True)
    assert torch.load(path, weights_only=True).keys() == STATE.keys()


def test_a_failure_leaves_nothing_behind(subject: Subject, tmp_path: Path) -> None:
    rules = [{"rename": {"mask": "conv"}}]  # a group and an array at once
    with pytest.raises(InvalidWeights, match=r"conv.*HDF5 cannot hold it"):
        export_weights(subject, tmp_path / "a.h5", to="hdf5", transforms=rules)
    with pytest.raises(InvalidSetting, match="expected one of folder"):
        export_weights(subject, tmp_path / "a.h5", to="onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["source.safetensors"]


def test_a_missing_package_is_named_with_the_file_that_was_asked_for(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(HubstateError, match=r"^a\.h5: HDF5 needs h5py.*hubstate\[hdf5\]"):
        export_weights(subject, tmp_path / "a.h5", to="hdf5")
    assert [p.name for p in tmp_path.iterdir()] == ["source.safetensors"]


def test_a_bare_file_makes_no_folder_that_loads(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(HubstateError, match="who builds the model"):
        export_weights(subject, tmp_path / "folder", to="folder")
    assert not (tmp_path / "folder").exists()


class Mixin(nn.Module, PyTorchModelHubMixin):
    """As somebody else wrote it: the mixin passes the config's names to the constructor."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        inner = Toy(width, num_classes)
        self.conv, self.bn, self.fc = inner.conv, inner.bn, inner.fc


def test_a_release_becomes_a_folder_that_the_mixin_loads(run: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = toy(width=6)
    hubstate.publish(model, "org/toy", license="mit", labels=["a", "b", "c", "d"])
    folder = tmp_path / "folder"
    code, out, err = run("export", "org/toy", str(folder), "--to", "folder", "--json")
    assert code == 0, err
    assert json.loads(out)["tensors"] == len(model.state_dict())
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    loaded = Mixin.from_pretrained(str(folder))
    assert same_bits(loaded.state_dict(), model.state_dict())
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "toy"
    assert config["pretrained_cfg"]["label_names"] == ["a", "b", "c", "d"]
    assert run("export", "org/toy", str(folder), "--to", "folder")[0] == 7
    (folder / "stray").write_text("old")
    assert run("export", "org/toy", str(folder), "--to", "folder", "--force")[0] == 0
    assert not (folder / "stray").exists()
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.peer
def test_a_release_becomes_a_folder_that_timm_loads(tmp_path: Path) -> None:
    if find_spec("timm") is None:
        pytest.skip("timm is not installed")
    try:
        timm = import_module("timm")
    except RuntimeError:  # torchvision's compiled operators are for another torch; none is called
        for name in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{name}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor"
            )
        timm = import_module("timm")
    torch.manual_seed(0)
    model = resnet18(num_classes=3).eval()
    labels = ["a", "b", "c"]
    hubstate.publish(model, "org/r18", license="mit", labels=labels, probe=(1, 3, 32, 32))
    export_weights(open_subject("org/r18"), tmp_path / "folder", to="folder")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True).eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(theirs(images), model(images), atol=1e-6)
    assert theirs.pretrained_cfg["num_classes"] == 3
    assert list(theirs.pretrained_cfg["label_names"]) == labels


def test_the_command_takes_rules_from_a_file(run: Run, subject: Subject, tmp_path: Path) -> None:
    rules = tmp_path / "rules.json"
    rules.write_text('[{"drop": "mask"}]')
    path = tmp_path / "a.npz"
    words = ["export", subject.name, str(path), "--to", "npz", "--transforms", str(rules)]
    code, out, err = run(*words)
    assert code == 0, err
    assert f"{len(STATE) - 1} tensors" in out
    assert "mask" not in read_foreign(path).tensors
    assert run("export", "org/none", str(tmp_path / "b.npz"), "--to", "npz")[0] == 3


def test_help_shows_an_example(run: Run) -> None:
    assert "Example:\n    hubstate export " in run("export", "--help")[1]
