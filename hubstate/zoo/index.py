"""The index: the library's own builders and the family that each is in, as data.

A family is a module of this package. Listing the names imports none of them. No family is called
like a builder: as an attribute of the package, a module would stand in the way of the function.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["BUILTIN", "FAMILIES"]

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "alex_net": ("alexnet",),
    "densenet": (
        "densenet121",
        "densenet161",
        "densenet169",
        "densenet201",
    ),
    "resnet": (
        "resnet18",
        "resnet18_small",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
        "resnext50_32x4d",
        "resnext101_32x8d",
        "resnext101_64x4d",
        "wide_resnet50_2",
        "wide_resnet101_2",
    ),
    "squeezenet": (
        "squeezenet1_0",
        "squeezenet1_1",
    ),
    "vgg": (
        "vgg11",
        "vgg11_bn",
        "vgg13",
        "vgg13_bn",
        "vgg16",
        "vgg16_bn",
        "vgg19",
        "vgg19_bn",
    ),
}
"""The builders of each family, by the name of its module."""

BUILTIN: Mapping[str, str] = {
    name: f"{__package__}.{family}" for family, names in FAMILIES.items() for name in names
}
"""The module of each builder, by the builder's name."""
