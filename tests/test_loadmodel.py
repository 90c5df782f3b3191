"""What loadmodel() does with every pair of a model and a source."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from loads import Holder, bits, both, issues, net, weight
from torch import Tensor, nn

import hubstate
from hubstate.errors import StructureMismatch
from hubstate.loading import LoadReport, loadmodel, state


@dataclasses.dataclass
class Pair:
    left: Any
    right: Any


class Couple(NamedTuple):
    left: Any
    right: Any


FORMS: dict[str, Callable[[nn.Module], Any]] = {
    "module": lambda model: model,
    "state": state,
    "state_dict": lambda model: model.state_dict(),
    "dict": lambda model: dict(model.state_dict()),
    "arrays": lambda model: {name: t.numpy() for name, t in model.state_dict().items()},
    "mapping": lambda model: MappingProxyType(dict(model.state_dict())),
    "reversed": lambda model: dict(reversed(list(model.state_dict().items()))),
    "data parallel": nn.DataParallel,
    "parallel keys": lambda model: nn.DataParallel(model).state_dict(),
    "nested": lambda model: {
        child: dict(getattr(model, child).state_dict()) for child in ("conv", "norm", "fc")
    },
    "state of arrays": lambda model: arrays(state(model)),
}


def arrays(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: arrays(value) for key, value in tree.items()}
    return tree.numpy() if isinstance(tree, Tensor) else tree


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("strict", [True, False])
def test_every_form_of_source_gives_the_same_result(form: Any, strict: bool) -> None:
    dst, src = net(), net()
    report = loadmodel(dst, form(src), strict=strict)
    assert bits(dst) == bits(src)
    assert report == LoadReport(loaded=tuple(src.state_dict()))


@pytest.mark.parametrize("make", [list, tuple, lambda pair: dict(zip("ab", pair, strict=True))])
def test_containers_of_modules_are_loaded_as_wholes(make: Any) -> None:
    dst, src = make([net(), net()]), make([net(), net()])
    loadmodel(dst, src)
    assert bits(dst) == bits(src)
    dst = make([net(), net()])
    loadmodel(dst, state(src))
    assert bits(dst) == bits(src)


def test_dataclasses_and_named_tuples_are_containers_too() -> None:
    dst, src = Pair(net(), torch.zeros(2)), Couple(net(), torch.ones(2))
    assert loadmodel(dst, src).loaded[-1] == "right"
    assert bits(dst) == bits(src)


def test_tensors_and_arrays_in_containers_are_written_in_place() -> None:
    tensor, array = torch.zeros(2), np.zeros(2)
    loadmodel({"a": tensor, "b": [array]}, {"a": np.ones(2, "f4"), "b": [torch.ones(2).double()]})
    assert tensor.eq(1).all() and (array == 1).all()
    assert issues({"a": np.zeros(2)[::-1]}, {"a": torch.ones(2).double()}) == [("a", "read-only")]


def test_odd_arrays_are_read() -> None:
    frozen = np.ones((2, 2), "f4")
    frozen.flags.writeable = False
    for source in (frozen, np.ones((2, 2), ">f4"), np.ones((4, 2), "f4")[::-2]):
        dst = torch.zeros(2, 2)
        loadmodel({"a": dst}, {"a": source})
        assert dst.eq(1).all()
    assert issues({"a": torch.zeros(1)}, {"a": np.ones(1, "g")}) == [("a", "dtype")]


@pytest.mark.parametrize("source", [3, "model.safetensors", None, print, [1], ()])
def test_what_is_no_source_is_an_error(source: Any) -> None:
    with pytest.raises((TypeError, StructureMismatch)):
        loadmodel(net(), source)
    with pytest.raises((TypeError, StructureMismatch)):
        loadmodel(source, net())


def test_names_that_meet_are_an_error() -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match=r"a\.b"):
        loadmodel({"a": {"b": one}}, {"a": {"b": one}, "a.b": one})


def test_class_names_and_kinds_of_containers_do_not_matter() -> None:
    src = [nn.Linear(2, 2), nn.Linear(2, 1)]
    loadmodel(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), nn.ModuleList(src))
    loadmodel(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), src)
    loadmodel([nn.Linear(2, 2), nn.Linear(2, 1)], tuple(src))
    loadmodel(nn.BatchNorm1d(2), nn.BatchNorm2d(2))


def test_a_missing_tensor_is_an_error_or_left_alone() -> None:
    src = net().state_dict()
    del src["fc.bias"], src["conv.weight"]
    dst = net()
    assert issues(dst, src) == [("conv.weight", "missing"), ("fc.bias", "missing")]
    before = bits(dst)
    report = loadmodel(dst, src, strict=False)
    assert report.missing == ("conv.weight", "fc.bias")
    assert {path for path, old in before.items() if bits(dst)[path] == old} >= {*report.missing}
    assert set(report.loaded) == set(src)


def test_a_counter_that_old_files_lack_is_kept() -> None:
    dst, src = net(), net().state_dict()
    dst.norm.num_batches_tracked.fill_(7)
    del src["norm.num_batches_tracked"]
    for strict in (True, False):
        report = loadmodel(dst, src, strict=strict)
        assert report.missing == () and report.skipped == ("norm.num_batches_tracked",)
        assert dst.norm.num_batches_tracked == 7
    del src["norm.running_var"]
    assert [path for path, _ in issues(dst, src)] == [
        "norm.running_var",
        "norm.num_batches_tracked",
    ]
    tree = state(net())
    del tree["norm"]["num_batches_tracked"]
    assert issues(dst, tree) == [("norm.num_batches_tracked", "missing")]


def test_a_tensor_only_in_the_source_is_an_error_or_reported() -> None:
    dst, src = net(), {**net().state_dict(), "new.weight": torch.ones(1), "act": torch.ones(1)}
    assert issues(dst, src) == [("act", "unexpected"), ("new.weight", "unexpected")]
    report = loadmodel(dst, src, strict=False)
    assert report.unexpected == ("new.weight", "act")
    assert bits(dst).items() <= bits(src).items()


def test_no_state_at_a_tensor_is_a_missing_tensor() -> None:
    dst, tree = net(), state(net())
    tree["fc"]["weight"] = ()
    assert issues(dst, tree) == [("fc.weight", "missing")]
    assert loadmodel(dst, tree, strict=False).missing == ("fc.weight",)


@pytest.mark.parametrize(
    ("mine", "theirs"), [((2, 3), (3, 2)), ((2, 3), (6,)), ((), (1,)), ((1,), ()), ((2,), (1,))]
)
def test_another_shape_is_an_error(mine: tuple[int, ...], theirs: tuple[int, ...]) -> None:
    dst = Holder(w=weight(*mine))
    assert both(dst, {"w": torch.ones(theirs)}) == [("w", "shape")]


FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("theirs", FLOATS)
@pytest.mark.parametrize("mine", FLOATS)
def test_floats_are_cast_to_the_dtype_of_the_model(mine: Any, theirs: Any, strict: bool) -> None:
    dst, value = Holder(w=nn.Parameter(torch.zeros(3, dtype=mine))), torch.randn(3).to(theirs)
    report = loadmodel(dst, {"w": value}, strict=strict)
    assert dst.w.dtype is mine and torch.equal(dst.w, value.to(mine))
    names = (str(theirs).removeprefix("torch."), str(mine).removeprefix("torch."))
    assert report.cast == ({} if mine is theirs else {"w": names})


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (torch.float32, torch.int64),
        (torch.int64, torch.float32),
        (torch.float32, torch.complex64),
        (torch.complex64, torch.float32),
        (torch.complex64, torch.complex128),
        (torch.bool, torch.uint8),
        (torch.float32, torch.bool),
        (torch.int32, torch.int64),
        (torch.float8_e4m3fn, torch.float32),
        (torch.float32, torch.float8_e4m3fn),
    ],
)
def test_any_other_change_of_dtype_is_an_error(mine: torch.dtype, theirs: torch.dtype) -> None:
    dst = Holder()
    dst.register_buffer("w", torch.zeros(2).to(mine))
    assert both(dst, {"w": torch.zeros(2).to(theirs)}) == [("w", "dtype")]


def test_shape_and_dtype_are_both_told() -> None:
    found = both(Holder(w=weight(2)), {"w": torch.ones(3, dtype=torch.int64)})
    assert found == [("w", "shape"), ("w", "dtype")]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("nothing", [None, False])
def test_a_bias_that_the_source_has_not_becomes_zero(nothing: Any, strict: bool) -> None:
    dst = nn.Linear(2, 2)
    report = loadmodel(dst, {"weight": torch.ones(2, 2), "bias": nothing}, strict=strict)
    assert dst.bias.eq(0).all() and dst.bias.requires_grad
    assert report.loaded == ("weight", "bias")


def test_a_layer_without_bias_loads_into_one_with() -> None:
    dst = nn.Linear(2, 2)
    loadmodel(dst, nn.Linear(2, 2, bias=False))
    assert dst.bias.eq(0).all()


@pytest.mark.parametrize("nothing", [None, False])
def test_nothing_for_any_other_tensor_is_a_missing_tensor(nothing: Any) -> None:
    dst = nn.Linear(2, 2)
    src = {"weight": nothing, "bias": torch.ones(2)}
    assert issues(dst, src) == [("weight", "missing")]
    assert loadmodel(dst, src, strict=False).missing == ("weight",)


@pytest.mark.parametrize(
    "thing", [True, 0.5, 3, "x", {"a": torch.ones(1)}, [1], {"training": True}]
)
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_anything_else_at_a_tensor_is_an_error(thing: Any, name: str) -> None:
    src = {**nn.Linear(2, 2).state_dict(), name: thing}
    assert (name, "type") in issues(nn.Linear(2, 2), src)
    assert both(nn.Linear(2, 2), src) if not isinstance(thing, dict) else True
    assert (name, "type") in issues(nn.Linear(2, 2), src, strict=False)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e5m2, torch.complex64, torch.int8])
def test_a_zero_bias_loads_into_a_layer_without(strict: bool, dtype: torch.dtype) -> None:
    dst = nn.Linear(2, 2, bias=False)
    src = {"weight": torch.ones(2, 2), "bias": torch.zeros(2).to(dtype)}
    report = loadmodel(dst, src, strict=strict)
    assert report == LoadReport(loaded=("weight",), skipped=("bias",))
    plain = Holder(w=weight(1), bias=None)
    loadmodel(plain, {"w": torch.ones(1), "bias": torch.zeros(2)}, strict=strict)


@pytest.mark.parametrize("value", [1.0, 1e-300, float("nan")])
def test_any_other_bias_does_not(value: float) -> None:
    dst = nn.Linear(2, 2, bias=False)
    src = {"weight": torch.ones(2, 2), "bias": torch.tensor([0, value], dtype=torch.float64)}
    assert both(dst, src) == [("bias", "absent")]


def test_a_tensor_for_any_other_absent_one_is_an_error() -> None:
    dst = nn.BatchNorm1d(2, affine=False)
    src = nn.BatchNorm1d(2).state_dict()
    assert both(dst, src) == [("weight", "absent")]
    assert both(Holder(w=weight(1), scale=None), {"w": torch.ones(1), "scale": torch.zeros(1)}) == [
        ("scale", "absent")
    ]


def with_act() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.ReLU())


def without_act() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2))


@pytest.mark.parametrize("form", [lambda model: model, state])
def test_a_child_without_parameters_on_one_side_is_an_error(form: Any) -> None:
    for dst, src in ((with_act(), without_act()), (without_act(), with_act())):
        assert issues(dst, form(src)) == [("1", "structure")]
        loadmodel(dst, form(src), strict=False)
        assert bits(dst) == bits(src)
    loadmodel(with_act(), without_act().state_dict())


@pytest.mark.parametrize("form", [lambda model: model, state])
def test_tensors_alone_are_compared_if_that_is_asked_for(form: Any) -> None:
    for dst, src in ((with_act(), without_act()), (without_act(), with_act())):
        with pytest.raises(StructureMismatch, match="every tensor fits; strict='tensors'"):
            loadmodel(dst, form(src))
        report = loadmodel(dst, form(src), strict="tensors")
        assert report.loaded == ("0.weight", "0.bias")
        assert bits(dst) == bits(src)
    more = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    for dst, src in ((without_act(), more), (more, without_act())):
        assert {path for path, _ in issues(dst, form(src), strict="tensors")} == {
            "2.weight",
            "2.bias",
        }
        with pytest.raises(StructureMismatch) as caught:
            loadmodel(dst, form(src))
        assert "every tensor fits" not in str(caught.value)
    with pytest.raises(StructureMismatch, match="filter"):
        loadmodel(more, form(more), strict="tensors", filter=hubstate.only("nothing"))
    with pytest.raises(StructureMismatch, match="rename"):
        loadmodel(more, form(more), strict="tensors", rename={"nothing": "x"})


@pytest.mark.parametrize("strict", ["tensor", 2, None])
def test_another_strictness_is_refused(strict: Any) -> None:
    expected = r"strict: expected True, False or 'tensors', found "
    for load in (
        lambda: loadmodel(nn.Linear(1, 1), nn.Linear(1, 1), strict=strict),
        lambda: hubstate.load_pretrained(nn.Linear(1, 1), "org/none", strict=strict),
        lambda: hubstate.create_model("resnet18_small", strict=strict),
    ):
        with pytest.raises(TypeError, match=expected):
            load()


def test_a_name_without_state_stands_for_a_child_without_parameters() -> None:
    tree = state(without_act())
    loadmodel(with_act(), {**tree, "1": ()})
    function = Holder(fc=nn.Linear(2, 2), act=torch.relu)
    module = Holder(fc=nn.Linear(2, 2), act=nn.ReLU())
    loadmodel(function, module)
    loadmodel(module, function)
    assert issues(module, Holder(fc=nn.Linear(2, 2), act=None)) == [("act", "structure")]


def test_every_child_without_parameters_is_named() -> None:
    dst = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.ReLU(), nn.Dropout()), nn.Identity())
    expected = [("1", "structure"), ("1.0", "structure"), ("1.1", "structure"), ("2", "structure")]
    assert issues(dst, nn.Sequential(nn.Linear(1, 1))) == expected
    assert issues(nn.Sequential(nn.Linear(1, 1)), dst) == expected


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("form", [lambda model: model, state])
def test_plain_data_that_differs_is_reported_and_never_copied(form: Any, strict: bool) -> None:
    dst = Holder(fc=weight(1), p=0.5, size=(3, 3), gone=1, same=[1, 2], low=float("nan"))
    src = Holder(fc=weight(1), p=0.1, size=[3, 4], new="x", same=(1, 2), low=float("nan"))
    report = loadmodel(dst, form(src.eval()), strict=strict)
    assert report.drift == {
        "p": (0.5, 0.1),
        "size": ((3, 3), [3, 4]),
        "gone": (1, ()),
        "new": ((), "x"),
    }
    assert (dst.p, dst.size, dst.training) == (0.5, (3, 3), True)
    assert not hasattr(dst, "new")


def test_tensors_alone_have_no_drift() -> None:
    assert loadmodel(net(), net().state_dict()).drift == {}


def test_a_flat_dict_with_stray_data_is_still_one_of_tensors() -> None:
    report = loadmodel(net(), {**net().state_dict(), "epoch": 3})
    assert report.drift == {"epoch": ((), 3)}
