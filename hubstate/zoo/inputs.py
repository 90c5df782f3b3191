"""What a model's images must be like, as plain data: checked here, and without torch.

============= =====================================================================
input_size    [channels, height, width], in pixels
mean          subtracted from values between 0 and 1, a number for each channel
std           what is left is divided by it
interpolation how to resize: bilinear, bicubic or nearest
crop_pct      the share of the resized image, side by side, that the crop keeps
============= =====================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

__all__ = ["INTERPOLATIONS", "input_problems"]

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
_FIELDS = ("input_size", "mean", "std", "interpolation", "crop_pct")


def input_problems(stated: Mapping[str, object]) -> Iterator[str]:
    """A line for each field that means nothing, and for each that nobody knows.

    Args:
        stated: some of the fields, or all.

    >>> list(input_problems({"crop_pct": 0.9, "interpolation": "magic"}))
    ["interpolation: expected bilinear, bicubic, nearest, found 'magic'"]
    """
    for key in stated.keys() - set(_FIELDS):
        yield f"{key}: unknown; the fields are {', '.join(_FIELDS)}"
    size = stated.get("input_size", (1, 1, 1))
    if not _is_size(size):
        yield f"input_size: expected channels, height and width, sizes from 1, found {size!r}"
    yield from _number_problems(stated)
    mode = stated.get("interpolation", INTERPOLATIONS[0])
    if mode not in INTERPOLATIONS:
        yield f"interpolation: expected {', '.join(INTERPOLATIONS)}, found {mode!r}"
    crop = stated.get("crop_pct", 1)
    if not _is_number(crop) or not 0 < float(str(crop)) <= 1:
        yield f"crop_pct: expected more than 0, 1 at most, found {crop!r}"


def _number_problems(stated: Mapping[str, object]) -> Iterator[str]:
    size = stated.get("input_size")
    for name in ("mean", "std"):
        values = stated.get(name, ())
        if not isinstance(values, list | tuple) or not all(map(_is_number, values)):
            yield f"{name}: expected a number for each channel, found {values!r}"
        elif name == "std" and 0 in values:
            yield f"{name}: expected numbers other than 0, found {values!r}"
        elif values and _is_size(size) and len(values) != size[0]:  # type: ignore[index]
            yield f"{name}: expected {size[0]} numbers, found {len(values)}"  # type: ignore[index]


def _is_size(value: object) -> bool:
    sides = value if isinstance(value, list | tuple) else ()
    return len(sides) == 3 and all(type(side) is int and side > 0 for side in sides)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(float(str(value)))
