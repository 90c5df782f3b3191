"""Tensors that share memory, or have none: ties, slices, views, and the source's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loads import Holder, bits, both, issues, net, tied, weight
from torch import Tensor, nn

from hubstate.errors import StructureMismatch
from hubstate.filters import without
from hubstate.loading import LoadReport, loadmodel, state
from hubstate.loading.overlap import same_bits


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


@pytest.mark.parametrize("strict", [True, False])
def test_a_tied_tensor_is_loaded_through_the_name_that_is_left(strict: bool) -> None:
    dst, src = tied(), tied()
    report = loadmodel(dst, src, filter=without("0"), strict=strict)
    assert report.loaded == ("1.weight",) and report.skipped == ("0.weight",)
    assert torch.equal(dst[0].weight, src[1].weight) and dst[0].weight is dst[1].weight


class Packed(nn.Linear):
    def _save_to_state_dict(self, *args: Any) -> None: ...


def test_a_module_with_hidden_weights_is_an_error_on_either_side() -> None:
    plain = nn.Sequential(nn.Linear(2, 2))
    packed = nn.Sequential(Packed(2, 2))
    assert ("0", "packed") in issues(plain, packed)
    with pytest.raises(StructureMismatch, match="0: packed: Packed keeps weights outside"):
        loadmodel(packed, plain, strict=False)


def test_one_element_is_compared_whatever_its_stride() -> None:
    source = torch.zeros(()).expand(1)
    assert source.stride() == (0,)
    assert same_bits(source, torch.zeros(1))
    assert not same_bits(source, torch.ones(1))
