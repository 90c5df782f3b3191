"""Plain data: what a record may hold, out of whatever Python object is found.

None, bool, int, float, complex and str stay; an Enum becomes its name; subclasses and NumPy
scalars become the exact type; list, tuple, dict, dataclass and NamedTuple are taken apart, the
last two into a dict of their fields. Anything else is ``()``: the name exists, and has no state.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any, TypeAlias

from torch import Tensor, nn

__all__ = ["EXACT", "fields_of", "is_exact", "named", "plain", "shaped_like"]

EXACT = frozenset({NoneType, bool, int, float, complex, str})
"""The types that plain data is made of."""
_TEXT = frozenset({str})
_Found: TypeAlias = tuple[str, Any]
_NOTHING: _Found = ("opaque", ())


def plain(value: Any, *, path: str, lost: list[str], tensors: bool = False) -> _Found:
    """Any value as plain data: ``("data", value)``, or ``("opaque", ())`` where it is none.

    Args:
        path: where the value is, for messages.
        lost: takes the paths of the tensors and modules in it, which become ``()``.
        tensors: keep tensors, detached, instead.

    Raises:
        ValueError: a container that contains itself, or dict keys that become equal as text.

    >>> from torch.nn.modules.activation import ReLU
    >>> plain({1: [True, ReLU]}, path="settings", lost=[])
    ('data', {'1': [True, ()]})
    """
    return ("data", value) if is_exact(value) else _Plain(lost, tensors).convert(value, path)


def is_exact(value: Any) -> bool:
    """Whether a value is plain data as it stands: a scalar, or a tuple like ``kernel_size``."""
    kind = type(value)
    return kind in EXACT or (kind is tuple and EXACT.issuperset(map(type, value)))


class _Plain:
    def __init__(self, lost: list[str], tensors: bool) -> None:
        self.lost = lost
        self.tensors = tensors
        self.above: set[int] = set()

    def convert(self, value: Any, path: str) -> _Found:
        if type(value) in EXACT:
            return "data", value
        if isinstance(value, Tensor | nn.Module):
            return self._state(value, path)
        if isinstance(value, list | tuple | dict) or dataclasses.is_dataclass(value):
            return self._container(value, path)
        return _scalar(value)

    def _state(self, value: Tensor | nn.Module, path: str) -> _Found:
        if self.tensors and isinstance(value, Tensor):
            return "data", value.detach()
        self.lost.append(path)
        return _NOTHING

    def _container(self, value: Any, path: str) -> _Found:
        fields = fields_of(value, path)
        if fields is None:  # a class, not an instance
            return _NOTHING
        if id(value) in self.above:
            raise ValueError(f"{path}: contains itself")
        self.above.add(id(value))
        data = {name: self.convert(item, f"{path}.{name}")[1] for name, item in fields.items()}
        self.above.discard(id(value))
        return "data", shaped_like(value, data)


def _scalar(value: Any) -> _Found:
    if isinstance(value, enum.Enum):
        return "data", str.__str__(value.name)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        value = value.item()
        return ("data", value) if type(value) in EXACT else _NOTHING
    if isinstance(value, str):
        return "data", str.__str__(value)
    for exact in (int, float, complex):
        if isinstance(value, exact):
            return "data", exact(value)  # type: ignore[arg-type]
    return _NOTHING


def fields_of(value: Any, path: str) -> dict[str, Any] | None:
    """The items of a list or tuple, mapping, dataclass or NamedTuple by name; else None.

    Raises:
        ValueError: two keys of a mapping that become equal as text.
    """
    if type(value) is dict and _TEXT.issuperset(map(type, value)):
        return value
    if isinstance(value, Mapping):
        return named(value.items(), path)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    if isinstance(value, list | tuple):
        return {str(index): item for index, item in enumerate(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in dataclasses.fields(value))
        return {name: getattr(value, name, ()) for name in names if name[0] != "_"}
    return None


def shaped_like(value: Any, fields: dict[str, Any]) -> Any:
    """The fields of a value put back into its kind of container: list, tuple or dict."""
    if isinstance(value, list):
        return list(fields.values())
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(fields.values())
    return fields


def named(items: Iterable[tuple[object, Any]], path: str) -> dict[str, Any]:
    """Items with their keys as text.

    Raises:
        ValueError: two keys become equal.
    """
    found: dict[str, Any] = {}
    for key, item in items:
        name = _text(key)
        if name in found:
            raise ValueError(f"{path or 'the model'}: two keys are {name!r} as text")
        found[name] = item
    return found


def _text(key: object) -> str:
    if type(key) is str:
        return key
    if isinstance(key, enum.Enum):
        return str.__str__(key.name)
    return str.__str__(key) if isinstance(key, str) else str(key)
