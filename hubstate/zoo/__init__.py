"""The zoo: builders of architectures, and the catalogue of weights that are known for them.

::

    builders.py      register_model: a function that makes an architecture -> a public builder
    catalogue.py     catalogue.toml: which weights exist for which builder
    create.py        create_model, list_models: builders by name
    resnet.py …      one family of architectures a file

Built-in builders are reached from here by name. The file of a family, and torch with it, is
imported when the first builder of that family is asked for.

>>> from hubstate.zoo import resnet18_small
>>> model = resnet18_small(width=8, in_chans=1)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from hubstate.zoo.builders import BUILTIN

if TYPE_CHECKING:
    from hubstate.zoo.resnet import (
        resnet18,
        resnet18_small,
        resnet34,
        resnet50,
        resnet101,
        resnet152,
        resnext50_32x4d,
        resnext101_32x8d,
        resnext101_64x4d,
        wide_resnet50_2,
        wide_resnet101_2,
    )

__all__ = [
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
]


def __getattr__(name: str) -> object:
    home = BUILTIN.get(name)
    if home is None:
        raise AttributeError(f"module 'hubstate.zoo' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
