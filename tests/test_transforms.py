"""Transforms: rules that are data, applied to names and shapes before any byte, and undone."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toys import toy

import hubstate
from hubstate.errors import InvalidSetting, StructureMismatch
from hubstate.rules import Rule, names_in
from hubstate.transforms import Transformation, dump_rules, parse_rules, resolve


def made(rules: list[dict[str, Any]], tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return resolve(rules, tensors).apply(tensors)


def numbered(*shape: int) -> torch.Tensor:
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_pattern_matches_whole_names_only() -> None:
    tensors = {"a.w": numbered(1), "b.a.w": numbered(2)}
    assert list(made([{"rename": r"a\.(.*)", "to": r"c.\1"}], tensors)) == ["c.w", "b.a.w"]


def test_numbers_in_names_are_shifted() -> None:
    tensors = {"s1.b1.w": numbered(1), "s1.b12.w": numbered(2)}
    rules = [{"rename": r"s(\d)\.b(\d+)\.(.)", "to": r"\3\1.\2\g<2>", "shift": [0, -1]}]
    assert list(made(rules, tensors)) == ["w1.00", "w1.1111"]
    there = resolve(rules, tensors)
    assert same(resolve(there.inverse(), made(rules, tensors)).apply(made(rules, tensors)), tensors)
    assert parse_rules(dump_rules(parse_rules(rules))) == parse_rules(rules)


def test_names_are_exchanged_at_once() -> None:
    tensors = {"a": numbered(1), "b": numbered(2)}
    found = made([{"rename": {"a": "b", "b": "a"}}], tensors)
    assert found["a"] is tensors["b"]
    assert found["b"] is tensors["a"]


def test_rules_are_applied_in_turn() -> None:
    rules = [{"rename": "a", "to": "b"}, {"transpose": "b"}, {"drop": "c"}]
    found = made(rules, {"a": numbered(2, 3), "c": numbered(1)})
    assert same(found, {"b": numbered(2, 3).T})


def test_transpose_takes_axes_in_the_order_given() -> None:
    kernel = numbered(2, 3, 4, 5)
    found = made([{"transpose": "k", "order": [3, 2, 0, 1]}], {"k": kernel})["k"]
    assert torch.equal(found, kernel.permute(3, 2, 0, 1))


def test_split_and_fuse_are_each_the_other_way_round() -> None:
    names = [r"\1.q.\2", r"\1.k.\2", r"\1.v.\2"]
    tensors = {"x.qkv.weight": numbered(6, 2), "x.qkv.bias": numbered(6)}
    split = made([{"split": r"(.*)\.qkv\.(.*)", "to": names}], tensors)
    assert torch.equal(split["x.k.weight"], numbered(6, 2)[2:4])
    assert len({t.untyped_storage().data_ptr() for t in split.values()}) == 6
    patterns = [rf"(.*)\.{name}\.(.*)" for name in "qkv"]
    assert same(made([{"fuse": patterns, "to": r"\1.qkv.\2"}], split), tensors)


def test_a_split_of_unequal_sizes_along_another_axis() -> None:
    rule = {"split": "a", "to": ["b", "c"], "axis": 1, "sizes": [1, 2]}
    found = made([rule], {"a": numbered(2, 3)})
    assert torch.equal(found["c"], numbered(2, 3)[:, 1:])


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"fuse": ["a", "b"], "to": "c"}, "c: fuse: of several dtypes: float16, float32"),
        ({"split": "a", "to": ["c", "d"], "axis": 2}, r"a: split: \(2, 3\): there is no axis 2"),
    ],
)
def test_no_rule_widens_a_tensor_or_makes_an_axis(rule: Any, said: str) -> None:
    with pytest.raises(StructureMismatch, match=said):
        resolve([rule], {"a": numbered(2, 3), "b": numbered(2, 3).half()})


def test_a_flipped_kernel_turns_convolution_into_correlation() -> None:
    found = made([{"flip": "w", "axes": [2, 3]}], {"w": numbered(1, 1, 2, 2)})
    assert found["w"].flatten().tolist() == [3, 2, 1, 0]


def test_a_fallback_fills_only_what_is_missing() -> None:
    rules = [{"fallback": r"(.*)\.w", "to": r"\1.b", "value": 2}]
    found = made(rules, {"x.w": numbered(2), "y.w": numbered(2), "y.b": numbered(2)})
    assert found["x.b"].tolist() == [2, 2]
    assert found["y.b"].tolist() == [0, 1]
    copy = made([{"fallback": "w", "to": "v"}], {"w": numbered(2)})
    assert torch.equal(copy["v"], copy["w"])
    assert copy["v"] is not copy["w"]


@pytest.mark.parametrize("bias", [True, False])
def test_a_folded_normalisation_computes_the_same(bias: bool) -> None:
    torch.manual_seed(0)
    layers = {"conv": nn.Conv2d(3, 4, 3, bias=bias), "bn": nn.BatchNorm2d(4)}
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    for _ in range(3):
        model(torch.randn(8, 3, 6, 6) * 3 + 1)
    nn.init.normal_(model.bn.weight)
    nn.init.normal_(model.bn.bias)
    plain = nn.Sequential()
    plain.add_module("conv", nn.Conv2d(3, 4, 3))
    hubstate.loadmodel(
        plain, model.state_dict(), transforms=[{"fold": "bn", "into": "conv", "eps": 1e-5}]
    )
    images = torch.randn(2, 3, 6, 6)
    assert torch.allclose(plain(images), model.eval()(images), atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"rename": "x.*", "to": "y"}, "matches no tensor"),
        ({"rename": {"nothing": "y"}}, "nothing: rename: not in the source"),
        ({"rename": "(w)", "to": "y", "shift": [1]}, "expected a number in group 1, found 'w'"),
        ({"rename": "w()", "to": "y", "shift": [1]}, "expected a number in group 1, found ''"),
        ({"rename": "w", "to": "y", "shift": [0, 1]}, "expected a number in group 2, found None"),
        ({"rename": "w|b", "to": "same"}, "same: rename: a tensor has this name already"),
        ({"rename": "w", "to": "b"}, "b: rename: a tensor has this name already"),
        ({"transpose": "w", "order": [0, 1, 2]}, "w: transpose: (2, 3)"),
        ({"reshape": "w", "shape": [4]}, "w: reshape: (2, 3)"),
        ({"split": "w", "to": ["p", "q"], "axis": 1}, "axis 1 does not split into (1, 1)"),
        ({"split": "w", "to": ["p", "q"], "axis": 5}, "w: split"),
        ({"fuse": ["w", "nothing"], "to": "z"}, "z: fuse: nothing matches nothing"),
        ({"fuse": ["w", "b"], "to": "z"}, "z: fuse"),
        ({"fold": "bn", "into": "w"}, "matches no tensor"),
        ({"drop": "W"}, "matches no tensor"),
        ({"fallback": "nothing", "to": "z"}, "matches no tensor"),
    ],
)
def test_a_rule_that_does_not_fit_is_an_error(rule: dict[str, Any], said: str) -> None:
    with pytest.raises(StructureMismatch) as caught:
        resolve([rule], {"w": numbered(2, 3), "b": numbered(3)})
    assert said in str(caught.value)


def test_all_rules_that_do_not_fit_are_told_at_once() -> None:
    with pytest.raises(StructureMismatch) as caught:
        resolve([{"drop": "x"}, {"drop": "y"}, {"transpose": "z"}], {"w": numbered(1)})
    assert len(caught.value.issues) == 3


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({}, "expected one of rename"),
        ("drop", "expected one of rename"),
        ({"drop": "a", "flip": "b"}, "expected one of rename"),
        ({"drop": "("}, "no regular expression"),
        ({"drop": 3}, "drop: expected text, found 3"),
        ({"rename": "a"}, "to: missing"),
        ({"rename": "a", "to": "b", "shift": 1}, "shift: expected a list of integers, found 1"),
        ({"split": "a", "to": "b"}, "to: expected a list of text"),
        ({"transpose": "a", "order": [True]}, "order: expected a list of integers"),
        ({"drop": "a", "colour": 1}, "colour: unknown"),
        ({"fuse": ["a", "("], "to": "b"}, "no regular expression"),
    ],
)
def test_a_rule_that_means_nothing_is_refused(rule: Any, said: str) -> None:
    with pytest.raises(InvalidSetting, match=r"transforms\[1\]") as caught:
        parse_rules([{"drop": "fine"}, rule])
    assert said in str(caught.value)
    with pytest.raises(InvalidSetting, match="a list of rules"):
        parse_rules("drop")  # type: ignore[arg-type]


KINDS = {kind.verb: {item.name: str(item.type) for item in fields(kind)} for kind in get_args(Rule)}


def patterns_of(rule: Any) -> list[str]:
    subject = getattr(rule, rule.verb)
    return (
        [subject]
        if isinstance(subject, str)
        else [*map(re.escape, subject)]
        if isinstance(subject, dict)
        else list(subject)
    )


RULES: list[dict[str, Any]] = [
    {"rename": r"(.*)\.w(\d)", "to": r"\2/\1"},
    {"rename": {"n": "m"}},
    {"transpose": "t"},
    {"transpose": "t", "order": [1, 2, 0]},
    {"reshape": "t", "shape": [2, -1]},
    {"flip": "t|q", "axes": [0]},
    {"split": "q", "to": ["q1", "q2"], "axis": 1, "sizes": [1, 3]},
    {"split": "n", "to": ["n1", "n2"]},
    {"fuse": [r"(.*)\.w0", r"(.*)\.w1"], "to": r"\1.w"},
    {"fallback": "q", "to": "extra", "value": 1.5},
]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(RULES), max_size=5))
def test_what_can_be_undone_is_undone_exactly(rules: list[dict[str, Any]]) -> None:
    tensors = {
        "a.w0": numbered(2, 2), "a.w1": numbered(1, 2), "b.w0": numbered(3), "b.w1": numbered(2),
        "t": numbered(2, 3, 4), "q": numbered(2, 4), "n": numbered(2),
    }  # fmt: skip
    try:
        there = resolve(rules, tensors)
    except StructureMismatch:
        return
    after = there.apply(tensors)
    back = parse_rules(json.loads(json.dumps(dump_rules(there.inverse()))))
    assert same(made(list(back), after), tensors)  # type: ignore[arg-type]


FIELDS = {
    "order": st.lists(st.integers(-3, 3), max_size=3),
    "shape": st.lists(st.sampled_from([-1, 0, 2, 2**62]), max_size=3),
    "axes": st.lists(st.integers(-3, 3), max_size=2),
    "axis": st.sampled_from([0, 1, -1, 9, 2**62]),
    "sizes": st.lists(st.sampled_from([-1, 0, 1, 2, 2**62]), max_size=3),
    "grid": st.lists(st.sampled_from([-1, 0, 1, 3, 2**62]), max_size=3),
    "prefix": st.sampled_from([-1, 0, 1, 2**62]),
    "shift": st.lists(st.sampled_from([-1, 2**62]), max_size=2),
    "count": st.sampled_from([-1, 0, 1, 5, 1 << 16, 2**62]),
    "value": st.sampled_from([0, -1.5, 1e308]),
    "eps": st.sampled_from([0, -1, 1e-5]),
}
SUBJECTS = st.sampled_from(["a", "b|c", "d", "bn", "i", "gone"])


@st.composite
def odd_rules(draw: st.DrawFn) -> dict[str, Any]:
    """Rules that mean something by themselves, and not much together."""
    verb = draw(st.sampled_from(sorted(KINDS)))
    rule: dict[str, Any] = {verb: draw(SUBJECTS)}
    to: st.SearchStrategy[Any] = st.sampled_from(["a", "d", "new"])
    for name, kind in KINDS[verb].items():
        if name in ("to", "into"):
            rule[name] = draw(st.lists(to, max_size=3) if "tuple" in kind else to)
        elif name == "fuse":
            rule[name] = draw(st.lists(SUBJECTS, max_size=2))
        elif name != verb and draw(
            st.booleans() | st.just(name in ("shape", "axes", "grid", "count"))
        ):
            rule[name] = draw(FIELDS[name])
    return rule


@settings(deadline=None, max_examples=200)
@given(st.lists(odd_rules(), max_size=4))
def test_whatever_rules_say_they_fit_or_are_a_mismatch(rules: list[dict[str, Any]]) -> None:
    """And what fits is what its form says, however it is hit: nothing grows without bound."""
    tensors = {
        "a": numbered(2, 2), "b": numbered(3), "c": numbered(3), "d": numbered(1, 5, 2),
        "bn.running_mean": numbered(2), "bn.running_var": numbered(2), "d.weight": numbered(2, 1),
        "i": torch.arange(2), "e": numbered(0, 3), "s": torch.tensor(1.0),
    }  # fmt: skip
    try:
        there = resolve(rules, tensors)
    except (StructureMismatch, InvalidSetting) as error:
        assert str(error)
        return
    found = there.apply(tensors)
    assert {n: (t.shape, t.dtype) for n, t in found.items()} == {
        n: (t.shape, t.dtype) for n, t in there.forms.items()
    }
    again = resolve(there.exact, tensors).apply(tensors)
    assert found.keys() == again.keys()
    assert all(
        torch.equal(
            again[n],
            t,
        )
        or t.isnan().any()
        for n, t in found.items()
    )


def test_rules_by_name_do_what_the_patterns_do() -> None:
    tensors = {
        "a.q.w": numbered(6, 2), "b.q.w": numbered(6, 2), "x.kernel": numbered(2, 3),
        "y+z.kernel": numbered(2, 3), "old": numbered(1), "x.bias": numbered(2),
    }  # fmt: skip
    rules = [
        {"split": r"(.)\.q\.w", "to": [r"\1.q", r"\1.k", r"\1.v"]},
        {"fuse": [r"(.)\.k", r"(.)\.v"], "to": r"\1.kv"},
        {"transpose": r".*kernel"},
        {"rename": r"(.*)\.kernel", "to": r"\1.weight"},
        {"fallback": r"(.*)\.bias", "to": r"\1.more", "value": 1},
        {"drop": "o.*"},
    ]
    there = resolve(rules, tensors)
    assert all(names_in(p) for r in there.exact for p in patterns_of(r))
    again = resolve(there.exact, tensors)
    assert same(dict(again.apply(tensors)), dict(there.apply(tensors)))
    assert again.exact == there.exact


def test_rules_may_follow_one_another_thousands_of_times() -> None:
    tensors = {"a": numbered(2, 3)}
    there = resolve([{"transpose": "a"}] * 3000, tensors)
    assert torch.equal(there.apply(tensors)["a"], tensors["a"])
    twice = [{"fuse": ["a", "b"], "to": "c"}, {"fallback": "c", "to": "a"}, {"rename": {"c": "b"}}]
    with pytest.raises(StructureMismatch, match="larger than all of the source"):
        resolve(twice * 40, {"a": numbered(2), "b": numbered(2)})


def test_a_group_that_the_pattern_lacks_is_an_error() -> None:
    with pytest.raises(StructureMismatch, match="invalid group reference"):
        resolve([{"rename": "(a)", "to": r"\2"}], {"a": numbered(1)})
    with pytest.raises(StructureMismatch, match="several parts are to be called q"):
        resolve([{"split": "a", "to": ["q", "q"]}], {"a": numbered(2)})


def test_what_loses_values_cannot_be_undone() -> None:
    there = resolve(
        [{"drop": "a"}, {"rename": "b", "to": "c"}], {"a": numbered(1), "b": numbered(1)}
    )
    with pytest.raises(ValueError, match="cannot be undone"):
        there.inverse()
    assert dump_rules(there.inverse(lossy=True)) == [{"rename": {"c": "b"}}]


def test_forms_are_known_without_values_and_only_what_is_needed_is_read() -> None:
    forms = {name: torch.empty(2, 3, device="meta") for name in ("a", "b", "c")}
    there: Transformation = resolve([{"fuse": ["a", "b"], "to": "ab"}, {"transpose": "ab"}], forms)
    assert {name: tuple(t.shape) for name, t in there.forms.items()} == {"ab": (3, 4), "c": (2, 3)}
    assert set(there.needs(["ab"])) == {"a", "b"}
    given = {"a": numbered(2, 3), "b": numbered(2, 3)}
    assert list(there.apply(given, names=["ab"])) == ["ab"]


def test_loadmodel_takes_transforms_before_it_renames() -> None:
    source = {"old.kernel": numbered(3, 2), "old.bias": numbered(2)}
    model = nn.Linear(3, 2)
    report = hubstate.loadmodel(
        model,
        source,
        transforms=[
            {"transpose": r"old\.kernel"},
            {"rename": r"old\.kernel", "to": "old.weight"},
        ],
        rename={r"^old\.": ""},
    )
    assert report.loaded == ("weight", "bias")
    assert torch.equal(model.weight, numbered(3, 2).T)


def test_an_unused_rule_changes_nothing() -> None:
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    before = model.weight.clone()
    with pytest.raises(StructureMismatch, match="matches no tensor"):
        hubstate.loadmodel(model, other, transforms=[{"drop": "nothing"}])
    assert torch.equal(model.weight, before)


def test_check_says_what_loadmodel_would_do() -> None:
    entries = hubstate.describe({"kernel": numbered(3, 2), "bias": numbered(2)})
    rules = [{"transpose": "kernel"}, {"rename": {"kernel": "weight"}}]
    assert hubstate.check(nn.Linear(3, 2), entries, transforms=rules).loaded == ("weight", "bias")
    with pytest.raises(StructureMismatch, match="shape"):
        hubstate.check(nn.Linear(3, 2), entries, transforms=rules[1:])


class Refactored(nn.Module):
    """The toy with its blocks renamed, its head split in two, and its first layers in a stem."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.low = nn.Linear(8, 2)
        self.high = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.stem(x).mean((2, 3))
        return torch.cat([self.low(features), self.high(features)], 1)


def test_an_old_release_loads_into_a_refactored_model() -> None:
    torch.manual_seed(0)
    old = toy()
    hubstate.publish(old, "org/toy", license="mit")
    rules = [
        {"rename": r"conv\.(.*)", "to": r"stem.0.\1"},
        {"rename": r"bn\.(.*)", "to": r"stem.1.\1"},
        {"split": r"fc\.(.*)", "to": [r"low.\1", r"high.\1"]},
    ]
    new = Refactored()
    report = hubstate.load_pretrained(new, "org/toy", transforms=rules)
    assert len(report.loaded) == 11
    images = torch.randn(2, 3, 8, 8)
    assert torch.allclose(new.eval()(images), old.eval()(images), atol=1e-6)
    part = hubstate.load_pretrained(
        Refactored(), "org/toy", transforms=rules, filter=hubstate.only("high")
    )
    assert part.loaded == ("high.weight", "high.bias")
    back = resolve(rules, old.state_dict()).inverse()
    assert same(resolve(back, new.state_dict()).apply(new.state_dict()), old.state_dict())


def test_a_tie_survives_a_rename() -> None:
    from toys import tied

    torch.manual_seed(0)
    old = tied()
    hubstate.publish(old, "org/tied", license="mit", builder="toys:tied")
    model = tied()
    rules = [{"rename": {"embed.weight": "x", "out.weight": "y"}}]
    hubstate.load_pretrained(
        model, "org/tied", transforms=rules, rename={"^x$": "embed.weight", "^y$": "out.weight"}
    )
    assert model.out.weight is model.embed.weight
    assert torch.equal(model.out.weight, old.out.weight)
