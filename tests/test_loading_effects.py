"""What a load changes, what it leaves alone, and what it tells."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from loads import Holder, bits, issues, net, tied, weight
from torch import nn
from torch.nn.utils import parametrizations

from hubstate.errors import StructureMismatch
from hubstate.filters import without
from hubstate.loading import LoadReport, loadmodel, state
from hubstate.walk import tensors_of


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


def test_a_tensor_that_only_inference_mode_may_write_is_told_before_anything_is_written() -> None:
    first = nn.Linear(2, 2)
    with torch.inference_mode():
        dst = nn.Sequential(first, nn.Linear(2, 2))
    src = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    before = first.weight.clone()
    with pytest.raises(StructureMismatch) as refused:
        loadmodel(dst, src)
    assert [(issue.path, issue.kind) for issue in refused.value.issues] == [
        ("1.weight", "inference"),
        ("1.bias", "inference"),
    ]
    assert torch.equal(first.weight, before)
    with torch.inference_mode():
        assert len(loadmodel(dst, src).loaded) == 4
