"""Weights from elsewhere: the same numbers before and after, and nothing of a file is executed."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pickle
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import h5py
import msgpack
import numpy as np
import pytest
import torch
from commands import Run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from toys import Toy, toy

import hubstate
from hubstate.convert import layout_rules, read_foreign
from hubstate.convert.arrays import load_npz
from hubstate.convert.flax import load_msgpack
from hubstate.convert.hdf5 import load_hdf5
from hubstate.convert.holder import hold
from hubstate.convert.jld2 import load_jld2
from hubstate.convert.nesting import find_weights
from hubstate.convert.torchfile import load_pickle
from hubstate.errors import HubstateError, InvalidSetting, InvalidWeights, NotFound
from hubstate.transforms import resolve

GOLDEN = Path(__file__).parent / "golden" / "foreign"


def trained() -> Toy:
    torch.manual_seed(3)
    model: Toy = toy()
    nn.init.normal_(model.bn.running_mean)
    nn.init.uniform_(model.bn.running_var, 0.5, 2)
    return model


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a
    )


# torch


class Hostile:
    """A pickle that runs a command where it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def test_a_hostile_pickle_is_refused_and_nothing_runs(tmp_path: Path, run: Run) -> None:
    path, mark = tmp_path / "evil.pth", tmp_path / "mark"
    torch.save({"state_dict": toy().state_dict(), "extra": Hostile(mark)}, path)
    code, _, err = run("import", str(path))
    assert code == 5
    assert "evil.pth: refused: the pickle asks for" in err
    assert "system" in err
    assert not mark.exists()


def test_a_whole_model_is_refused_and_told_what_to_save(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(toy(), path)
    with pytest.raises(InvalidWeights, match=r"asks for toys\.Toy.*state_dict\(\)"):
        load_pickle(path)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    for data in (b"", b"nonsense", b"PK\x03\x04 and no more", b"\x80\x02."):
        path.write_bytes(data)
        with pytest.raises(InvalidWeights, match=r"a\.pth"):
            load_pickle(path)


def test_a_small_file_cannot_claim_large_tensors(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    torch.save({"w": torch.zeros(1).expand(10**12)}, path)
    with pytest.raises(InvalidWeights, match="would take 4,000,000,000,000 bytes"):
        load_pickle(path)


def test_a_compressed_file_cannot_claim_large_tensors(tmp_path: Path) -> None:
    """The sizes are looked at before anything is unpacked."""
    loads = {"bomb.npz": load_npz, "bomb.pth": load_pickle, "bomb.keras": load_hdf5}
    for name, load in loads.items():
        path = tmp_path / name
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model.weights.h5", b"")
            archive.infolist()[0].file_size = 10**12
        with pytest.raises(InvalidWeights, match=rf"{name}: refused: .* 1,000,000,000,000 bytes"):
            load(path)


def test_what_is_the_same_again_and_again_is_not_unfolded(tmp_path: Path) -> None:
    path, tree = tmp_path / "laughs.pth", [torch.zeros(1)]
    for _ in range(60):
        tree = [tree, tree]  # type: ignore[list-item]
    torch.save({"w": tree}, path)
    with pytest.raises(InvalidWeights, match="more than 16,777,216 values"):
        load_pickle(path)
    own: dict[str, Any] = {"w": torch.zeros(1)}
    own["again"] = own
    torch.save(own, path)
    assert set(load_pickle(path)) == {"w", "again"}


def test_a_pickle_without_a_name_for_what_it_asks_is_told_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "plain.pth"
    path.write_bytes(pickle.dumps({"w": [1.0]}, protocol=4))
    with pytest.raises(InvalidWeights, match="Unsupported operand 149") as caught:
        load_pickle(path)
    assert "weights_only`" not in str(caught.value)


def test_a_checkpoint_is_read_from_under_its_key(tmp_path: Path) -> None:
    path = tmp_path / "run.pth"
    model = trained()
    wrapped = {f"module.{name}": t for name, t in model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": wrapped, "optimizer": {"lr": 0.1}}, path)
    found = read_foreign(path)
    assert equal(found.tensors, dict(model.state_dict()))
    assert (found.key, found.cut) == ("state_dict", "module.")
    assert set(found.left_out) == {"epoch", "optimizer"}
    assert "found under 'state_dict'" in str(found)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module"])
def test_the_usual_keys_are_known(key: str) -> None:
    assert find_weights({key: {"w": torch.zeros(1)}, "step": 1}).key == key


def test_keys_may_lie_in_keys() -> None:
    tree = {"model": {"state_dict": {"a.w": torch.zeros(1)}, "cfg": {}}, "epoch": 1}
    found = find_weights(tree)
    assert found.key == "model.state_dict"
    assert list(found.tensors) == ["a.w"]
    assert set(found.left_out) == {"epoch", "model.cfg"}


def test_a_key_that_is_given_is_taken() -> None:
    tree = {"state_dict": {"w": torch.zeros(1)}, "ema": {"model.x": {"w": torch.ones(1)}}}
    assert find_weights(tree, key="ema.model.x").tensors["w"].item() == 1
    assert set(find_weights(tree, key=".").tensors) == {"state_dict.w", "ema.model.x.w"}
    with pytest.raises(InvalidWeights, match=r"nothing: not in the checkpoint; its keys are state"):
        find_weights(tree, key="nothing")
    with pytest.raises(InvalidWeights, match="found none"):
        find_weights({"epoch": 3})


def test_an_optimizer_is_not_taken_for_weights() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.zeros(1, 2)).sum().backward()
    optimizer.step()
    tree = {"net_a": model.state_dict(), "optimizer": optimizer.state_dict()}
    assert set(find_weights(tree).tensors) == {"net_a.weight", "net_a.bias"}


def test_ties_stay_ties(tmp_path: Path) -> None:
    path = tmp_path / "tied.pt"
    weight = torch.randn(3, 2)
    torch.save({"model": collections.OrderedDict(a=weight, b=weight)}, path)
    found = read_foreign(path, key="model").tensors
    assert found["a"].data_ptr() == found["b"].data_ptr()
    assert torch.equal(found["a"], weight)


# NumPy and safetensors


def test_arrays_are_read_with_their_dtypes(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    arrays = {
        "a/kernel": np.arange(6, dtype=">f4").reshape(2, 3),
        "b": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "c": np.array(True),
        "d": np.arange(3, dtype=np.uint16),
    }
    np.savez(path, **arrays)
    found = read_foreign(path).tensors
    assert list(found) == ["a.kernel", "b", "c", "d"]
    for name, array in zip(found, arrays.values(), strict=True):
        assert np.array_equal(found[name].numpy(), array)


def test_objects_in_npz_are_refused_by_name(tmp_path: Path) -> None:
    path, mark = tmp_path / "evil.npz", tmp_path / "mark"
    np.savez(path, w=np.zeros(2), evil=np.array([Hostile(mark)], dtype=object), text=np.array("x"))
    with pytest.raises(InvalidWeights, match=r"evil: Python objects(.|\n)*text: torch has no"):
        read_foreign(path)
    assert not mark.exists()
    path.write_bytes(b"PK nonsense")
    with pytest.raises(InvalidWeights, match=r"evil\.npz"):
        read_foreign(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name_in_npz_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.npz"
    np.savez(path, w=np.zeros(2))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("w.npy", archive.read("w.npy"))
    with pytest.raises(InvalidWeights, match="w: two arrays have this name"):
        read_foreign(path)


def test_a_safetensors_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    state = {"model.w": torch.randn(2), "step": torch.tensor(3)}
    save_file(state, path)
    assert equal(read_foreign(path).tensors, state)


def test_an_ending_that_tells_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"weights\.xyz.*known are \.pth"):
        read_foreign(tmp_path / "weights.xyz")
    with pytest.raises(InvalidSetting, match="expected one of torch"):
        read_foreign(tmp_path / "weights", format="xyz")
    with pytest.raises(NotFound, match="no such file"):
        read_foreign(tmp_path / "weights.npz")


@pytest.mark.parametrize(("package", "file"), [("h5py", "a.h5"), ("msgpack", "a.msgpack")])
def test_a_missing_package_is_named(
    package: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / file).write_bytes(b"")
    load = load_hdf5 if package == "h5py" else load_msgpack
    with pytest.raises(HubstateError, match=f"needs {package}.*pip install 'hubstate"):
        load(tmp_path / file)


SMALL = {"a": torch.ones(3), "b": {"c": torch.zeros(2, 2)}}


def _npz(path: Path) -> None:
    np.savez_compressed(path, a=np.ones((3, 2), "f4"), b=np.arange(4))


def _flax(path: Path) -> None:
    path.write_bytes((GOLDEN / "flax.msgpack").read_bytes())


READERS = {
    "npz": (_npz, load_npz),
    "flax": (_flax, load_msgpack),
    "torch": (lambda path: torch.save(SMALL, path), load_pickle),
}


@pytest.mark.parametrize("format", READERS)
@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_anywhere_is_refused_or_changes_values_alone(
    format: str, data: st.DataObject, tmp_path: Path
) -> None:
    write, load = READERS[format]
    path = tmp_path / "file.npz"
    write(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    with contextlib.suppress(InvalidWeights), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of duplicate names in a zip
        find_weights(load(path), key=".")


def test_a_damaged_hdf5_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    whole = (GOLDEN / "keras-model.h5").read_bytes()
    for stop in (100, 1000, 9000, len(whole) - 1):
        path.write_bytes(whole[:stop])
        with pytest.raises(InvalidWeights, match=r"a\.h5"):
            load_hdf5(path)
    with h5py.File(path, "w") as file:
        file["w"] = np.ones(3)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"SNOD", b"SNOX").replace(b"HEAP", b"HEAX"))
    with pytest.raises(InvalidWeights, match=r"a\.h5"):
        load_hdf5(path)


# Keras and Flax: channels last. The reference is what their layers are defined to compute.


def channels_last(image: Any, kernel: Any) -> Any:
    """The correlation of (H, W, in) with (h, w, in, out), without padding."""
    windows = np.lib.stride_tricks.sliding_window_view(image, kernel.shape[:2], axis=(0, 1))
    return np.einsum("yxihw,hwio->yxo", windows, kernel)


def reference(weights: dict[str, Any], image: Any) -> Any:
    """conv -> batch norm -> mean -> dense, as Keras and Flax define them."""
    x = channels_last(image, weights["conv/kernel"]) + weights["conv/bias"]
    x = (x - weights["bn/mean"]) / np.sqrt(weights["bn/var"] + 1e-3)
    x = x * weights["bn/scale"] + weights["bn/shift"]
    return x.mean((0, 1)) @ weights["fc/kernel"] + weights["fc/bias"]


@pytest.fixture
def foreign_weights() -> dict[str, Any]:
    draw = np.random.default_rng(0).normal
    shapes = {
        "conv/kernel": (3, 2, 3, 4), "conv/bias": (4,), "bn/scale": (4,), "bn/shift": (4,),
        "bn/mean": (4,), "bn/var": (4,), "fc/kernel": (4, 5), "fc/bias": (5,),
    }  # fmt: skip
    weights = {name: draw(size=shape).astype("float32") for name, shape in shapes.items()}
    return weights | {"bn/var": np.abs(weights["bn/var"])}


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, (3, 2))
        self.bn = nn.BatchNorm2d(4, eps=1e-3)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.fc(self.bn(self.conv(x)).mean((2, 3)))
        return answer


def agrees(found: dict[str, Any], layout: str, weights: dict[str, Any]) -> None:
    """Imported weights compute in torch what the reference computes from the originals."""
    model = Plain().eval()
    hubstate.loadmodel(model, found, transforms=layout_rules(layout, found))
    image = np.random.default_rng(1).normal(size=(7, 6, 3)).astype("float32")
    ours = model(torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0))[0].detach().numpy()
    assert np.allclose(ours, reference(weights, image), atol=1e-5)


KERAS = {"bn/scale": "bn/gamma", "bn/shift": "bn/beta", "bn/mean": "bn/moving_mean"}
KERAS |= {"bn/var": "bn/moving_variance"}


def test_keras_weights_compute_the_same(tmp_path: Path, foreign_weights: dict[str, Any]) -> None:
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        for name, array in foreign_weights.items():
            name = KERAS.get(name, name)
            file[f"{name}:0"] = array
        file["optimizer_weights/conv/kernel:0"] = np.zeros(3)
        file["names"] = np.array([b"text"])
    agrees(read_foreign(path).tensors, "keras", foreign_weights)


def test_a_keras_archive_with_numbered_variables_computes_the_same(
    tmp_path: Path, foreign_weights: dict[str, Any]
) -> None:
    inner, path = tmp_path / "model.weights.h5", tmp_path / "model.keras"
    order = ["kernel", "bias"], ["scale", "shift", "mean", "var"]
    with h5py.File(inner, "w") as file:
        for layer, names in (("conv", order[0]), ("bn", order[1]), ("fc", order[0])):
            for number, name in enumerate(names):
                file[f"{layer}/vars/{number}"] = foreign_weights[f"{layer}/{name}"]
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(inner, inner.name)
        archive.writestr("config.json", "{}")
    agrees(load_hdf5(path), "keras", foreign_weights)


def flax_bytes(tree: Any) -> bytes:
    """As flax.serialization.to_bytes writes it."""

    def pack(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return msgpack.ExtType(
                1, msgpack.packb((value.shape, value.dtype.name, value.tobytes()))
            )
        raise TypeError

    packed: bytes = msgpack.packb(tree, default=pack, strict_types=True)
    return packed


def test_flax_weights_compute_the_same(tmp_path: Path, foreign_weights: dict[str, Any]) -> None:
    path = tmp_path / "model.msgpack"
    names = {"bn/shift": "bias"}
    tree: Any = {"params": {}, "batch_stats": {}, "opt_state": {"0": {"mu": np.zeros(3)}}}
    for name, array in foreign_weights.items():
        layer, leaf = name.split("/")
        collection = "batch_stats" if leaf in ("mean", "var") else "params"
        tree[collection].setdefault(layer, {})[names.get(name, leaf)] = array
    path.write_bytes(flax_bytes(tree))
    agrees(read_foreign(path).tensors, "flax", foreign_weights)


def test_a_large_flax_array_is_put_together(tmp_path: Path) -> None:
    path = tmp_path / "a.msgpack"
    array = np.arange(10, dtype="int32").reshape(2, 5)
    pieces = {"0": array.reshape(-1)[:6], "1": array.reshape(-1)[6:]}
    chunked = {"__msgpack_chunked_array__": True, "shape": {"0": 2, "1": 5}, "chunks": pieces}
    path.write_bytes(flax_bytes({"a": {"kernel": chunked}, "step": 3}))
    found = read_foreign(path)
    assert torch.equal(found.tensors["a.kernel"], torch.from_numpy(array))
    assert found.left_out == ("step",)


def test_flax_bfloat16_is_read_bit_by_bit(tmp_path: Path) -> None:
    path = tmp_path / "a.msgpack"
    weight = torch.randn(3, 2).bfloat16()
    raw = weight.view(torch.int16).numpy().tobytes()
    extension = msgpack.ExtType(1, msgpack.packb(((3, 2), "bfloat16", raw)))
    path.write_bytes(msgpack.packb({"w": extension}))
    assert torch.equal(read_foreign(path).tensors["w"], weight)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgpack.packb({"w": msgpack.ExtType(1, msgpack.packb(((9, 9), "float32", b"1234")))}),
        msgpack.packb({"w": msgpack.ExtType(1, msgpack.packb(((1,), "object", b"1234")))}),
        msgpack.packb({"w": msgpack.ExtType(1, b"x")}),
        msgpack.packb([1, 2]),
        b"\x91" * 5000,
    ],
)
def test_what_is_no_flax_file_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.msgpack"
    path.write_bytes(data)
    with pytest.raises(InvalidWeights, match=r"a\.msgpack"):
        read_foreign(path)


@pytest.mark.parametrize(
    ("name", "bias"),
    [
        ("dw.depthwise_kernel", None),
        ("layers.depthwise_conv2d.vars.0", None),
        ("dw.dw.kernel", "dw.dw.bias"),
        ("layers.x.vars.0", "layers.x.vars.1"),
    ],
)
def test_a_depthwise_kernel_gets_torchs_shape(name: str, bias: str | None) -> None:
    kernel = torch.randn(3, 3, 4, 2)
    tensors = {name: kernel} | ({bias: torch.zeros(8)} if bias else {})
    found, *_ = resolve(layout_rules("keras", tensors), tensors).apply(tensors).values()
    assert found.shape == (8, 1, 3, 3)
    for channel in range(4):
        for multiple in range(2):
            assert torch.equal(found[channel * 2 + multiple, 0], kernel[:, :, channel, multiple])


def test_what_keras_keeps_around_weights_is_cut_off() -> None:
    tensors = {
        "model_weights.block.conv.conv.kernel": torch.zeros(3, 3, 2, 4),
        "layers.dense.vars.0": torch.zeros(2, 5),
        "layers.dropout.seed_generator.seed_generator_state": torch.zeros(2),
    }
    forms = resolve(layout_rules("keras", tensors), tensors).forms
    assert {name: tuple(form.shape) for name, form in forms.items()} == {
        "block.conv.weight": (4, 2, 3, 3),
        "dense.weight": (5, 2),
    }


class Deep(Plain):
    """The network of golden/foreign/make.py, with Keras's depthwise layer or without."""

    def __init__(self, *, depthwise: bool) -> None:
        super().__init__()
        self.dw = nn.Conv2d(4, 8, 3, groups=4) if depthwise else nn.Identity()
        if depthwise:
            self.bn, self.fc = nn.BatchNorm2d(8, eps=1e-3), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.fc(self.bn(self.dw(self.conv(x))).mean((2, 3)))
        return answer


@pytest.mark.parametrize(
    ("file", "framework"),
    [("keras3.keras", "keras"), ("keras-model.h5", "keras"), ("flax.msgpack", "flax")],
)
def test_files_of_the_frameworks_themselves_compute_what_they_computed_there(
    file: str, framework: str
) -> None:
    expected = np.load(GOLDEN / "expected.npz")
    load = load_msgpack if framework == "flax" else load_hdf5
    found = find_weights(load(GOLDEN / file), key=".").tensors
    tensors = resolve(layout_rules(framework, found), found).apply(found)
    names = {"depthwise_conv2d": "dw", "batch_normalization": "bn", "conv2d": "conv", "dense": "fc"}
    model = Deep(depthwise=framework == "keras").eval()
    hubstate.loadmodel(
        model,
        tensors,
        rename={rf"^{k}\.": f"{v}." for k, v in names.items()} if file == "keras3.keras" else None,
    )
    images = torch.from_numpy(expected["images"]).permute(0, 3, 1, 2)
    assert np.allclose(model(images).detach().numpy(), expected[framework], atol=2e-6)


def test_flax_attention_computes_what_it_computed_there() -> None:
    expected = np.load(GOLDEN / "expected-attention.npz")
    found = read_foreign(GOLDEN / "flax-attention.msgpack").tensors
    rules = [
        *layout_rules("flax", found),
        *(
            {"fuse": [f"{name}.{leaf}" for name in ("query", "key", "value")], "to": to}
            for leaf, to in (("weight", "in_proj_weight"), ("bias", "in_proj_bias"))
        ),
        {"rename": r"out\.(.*)", "to": r"out_proj.\1"},
    ]
    fused = resolve(rules, found).apply(found)
    assert {name: tuple(t.shape) for name, t in fused.items()} == {
        "in_proj_weight": (18, 8), "in_proj_bias": (18,),
        "out_proj.weight": (8, 6), "out_proj.bias": (8,),
    }  # fmt: skip
    x = torch.from_numpy(expected["inputs"])
    q, k, v = (
        part.unflatten(-1, (2, 3)).transpose(1, 2)
        for part in (x @ fused["in_proj_weight"].T + fused["in_proj_bias"]).chunk(3, -1)
    )
    mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    ours = mixed @ fused["out_proj.weight"].T + fused["out_proj.bias"]
    assert np.allclose(ours.numpy(), expected["flax"], atol=1e-4)


# HDF5 that refers to other files


def test_hdf5_cannot_read_other_files(tmp_path: Path) -> None:
    secret, path = tmp_path / "secret", tmp_path / "evil.h5"
    secret.write_bytes(bytes(32))
    with h5py.File(path, "w") as file:
        file.create_dataset("w", shape=(8,), dtype="f4", external=[(str(secret), 0, 32)])
    with pytest.raises(InvalidWeights, match="from another file"):
        load_hdf5(path)
    with h5py.File(path, "w") as file:
        file["w"] = h5py.ExternalLink(str(secret), "/x")
    with pytest.raises(InvalidWeights, match="a link into another file"):
        load_hdf5(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(InvalidWeights, match=r"evil\.h5"):
        load_hdf5(path)


def test_hdf5_cannot_claim_more_than_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("w", shape=(1 << 40,), dtype="f4", chunks=(1 << 20,))
    for load in (load_hdf5, load_jld2):
        with pytest.raises(InvalidWeights, match=r"bomb\.h5: refused: .* 4,398,046,511,104 bytes"):
            load(path)
    with h5py.File(path, "w") as file:
        group = file
        for _ in range(30):
            group["a"] = group["b"] = group = file.create_group(None)
    monkeypatch.setattr("hubstate.convert.limits._MOST_ITEMS", 1000)
    for load in (load_hdf5, load_jld2):
        with pytest.raises(InvalidWeights, match=r"bomb\.h5: refused: more than 1,000 values"):
            load(path)


# Julia


def julia(file: Any, name: str, array: Any) -> Any:
    """An array of Julia's as JLD2 stores it: what is column-major there is read reversed here."""
    return file.create_dataset(f"_types/{name}", data=np.asarray(array).T).ref


def compound(file: Any, name: str, **fields: Any) -> Any:
    """A named tuple as JLD2 stores it: references to its arrays; what has no data is left out."""
    kinds = [(field, h5py.ref_dtype) for field in fields]
    data = np.array(tuple(fields.values()), dtype=kinds)
    return file.create_dataset(f"_types/{name}", data=data).ref


@pytest.fixture
def flux(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """Chain(Conv((3, 2), 3 => 4), BatchNorm(4), GlobalMeanPool(), Dense(4 => 5)), by hand."""
    draw = np.random.default_rng(5).normal
    weights = {
        "conv": draw(size=(3, 2, 3, 4)).astype("f4"),  # width, height, in, out
        "bias": draw(size=4).astype("f4"),
        "β": draw(size=4).astype("f4"),
        "γ": draw(size=4).astype("f4"),
        "μ": draw(size=4).astype("f4"),
        "σ²": np.abs(draw(size=4)).astype("f4"),
        "dense": draw(size=(5, 4)).astype("f4"),  # out, in
    }
    path = tmp_path / "model.jld2"
    with h5py.File(path, "w", userblock_size=512) as file:
        refs = {name: julia(file, name, array) for name, array in weights.items()}
        conv = compound(file, "l1", weight=refs["conv"], bias=refs["bias"])
        norm = compound(file, "l2", **{name: refs[name] for name in ("β", "γ", "μ", "σ²")})
        dense = compound(file, "l4", weight=refs["dense"], bias=h5py.Reference())
        layers = compound(file, "layers", **{"1": conv, "2": norm, "4": dense})
        file["_types/00000001"] = np.dtype("f4")
        top = compound(file, "top", layers=layers)
        file["model_state"] = file[top]
        file["nothing"] = h5py.Empty("f4")
    return path, weights


def test_julia_arrays_have_julias_axes_and_what_is_missing_is_left_out(
    flux: tuple[Path, dict[str, Any]],
) -> None:
    path, weights = flux
    found = find_weights(load_jld2(path), key="model_state.layers").tensors
    assert {name: tuple(t.shape) for name, t in found.items()} == {
        "0.weight": (3, 2, 3, 4), "0.bias": (4,),
        "1.β": (4,), "1.γ": (4,), "1.μ": (4,), "1.σ²": (4,), "3.weight": (5, 4),
    }  # fmt: skip
    assert np.array_equal(found["0.weight"].numpy(), weights["conv"])
    assert np.array_equal(found["3.weight"].numpy(), weights["dense"])


def test_flux_weights_compute_the_same(flux: tuple[Path, dict[str, Any]]) -> None:
    """Against Flux's definition: a true convolution over (width, height, channels)."""
    path, weights = flux
    found = find_weights(load_jld2(path), key="model_state.layers").tensors
    model = nn.Sequential(
        nn.Conv2d(3, 4, (2, 3)), nn.BatchNorm2d(4), nn.Flatten(2), nn.Linear(4, 5, bias=False)
    ).eval()
    rules = layout_rules("flux", found)
    hubstate.loadmodel(model, found, transforms=rules)
    image = np.random.default_rng(6).normal(size=(7, 6, 3)).astype("f4")  # width, height, channels
    x = channels_last(image, weights["conv"][::-1, ::-1]) + weights["bias"]
    x = (x - weights["μ"]) / np.sqrt(weights["σ²"] + 1e-5) * weights["γ"] + weights["β"]
    expected = weights["dense"] @ x.mean((0, 1))
    ours = torch.from_numpy(image).permute(2, 1, 0).unsqueeze(0)
    features = model[1](model[0](ours)).mean((2, 3))
    assert np.allclose(model[3](features)[0].detach().numpy(), expected, atol=1e-5)


def test_named_tuples_within_named_tuples_lie_in_one_compound(tmp_path: Path) -> None:
    """JLD2 stores small immutable values in line, and numbers beside the references to arrays."""
    path = tmp_path / "a.jld2"
    ref = h5py.ref_dtype
    norm = np.dtype([("β", ref), ("ϵ", "f4"), ("affine", "u1"), ("chs", "i8")])
    layers = np.dtype([("1", [("weight", ref), ("bias", ref)]), ("3", norm)])
    with h5py.File(path, "w") as file:
        weight, beta = julia(file, "w", np.ones((2, 3), "f4")), julia(file, "b", np.ones(4, "f4"))
        value = ((((weight, h5py.Reference())), (beta, 1e-5, 1, 4)),)
        file["state"] = np.array(value, dtype=[("layers", layers)])
    found = find_weights(load_jld2(path), key="state.layers").tensors
    assert {name: tuple(t.shape) for name, t in found.items()} == {"0.weight": (2, 3), "2.β": (4,)}


def test_vectors_and_dicts_of_julia_are_lists_and_names(tmp_path: Path) -> None:
    path = tmp_path / "a.jld2"
    with h5py.File(path, "w") as file:
        refs = [julia(file, str(i), np.full((2, 3), i, "f4")) for i in range(3)]
        file["many"] = np.array(refs, dtype=h5py.ref_dtype)
        kind = np.dtype([("first", h5py.string_dtype()), ("second", h5py.ref_dtype)])
        file["dict"] = np.array([("a.b", refs[1]), ("c", h5py.Reference())], dtype=kind)
    found = load_jld2(path)
    assert [tuple(t.shape) for t in found["many"].values()] == [(2, 3)] * 3
    assert list(found["dict"]) == ["a.b"]
    assert found["dict"]["a.b"].unique().tolist() == [1]


def test_julia_s_own_forms_of_arrays_are_read(tmp_path: Path) -> None:
    """As JLD2.jl writes them: src/data/number_types.jl, src/dataspaces.jl."""
    path = tmp_path / "a.jld2"
    space = h5py.h5s.create_simple((3, 2))
    with h5py.File(path, "w", userblock_size=512) as file:
        mask = h5py.h5d.create(file.id, b"mask", h5py.h5t.STD_B8LE, space)
        bits = np.array([[1, 0], [0, 1], [1, 1]], "u1")
        mask.write(h5py.h5s.ALL, h5py.h5s.ALL, bits, h5py.h5t.STD_B8LE)
        numbers = np.zeros((3, 2), [("re", "f4"), ("im", "f4")])
        numbers["re"], numbers["im"] = np.arange(6).reshape(3, 2), 0.5
        file["complex"] = numbers
        file["empty"] = h5py.Empty("f4")
        file["empty"].attrs["dimensions"] = np.array([0, 4])
        file["number"] = numbers[0, 0]
        wide = h5py.h5t.STD_U64LE.copy()
        wide.set_size(16)
        h5py.h5d.create(file.id, b"seed", wide, h5py.h5s.create(h5py.h5s.SCALAR))
        file["nothing"] = h5py.Empty("f4")
    found = load_jld2(path)
    assert found.keys() == {"mask", "complex", "empty"}
    assert found["mask"].tolist() == [[True, False, True], [False, True, True]]
    assert found["complex"].dtype == torch.complex64
    assert found["complex"][1].tolist() == [1 + 0.5j, 3 + 0.5j, 5 + 0.5j]
    assert (tuple(found["empty"].shape), found["empty"].dtype) == ((4, 0), torch.float32)


def test_a_julia_type_that_is_not_known_is_refused_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "a.jld2"
    wide = h5py.h5t.STD_U64LE.copy()
    wide.set_size(16)
    kind = h5py.h5t.create(h5py.h5t.COMPOUND, 16)
    kind.insert(b"seed", 0, wide)
    with h5py.File(path, "w") as file:
        h5py.h5d.create(file.id, b"state", kind, h5py.h5s.create(h5py.h5s.SCALAR))
    with pytest.raises(InvalidWeights, match="state: a type that is not known"):
        load_jld2(path)


def test_a_julia_reference_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jld2"
    with h5py.File(path, "w") as file:
        file["many"] = np.array([julia(file, "a", np.ones((2, 3)))], dtype=h5py.ref_dtype)
        del file["_types"]
    with pytest.raises(InvalidWeights, match=r"many\.0: a reference that leads nowhere"):
        load_jld2(path)


def test_a_julia_value_that_contains_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jld2"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", shape=(1,), dtype=h5py.ref_dtype)
        file["a"][0] = file["a"].ref
    with pytest.raises(InvalidWeights, match="contains itself"):
        load_jld2(path)


# the command


def test_without_a_target_it_says_what_there_is(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"model": trained().state_dict(), "epoch": 1}, path)
    code, out, err = run("import", str(path), "--json")
    assert code == 0, err
    data = json.loads(out)
    assert (data["format"], data["key"], data["tensors"]) == ("torch", "model", 8 + 1)
    assert list(tmp_path.glob("*.safetensors")) == []


def test_a_checkpoint_becomes_a_file(run: Run, tmp_path: Path) -> None:
    path, output, rules = (tmp_path / name for name in ("a.npz", "new/b.safetensors", "r.json"))
    np.savez(path, **{"old/kernel": np.ones((3, 2), "f4")})
    rules.write_text('[{"rename": "old\\\\.(.*)", "to": "new.\\\\1"}]')
    words = ["import", str(path), "--layout", "flax", "--transforms", str(rules)]
    code, _, err = run(*words, "--output", str(output))
    assert code == 0, err
    assert {n: tuple(t.shape) for n, t in read_foreign(output).tensors.items()} == {
        "new.weight": (2, 3)
    }
    assert run(*words, "--output", str(output))[0] == 7
    rules.write_text('[{"drop": "nothing"}]')
    code, _, err = run(*words, "--output", str(output), "--force")
    assert code == 4
    assert "matches no tensor" in err
    rules.write_text("[")
    assert run(*words)[0] == 2


def test_a_checkpoint_becomes_a_release_that_computes_the_same(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.pth"
    model = trained()
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, path)
    words = ["--builder", "toys:toy", "--arg", "num_classes=4", "--license", "mit", "--tag", "v1"]
    code, out, err = run("import", str(path), "--as", "org/toy", *words)
    assert code == 0, err
    assert "published org/toy@" in out
    loaded = toy(pretrained="org/toy@v1")
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded.eval()(images), model.eval()(images))
    manifest = hubstate.open_release("org/toy@v1").manifest
    assert manifest is not None
    origin: Any = manifest.provenance["imported"]
    assert (origin["file"], origin["key"], origin["format"]) == ("run.pth", "state_dict", "torch")
    code, _, err = run(
        "import", str(path), "--as", "org/toy", "--builder", "toys:toy", "--arg", "width=9",
        "--license", "mit",
    )  # fmt: skip
    assert code == 4
    assert run("import", str(path), "--as", "org/toy")[0] == 2


def test_a_repository_without_manifest_becomes_a_release(run: Run, tmp_path: Path) -> None:
    from hubstate.hub import publish_files

    path = tmp_path / "model.safetensors"
    model = trained()
    save_file(model.state_dict(), path)
    publish_files("elsewhere/toy.v1_in1k", {"model.safetensors": path}, message="As others do")
    words = ["--license", "mit", "--max-shard-size", "500"]
    code, _, err = run("import", "elsewhere/toy.v1_in1k", "--as", "org/bare", *words)
    assert code == 0, err
    release = hubstate.open_release("org/bare")
    assert "model.safetensors.index.json" in release.commit.files
    assert release.manifest is not None
    assert release.manifest.builder is None
    report = hubstate.load_pretrained(toy(), "org/bare")
    assert len(report.loaded) == len(model.state_dict())
    assert run("import", str(tmp_path / "none.pth"))[0] == 3


def test_a_folder_is_looked_into_for_its_weights(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    code, _, err = run("import", str(folder))
    assert (code, "found none; --file names one" in err) == (3, True)
    np.savez(folder / "a.npz", a=np.ones(2))
    assert "npz: 1 tensors" in run("import", str(folder))[1]
    np.savez(folder / "b.npz", a=np.ones(2), b=np.ones(3))
    code, _, err = run("import", str(folder))
    assert (code, "found a.npz, b.npz; --file names one" in err) == (3, True)
    assert "npz: 2 tensors" in run("import", str(folder), "--file", "b.npz")[1]
    save_file({"w": torch.ones(2)}, folder / "model.safetensors")
    assert "safetensors: 1 tensors" in run("import", str(folder))[1]


@pytest.mark.parametrize(
    ("words", "needed"),
    [(["--arg", "a=1"], "--builder"), (["--label", "cat"], "--as"), (["--tag", "v1"], "--as")],
)
def test_an_option_that_would_do_nothing_is_refused(
    run: Run, tmp_path: Path, words: list[str], needed: str
) -> None:
    code, _, err = run("import", str(tmp_path / "a.npz"), *words)
    assert code == 2
    assert f"{words[0]} needs {needed}" in err


def test_weights_alone_are_held_by_name_whatever_the_names_are() -> None:
    weight = torch.randn(2)
    tensors = {
        "training": torch.zeros(1), "a.children.type": weight, "a.tied": weight,
        "a.count": torch.tensor(3), "b.forward": torch.ones(1).bfloat16(),
    }  # fmt: skip
    module = hold(tensors)
    assert equal(dict(sorted(module.state_dict().items())), dict(sorted(tensors.items())))
    held = module.state_dict()
    assert held["a.tied"].data_ptr() == held["a.children.type"].data_ptr()
    for names in (["a", "a.b"], ["a.b", "a"]):
        with pytest.raises(InvalidWeights, match="there is a"):
            hold(dict.fromkeys(names, weight))


def test_help_shows_an_example(run: Run) -> None:
    assert "Example:\n    hubstate import " in run("import", "--help")[1]
