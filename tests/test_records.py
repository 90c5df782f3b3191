"""Plain data as JSON."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubstate.records import decode, encode, same

NUMBERS = st.integers() | st.floats() | st.complex_numbers()
DATA = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def kinds(value: object) -> object:
    if isinstance(value, dict):
        return {key: kinds(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [kinds(item) for item in value]
    return type(value)


@given(DATA)
def test_plain_data_comes_back_from_strict_json(value: object) -> None:
    text = json.dumps(encode(value), allow_nan=False)
    back = decode(json.loads(text))
    assert same(back, value) and kinds(back) == kinds(value)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (math.inf, {"$float": "inf"}),
        (-math.inf, {"$float": "-inf"}),
        (complex(1, -2), {"$complex": [1.0, -2.0]}),
        (complex(0, math.inf), {"$complex": [0.0, {"$float": "inf"}]}),
        ((), {"$tuple": []}),
        ([], []),
        ((1, [2]), {"$tuple": [1, [2]]}),
        (2**70, {"$int": str(2**70)}),
        ({"$float": "inf"}, {"$dict": [["$float", "inf"]]}),
    ],
)
def test_what_json_lacks_is_an_object_with_one_key(value: object, encoded: object) -> None:
    assert encode(value) == encoded
    assert same(decode(encoded), value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["$float", "$complex", "$tuple", "$int", "$dict"]), inner)
    ),
)


@given(JSON)
def test_strange_json_is_read_as_something(value: object) -> None:
    decode(value)


@pytest.mark.parametrize("value", [{"$float": "1.5"}, {"$float": 3}, {"$tuple": "ab"}, {"$int": 3}])
def test_what_only_looks_special_is_kept(value: object) -> None:
    assert decode(value) == value


def test_a_list_is_as_good_as_a_tuple_and_nan_is_nan() -> None:
    assert same({"a": (1, [math.nan])}, {"a": [1, (math.nan,)]})
    assert not same({"a": 1}, {"a": 1, "b": 2})
    assert not same([1], [1, 2])
    assert not same(True, 1)
    assert not same(None, ())


def test_an_object_is_no_plain_data() -> None:
    with pytest.raises(TypeError):
        encode(object())
