"""Which names are loaded, and what they are called: filters, rules, prefixes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from loads import Holder, bits, both, issues, net
from torch import nn

from hubstate.errors import StructureMismatch
from hubstate.filters import only, without
from hubstate.loading import loadmodel, state


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


def test_rules_rename_the_names_of_the_source() -> None:
    src = {f"backbone.{name}": t for name, t in net().state_dict().items()}
    src["backbone.fc.kernel"] = src.pop("backbone.fc.weight")
    dst = net()
    loadmodel(dst, src, rename={r"^backbone\.": "", r"\.kernel$": ".weight"})
    assert torch.equal(dst.fc.weight, src["backbone.fc.kernel"])


def test_rules_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(TypeError, match=r"rename: expected a mapping.* found a function"):
        loadmodel(net(), net(), rename=lambda name: name)  # type: ignore[arg-type]


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
    with pytest.raises(ValueError, match=r"rename: .* invalid group reference"):
        loadmodel(net(), net(), rename={"w": r"\3"})
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
