"""Filters: which names of a model a load, a fetch or a check is about.

A filter is any function of a dotted path and the leaf at that path. ``only`` and ``without`` make
one from patterns.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from dataclasses import field
from typing import Literal, TypeAlias

from hubstate.values import frozen

__all__ = [
    "LEFT_OUT",
    "Filter",
    "Patterns",
    "Strict",
    "besides",
    "check_filter",
    "check_strict",
    "only",
    "without",
]

Filter = Callable[[str, object], bool]
Strict: TypeAlias = bool | Literal["tensors"]
"""What must be on both sides of a load: True, tensors and children; "tensors", tensors alone, so
that activations and other children that hold none may differ; False, nothing."""

LEFT_OUT = "_hubstate_left_out"
"""Where a model keeps the paths of what it lacks of the whole network, whose weights it takes."""


@frozen
class Patterns:
    """A filter by name; equal to, and printed as, the call that makes it."""

    patterns: tuple[str, ...]
    excludes: bool
    _regex: re.Pattern[str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_regex", _compile(self.patterns))

    def __call__(self, path: str, leaf: object = ()) -> bool:
        return (self._regex.match(path) is None) is self.excludes

    def __repr__(self) -> str:
        name = "without" if self.excludes else "only"
        return f"{name}({', '.join(map(repr, self.patterns))})"


def only(*patterns: str) -> Patterns:
    """Select the named parts of a model and nothing else.

    A pattern is a dotted path and selects it and everything under it. In it ``*`` stands for any
    characters, dots included, ``?`` for one character and ``[abc]`` for one of a set.

    Raises:
        ValueError: no pattern, or an empty one.

    >>> keep = only("layer1", "*.bias")
    >>> keep
    only('layer1', '*.bias')
    >>> [keep(path) for path in ("layer1.0.weight", "layer10.weight", "fc.bias")]
    [True, False, True]
    """
    return Patterns(patterns=patterns, excludes=False)


def without(*patterns: str) -> Patterns:
    """Select everything but the named parts of a model; patterns are those of ``only``.

    Raises:
        ValueError: no pattern, or an empty one.

    >>> keep = without("fc")
    >>> [keep(path) for path in ("fc.weight", "fc2.weight", "conv1.weight")]
    [False, True, True]
    """
    return Patterns(patterns=patterns, excludes=True)


def check_filter(filter: object) -> None:
    """Refuse what is no filter before anything is done with it; None is no filter, and fine.

    Raises:
        TypeError: it cannot be called; the message says how a filter of names is written.

    >>> check_filter("fc")
    Traceback (most recent call last):
    TypeError: filter: expected a function of a path and a leaf, found 'fc': write only('fc')
    """
    if filter is None or callable(filter):
        return
    names = [filter] if isinstance(filter, str) else filter
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        names = ["layer1"]
    call = f"only({', '.join(map(repr, names))})"
    raise TypeError(
        f"filter: expected a function of a path and a leaf, found {filter!r:.80}: write {call}"
    )


@frozen
class _Besides:
    """What another filter selects, without some paths."""

    paths: tuple[str, ...]
    filter: Filter | None

    def __call__(self, path: str, leaf: object) -> bool:
        if any(path == each or path.startswith(f"{each}.") for each in self.paths):
            return False
        return self.filter is None or self.filter(path, leaf)


def besides(paths: tuple[str, ...], filter: Filter | None) -> Filter | None:
    """The filter that also leaves out some paths, and everything under them."""
    return _Besides(paths=paths, filter=filter) if paths else filter


def check_strict(strict: object) -> None:
    """Refuse what is none of the three, before anything is done with it.

    Raises:
        TypeError: the message names the three.
    """
    if not isinstance(strict, bool) and strict != "tensors":
        raise TypeError(f"strict: expected True, False or 'tensors', found {strict!r:.80}")


def _compile(patterns: tuple[str, ...]) -> re.Pattern[str]:
    if not patterns:
        raise ValueError("a filter needs at least one pattern, such as only('layer1')")
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern.strip("."):
            raise ValueError(f"a pattern is a dotted path such as 'layer1.*', not {pattern!r}")
    # The alternative with a tail makes "layer1" a subtree: "layer1" and "layer1.…", not "layer10".
    either = "|".join(fnmatch.translate(each) for p in patterns for each in (p, f"{p}.*"))
    return re.compile(either)
