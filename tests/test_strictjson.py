"""JSON from strangers."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubstate.errors import Damaged, InvalidManifest
from hubstate.strictjson import MAX_INTEGER, at, loads

TEXT = st.text(st.characters(codec="utf-8"))
ODD_TEXT = st.text(alphabet='{}[]:,"\\u0 é')
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | ODD_TEXT
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda items: st.lists(items) | st.dictionaries(TEXT | ODD_TEXT, items),
    max_leaves=20,
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@given(DOCUMENTS, st.booleans(), st.sampled_from([None, 1]))
def test_what_json_can_say_is_read(value: Any, ascii: bool, indent: int | None) -> None:
    data = json.dumps(value, ensure_ascii=ascii, indent=indent).encode()
    assert loads(data, what="x") == value


@given(DOCUMENTS)
def test_depth_is_counted_exactly(value: Any) -> None:
    data, depth = json.dumps(value).encode(), depth_of(value)
    loads(data, what="x", max_depth=depth)
    if depth:
        with pytest.raises(Damaged, match="nested deeper"):
            loads(data, what="x", max_depth=depth - 1)


@given(DOCUMENTS, TEXT | ODD_TEXT, DOCUMENTS)
def test_a_duplicate_key_is_refused_wherever_it_is(value: Any, key: str, other: Any) -> None:
    name, text = json.dumps(key), json.dumps(value)
    data = f"[{json.dumps(other)}, {{{name}: {text}, {name} : {text}}}]".encode()
    with pytest.raises(Damaged, match=r"^x: \[1\].*: the key appears twice"):
        loads(data, what="x")


@given(st.binary())
def test_any_bytes_give_a_value_or_one_kind_of_error(data: bytes) -> None:
    try:
        loads(data, what="x", error=InvalidManifest)
    except InvalidManifest as error:
        assert str(error).startswith("x: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": {"b": [1, {"c": 1, "c": 1}]}}', r"a\.b\[1\]\.c: the key appears twice"),
        ('{"a": [NaN]}', r"a\[0\]: a number that is not finite"),
        ('{"a": -Infinity}', "a: a number that is not finite"),
        ("1e999", "number: a number that is not finite"),
        ('{"a": 9223372036854775808}', "a: .* beyond 63 bits"),
        ('{"a": ' + "9" * 5000 + "}", "a: .* beyond 63 bits"),
        ('["\\ud800"]', r"\[0\]: a lone surrogate"),
        ('{"\\udfff": 1}', "object: a key with a lone surrogate"),
        ("[1,]", "line 1, column 4: not JSON"),
        ("", "line 1, column 1: not JSON"),
    ],
)
def test_an_error_names_the_place(text: str, message: str) -> None:
    with pytest.raises(Damaged, match=f"^doc: {message}"):
        loads(text.encode(), what="doc")


def test_the_largest_integers_are_read() -> None:
    assert loads(str([MAX_INTEGER, -MAX_INTEGER]).encode(), what="x") == [MAX_INTEGER, -MAX_INTEGER]


@pytest.mark.parametrize(
    "text",
    ["%s", "-%s", "[%s]", "[0,%s]", "[-%s]", '{"a":%s}', '{"a" :%s}', '{"a":\n%s}', "[\t%s]"],
)
def test_an_integer_is_too_long_wherever_it_stands(text: str) -> None:
    beside = f'["sha256:{"1" * 64}", {text % MAX_INTEGER}]'
    assert loads(beside.encode(), what="x")[0].endswith("1" * 64)
    with pytest.raises(Damaged, match=r"beyond 63 bits|not finite"):
        loads((text % (MAX_INTEGER + 1)).encode(), what="x")


def test_a_surrogate_pair_is_one_character() -> None:
    assert loads(b'"\\ud83d\\ude00"', what="x") == "\N{GRINNING FACE}"


def test_bytes_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(Damaged, match="byte 1: not UTF-8"):
        loads(b'"\xff"', what="x")


def test_text_that_is_too_long_is_refused_unread() -> None:
    with pytest.raises(Damaged, match="at most 3 bytes, found 4"):
        loads(b"1234", what="x", max_bytes=3)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
        b"[" * 900 + b"]" * 900,
        b"[" + b"[[]]," * 200_000 + b"{" * 70 + b"}" * 70 + b"]",
        b'["' + b"\\\\" * 500_000,
        b"[" + b"9" * 1_000_000 + b"]",
        b'{"a":1,"a":' + b"[1]," * 100_000 + b"}",
        b"[" + b'"\\ud800",' * 100_000 + b"1]",
    ],
    ids=["open", "keys", "deep", "wide", "escapes", "digits", "broken", "surrogates"],
)
def test_hostile_text_is_refused_quickly(data: bytes) -> None:
    started = time.perf_counter()
    with pytest.raises(Damaged):
        loads(data, what="x")
    assert time.perf_counter() - started < 20


def test_places_are_readable() -> None:
    assert at("", "a") == "a"
    assert at("a", "b c") == 'a["b c"]'
    assert at("", 3) == "[3]"
    assert math.isfinite(len(at("a", "x" * 1000)))
