"""What state() says of every kind of thing."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import math
import os
import random
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from hubstate.loading import state
from hubstate.walk import tensors_of

quiet_norm = pytest.mark.filterwarnings(
    "ignore:.*weight_norm.*is deprecated:FutureWarning",
    "ignore:.*spectral_norm.*is deprecated:FutureWarning",
)
quiet_quantized = pytest.mark.filterwarnings(
    "ignore:torch.ao.quantization is deprecated:DeprecationWarning",
    "ignore:torch.quantize_per_tensor, torch.quantize_per_channel:UserWarning",
)


class Color(enum.Enum):
    RED = 1


class Mode(enum.StrEnum):
    FAST = "very fast"


class Text(str):
    def __str__(self) -> str:
        return "another text"


class Size(NamedTuple):
    height: int
    width: Any


@dataclasses.dataclass
class Config:
    depth: int
    act: Any = torch.relu
    _cache: int = 3


class Holder(nn.Module):
    """A module with whatever attributes it is given."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)


class Counting(nn.Module):
    """A module with an extra state."""

    def __init__(self, extra: Any) -> None:
        super().__init__()
        self._extra = extra

    def get_extra_state(self) -> Any:
        return self._extra

    def set_extra_state(self, state: Any) -> None:
        self._extra = state


def names(tree: Any) -> list[str]:
    return list(tree)


def test_a_linear_layer_is_its_tensors_and_its_plain_data() -> None:
    layer = nn.Linear(3, 2)
    tree = state(layer)
    assert torch.equal(tree.pop("weight"), layer.weight)
    assert torch.equal(tree.pop("bias"), layer.bias)
    assert tree == {"training": True, "in_features": 3, "out_features": 2}


def test_a_layer_without_bias_has_the_same_names() -> None:
    tree = state(nn.Linear(3, 2, bias=False))
    assert names(tree) == names(state(nn.Linear(3, 2)))
    assert tree["bias"] is None


@pytest.mark.parametrize(
    ("module", "children"),
    [
        (nn.Sequential(nn.Linear(1, 1), nn.ReLU()), ["0", "1"]),
        (nn.Sequential(collections.OrderedDict(a=nn.ReLU(), b=nn.ReLU())), ["a", "b"]),
        (nn.ModuleList([nn.ReLU(), nn.Linear(1, 1)]), ["0", "1"]),
        (nn.ModuleDict({"x": nn.ReLU()}), ["x"]),
    ],
)
def test_containers_are_dicts_by_registered_name(module: nn.Module, children: list[str]) -> None:
    assert names(state(module)) == [*children, "training"]


def test_parameter_containers_hold_their_tensors_by_name() -> None:
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(2))
    tree = state(nn.ParameterList([first, second]))
    assert torch.equal(tree["0"], first) and torch.equal(tree["1"], second)
    tree = state(nn.ParameterDict({"left": first}))
    assert torch.equal(tree["left"], first)


def test_batch_norm_has_its_buffers_and_its_settings() -> None:
    tree = state(nn.BatchNorm2d(4))
    tensors = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert all(isinstance(tree.pop(name), Tensor) for name in tensors)
    assert tree == {
        "training": True,
        "num_features": 4,
        "eps": 1e-5,
        "momentum": 0.1,
        "affine": True,
        "track_running_stats": True,
    }


def test_batch_norm_without_tensors_has_the_same_names() -> None:
    bare = nn.BatchNorm2d(4, affine=False, track_running_stats=False)
    assert set(state(bare)) == set(state(nn.BatchNorm2d(4)))
    assert state(bare)["running_mean"] is None and state(bare)["weight"] is None


@pytest.mark.parametrize(
    ("module", "record"),
    [
        (nn.Dropout(0.3), {"p": 0.3, "inplace": False}),
        (nn.ReLU(inplace=True), {"inplace": True}),
        (nn.GELU("tanh"), {"approximate": "tanh"}),
        (nn.Identity(), {}),
    ],
)
def test_a_layer_without_tensors_is_its_settings(module: nn.Module, record: dict[str, Any]) -> None:
    assert state(module) == {"training": True, **record}


@pytest.mark.parametrize(
    "value",
    [
        print,
        torch.relu,
        nn.Linear,
        Config,
        functools.partial(print, 1),
        lambda x: x,
        object(),
        {1, 2},
        frozenset({1}),
        b"bytes",
        bytearray(b"x"),
        range(3),
        torch.float32,
        torch.device("cpu"),
        Path("x"),
        torch.Generator(),
        random.Random(0),
        np.random.default_rng(0),
        np.array(["a"]),
        np.array([None]),
        np.datetime64("2024-01-01"),
        math,
        collections.deque([1]),
        os.environ,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_state_is_an_empty_tuple(value: Any) -> None:
    module = nn.Module()
    module.__dict__["thing"] = value
    assert state(module) == {"training": True, "thing": ()}
    if not isinstance(value, os._Environ):
        assert state({"a": [value]}) == {"a": [()]}
        assert state(value) == ()


def test_a_child_registered_as_none_and_a_plain_none_are_none() -> None:
    module = Holder(plain=None)
    module.register_module("child", None)
    module.register_parameter("weight", None)
    module.register_buffer("mean", None)
    assert state(module) == {
        "weight": None,
        "mean": None,
        "child": None,
        "training": True,
        "plain": None,
    }


def test_containers_stay_what_they_are() -> None:
    weight = torch.ones(2)
    tree = state([(weight, 1), {"a": [weight]}, ()])
    assert isinstance(tree, list) and isinstance(tree[0], tuple) and isinstance(tree[1]["a"], list)
    assert torch.equal(tree[0][0], weight) and tree[0][1] == 1 and tree[2] == ()


def test_a_container_of_modules_holds_their_states() -> None:
    tree = state({"encoder": nn.Linear(1, 1), "heads": [nn.ReLU()]})
    assert names(tree["encoder"])[:2] == ["weight", "bias"]
    assert tree["heads"] == [{"training": True, "inplace": False}]


def test_keys_become_text_and_may_not_collide() -> None:
    tree = state({1: "a", Color.RED: "b", Text("x"): "c"})
    assert tree == {"1": "a", "RED": "b", "x": "c"}
    assert all(type(key) is str for key in tree)
    with pytest.raises(ValueError, match=r"a: two keys are '1'"):
        state({"a": {1: 2, "1": 3}})
    with pytest.raises(ValueError, match=r"table.inner: two keys are '1'"):
        state(Holder(table={"inner": {1: 2, "1": 3}}))


def test_dataclasses_and_named_tuples_are_dicts_of_their_fields() -> None:
    expected = {"a": {"depth": 2, "act": ()}, "b": {"height": 1, "width": [2]}, "c": {"x": 1}}
    data = {"a": Config(2), "b": Size(1, [2]), "c": collections.OrderedDict(x=1)}
    assert state(data) == expected
    assert type(state(data)["c"]) is dict
    assert state(Holder(**data)) == {"training": True, **expected}
    assert torch.equal(
        state(Size(1, nn.Linear(2, 2)))["width"]["weight"].isnan().any(), ~torch.tensor(True)
    )


def test_a_tied_parameter_is_the_same_object_under_every_name() -> None:
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4, bias=False))
    model[1].weight = model[0].weight
    tree = state(model)
    assert tree["0"]["weight"] is tree["1"]["weight"]


def test_a_shared_submodule_is_a_dict_of_its_own_under_every_name() -> None:
    layer = nn.Linear(2, 2)
    tree = state(nn.Sequential(layer, layer))
    assert tree["0"] is not tree["1"]
    assert tree["0"]["weight"] is tree["1"]["weight"]


def test_a_non_persistent_buffer_is_a_name_without_state() -> None:
    module = nn.Module()
    module.register_buffer("mask", torch.ones(2), persistent=False)
    module.register_buffer("none", None, persistent=False)
    assert state(module) == {"mask": (), "none": (), "training": True}


def test_unregistered_tensors_and_modules_have_no_state_and_are_warned_of() -> None:
    module = Holder(scale=torch.ones(1), layers=[nn.ReLU(), 3], table={"a": {"b": torch.ones(1)}})
    with pytest.warns(UserWarning, match=r"3 tensor.*: 0\.scale, 0\.layers\.0, 0\.table") as caught:
        tree = state(nn.Sequential(module))
    assert caught[0].filename == __file__
    assert tree["0"] == {
        "training": True,
        "scale": (),
        "layers": [(), 3],
        "table": {"a": {"b": ()}},
    }


def test_a_parametrized_weight_is_its_originals() -> None:
    tree = state(parametrizations.weight_norm(nn.Linear(3, 2)))
    originals = tree["parametrizations"]["weight"]
    assert isinstance(originals["original0"], Tensor) and isinstance(originals["original1"], Tensor)
    assert "weight" not in tree and isinstance(tree["bias"], Tensor)


@quiet_norm
@pytest.mark.parametrize(
    ("wrap", "registered"),
    [
        (nn.utils.weight_norm, {"weight_g", "weight_v"}),
        (nn.utils.spectral_norm, {"weight_orig", "weight_u", "weight_v"}),
        (lambda m: prune.random_unstructured(m, "weight", 0.5), {"weight_orig", "weight_mask"}),
    ],
)
def test_a_computed_weight_has_no_state_and_no_warning(wrap: Any, registered: set[str]) -> None:
    tree = state(wrap(nn.Linear(3, 2)))
    assert tree["weight"] == ()
    assert {name for name in tree if name.startswith("weight_")} == registered


@pytest.mark.parametrize("make", [lambda: nn.LazyLinear(3), lambda: nn.LazyBatchNorm1d()])
def test_a_lazy_parameter_is_refused_by_its_path(make: Any) -> None:
    with pytest.raises(ValueError, match=r"(?s)0\.weight: lazy"):
        state(nn.Sequential(make()))


def test_a_lazy_layer_that_has_run_is_an_ordinary_one() -> None:
    layer = nn.LazyLinear(3)
    layer(torch.ones(1, 2))
    assert state(layer)["weight"].shape == (3, 2)


STRANGE = {
    "0-d": torch.tensor(1.5),
    "empty": torch.empty(0, 3),
    "bf16": torch.ones(2, dtype=torch.bfloat16),
    "fp8": torch.ones(2).to(torch.float8_e4m3fn),
    "complex": torch.ones(2, dtype=torch.complex64),
    "strided": torch.ones(4, 4)[::2, ::2],
    "expanded": torch.ones(1).expand(5),
    "channels_last": torch.ones(1, 2, 3, 3).to(memory_format=torch.channels_last),
    "meta": torch.empty(2, device="meta"),
    "complex128": torch.ones(2, dtype=torch.complex128),
    "sparse": torch.eye(2).to_sparse(),
    "e8m0": torch.ones(2).to(torch.float8_e8m0fnu),
    "bool": torch.tensor([True]),
}


@pytest.mark.parametrize("tensor", STRANGE.values(), ids=STRANGE)
def test_a_tensor_is_kept_as_it_is(tensor: Tensor) -> None:
    module = nn.Module()
    module.register_buffer("mean", tensor)
    kept = state(module)["mean"]
    assert (kept.shape, kept.dtype, kept.layout) == (tensor.shape, tensor.dtype, tensor.layout)
    if tensor.layout is torch.strided:
        assert (kept.stride(), kept.data_ptr()) == (tensor.stride(), tensor.data_ptr())


def test_tensors_are_detached_and_never_copied() -> None:
    layer = nn.Linear(2, 2)
    tree = state(layer)
    assert not tree["weight"].requires_grad and layer.weight.requires_grad
    with torch.no_grad():
        layer.weight.fill_(7)
    assert tree["weight"].eq(7).all()


@quiet_quantized
def test_quantized_modules_are_refused_by_their_path() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ValueError, match=r"0: packed: Linear keeps weights outside"):
        state(quantized)


def test_every_refusal_is_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"(?s)0\.weight: lazy.*0\.bias: lazy.*1\.weight: lazy"):
        state(nn.Sequential(nn.LazyLinear(1), nn.LazyLinear(1)))


def test_arrays_of_numbers_are_kept_in_containers() -> None:
    array = np.arange(3.0)
    tree = state(
        {"a": array, "b": [np.array(["x"]), np.float32(0.5), np.bool_(True), np.str_("s")]}
    )
    assert tree["a"] is array
    assert tree["b"] == [(), 0.5, True, "s"]
    assert [type(item) for item in tree["b"]] == [tuple, float, bool, str]


def test_inf_nan_and_complex_are_kept() -> None:
    tree = state(Holder(low=-math.inf, bad=math.nan, z=1j))
    assert tree["low"] == -math.inf and math.isnan(tree["bad"]) and tree["z"] == 1j


def test_an_enum_is_its_name_and_subclasses_are_exact() -> None:
    class Number(int):
        pass

    tree = state(Holder(color=Color.RED, mode=Mode.FAST, text=Text("abc"), number=Number(3)))
    assert tree == {"training": True, "color": "RED", "mode": "FAST", "text": "abc", "number": 3}
    assert type(tree["text"]) is str and type(tree["number"]) is int


@pytest.mark.parametrize(
    ("extra", "expected"),
    [({"steps": 3}, {"steps": 3}), ([1, (2,)], [1, (2,)]), (object(), ()), ("x", "x")],
)
def test_an_extra_state_is_kept_under_its_name(extra: Any, expected: Any) -> None:
    assert state(nn.Sequential(Counting(extra)))["0"]["_extra_state"] == expected


def test_an_extra_state_may_be_or_hold_a_tensor() -> None:
    scale = torch.ones(2)
    assert torch.equal(state(Counting(scale))["_extra_state"], scale)
    assert torch.equal(state(Counting({"a": scale}))["_extra_state"]["a"], scale)


def test_hooks_and_private_attributes_leave_no_trace() -> None:
    layer = nn.Linear(1, 1)
    before = names(state(layer))
    layer.register_forward_hook(lambda *_: None)
    layer.register_state_dict_pre_hook(lambda *_: None)
    layer._secret = 3
    assert names(state(layer)) == before


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self._head = nn.Linear(2, 1)


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


def wrappers() -> dict[str, Any]:
    return {
        "compile": compiled,
        "data parallel": nn.DataParallel,
        "both": lambda module: compiled(nn.DataParallel(module)),
    }


@pytest.mark.parametrize("wrap", wrappers().values(), ids=wrappers())
def test_wrappers_are_looked_through(wrap: Any) -> None:
    net = Net()
    assert list(tensors_of(wrap(net))) == list(net.state_dict())
    inner = Net()
    inner.body[0] = wrap(inner.body[0])
    assert list(tensors_of(inner)) == list(net.state_dict())
    assert names(state(wrap(net))) == names(state(net))


@pytest.mark.skipif(sys.platform != "linux", reason="gloo over a file store, on loopback")
def test_a_distributed_model_is_looked_through(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        net = Net()
        wrapped = nn.parallel.DistributedDataParallel(net)
        assert list(tensors_of(wrapped)) == list(net.state_dict())
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        sharded = torch.distributed.tensor.distribute_tensor(torch.ones(2), mesh)
        with pytest.raises(ValueError, match="x: sharded: call full_tensor"):
            state({"x": sharded})
    finally:
        torch.distributed.destroy_process_group()


def test_an_averaged_model_is_a_model_of_its_own() -> None:
    averaged = torch.optim.swa_utils.AveragedModel(nn.Linear(1, 1))
    assert set(tensors_of(averaged)) == {"module.weight", "module.bias", "n_averaged"}


def test_an_optimizer_belongs_beside_the_model() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1)
    with pytest.raises(TypeError, match=r"state_dict\(\)"):
        state(optimizer)
    with pytest.raises(TypeError, match=r"^a\.b: an optimizer"):
        state({"a": {"b": optimizer}})
    assert state(Holder(optimizer=optimizer))["optimizer"] == ()


def test_a_tree_that_contains_itself_is_refused() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    module = nn.Sequential(nn.ReLU())
    module.add_module("again", module)
    for x, where in ((loop, "1"), (module, "again"), (Holder(data={"x": loop}), r"data\.x\.1")):
        with pytest.raises(ValueError, match=f"{where}: contains itself"):
            state(x)


def test_what_is_not_a_module_is_plain_data_itself() -> None:
    assert state(3) == 3 and state(None) is None and state("x") == "x" and state(print) == ()
    weight = nn.Parameter(torch.ones(2))
    assert torch.equal(state(weight), weight) and not state(weight).requires_grad


def test_trainable_only_leaves_frozen_tensors_as_names() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0].bias.requires_grad_(False)
    tree = state(model, trainable_only=True)
    assert isinstance(tree["0"]["weight"], Tensor) and tree["0"]["bias"] == ()
    assert tree["1"]["running_mean"] == () and isinstance(tree["1"]["weight"], Tensor)
    assert tree["0"]["in_features"] == 2
    assert names(tree["0"]) == names(state(model)["0"])
    assert state({"a": np.ones(1), "b": torch.ones(1)}, trainable_only=True) == {"a": (), "b": ()}


def test_the_state_of_a_state_is_the_same() -> None:
    def same(a: Any, b: Any) -> bool:
        if isinstance(a, dict):
            return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
        return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = state(nn.Sequential(nn.LSTM(2, 3), nn.MultiheadAttention(4, 2), Counting({"x": 1})))
    assert same(state(tree), tree)


@pytest.mark.parametrize(
    "module",
    [
        nn.LSTM(2, 3, 2, bidirectional=True, proj_size=2),
        nn.MultiheadAttention(4, 2, add_bias_kv=True, kdim=3),
        nn.Transformer(4, 2, 1, 1, 8, batch_first=True),
        nn.ParameterDict({"a": nn.ParameterList([torch.ones(1), torch.ones(2)])}),
        parametrizations.spectral_norm(nn.Conv2d(2, 3, 3)),
        parametrizations.orthogonal(nn.Linear(3, 3)),
        nn.Bilinear(2, 2, 2),
        nn.Sequential(Counting(torch.ones(2)), nn.BatchNorm1d(2, affine=False)),
    ],
    ids=lambda module: type(module).__name__,
)
def test_tensor_paths_are_those_of_state_dict(module: nn.Module) -> None:
    found, expected = tensors_of(module), module.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
