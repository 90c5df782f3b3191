"""Trees of tensors and plain data as JSON, with the tensors put aside.

::

    a tensor            {"$tensor": name}     the name of its bytes in the file
    a NumPy array       {"$array": name}
    (1, 2)              {"$tuple": [1, 2]}    named tuples become tuples
    inf, -inf, nan      {"$float": "inf"}
    3-4j                {"$complex": [3.0, -4.0]}
    2**80               {"$int": "1208925819614629174706176"}   beyond 63 bits only
    {0: "a"}            {"$dict": [[0, "a"]]}                   keys that are no plain words
    Counter({3: 1})     {"$counter": [[3, 1]]}                  schedulers keep milestones so

A thing with a ``state_dict()`` is what that returns.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from hubstate.strictjson import MAX_INTEGER, Json
from hubstate.walk import as_tensor, is_array
from hubstate.weights.saving import identity

__all__ = ["LOST", "Shelf", "decode", "encode"]

MAX_DEPTH = 50  # levels of a tree; each becomes at most three of JSON

LOST: Any = object()
"""What stands for a tensor whose bytes are damaged."""


class Shelf:
    """Where ``encode`` puts the tensors that it meets, and what it could not encode."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.problems: list[str] = []
        self._names: dict[object, str] = {}

    def put(self, path: str, tensor: Tensor) -> str:
        """The name of a tensor: that of its first path, made unlike any other."""
        if (known := self._names.get(identity(tensor))) is not None:
            return known
        name, count = path, 1
        while name in self.tensors:
            count += 1
            name = f"{path}#{count}"
        self.tensors[name] = tensor
        self._names[identity(tensor)] = name
        return name


def encode(value: Any, path: str, shelf: Shelf, *, depth: int = 0) -> Json:
    """A tree as JSON; what is neither tensor nor plain data becomes one of the shelf's problems."""
    if value is None or isinstance(value, bool):
        return value
    if depth > MAX_DEPTH:
        shelf.problems.append(f"{path}: contains itself, or is deeper than {MAX_DEPTH} levels")
        return None
    if isinstance(value, str) and not _encodable(value):
        shelf.problems.append(f"{path!a}: text with a lone surrogate")
        return None
    if isinstance(value, str | int | float | complex):
        return _scalar(value)
    if isinstance(value, Tensor):
        return {"$tensor": shelf.put(path, value)}
    if is_array(value):
        return {"$array": shelf.put(path, as_tensor(value.copy()))}
    if hasattr(value, "state_dict"):
        value = value.state_dict()
    if isinstance(value, list | tuple):
        items = [encode(v, f"{path}.{i}", shelf, depth=depth + 1) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, Mapping):
        return _mapping(value, path, shelf, depth + 1)
    if _is_numpy_scalar(value):
        return encode(value.item(), path, shelf, depth=depth + 1)
    shelf.problems.append(f"{path}: a {type(value).__name__} is neither tensor nor plain data")
    return None


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _scalar(value: str | int | float | complex) -> Json:
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value) if abs(value) <= MAX_INTEGER else {"$int": str(int(value))}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": str(float(value))}
    return {"$complex": [_scalar(value.real), _scalar(value.imag)]}


def _mapping(value: Mapping[Any, Any], path: str, shelf: Shelf, depth: int) -> Json:
    items = [(key, encode(v, f"{path}.{key}", shelf, depth=depth)) for key, v in value.items()]
    if isinstance(value, Counter):
        return {"$counter": [[_key(k, path, shelf), v] for k, v in items]}
    if all(type(key) is str and not key.startswith("$") for key, _ in items):
        return dict(items)
    return {"$dict": [[_key(k, path, shelf), v] for k, v in items]}


def _key(key: Any, path: str, shelf: Shelf) -> Json:
    aside = Shelf()
    text = encode(key, f"{path}.{key}", aside)
    if aside.tensors:
        aside.problems.append(f"{path}: a key that holds a tensor")
    shelf.problems += aside.problems
    return text


def _is_numpy_scalar(value: object) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.generic)


def decode(value: Any, tensors: Mapping[str, Any]) -> Any:
    """The tree again; a mapping loses what is lost, a list or a tuple holds None in its place.

    Raises:
        KeyError, TypeError, ValueError: this is nothing that ``encode`` made.
    """
    if isinstance(value, list):
        return [_kept(decode(item, tensors)) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, content),) = value.items()
        if key.startswith("$"):
            return _SPECIAL[key](content, tensors)
    items = [(key, decode(item, tensors)) for key, item in value.items()]
    return {key: item for key, item in items if item is not LOST}


def _kept(value: Any) -> Any:
    return None if value is LOST else value


def _array(name: Any, tensors: Mapping[str, Any]) -> Any:
    tensor = tensors[name]
    return tensor if tensor is LOST else tensor.numpy()


def _pairs(content: Any, tensors: Mapping[str, Any]) -> dict[Any, Any]:
    items = [(decode(key, tensors), decode(item, tensors)) for key, item in content]
    return {key: item for key, item in items if item is not LOST}


def _complex(content: Any, tensors: Mapping[str, Any]) -> complex:
    real, imaginary = (float(decode(part, tensors)) for part in content)
    return complex(real, imaginary)


_SPECIAL: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "$tensor": lambda content, tensors: tensors[content],
    "$array": _array,
    "$tuple": lambda content, tensors: tuple(decode(content, tensors)),
    "$float": lambda content, _: {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[content],
    "$complex": _complex,
    "$int": lambda content, _: int(content),
    "$dict": _pairs,
    "$counter": lambda content, tensors: Counter(_pairs(content, tensors)),
}
