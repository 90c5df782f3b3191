"""What may be said of a model's images and of its sizes: plain data, checked without torch.

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
import operator
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

__all__ = ["FIELDS", "INTERPOLATIONS", "check_sizes", "input_problems", "made_for"]

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
FIELDS = ("input_size", "mean", "std", "interpolation", "crop_pct")
_SIZES = ("num_classes", "in_chans", "image_size")


def input_problems(stated: Mapping[str, object]) -> Iterator[str]:
    """A line for each field that means nothing, and for each that nobody knows.

    Args:
        stated: some of the fields, or all.

    >>> list(input_problems({"crop_pct": 0.9, "interpolation": "magic"}))
    ["interpolation: expected bilinear, bicubic, nearest, found 'magic'"]
    """
    for key in stated.keys() - set(FIELDS):
        yield f"{key}: unknown; the fields are {', '.join(FIELDS)}"
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


def check_sizes(builder: str, arguments: MutableMapping[str, Any]) -> None:
    """Make plain integers of the arguments that are sizes of tensors.

    Args:
        builder: its name, for messages.
        arguments: of one of the library's own builders; changed in place.

    Raises:
        TypeError: a size that is no whole number.
        ValueError: a size below 1.

    >>> check_sizes("doc", {"num_classes": 0})
    Traceback (most recent call last):
        ...
    ValueError: doc(): num_classes: expected 1 or more, found 0; hubstate.backbone(model) is a \
model without its head
    """
    for name in _SIZES:
        if name in arguments:
            arguments[name] = _size(f"{builder}(): {name}", arguments[name])


def made_for(stated: Mapping[str, Any], sizes: Mapping[str, int]) -> Mapping[str, Any]:
    """What is stated of images, for those that a model was made for.

    Args:
        stated: of the architecture, or of a release.
        sizes: ``image_size`` and ``in_chans`` of the model, as far as they are known. With another
            number of channels, each is normalised by the average of those that are stated, as in
            timm.

    >>> made_for({"input_size": [3, 8, 8], "mean": [0.25, 0.5, 0.75]}, {"in_chans": 1})
    {'input_size': [1, 8, 8], 'mean': [0.5]}
    """
    size = stated.get("input_size")
    if not isinstance(size, list | tuple) or len(size) != 3:
        return stated
    there, height, width = size
    here, side = sizes.get("in_chans", there), sizes.get("image_size")
    if here == there and side is None:
        return stated
    for name in ("mean", "std"):
        values = stated.get(name)
        if values and len(values) == there != here:
            stated = {**stated, name: [sum(values) / there] * here}
    return {**stated, "input_size": [here, side or height, side or width]}


def _size(where: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{where}: expected a whole number, found {value!r:.80}")
    size = operator.index(value)
    if size < 1:
        headless = "; hubstate.backbone(model) is a model without its head"
        hint = headless if where.endswith("num_classes") else ""
        raise ValueError(f"{where}: expected 1 or more, found {size}{hint}")
    return size


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
