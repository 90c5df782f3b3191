"""Values: frozen objects with slots and named fields, cheap to define.

``@frozen`` is ``@dataclass(frozen=True, kw_only=True, slots=True)``, except that the methods are
shared. A dataclass writes six methods of its own as text and compiles them when its module is
imported: for the thirty values of a warm load, a quarter of all that it does.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import MISSING, Field, FrozenInstanceError
from typing import Any, TypeVar, dataclass_transform

__all__ = ["frozen", "replace"]

T = TypeVar("T")

_set = object.__setattr__


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,)
)
def frozen(kind: type[T]) -> type[T]:
    """Make a class with annotated fields, which may have defaults, a class of values.

    >>> @frozen
    ... class Point:
    ...     '''A place.'''
    ...     x: int
    ...     y: int = 0
    >>> replace(Point(x=1), y=2)
    Point(x=1, y=2)
    >>> Point(x=1) == Point(x=1, y=0), len({Point(x=1), Point(x=1)})
    (True, 1)
    >>> Point(y=1)
    Traceback (most recent call last):
    TypeError: Point: expected x
    """
    made: Any = dataclasses.dataclass(
        kind, init=False, repr=False, eq=False, match_args=False, kw_only=True, slots=True
    )
    for name in _SHARED.keys() - vars(kind).keys():
        setattr(made, name, _SHARED[name])
    result: type[T] = made
    return result


def replace(old: T, **changes: Any) -> T:
    """The same value, or dataclass, with other fields.

    Raises:
        TypeError: there is no such field.
    """
    stated = {f.name: getattr(old, f.name) for f in _fields(old) if f.init}
    return type(old)(**(stated | changes))


def _fields(self: object) -> tuple[Field[Any], ...]:
    kind: Any = type(self)
    return _declared(kind)


@functools.cache
def _declared(kind: Any) -> tuple[Field[Any], ...]:
    return dataclasses.fields(kind)


def _compared(self: object) -> tuple[object, ...]:
    return tuple([getattr(self, f.name) for f in _fields(self) if f.compare])


class _Shared:
    """The methods of all values."""

    def __init__(self, **given: Any) -> None:
        missing = []
        for field in _fields(self):
            name = field.name
            if field.init and name in given:
                _set(self, name, given.pop(name))
            elif field.default is not MISSING:
                _set(self, name, field.default)
            elif field.default_factory is not MISSING:
                _set(self, name, field.default_factory())
            elif field.init:
                missing.append(name)
        if missing or given:
            problems = [f"expected {', '.join(missing)}"] if missing else []
            problems += [f"found {', '.join(given)}, which it does not have"] if given else []
            raise TypeError(f"{type(self).__name__}: {'; '.join(problems)}")
        if finish := getattr(self, "__post_init__", None):
            finish()

    def __repr__(self) -> str:
        shown = [f.name for f in _fields(self) if f.repr]
        inside = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
        return f"{type(self).__qualname__}({inside})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _compared(self) == _compared(other)

    def __hash__(self) -> int:
        return hash(_compared(self))

    def __setattr__(self, name: str, _: object) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __getstate__(self) -> list[object]:
        return [getattr(self, f.name) for f in _fields(self)]

    def __setstate__(self, state: list[object]) -> None:
        for field, item in zip(_fields(self), state, strict=True):
            _set(self, field.name, item)


_SHARED = {name: method for name, method in vars(_Shared).items() if callable(method)}
