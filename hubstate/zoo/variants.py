"""Builders from a table: one class or function of a plan, and a plan for each variant.

>>> from dataclasses import dataclass
>>> from torch import nn
>>> @dataclass(frozen=True)
... class Plan:
...     width: int
>>> def perceptron(plan: Plan, *, num_classes: int = 1000, in_chans: int = 3) -> nn.Linear:
...     return nn.Linear(in_chans * plan.width, num_classes)
>>> wide = variant(perceptron, Plan(8), name="doc-wide", about="Wide.", preprocessing=photographs())
>>> wide(num_classes=5)
Linear(in_features=24, out_features=5, bias=True)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from hubstate.strictjson import Json
from hubstate.zoo.builders import Builder, register_model
from hubstate.zoo.features import featured

if TYPE_CHECKING:
    from torch import nn

    from hubstate.rules import Rules as Transforms

__all__ = ["photographs", "variant"]

M = TypeVar("M", bound="nn.Module")


def variant(
    make: Callable[..., M],
    plan: object,
    *,
    name: str,
    about: str,
    preprocessing: Mapping[str, Json],
    migrations: Mapping[str, Transforms] | None = None,
) -> Builder[M]:
    """The builder of one row of a table, registered by name.

    Args:
        make: called as ``make(plan, **arguments)``; the builder has the same other arguments, and
            ``features_only`` where the stages of the architecture are known.
        plan: what tells this variant from the others.
        name: the builder's name, and what its module calls it.
        about: the builder's docstring.
        preprocessing: what the images must be like.
        migrations: for releases of what the architecture was, as ``register_model`` takes them.

    Raises:
        ValueError: another builder has the name.
    """

    def build(**arguments: Any) -> M:
        return make(plan, **arguments)

    signature = inspect.signature(make)
    _, *own = signature.parameters.values()
    build.__name__ = build.__qualname__ = name
    build.__module__ = make.__module__
    build.__doc__ = about
    made = make if isinstance(make, type) else signature.return_annotation
    cast(Any, build).__signature__ = signature.replace(parameters=own, return_annotation=made)
    register = register_model(name=name, preprocessing=preprocessing, migrations=migrations)
    return register(featured(name)(build))


def photographs(
    size: int = 224,
    *,
    resize: int = 256,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
    std: tuple[float, float, float] = (0.229, 0.224, 0.225),
) -> dict[str, Json]:
    """Preprocessing of photographs: resized, cropped to the centre, scaled channel by channel.

    Args:
        size: height and width of the crop, in pixels.
        resize: length of the shorter side before the crop, in pixels.
        interpolation: how to resize.
        mean: subtracted from RGB values between 0 and 1; ImageNet's unless given.
        std: what is left is divided by it; ImageNet's unless given.

    >>> photographs()["crop_pct"]
    0.875
    """
    return {
        "input_size": [3, size, size],
        "mean": list(mean),
        "std": list(std),
        "interpolation": interpolation,
        "crop_pct": size / resize,
    }
