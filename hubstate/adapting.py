"""Weights for another number of classes or channels, or size of images, than those of a release.

Three arguments of a builder change the shape of a few tensors and of nothing else. Each has a rule,
and each tensor that it touches is named in the report; whatever else differs stays an error.

==============  ==============================================================================
 argument        what happens to the tensors that it shapes
==============  ==============================================================================
 num_classes     the head keeps the values that the model was initialised with
 in_chans        to 1: the stem's channels are summed, so that a grey image answers as its
                 RGB copy did; to any other: they are repeated in turn and scaled by
                 there/here, so that the sum of the responses stays the same
 image_size      embeddings of positions, (1, tokens, channels), are interpolated from one square
                 grid to another: bicubic, corners on corners, as torchvision's
                 ``interpolate_embeddings``; tokens before the grid, such as a class token's, stay
==============  ==============================================================================

What timm calls ``img_size`` is an ``image_size`` too. No rule makes weights that mix patches, as
those of MLP-Mixer, gMLP and ResMLP, fit another number of patches: they are refused, and the error
says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import NamedTuple, TypeAlias

from torch import nn

from hubstate.errors import Issue, StructureMismatch
from hubstate.filters import Filter
from hubstate.manifest import Entry
from hubstate.report import LoadReport
from hubstate.rules import Channels, Interpolate, Rule
from hubstate.values import frozen, replace
from hubstate.walk import tensors_of

__all__ = ["Adaptation", "find_adaptation"]

Pair: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]
"""The shape of a tensor there, and here."""

_CLASSES, _CHANNELS, _SIZE = "num_classes", "in_chans", "image_size"
_MOST_PREFIX = 8  # tokens before the grid: one for the class, and a few registers


class _Grid(NamedTuple):
    there: int
    here: int
    prefix: int


@frozen
class Adaptation:
    """What is done to the tensors of a release that are not of the model's shape."""

    rules: tuple[Rule, ...]
    """For the stem and the embeddings of positions."""
    kept: frozenset[str]
    """The head, which is not loaded."""
    account: Mapping[str, str]
    """Path to what was done, as ``LoadReport.adapted`` has it."""
    reasons: Mapping[str, str]
    """Path to why no rule makes a tensor fit."""

    _wanted: set[str] = field(default_factory=set)
    """Names of the head that the caller's filter lets pass."""

    def narrow(self, filter: Filter | None) -> Filter | None:
        """The filter that leaves the head out as well."""
        return _Narrow(self.kept, filter, self._wanted) if self.kept else filter

    def explain(self, issues: Iterable[Issue]) -> list[Issue]:
        """Differences that no rule covers, with the reason where one is known."""
        return [
            issue._replace(detail=f"{issue.detail}: {self.reasons[issue.path]}")
            if issue.path in self.reasons
            else issue
            for issue in issues
        ]

    def advise(self, error: StructureMismatch) -> str:
        """What to do about differences, where all of them would be adapted, or why none can be."""
        paths = [issue.path for issue in error.issues]
        if all(path in self.account for path in paths):
            return f"adapt=True adapts {', '.join(paths)}, and its report says how"
        reasons = [why for path, why in self.reasons.items() if path in paths]
        return reasons[0] if reasons else ""

    def tell(self, report: LoadReport) -> LoadReport:
        """The report with what was adapted; what a filter left out is not."""
        kept = self._wanted
        touched = {*report.loaded, *kept}
        return replace(
            report,
            skipped=tuple(path for path in report.skipped if path not in kept),
            adapted={path: how for path, how in self.account.items() if path in touched},
        )


@dataclass(frozen=True)
class _Narrow:
    kept: frozenset[str]
    filter: Filter | None
    wanted: set[str]

    def __call__(self, path: str, leaf: object) -> bool:
        if self.filter is not None and not self.filter(path, leaf):
            return False
        if path in self.kept:
            self.wanted.add(path)
            return False
        return True


def find_adaptation(
    model: nn.Module,
    entries: Iterable[Entry],
    arguments: Mapping[str, int],
    *,
    stated: Mapping[str, int],
) -> Adaptation:
    """Which tensors of a release have another shape because of an argument of the builder.

    Args:
        model: what is to be loaded into.
        entries: the structure of the release.
        arguments: ``num_classes``, ``in_chans`` and ``image_size`` that the model was made with;
            one that is not given is not adapted to.
        stated: the arguments that the release was made with, as far as it says.

    Raises:
        TypeError: ``arguments`` is no mapping of these names to numbers.
    """
    _check_arguments(arguments)
    shapes = {path: tuple(tensor.shape) for path, tensor in tensors_of(model).items()}
    pairs = {e.path: (e.shape, shapes[e.path]) for e in entries if e.shape and e.path in shapes}
    differ = {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}
    heads = _along(0, differ, arguments.get(_CLASSES), stated.get(_CLASSES))
    stems = _along(1, differ, arguments.get(_CHANNELS), stated.get(_CHANNELS))
    sizes = arguments.get(_SIZE), stated.get(_SIZE)
    grids = {path: grid for path, pair in differ.items() if (grid := _grid(pair, *sizes))}
    account = {
        path: f"re-initialised: {a} classes there, {b} here" for path, (a, b) in heads.items()
    }
    account |= {path: _folding(a, b) for path, (a, b) in stems.items()}
    account |= {path: _interpolating(grid) for path, grid in grids.items()}
    rules: list[Rule] = [
        Channels(channels=re.escape(path), count=here) for path, (_, here) in stems.items()
    ]
    rules += [
        Interpolate(interpolate=re.escape(path), grid=(grid.here, grid.here), prefix=grid.prefix)
        for path, grid in grids.items()
    ]
    mixing = {path: _mixing(pair, *sizes) for path, pair in differ.items() if path not in account}
    return Adaptation(
        rules=tuple(rules),
        kept=frozenset(heads),
        account=account,
        reasons={path: why for path, why in mixing.items() if why},
    )


def _check_arguments(arguments: object) -> None:
    names = (_CLASSES, _CHANNELS, _SIZE)
    given = dict(arguments) if isinstance(arguments, Mapping) else {None: arguments}
    if not all(name in names and type(value) is int for name, value in given.items()):
        raise TypeError(
            f"adapt: expected a mapping of {', '.join(names)} to numbers, found {arguments!r:.80}"
        )


def _along(
    axis: int,
    differ: Mapping[str, Pair],
    here: int | None,
    there: int | None,
) -> dict[str, tuple[int, int]]:
    """The tensors that differ along one axis alone, from what is there to what is here."""
    found = {
        path: (old[axis], new[axis])
        for path, (old, new) in differ.items()
        if len(old) == len(new) > axis
        and new[axis] == here
        and (there is None or old[axis] == there)
        and (*old[:axis], *old[axis + 1 :]) == (*new[:axis], *new[axis + 1 :])
    }
    return found if len(set(found.values())) == 1 else {}


def _grid(pair: Pair, here: int | None, there: int | None) -> _Grid | None:
    """The grids of positions that two shapes of embeddings are for; None for all else.

    Both are squares after as many tokens, of patches of one size. There is one such pair at most:
    another would begin with a square that differs from the first by the prefixes' difference,
    and of 3, 5, 7 and 8 each is the difference of a single pair of squares.
    """
    old, new = pair
    if here is None or len(old) != 3 or len(new) != 3 or old[0] != 1 or old[::2] != new[::2]:
        return None
    for prefix in range(min(old[1], new[1], _MOST_PREFIX + 1)):
        a, b = isqrt(old[1] - prefix), isqrt(new[1] - prefix)
        squares = a * a == old[1] - prefix and b * b == new[1] - prefix
        if squares and here % b == 0 and (there is None or there == here // b * a):
            return _Grid(a, b, prefix)
    return None


def _mixing(pair: Pair, here: int | None, there: int | None) -> str | None:
    """Why a tensor with an axis for the patches does not fit; None for any other."""
    axes = {(a, b) for a, b in zip(*pair, strict=False) if a != b}
    if here is None or len(axes) != 1 or len(pair[0]) != len(pair[1]):
        return None
    old, new = next(iter(axes))
    a, b = isqrt(old), isqrt(new)
    if [a * a, b * b] != [old, new] or not b or here % b or there not in (None, here // b * a):
        return None
    side = here // b * a
    return f"weights that mix {old} patches fit no others: images of {side} × {side} are theirs"


def _folding(there: int, here: int) -> str:
    if here == 1:
        return f"{there} channels summed to 1"
    return f"{there} channels repeated to {here}, times {there}/{here}"


def _interpolating(grid: _Grid) -> str:
    a, b, prefix = grid
    kept = f", {prefix} before them kept" if prefix else ""
    return f"{a} × {a} positions interpolated to {b} × {b}, bicubic{kept}"
