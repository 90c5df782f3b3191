"""How far apart the values of two weights files are, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from hubstate.records import encode
from hubstate.strictjson import Json
from hubstate.values import frozen
from hubstate.weights import map_weights

__all__ = ["Deviation", "deviation", "deviations"]

_BLOCK = 1 << 20  # elements compared at a time, so that no second copy of a tensor is made


@frozen
class Deviation:
    """How one tensor differs from another of its shape and dtype."""

    elements: int
    """How many values differ, of ``total``; NaN equals NaN."""
    total: int
    absolute: float
    """The largest difference of two values; NaN where one of them alone is NaN."""
    relative: float
    """The same divided by the largest magnitude in the first tensor; 0/0 is 0."""

    def to_json(self) -> Json:
        """The same as JSON data; numbers that JSON lacks are written as in ``records``."""
        return {
            "elements": self.elements,
            "total": self.total,
            "absolute": encode(self.absolute),
            "relative": encode(self.relative),
        }

    def __str__(self) -> str:
        return (
            f"{self.elements:,} of {self.total:,} values, by {self.absolute:.3g} at most "
            f"({self.relative:.2%} of the largest)"
        )


def deviation(old: Tensor, new: Tensor) -> Deviation:
    """Compare two tensors of one shape and dtype, in float64 (integers and bools too).

    >>> print(deviation(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5])))
    1 of 2 values, by 0.5 at most (25.00% of the largest)
    """
    count, worst, largest = 0, 0.0, 0.0
    for a, b in zip(_blocks(old), _blocks(new), strict=True):
        differ = (a != b) & ~((a != a) & (b != b))
        count += int(differ.sum())
        wide_a, wide_b = a.double(), b.double()
        finite = wide_a[wide_a.isfinite()]
        largest = max(largest, float(finite.abs().amax()) if finite.numel() else 0.0)
        if bool(differ.any()):
            worst = _larger(worst, float((wide_a - wide_b)[differ].abs().amax()))
    return Deviation(
        elements=count, total=old.numel(), absolute=worst, relative=_ratio(worst, largest)
    )


def deviations(
    names: Iterable[str], old: Mapping[str, Path], new: Mapping[str, Path]
) -> Iterator[tuple[str, Deviation]]:
    """Each named tensor's deviation between two sets of weights files.

    Args:
        names: tensors of one shape and dtype in both.
        old: the files with the names that they have in their release.
        new: the same, of the other.

    Raises:
        InvalidWeights: a file that breaks the format.
    """
    before, after = _mapped(old), _mapped(new)
    for name in names:
        yield name, deviation(before[name], after[name])


def _mapped(files: Mapping[str, Path]) -> dict[str, Tensor]:
    return {name: t for path in files.values() for name, t in map_weights(path).items()}


def _blocks(tensor: Tensor) -> Iterator[Tensor]:
    flat = tensor.detach().reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    for start in range(0, flat.numel(), _BLOCK):
        block = flat[start : start + _BLOCK]
        yield block.double() if block.is_floating_point() else block  # float8 has no comparison


def _larger(a: float, b: float) -> float:
    return b if math.isnan(b) or b > a else a


def _ratio(worst: float, largest: float) -> float:
    if largest:
        return worst / largest
    return math.inf if worst else 0.0
