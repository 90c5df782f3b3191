"""What a pattern selects."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import hubstate
from hubstate.filters import only, without
from hubstate.warm import check, warm
from hubstate.zoo import resnet18_small

PATHS = st.lists(st.sampled_from(["layer1", "layer10", "fc", "0", "weight"]), min_size=1).map(
    ".".join
)


@pytest.mark.parametrize(
    ("pattern", "selected", "left"),
    [
        ("layer1", ["layer1", "layer1.0.weight"], ["layer10.weight", "x.layer1", "layer"]),
        ("fc.*", ["fc.weight", "fc.a.b"], ["fc", "fc2.weight"]),
        ("*.bias", ["fc.bias", "layer1.0.bias"], ["bias", "fc.biased"]),
        ("*", ["a", "a.b.c"], []),
        ("layer[12]", ["layer1.weight", "layer2"], ["layer3.weight", "layer1x"]),
        ("layer?.0", ["layer1.0.weight"], ["layer.0", "layer12.0"]),
        ("a+b", ["a+b.c"], ["aab", "ab"]),
    ],
)
def test_a_pattern_selects_a_path_and_what_is_under_it(
    pattern: str, selected: list[str], left: list[str]
) -> None:
    assert all(only(pattern)(path, None) for path in selected)
    assert not any(only(pattern)(path, None) for path in left)


@given(PATHS, st.lists(PATHS, min_size=1))
def test_without_is_the_opposite_of_only(path: str, patterns: list[str]) -> None:
    assert only(*patterns)(path, None) is not without(*patterns)(path, None)


@given(PATHS, PATHS)
def test_a_plain_pattern_selects_exactly_a_subtree(path: str, pattern: str) -> None:
    assert only(pattern)(path, None) is f"{path}.".startswith(f"{pattern}.")


def test_a_filter_prints_as_the_call_that_makes_it() -> None:
    keep = without("fc", "*.bias")
    assert repr(keep) == "without('fc', '*.bias')"
    assert keep == without("fc", "*.bias")
    assert keep != only("fc", "*.bias")


def test_a_filter_survives_a_process_boundary() -> None:
    keep = pickle.loads(pickle.dumps(only("fc")))  # noqa: S301
    assert keep == only("fc") and keep("fc.weight", None)


@pytest.mark.parametrize("patterns", [(), ("",), ("fc", "."), (3,)])
def test_a_filter_needs_patterns(patterns: tuple[str, ...]) -> None:
    for make in (only, without):
        with pytest.raises(ValueError, match="pattern"):
            make(*patterns)


def takers(filter: Any) -> dict[str, Callable[[], object]]:
    """Everything that takes a filter, given one."""
    model = nn.Linear(2, 1)
    return {
        "loadmodel": lambda: hubstate.loadmodel(model, model.state_dict(), filter=filter),
        "check": lambda: hubstate.check(model, hubstate.describe(model), filter=filter),
        "load_pretrained": lambda: hubstate.load_pretrained(model, "org/none", filter=filter),
        "create_model": lambda: hubstate.create_model("resnet18_small", filter=filter),
        "pretrained": lambda: resnet18_small(pretrained="org/none", filter=filter),
        "warm": lambda: warm([], filter=filter),
        "warm --check": lambda: check([], filter=filter),
    }


@pytest.mark.parametrize("taker", takers(None))
@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("weight", "found 'weight': write only('weight')"),
        (["a", "b.c"], "found ['a', 'b.c']: write only('a', 'b.c')"),
        (3, "found 3: write only('layer1')"),
    ],
)
def test_what_cannot_be_called_is_no_filter(taker: str, wrong: Any, hint: str) -> None:
    with pytest.raises(TypeError) as caught:
        takers(wrong)[taker]()
    assert str(caught.value).startswith("filter: expected a function of a path and a leaf, found ")
    assert str(caught.value).endswith(hint)
