"""What loadmodel() does with every pair of a model and a source."""

from __future__ import annotations

import copy
import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from hubstate.errors import StructureMismatch
from hubstate.filters import only, without
from hubstate.loading import LoadReport, loadmodel, state
from hubstate.walk import as_tensor, rows, tensors_of


class Holder(nn.Module):
    """A module with the given attributes: parameters, children and plain data."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)


def net() -> nn.Sequential:
    """A small model with parameters, buffers and children without either."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2), act=nn.ReLU(), fc=nn.Linear(2, 3)
        )
    )


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def known(model: Any) -> dict[str, Tensor]:
    """The tensors of a model that have values."""
    found = ((path, t) for path, kind, t, _ in rows(model) if kind in ("param", "buffer"))
    return {path: as_tensor(t).detach().to_dense() for path, t in found}


def bits(model: Any) -> dict[str, bytes]:
    return {
        path: t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for path, t in known(model).items()
        if not t.is_meta
    }


def issues(dst: Any, src: Any, **options: Any) -> list[tuple[str, str]]:
    """The differences that a refused load names, after checking that it changed nothing."""
    before = bits(dst)
    with pytest.raises(StructureMismatch) as caught:
        loadmodel(dst, src, **options)
    assert bits(dst) == before
    return [(issue.path, issue.kind) for issue in caught.value.issues]


def both(dst: Any, src: Any, **options: Any) -> list[tuple[str, str]]:
    """The differences that are errors whether or not the load is strict."""
    found = issues(dst, src, **options)
    assert issues(dst, src, strict=False, **options) == found
    return found


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


def tied() -> nn.Sequential:
    model = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 3, bias=False))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", ["0.weight", "1.weight"])
def test_one_name_of_a_tied_tensor_is_enough(name: str, strict: bool) -> None:
    dst, value = tied(), torch.randn(3, 2)
    report = loadmodel(dst, {name: value}, strict=strict)
    assert report == LoadReport(loaded=("0.weight", "1.weight"))
    assert dst[0].weight is dst[1].weight and torch.equal(dst[0].weight, value)


def test_a_name_that_other_names_cover_is_enough_too() -> None:
    memory = torch.zeros(2, 3)
    dst = {"whole": memory, "left": memory[:, :1], "right": memory[:, 1:], "turned": memory.t()}
    loadmodel(dst, {"left": torch.ones(2, 1), "right": torch.full((2, 2), 2.0)})
    assert memory.tolist() == [[1, 2, 2], [1, 2, 2]]
    assert issues(dst, {"left": torch.ones(2, 1)}) == [
        ("whole", "missing"),
        ("right", "missing"),
        ("turned", "missing"),
    ]


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


def overlapping() -> dict[str, dict[str, Tensor]]:
    memory = torch.zeros(3, 3)
    return {
        "same": {"a": memory, "b": memory},
        "transposed": {"a": memory, "b": memory.t()},
        "overlapping": {"a": memory[:2], "b": memory[1:]},
        "other dtype": {"a": memory, "b": memory.view(torch.int32)},
        "folded": {"a": torch.zeros(4).as_strided((2, 3), (1, 1))},
    }


@pytest.mark.parametrize("dst", overlapping().values(), ids=overlapping())
def test_every_name_of_shared_memory_must_read_back_its_source(dst: dict[str, Tensor]) -> None:
    torch.manual_seed(0)
    wrong = {name: torch.randn(t.shape).to(t.dtype) for name, t in dst.items()}
    found = both(dst, wrong)
    assert found and all(kind == "tie" for _, kind in found)
    memory = {name: t.clone() for name, t in dst.items()}
    for strict in (True, False):
        loadmodel(dst, memory, strict=strict)


def test_shared_memory_that_agrees_is_loaded() -> None:
    value = torch.randn(3, 3)
    memory = torch.zeros(3, 3)
    loadmodel({"a": memory, "b": memory.t()}, {"a": value, "b": value.t().contiguous()})
    assert torch.equal(memory, value)
    rows = torch.zeros(3, 3)
    loadmodel({"a": rows[:2], "b": rows[1:]}, {"a": value[:2], "b": value[1:].double()})
    assert torch.equal(rows, value)


def test_a_tie_agrees_in_the_dtype_of_the_model_and_nan_is_nan() -> None:
    dst = tied()
    value = torch.full((3, 2), 1 / 3, dtype=torch.float64)
    value[0, 0] = float("nan")
    loadmodel(dst, {"0.weight": value, "1.weight": value.float()})
    assert both(dst, {"0.weight": value, "1.weight": value.half()})[0][1] == "tie"


def test_a_tied_model_loads_from_one_that_is_not_if_it_agrees() -> None:
    src = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 3, bias=False))
    assert both(tied(), src) == [("1.weight", "tie")]
    src[1].weight.data.copy_(src[0].weight)
    loadmodel(tied(), src)


def test_a_zero_bias_must_agree_with_its_other_name() -> None:
    dst = Holder(bias_a=weight(2))
    dst.bias_b = dst.bias_a
    assert both(dst, {"bias_a": None, "bias_b": torch.ones(2)})[0][1] == "tie"
    loadmodel(dst, {"bias_a": None, "bias_b": torch.zeros(2)})


def test_disjoint_slices_of_one_storage_are_independent() -> None:
    memory = torch.zeros(4, 4)
    dst = {"rows": memory[:2], "left": memory[2:, :1], "right": memory[2:, 1:]}
    loadmodel(dst, {"rows": torch.ones(2, 4), "left": torch.ones(2, 1), "right": torch.ones(2, 3)})
    assert memory.eq(1).all()


def test_a_tensor_that_cannot_be_written_is_an_error() -> None:
    value = {"w": torch.ones(3)}
    expanded = Holder()
    expanded.register_buffer("w", torch.zeros(1).expand(3))
    assert both(expanded, value) == [("w", "expanded")]
    assert both(Holder(w=nn.Parameter(torch.zeros(3, device="meta"))), value) == [("w", "meta")]
    lazy = nn.LazyLinear(3)
    src = nn.Linear(2, 3).state_dict()
    assert both(lazy, src) == [("weight", "lazy"), ("bias", "lazy")]
    assert both(Holder(w=weight(3)), {"w": torch.ones(3, device="meta")}) == [("w", "meta")]
    assert both(nn.Linear(2, 3), lazy)[0] == ("weight", "lazy")


def test_another_layout_is_an_error() -> None:
    assert both({"w": torch.eye(2)}, {"w": torch.eye(2).to_sparse()}) == [("w", "layout")]
    dst = {"w": torch.zeros(2, 2).to_sparse()}
    loadmodel(dst, {"w": torch.eye(2).to_sparse()})
    assert torch.equal(dst["w"].to_dense(), torch.eye(2))


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


def test_a_filter_is_asked_once_about_each_name() -> None:
    asked: list[tuple[str, Any]] = []

    def keep(path: str, leaf: Any) -> bool:
        asked.append((path, leaf))
        return True

    dst = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU())
    loadmodel(
        dst, {"0.weight": torch.ones(1, 2), "extra": torch.ones(3)}, filter=keep, strict=False
    )
    shown = dict(asked)
    assert len(shown) == len(asked)
    assert list(shown) == [
        "0.weight",
        "0.bias",
        "0.training",
        "0.in_features",
        "0.out_features",
        "1",
        "1.training",
        "1.inplace",
        "training",
        "extra",
    ]
    assert shown["0.weight"].data_ptr() == dst[0].weight.data_ptr()
    assert not shown["0.weight"].requires_grad
    assert (shown["0.bias"], shown["1"], shown["1.inplace"]) == (None, (), False)
    assert shown["extra"].shape == (3,)


def test_a_filter_sees_the_names_of_the_model() -> None:
    asked = []
    loadmodel(
        {"new": torch.zeros(1)},
        {"old": torch.ones(1)},
        rename={"^old$": "new"},
        filter=lambda path, leaf: asked.append(path) is None,
    )
    assert asked == ["new"]


def test_excluded_names_are_exempt_from_every_check() -> None:
    dst = nn.Sequential(
        OrderedDict(
            a=nn.Linear(2, 2),
            shape=nn.Linear(2, 2),
            missing=nn.Linear(2, 2),
            lazy=nn.LazyLinear(2),
            act=nn.ReLU(),
            none=nn.Linear(2, 2, bias=False),
            meta=nn.Linear(2, 2, device="meta"),
            drop=nn.Dropout(0.5),
        )
    )
    src = nn.Sequential(
        OrderedDict(
            a=nn.Linear(2, 2),
            shape=nn.Linear(3, 2),
            lazy=nn.LazyLinear(2),
            none=nn.Linear(2, 2),
            meta=nn.Linear(2, 2),
            new=nn.Linear(1, 1),
            newact=nn.ReLU(),
            drop=nn.Dropout(0.1),
        )
    )
    report = loadmodel(dst, src, filter=only("a", "drop.training"))
    assert report.loaded == ("a.weight", "a.bias")
    assert report.drift == {}
    assert set(report.skipped) == {
        f"{child}.{name}"
        for child in ("shape", "missing", "meta", "none", "new")
        for name in ("weight", "bias")
    }
    assert torch.equal(dst.a.weight, src.a.weight)
    assert {kind for _, kind in issues(dst, src)} == {
        "missing",
        "shape",
        "lazy",
        "structure",
        "absent",
        "meta",
        "unexpected",
    }


def test_a_head_of_another_size_is_left_out_by_name() -> None:
    dst = net()
    dst.fc = nn.Linear(2, 7)
    head = dst.fc.weight.clone()
    report = loadmodel(dst, net(), filter=without("fc"))
    assert report.skipped == ("fc.weight", "fc.bias") and torch.equal(dst.fc.weight, head)


def test_a_filter_that_selects_nothing_is_an_error() -> None:
    dst = net()
    assert issues(dst, net(), filter=only("fcc")) == [("(filter)", "filter")]
    assert loadmodel(dst, net(), filter=only("fcc"), strict=False).loaded == ()
    with pytest.raises(StructureMismatch, match=r"only\('fcc'\) selects none of 9 tensors"):
        loadmodel(dst, net(), filter=only("fcc"))


@pytest.mark.parametrize("strict", [True, False])
def test_a_tied_tensor_is_loaded_through_the_name_that_is_left(strict: bool) -> None:
    dst, src = tied(), tied()
    report = loadmodel(dst, src, filter=without("0"), strict=strict)
    assert report.loaded == ("1.weight",) and report.skipped == ("0.weight",)
    assert torch.equal(dst[0].weight, src[1].weight) and dst[0].weight is dst[1].weight


def test_rules_rename_the_names_of_the_source() -> None:
    src = {f"backbone.{name}": t for name, t in net().state_dict().items()}
    src["backbone.fc.kernel"] = src.pop("backbone.fc.weight")
    dst = net()
    loadmodel(dst, src, rename={r"^backbone\.": "", r"\.kernel$": ".weight"})
    assert torch.equal(dst.fc.weight, src["backbone.fc.kernel"])


def test_rules_rename_modules_too() -> None:
    src = nn.Sequential(OrderedDict(old=nn.Linear(1, 1), relu=nn.ReLU()))
    dst = nn.Sequential(OrderedDict(fc=nn.Linear(1, 1), act=nn.ReLU()))
    assert loadmodel(dst, src, rename={r"^old\.": "fc.", r"^relu\.": "act."}).drift == {}
    assert loadmodel(dst, state(src), rename={"^old": "fc", "^relu$": "act", "^relu": "act"})


def test_names_that_collide_after_renaming_are_an_error() -> None:
    src = {"a": torch.ones(1), "b": torch.ones(1)}
    assert ("c", "rename") in both({"c": torch.zeros(1)}, src, rename={"[ab]": "c"})


def test_a_rule_that_matches_nothing_is_an_error() -> None:
    src, rules = {"a": torch.ones(1)}, {"^x": "y"}
    dst = {"a": torch.zeros(1)}
    assert issues(dst, src, rename=rules) == [("^x", "rename")]
    loadmodel(dst, src, rename=rules, strict=False)
    with pytest.raises(ValueError, match="no regular expression"):
        loadmodel(dst, src, rename={"(": ""})


PREFIXES = [
    "module.",
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "module.module.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("strict", [True, False])
def test_prefixes_of_wrappers_are_cut(prefix: str, strict: bool) -> None:
    dst, src = net(), net()
    flat = {prefix + name: t for name, t in src.state_dict().items()}
    report = loadmodel(dst, flat, strict=strict)
    assert bits(dst) == bits(src) and report.unexpected == ()


def test_prefixes_of_wrapped_children_are_cut() -> None:
    src = {f"conv._orig_mod.{n}": t for n, t in net().conv.state_dict().items()}
    rest = {n: t for n, t in net().state_dict().items() if not n.startswith("conv")}
    loadmodel(net(), {**src, **rest})
    with_wrapped_child = net()
    with_wrapped_child.conv = torch.compile(with_wrapped_child.conv, backend="eager")
    loadmodel(net(), with_wrapped_child.state_dict())


def test_a_parallel_prefix_stays_where_not_every_tensor_has_it() -> None:
    one = torch.ones(1)
    assert issues({"a": torch.ones(1), "b": torch.ones(1)}, {"module.a": one, "b": one}) == [
        ("a", "missing"),
        ("module.a", "unexpected"),
    ]


def test_a_parallel_prefix_stays_where_the_model_has_such_a_child() -> None:
    src = Holder(module=nn.Linear(1, 1))
    loadmodel(Holder(module=nn.Linear(1, 1)), src.state_dict())
    averaged = torch.optim.swa_utils.AveragedModel(net())
    loadmodel(averaged, torch.optim.swa_utils.AveragedModel(net()).state_dict())
    loadmodel(averaged, torch.optim.swa_utils.AveragedModel(net()))


def test_prefix_and_rules_work_together_in_either_spelling() -> None:
    src = {"module.old.w": torch.ones(1)}
    for rule in ({r"^old\.": "new."}, {r"^module\.old\.": "new."}, {r"^module\.old": "module.new"}):
        dst = {"new": {"w": torch.zeros(1)}}
        loadmodel(dst, src, rename=rule)
        assert dst["new"]["w"] == 1
    loadmodel({"old": {"w": torch.zeros(1)}}, src, rename={r"^module\.": ""})


def test_all_differences_come_in_one_exception_in_the_order_of_the_model() -> None:
    dst = nn.Sequential(
        OrderedDict(
            a=nn.Linear(1, 1),
            act=nn.ReLU(),
            b=nn.Linear(1, 1),
            c=nn.Linear(1, 1, bias=False),
            d=tied(),
            e=nn.LazyLinear(1),
        )
    )
    src = nn.Sequential(
        OrderedDict(
            new=nn.Linear(1, 1),
            d=nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 3, bias=False)),
            c=nn.Linear(1, 1),
            b=nn.Linear(1, 2).to(torch.float8_e5m2),
            e=nn.Linear(1, 1),
        )
    )
    assert issues(dst, src) == [
        ("a.weight", "missing"),
        ("a.bias", "missing"),
        ("act", "structure"),
        ("b.weight", "shape"),
        ("b.weight", "dtype"),
        ("b.bias", "shape"),
        ("b.bias", "dtype"),
        ("c.bias", "absent"),
        ("d.1.weight", "tie"),
        ("e.weight", "lazy"),
        ("e.bias", "lazy"),
        ("new.weight", "unexpected"),
        ("new.bias", "unexpected"),
    ]


def test_the_text_tells_both_shapes_and_both_dtypes_and_never_values() -> None:
    dst, src = Holder(w=weight(2, 3)), {"w": torch.full((3,), 777, dtype=torch.int64)}
    with pytest.raises(StructureMismatch) as caught:
        loadmodel(dst, src)
    assert str(caught.value).splitlines() == [
        "2 differences, nothing was loaded:",
        "  w: shape: source (3,) int64, model (2, 3) float32",
        "  w: dtype: source (3,) int64, model (2, 3) float32",
    ]
    assert isinstance(caught.value, ValueError)


def test_the_text_is_capped_and_the_issues_are_not() -> None:
    dst = nn.Sequential(*(nn.Linear(1, 1) for _ in range(50)))
    with pytest.raises(StructureMismatch) as caught:
        loadmodel(dst, {})
    assert len(caught.value.issues) == 100
    assert len(str(caught.value).splitlines()) < 60


def test_a_load_keeps_everything_but_the_values() -> None:
    dst = net().eval().to(memory_format=torch.channels_last)
    dst.conv.weight.requires_grad_(False)
    dst.fc.weight.grad = torch.ones(3, 2)
    calls: list[str] = []
    dst.fc.weight.register_hook(lambda grad: calls.append("hook"))
    dst.register_load_state_dict_post_hook(lambda *_: calls.append("load hook"))
    before = {name: (id(t), t.data_ptr(), t.stride()) for name, t in dst.named_parameters()}
    optimizer = torch.optim.SGD(dst.parameters(), lr=1.0)
    loadmodel(dst, net())
    after = {name: (id(t), t.data_ptr(), t.stride()) for name, t in dst.named_parameters()}
    assert after == before and not dst.training
    assert not dst.conv.weight.requires_grad and dst.fc.weight.requires_grad
    assert dst.fc.weight.grad is not None and dst.fc.weight.grad.eq(1).all()
    dst.fc.weight.sum().backward()
    assert calls == ["hook"]
    old = dst.fc.weight.clone()
    optimizer.step()
    assert not torch.equal(dst.fc.weight, old)


def test_a_load_shares_no_memory_with_the_source() -> None:
    dst, src = net(), net()
    loadmodel(dst, src)
    before = bits(src)
    with torch.no_grad():
        for tensor in dst.state_dict().values():
            tensor.zero_()
    assert bits(src) == before


def test_a_source_that_is_the_models_own_memory_is_read_before_it_is_written() -> None:
    a, b = torch.zeros(2), torch.ones(2)
    loadmodel({"a": a, "b": b}, {"a": b, "b": a})
    assert a.eq(1).all() and b.eq(0).all()
    model = net()
    before = bits(model)
    loadmodel(model, state(model))
    loadmodel(model, model)
    assert bits(model) == before
    line = torch.arange(4.0)
    loadmodel({"x": line[1:]}, {"x": line[:-1]})
    assert line.tolist() == [0, 0, 1, 2]


class Extra(nn.Module):
    def __init__(self, extra: Any, *, strict: bool = True) -> None:
        super().__init__()
        self.weight = weight(2)
        self._extra = extra
        self._strict = strict

    def get_extra_state(self) -> Any:
        return self._extra

    def set_extra_state(self, state: Any) -> None:
        self._extra = state
        if self._strict and state == "bad":
            raise RuntimeError("no such extra")


@pytest.mark.parametrize("form", [lambda model: model, state, lambda model: model.state_dict()])
def test_an_extra_state_is_loaded(form: Any) -> None:
    dst, src = nn.Sequential(Extra({"steps": 1})), nn.Sequential(Extra({"steps": [2, (3,)]}))
    report = loadmodel(dst, form(src))
    assert dst[0]._extra == {"steps": [2, (3,)]}
    assert report.loaded == ("0.weight", "0._extra_state") and report.drift == {}


def test_an_extra_state_of_tensors_is_copied() -> None:
    dst, src = Extra(torch.zeros(2)), Extra(torch.ones(2))
    loadmodel(dst, src)
    assert dst._extra.eq(1).all() and dst._extra.data_ptr() != src._extra.data_ptr()
    src = Extra({"a": [torch.ones(1)]})
    loadmodel(dst, src.state_dict())
    assert dst._extra["a"][0] == 1 and dst._extra["a"][0] is not src._extra["a"][0]


def test_a_missing_or_unexpected_extra_state_is_an_error_as_in_torch() -> None:
    src = {"weight": torch.ones(2)}
    assert issues(Extra(1), src) == [("_extra_state", "missing")]
    assert loadmodel(Extra(1), src, strict=False).missing == ("_extra_state",)
    assert issues(Extra(1), Extra(object())) == [("_extra_state", "missing")]
    assert issues(Holder(weight=weight(2)), Extra(1)) == [("_extra_state", "unexpected")]
    loadmodel(Extra(1), src, filter=without("_extra_state"))


def test_an_extra_state_that_is_refused_leaves_everything_as_it_was() -> None:
    dst = nn.Sequential(Extra("first"), Extra("second"), nn.Linear(1, 1))
    src = nn.Sequential(Extra("good"), Extra("bad"), nn.Linear(1, 1))
    assert issues(dst, src) == [("1._extra_state", "extra")]
    assert [dst[0]._extra, dst[1]._extra] == ["first", "second"]


def test_load_hooks_and_their_names_stay() -> None:
    dst = parametrizations.weight_norm(nn.Linear(3, 2))
    src = parametrizations.weight_norm(nn.Linear(3, 2))
    loadmodel(dst, src)
    assert torch.equal(dst.weight, src.weight)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LSTM(2, 3, 2, bidirectional=True),
        lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True, kdim=3),
        lambda: nn.ParameterDict({"a": nn.ParameterList([weight(1), weight(2)])}),
        lambda: parametrizations.spectral_norm(nn.Conv2d(2, 3, 3)),
        lambda: nn.DataParallel(net()),
        lambda: torch.compile(net(), backend="eager"),
        lambda: net().to(torch.bfloat16),
        lambda: Holder(w=nn.Parameter(torch.randn(3, dtype=torch.complex64))),
        lambda: Holder(w=nn.Parameter(torch.randn(3).to(torch.float8_e5m2), requires_grad=False)),
        lambda: Holder(w=nn.Parameter(torch.randn(0, 3)), s=nn.Parameter(torch.randn(()))),
        lambda: Holder(w=nn.Parameter(torch.randn(4, 4)[::2, 1::2])),
    ],
)
@pytest.mark.parametrize("form", [lambda model: model, state, tensors_of])
def test_modules_of_all_kinds_are_loaded(make: Any, form: Any) -> None:
    dst, src = make(), make()
    report = loadmodel(dst, form(src))
    assert bits(dst) == bits(src)
    assert set(report.loaded) == set(bits(src)) and report.drift == {}


def test_a_loaded_model_computes_what_the_source_computes() -> None:
    dst, src = nn.LSTM(2, 3).double(), nn.LSTM(2, 3).double()
    loadmodel(dst, src.state_dict())
    x = torch.randn(4, 2, dtype=torch.float64)
    assert torch.equal(dst(x)[0], src(x)[0])
    assert torch.equal(copy.deepcopy(dst)(x)[0], src(x)[0])


def test_a_report_is_read_at_a_glance() -> None:
    dst = net().half()
    dst.fc = nn.Linear(2, 7)
    src: Mapping[str, Any] = state(net())
    src["conv"]["stride"] = (2, 2)
    del src["norm"]["bias"]
    src["new"] = torch.ones(1)
    report = loadmodel(dst, src, filter=without("fc"), strict=False)
    assert str(report).splitlines() == [
        "6 loaded, 1 missing, 1 unexpected, 2 skipped, 5 cast, 1 drift",
        "  missing: norm.bias",
        "  unexpected: new",
        "  skipped: fc.weight, fc.bias",
        "  cast: conv.weight (float32 -> float16), conv.bias (float32 -> float16), "
        "norm.weight (float32 -> float16), norm.running_mean (float32 -> float16), "
        "norm.running_var (float32 -> float16)",
        "  drift: conv.stride ((1, 1), not (2, 2))",
    ]
    plain = report.to_json()
    assert plain["missing"] == ["norm.bias"] and plain["cast"]["conv.bias"] == [
        "float32",
        "float16",
    ]
    assert plain["drift"] == {"conv.stride": [{"$tuple": [1, 1]}, {"$tuple": [2, 2]}]}


def test_a_long_report_is_capped() -> None:
    report = LoadReport(missing=tuple(f"layer{i}" for i in range(100)))
    assert str(report).endswith("layer9, … and 90 more")
