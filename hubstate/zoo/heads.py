"""The head of a model, and all the rest of it.

The head is the layer with an output for each class. What is before it, the backbone, is what is
worth keeping for other classes::

    resnet50(pretrained=True, num_classes=7, filter=without(*head_of("resnet50")))
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from hubstate.errors import UnknownModel
from hubstate.walk.traits import unwrap
from hubstate.zoo.create import find_builder
from hubstate.zoo.layers import Identity
from hubstate.zoo.origin import builder_name, forget
from hubstate.zoo.parts import HEADS

if TYPE_CHECKING:
    from torch import nn

__all__ = ["backbone", "classifier", "head_of"]


def head_of(name: str) -> tuple[str, ...]:
    """The dotted paths of the layers with an output for each class.

    Args:
        name: of a builder.

    Returns:
        The classifier's path, then those of auxiliary ones, which exist in some variants only.

    Raises:
        UnknownModel: no builder has that name, or its head is not known.

    >>> head_of("vgg16"), head_of("googlenet")
    (('classifier.6',), ('fc', 'aux1.fc2', 'aux2.fc2'))
    """
    paths = HEADS.get(name) or find_builder(name).registration.head
    if not paths:
        raise UnknownModel(f"the head of {name} is not known: register_model(head=…) states it")
    return paths


def classifier(model: nn.Module) -> nn.Module:
    """The layer of a model that has an output for each class.

    Args:
        model: made by a registered builder.

    Raises:
        UnknownModel: no builder made it, or its head is not known.
        AttributeError: the model was made without its head.

    >>> from hubstate.zoo import resnet18_small
    >>> classifier(resnet18_small(width=8, num_classes=4))
    Linear(in_features=64, out_features=4, bias=True)
    """
    path = _heads(model)[0]
    return unwrap(model).get_submodule(path)


def backbone(model: nn.Module) -> nn.Module:
    """The model without its head: it returns what the classifier would have been given.

    The two share every tensor and every module but those that hold the head, so that training one
    trains the other. Its ``state_dict()`` has the model's names, without the head's. It is not
    compiled where the model is.

    Args:
        model: made by a registered builder.

    Raises:
        UnknownModel: no builder made it, or its head is not known.
        AttributeError: the model was made without its head.

    >>> import torch
    >>> from hubstate.zoo import resnet18_small
    >>> backbone(resnet18_small(width=8).eval())(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 64])
    """
    classifier(model)
    body = unwrap(model)
    found = dict(body.named_modules())
    for path in _heads(model):
        if path in found:
            body = _headless(body, path.split("."))
    return body


def _heads(model: nn.Module) -> tuple[str, ...]:
    name = builder_name(model)
    if name is None:
        raise UnknownModel(
            f"no builder made this {type(model).__name__}, so where its head is is not known"
        )
    return head_of(name)


def _headless(module: nn.Module, path: list[str]) -> nn.Module:
    """A copy of the modules along a path, down to an identity at its end; the rest is shared."""

    if not path:
        return Identity()
    name, *rest = path
    twin = copy.copy(module)
    # A module keeps its parts in dicts, which a shallow copy shares.
    twin.__dict__.update({k: copy.copy(v) for k, v in vars(module).items() if isinstance(v, dict)})
    forget(twin)
    twin._modules[name] = _headless(module.get_submodule(name), rest)
    return twin
