"""JSON from strangers: whatever two parsers could read in two ways is refused.

The standard library's parser does the work, with hooks that only raise; the slow walk that finds
the place is taken after something is known to be wrong (or may be: an escaped surrogate).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from hubstate.errors import Damaged

__all__ = ["MAX_INTEGER", "Json", "at", "loads"]

Json: TypeAlias = bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None
"""What JSON can say; NaN and infinities are not among it."""

MAX_INTEGER = 2**63 - 1
"""Integers are within ± this, so that every other language reads them exactly as well."""

_BRACKETS = bytes.maketrans(b"{}", b"[]")
_REST = bytes(set(range(256)) - set(b'{}[]:"'))
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 19  # the digits of the smallest integer that may be refused
_BEFORE_NUMBER = re.compile(rb'(?:\A|[\s,\[-]|["\s]:)\Z')
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LOCATED = 4 << 20  # characters of the longest text that is parsed again to find a place


class _Refused(ValueError):
    """JSON, but not of the kind that is accepted."""


class _Pairs(list[Any]):
    """An object as the text has it, duplicate keys and all."""


def loads(
    data: bytes,
    *,
    what: str,
    max_bytes: int = 64 << 20,
    max_depth: int = 64,
    error: type[Damaged] = Damaged,
) -> Any:
    """Read UTF-8 JSON from a source that is not trusted.

    Beyond what RFC 8259 forbids it refuses duplicate keys, NaN and infinities (also as an
    overflowing number), integers beyond ± (2⁶³ − 1), lone surrogates, nesting deeper than
    ``max_depth`` and text longer than ``max_bytes``.

    Args:
        data: the text.
        what: the name of the document, which begins every message.
        max_bytes: the longest text.
        max_depth: the deepest nesting; a plain number has depth 0, ``[]`` has depth 1.
        error: the class of the error.

    Raises:
        Damaged: (or ``error``) any of that; the message names the place.

    >>> loads(b'{"a": [1, 2.5, null]}', what="example")
    {'a': [1, 2.5, None]}
    >>> loads(b'{"a": {"b": 1, "b": 2}}', what="example")
    Traceback (most recent call last):
    hubstate.errors.Damaged: example: a.b: the key appears twice
    """
    if len(data) > max_bytes:
        raise error(f"{what}: expected at most {max_bytes:,} bytes, found {len(data):,}")
    try:
        return _parse(data.decode(), data, max_depth)
    except UnicodeDecodeError as cause:
        raise error(f"{what}: byte {cause.start}: not UTF-8") from None
    except RecursionError:
        raise error(f"{what}: nested deeper than {max_depth}") from None
    except json.JSONDecodeError as cause:
        where = f"line {cause.lineno}, column {cause.colno}"
        raise error(f"{what}: {where}: not JSON: {cause.msg}") from None
    except _Refused as cause:
        raise error(f"{what}: {cause}") from None


def at(place: str, key: str | int) -> str:
    """The place of an item: ``a.b[3].c``, with a key that is no plain word in quotes.

    >>> at(at("files", 0), "odd key")
    'files[0]["odd key"]'
    """
    if isinstance(key, int):
        return f"{place}[{key}]"
    if not key.isidentifier():
        text = json.dumps(key[:80])
        return f"{place}[{text}]"
    return f"{place}.{key}" if place else key


def _parse(text: str, data: bytes, max_depth: int) -> Any:
    objects: list[dict[str, Any]] = []

    def keep(item: dict[str, Any]) -> dict[str, Any]:
        objects.append(item)
        return item

    try:
        value = json.loads(
            text,
            object_hook=keep,
            parse_int=_integer if _has_long_integer(data) else None,
            parse_float=_finite,
            parse_constant=_constant,
        )
        skeleton = _skeleton(data)
        if skeleton.count(b":") != sum(map(len, objects)):
            raise _Refused("a key appears twice in one object")
    except _Refused:
        if len(text) > _LOCATED:
            raise
        raise _Refused(_first_problem(text)) from None
    if _deeper(skeleton, max_depth):
        raise _Refused(f"nested deeper than {max_depth}")
    if _SURROGATE.search(text) and not _encodable(json.dumps(value, ensure_ascii=False)):
        raise _Refused(next(_problems(value, "")))
    return value


def _has_long_integer(data: bytes) -> bool:
    """Whether there may be one; a digest in quotes may hold as many digits."""
    digits = data.translate(_DIGITS)
    place = digits.find(_LONG_NUMBER)
    while place >= 0:
        if _BEFORE_NUMBER.search(data[max(0, place - 2) : place]):
            return True
        place = digits.find(_LONG_NUMBER, place + len(_LONG_NUMBER))
    return False


def _skeleton(data: bytes) -> bytes:
    """The brackets and colons of valid JSON that are outside its strings, in C throughout."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    text = data.translate(_BRACKETS, _REST).replace(b'""', b"")
    return b"".join(text.split(b'"')[::2])  # what is left of strings has brackets and colons


def _deeper(skeleton: bytes, depth: int) -> bool:
    """Whether brackets nest deeper, found by taking off the innermost ones."""
    text = skeleton.replace(b":", b"")
    for _ in range(depth):
        if not text:
            return False
        text = text.replace(b"[]", b"")
    return bool(text)


def _integer(text: str) -> int:
    if len(text) < 19:
        return int(text)
    if len(text) > 20 or abs(int(text)) > MAX_INTEGER:
        raise _Refused("an integer beyond 63 bits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:  # an infinity, from an exponent too large
        raise _Refused("a number that is not finite")
    return value


def _constant(text: str) -> None:
    raise _Refused(f"{text}: a number that is not finite")


def _first_problem(text: str) -> str:
    """Parse again, this time to the end, and say what and where it was."""
    value = json.loads(text, object_pairs_hook=_Pairs, parse_int=_integer_or_infinity)
    return next(_problems(value, ""))


def _integer_or_infinity(text: str) -> float:
    return int(text) if len(text) <= 20 and abs(int(text)) <= MAX_INTEGER else math.inf


def _problems(value: Any, place: str) -> Iterator[str]:
    if isinstance(value, str):
        if not _encodable(value):
            yield f"{place or 'text'}: a lone surrogate"
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield f"{place or 'number'}: a number that is not finite, or beyond 63 bits"
    elif isinstance(value, dict | _Pairs):
        yield from _problems_of_object(
            _Pairs(value.items() if type(value) is dict else value), place
        )
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _problems(item, at(place, index))


def _problems_of_object(pairs: _Pairs, place: str) -> Iterator[str]:
    seen = set()
    for key, item in pairs:
        if not _encodable(key):
            yield f"{place or 'object'}: a key with a lone surrogate"
            continue
        if key in seen:
            yield f"{at(place, key)}: the key appears twice"
        seen.add(key)
        yield from _problems(item, at(place, key))


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
