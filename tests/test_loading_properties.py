"""Any model at all: its state loads into a fresh one, and damage of any kind changes nothing."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hubstate.errors import StructureMismatch
from hubstate.loading import assign_tensors, check, describe, loadmodel, plan_entries, state
from hubstate.walk import tensors_of

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
NAMES = st.sampled_from(["a", "b", "weight", "bias", "mean"])
SHAPES = st.lists(st.integers(0, 3), max_size=3)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)


class Blank(nn.Module):
    """A module made of what it is given."""


@st.composite
def tensors(draw: Any) -> Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    tensor = torch.randint(0, 99, draw(SHAPES)).to(dtype)
    if tensor.ndim > 1 and draw(st.booleans()):
        tensor = tensor.transpose(0, 1).contiguous().transpose(0, 1)
    return tensor


def leaves() -> st.SearchStrategy[nn.Module]:
    return st.sampled_from(
        [
            lambda: nn.Linear(2, 1),
            lambda: nn.Linear(1, 2, bias=False),
            lambda: nn.BatchNorm1d(2),
            lambda: nn.BatchNorm1d(2, affine=False),
            nn.ReLU,
            lambda: nn.Dropout(0.25),
            lambda: nn.Embedding(2, 2),
            lambda: nn.GRU(1, 2),
        ]
    ).map(lambda make: make())


@st.composite
def blanks(draw: Any, children: st.SearchStrategy[nn.Module]) -> nn.Module:
    module = Blank()
    for name in draw(st.lists(NAMES, unique=True, max_size=4)):
        kind = draw(st.sampled_from(["param", "buffer", "none", "transient", "data", "child"]))
        if kind == "param":
            tensor = draw(tensors())
            floating = tensor.is_floating_point() or tensor.is_complex()
            module.register_parameter(name, nn.Parameter(tensor, requires_grad=floating))
        elif kind in ("buffer", "transient"):
            module.register_buffer(name, draw(tensors()), persistent=kind == "buffer")
        elif kind == "none":
            module.register_parameter(name, None)
        elif kind == "data":
            setattr(module, name, draw(st.lists(PLAIN) | PLAIN))
        else:
            module.add_module(name, draw(children))
    return module


@st.composite
def sequences(draw: Any, children: st.SearchStrategy[nn.Module]) -> nn.Module:
    found = draw(st.lists(children, min_size=1, max_size=3))
    if draw(st.booleans()):
        found.append(found[0])  # a shared child
    return nn.Sequential(*found)


MODELS = st.recursive(leaves(), lambda inner: blanks(inner) | sequences(inner), max_leaves=6)
quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)


def fresh(model: nn.Module) -> nn.Module:
    """The same model with other values."""
    other = copy.deepcopy(model)
    for tensor in tensors_of(other).values():
        tensor.copy_(torch.randint(100, 200, tensor.shape))
    return other


def bits(model: Any) -> dict[str, bytes]:
    return {
        path: t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for path, t in tensors_of(model).items()
    }


@quick
@given(MODELS)
def test_any_model_loads_into_a_fresh_one(model: nn.Module) -> None:
    for form in (lambda m: m, state, lambda m: m.state_dict()):
        dst = fresh(model)
        report = loadmodel(dst, form(model))
        assert bits(dst) == bits(model)
        assert set(report.loaded) == set(bits(model))
        assert not (report.missing or report.unexpected or report.cast or report.drift)


@quick
@given(MODELS)
def test_any_model_can_be_assigned_from_its_description(model: nn.Module) -> None:
    dst = fresh(model)
    plan = plan_entries(dst, describe(model), fresh=True)
    assign_tensors(plan, {name: t.clone() for name, t in tensors_of(model).items()})
    assert bits(dst) == bits(model)
    assert describe(dst) == describe(model)


@quick
@given(MODELS)
def test_a_tensor_path_is_a_key_of_state_dict(model: nn.Module) -> None:
    assert list(tensors_of(model)) == list(model.state_dict())


def damage(draw: Any, tree: dict[str, Any], names: list[str]) -> str:
    """One tensor of a state made wrong, and how."""
    path = draw(st.sampled_from(names))
    *parents, name = path.split(".")
    node = tree
    for parent in parents:
        node = node[parent]
    tensor = node[name]
    wrong = draw(st.sampled_from(["gone", "shape", "dtype", "type", "meta", "opaque", "new"]))
    if wrong == "gone":
        del node[name]
    elif wrong == "new":
        node["unheard_of"] = tensor
    else:
        node[name] = {
            "shape": torch.cat([tensor.reshape(-1), tensor.new_zeros(1)]).unsqueeze(0).unsqueeze(0),
            "dtype": torch.zeros(tensor.shape, dtype=torch.int8),
            "type": "text",
            "meta": tensor.to("meta"),
            "opaque": (),
        }[wrong]
    return path


@quick
@given(MODELS, st.data())
def test_one_damaged_tensor_leaves_the_model_bit_for_bit(model: nn.Module, data: Any) -> None:
    tied = {path for path in bits(model) if is_shared(model, path)}
    names = [path for path in bits(model) if path not in tied]
    if not names:
        return
    tree, dst = state(model), fresh(model)
    damage(data.draw, tree, names)
    before = bits(dst)
    with pytest.raises(StructureMismatch) as caught:
        loadmodel(dst, tree)
    assert len(caught.value.issues) >= 1
    assert bits(dst) == before


def is_shared(model: nn.Module, path: str) -> bool:
    found = tensors_of(model)
    address = found[path].data_ptr()
    return sum(t.data_ptr() == address for t in found.values()) > 1


@quick
@given(MODELS, MODELS)
def test_any_two_models_agree_or_are_left_alone(dst: nn.Module, src: nn.Module) -> None:
    before = bits(dst)
    try:
        promised = check(dst, describe(src))
    except StructureMismatch as error:
        with pytest.raises(StructureMismatch) as caught:
            loadmodel(dst, src)
        assert set(error.issues) <= set(caught.value.issues)
        assert bits(dst) == before
        return
    try:
        assert loadmodel(dst, src) == promised
    except StructureMismatch as error:
        assert {issue.kind for issue in error.issues} <= {"tie", "absent"}
        assert bits(dst) == before


@quick
@given(MODELS, MODELS)
def test_a_loose_load_accounts_for_every_tensor_of_both_sides(dst: Any, src: Any) -> None:
    mine, theirs = set(bits(dst)), set(bits(src))
    try:
        report = loadmodel(dst, src, strict=False)
    except StructureMismatch:
        return
    assert {*report.loaded, *report.missing} == mine
    assert {*report.loaded, *report.skipped, *report.unexpected} >= theirs


def test_a_thousand_wrong_names_are_told_at_once() -> None:
    dst = nn.Sequential(*(nn.Linear(2, 2) for _ in range(500)))
    src = {f"wrong.{name}": tensor for name, tensor in dst.state_dict().items()}
    times = []
    for _ in range(5):
        start = time.thread_time()
        with pytest.raises(StructureMismatch) as caught:
            loadmodel(dst, src)
        assert str(caught.value)
        times.append(time.thread_time() - start)
    assert len(caught.value.issues) == 2000
    assert min(times) < 1, "a search for similar names takes minutes; scripts/bench has the figure"
