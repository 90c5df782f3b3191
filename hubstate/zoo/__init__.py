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
    from hubstate.zoo.alex_net import alexnet as alexnet
    from hubstate.zoo.densenet import densenet121 as densenet121
    from hubstate.zoo.densenet import densenet161 as densenet161
    from hubstate.zoo.densenet import densenet169 as densenet169
    from hubstate.zoo.densenet import densenet201 as densenet201
    from hubstate.zoo.resnet import resnet18 as resnet18
    from hubstate.zoo.resnet import resnet18_small as resnet18_small
    from hubstate.zoo.resnet import resnet34 as resnet34
    from hubstate.zoo.resnet import resnet50 as resnet50
    from hubstate.zoo.resnet import resnet101 as resnet101
    from hubstate.zoo.resnet import resnet152 as resnet152
    from hubstate.zoo.resnet import resnext50_32x4d as resnext50_32x4d
    from hubstate.zoo.resnet import resnext101_32x8d as resnext101_32x8d
    from hubstate.zoo.resnet import resnext101_64x4d as resnext101_64x4d
    from hubstate.zoo.resnet import wide_resnet50_2 as wide_resnet50_2
    from hubstate.zoo.resnet import wide_resnet101_2 as wide_resnet101_2
    from hubstate.zoo.squeezenet import squeezenet1_0 as squeezenet1_0
    from hubstate.zoo.squeezenet import squeezenet1_1 as squeezenet1_1
    from hubstate.zoo.vgg import vgg11 as vgg11
    from hubstate.zoo.vgg import vgg11_bn as vgg11_bn
    from hubstate.zoo.vgg import vgg13 as vgg13
    from hubstate.zoo.vgg import vgg13_bn as vgg13_bn
    from hubstate.zoo.vgg import vgg16 as vgg16
    from hubstate.zoo.vgg import vgg16_bn as vgg16_bn
    from hubstate.zoo.vgg import vgg19 as vgg19
    from hubstate.zoo.vgg import vgg19_bn as vgg19_bn

__all__ = list(BUILTIN)


def __getattr__(name: str) -> object:
    home = BUILTIN.get(name)
    if home is None:
        raise AttributeError(f"module 'hubstate.zoo' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
