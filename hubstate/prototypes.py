"""Layers that are made without their initialisers in a ``skip_init`` block, and mostly by copying.

A deep network makes the same few layers dozens of times, and most of the time that a constructor
takes goes into initialising, checking and registering what is the same in each of them. Inside
``skip_init`` the first layer of its kind and arguments is constructed, without a call of its
``reset_parameters``; the next ones get copies of its attributes, and tensors of their own. The
values that the constructor would have given are made where something asks for them. Outside such
a block each layer is simply constructed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn

from hubstate.building import SkippedInit, current_block

__all__ = ["prototyped"]

P = ParamSpec("P")
Layer = TypeVar("Layer", bound=nn.Module)
_Make = Callable[[], nn.Module]

# What nn.Parameter(values) comes down to; thousands are made in a block.
_as_parameter: Any = torch.Tensor._make_subclass
_CONTAINERS = frozenset({dict, list, set, OrderedDict})


def prototyped(kind: Callable[P, Layer]) -> Callable[P, Layer]:
    """A class of layers without children, to be called in place of the class.

    Args:
        kind: a class whose ``reset_parameters``, if any, does no more than fill its parameters.

    >>> from hubstate.building import skip_init
    >>> linear = prototyped(nn.Linear)
    >>> with skip_init() as skipped:
    ...     first, second = linear(3, 2), linear(3, 2)
    >>> type(second).__name__, second.weight is first.weight, len(skipped)
    ('Linear', False, 4)
    """
    bare: Any = type("Bare", (cast(type, kind),), {"reset_parameters": _leave})

    def make(*args: P.args, **kwargs: P.kwargs) -> Layer:
        block = current_block()
        if block is None:
            return kind(*args, **kwargs)
        values = (*args, *kwargs.values())
        key = (kind, torch.get_default_dtype(), values, tuple(kwargs), *map(type, values))
        try:
            prototype = block.prototypes.get(key)
        except TypeError:  # an argument that cannot be hashed, such as a list
            return kind(*args, **kwargs)
        if not isinstance(prototype, _Prototype):
            layer = bare(*args, **kwargs)
            layer.__class__ = kind
            prototype = _Prototype(layer, lambda: kind(*args, **kwargs))
            block.prototypes[key] = prototype
        made: Layer = prototype.copy(block)
        return made

    return make


def _leave(layer: nn.Module) -> None:
    """Take the place of ``reset_parameters``."""


class _Prototype:
    """A layer as its constructor left it, which is given to nobody."""

    def __init__(self, layer: nn.Module, make: _Make) -> None:
        self.layer = layer
        self.make = make
        self.parameters = [(n, p) for n, p in layer._parameters.items() if p is not None]
        self.buffers = [(n, b) for n, b in layer._buffers.items() if b is not None]

    def copy(self, block: SkippedInit) -> Any:
        """Another such layer."""
        kind: Any = type(self.layer)
        layer = kind.__new__(kind)
        own: dict[str, Any] = layer.__dict__
        for name, value in vars(self.layer).items():
            own[name] = value.copy() if type(value) in _CONTAINERS else value
        with torch._C.DisableTorchFunction():
            for name, first in self.parameters:
                values = torch.empty_like(first)
                parameter = own["_parameters"][name] = _as_parameter(nn.Parameter, values, True)
                block.hold_fresh(parameter, _as_constructed, parameter, name, self.make)
            for name, buffer in self.buffers:
                own["_buffers"][name] = buffer.clone()
        return layer


def _as_constructed(parameter: Tensor, name: str, make: _Make) -> None:
    parameter.copy_(getattr(make(), name))
