"""Records: the plain data of a model as JSON and back, and whether two of them are the same.

JSON has no infinity, no complex number and no tuple; each is written as an object with one key::

    inf, -inf, nan      {"$float": "inf"}
    3-4j                {"$complex": [3.0, -4.0]}
    (1, 2)              {"$tuple": [1, 2]}
    2**80               {"$int": "1208925819614629174706176"}     beyond 64 bits only
    {"$x": 1}           {"$dict": [["$x", 1]]}                    keys that start with $ only
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from hubstate.strictjson import MAX_INTEGER, Json

__all__ = ["decode", "encode", "same"]


def encode(value: object) -> Json:
    """Plain data as JSON.

    Raises:
        TypeError: the value is not plain data.

    >>> encode({"size": (3, 3), "bound": float("-inf")})
    {'size': {'$tuple': [3, 3]}, 'bound': {'$float': '-inf'}}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) <= MAX_INTEGER else {"$int": str(value)}
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, complex):
        return {"$complex": [encode(value.real), encode(value.imag)]}
    if isinstance(value, tuple):
        return {"$tuple": [encode(item) for item in value]}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return _encode_mapping(value)
    raise TypeError(f"{type(value).__name__} is not plain data")


def _encode_mapping(value: Mapping[str, object]) -> Json:
    if any(key.startswith("$") for key in value):
        return {"$dict": [[key, encode(item)] for key, item in value.items()]}
    return {key: encode(item) for key, item in value.items()}


def decode(value: Json) -> object:
    """Plain data from JSON; an object that only looks like a special one is kept as it is.

    >>> decode({"size": {"$tuple": [3, 3]}, "bound": {"$float": "-inf"}})
    {'size': (3, 3), 'bound': -inf}
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list | tuple):
        return [decode(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if len(value) == 1:
        ((key, content),) = value.items()
        try:
            return _SPECIAL[key](content)
        except (KeyError, TypeError, ValueError):
            pass
    return {key: decode(item) for key, item in value.items()}


def _items(content: Json) -> list[Json]:
    if not isinstance(content, list | tuple):
        raise TypeError
    return list(content)


def _float(content: Json) -> float:
    return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[str(content)]


def _complex(content: Json) -> complex:
    real, imaginary = map(decode, _items(content))
    return complex(float(real), float(imaginary))  # type: ignore[arg-type]


def _tuple(content: Json) -> tuple[object, ...]:
    return tuple(map(decode, _items(content)))


def _dict(content: Json) -> dict[str, object]:
    return {str(key): decode(item) for key, item in map(_items, _items(content))}


def _int(content: Json) -> int:
    if not isinstance(content, str):
        raise TypeError
    return int(content)


_SPECIAL: dict[str, Callable[[Json], object]] = {
    "$float": _float,
    "$complex": _complex,
    "$tuple": _tuple,
    "$int": _int,
    "$dict": _dict,
}


def same(a: object, b: object) -> bool:
    """Whether two values of plain data are one: NaN is NaN, and a list is as good as a tuple.

    >>> same([1, float("nan")], (1.0, float("nan"))), same(1, True)
    (True, False)
    """
    if a is b or (type(a) is type(b) and a == b):
        return True
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, bool) is not isinstance(b, bool):
        return False
    return bool(a == b) or (a != a and b != b)
