"""Layers that are made without their initialisers in a ``skip_init`` block, and mostly by copying.

A deep network makes the same few layers dozens of times, and most of the time that a constructor
takes goes into initialising, checking and registering what is the same in each of them. Inside
``skip_init`` the first layer of its kind and arguments is constructed, without a call of its
``reset_parameters``; the next ones get copies of its attributes, and tensors of their own. A layer
of another width is made of the first one too, where a kind says what depends on the width. The
values that the constructor would have given are made where something asks for them. Outside such
a block each layer is simply constructed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn, overrides
from torch.nn.modules import module as registration

from hubstate.building import SkippedInit, current_block

__all__ = ["Shapes", "Widths", "is_watched", "prototyped"]

P = ParamSpec("P")
Layer = TypeVar("Layer", bound=nn.Module)
_Make: TypeAlias = Callable[[], nn.Module]

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""The shapes of parameters and buffers by name."""


class Widths(NamedTuple):
    """What depends on some integers among the arguments of a class."""

    split: Callable[..., tuple[tuple[int, ...], tuple[object, ...]]]
    """The arguments of the class as those integers, and all that is left."""
    give: Callable[..., Shapes]
    """Called with the attributes of a layer and the integers, all from 1, it changes those
    attributes that depend on them, and returns the shapes that do. Such a buffer has one value
    throughout. ValueError if there is no such layer."""


# What nn.Parameter(values) comes down to; thousands are made in a block.
_as_parameter: Any = torch.Tensor._make_subclass
_outside_the_block: Any = overrides._pop_mode_temporarily
_CONTAINERS = frozenset({dict, list, set, OrderedDict})


def prototyped(kind: Callable[P, Layer], widths: Widths | None = None) -> Callable[P, Layer]:
    """A class of layers without children, to be called in place of the class.

    Args:
        kind: a class whose ``reset_parameters``, if any, does no more than fill its parameters.
        widths: how layers of other widths differ, where that is all that tells them apart.

    >>> from hubstate.building import skip_init
    >>> linear = prototyped(nn.Linear)
    >>> with skip_init() as skipped:
    ...     first, second = linear(3, 2), linear(3, 2)
    >>> type(second).__name__, second.weight is first.weight, len(skipped)
    ('Linear', False, 4)
    """
    workshop = _Workshop(kind, widths)

    def make(*args: P.args, **kwargs: P.kwargs) -> Layer:
        block = current_block()
        if block is None or is_watched():
            return kind(*args, **kwargs)
        values = (*args, *kwargs.values())
        key = (kind, torch.get_default_dtype(), values, tuple(kwargs), *map(type, values))
        try:
            prototype = block.prototypes.get(key)
        except TypeError:  # an argument that cannot be hashed, such as a list
            return kind(*args, **kwargs)
        if not isinstance(prototype, _Prototype):
            prototype = block.prototypes[key] = workshop.prototype(block, args, kwargs)
        made: Layer = prototype.copy(block)
        return made

    return make


def is_watched() -> bool:
    """Whether somebody wants to be told of each registration in a module."""
    return bool(
        registration._global_parameter_registration_hooks
        or registration._global_buffer_registration_hooks
        or registration._global_module_registration_hooks
    )


class _Workshop:
    """Makes the prototypes of a class: by its constructor, or out of another prototype."""

    def __init__(self, kind: Any, widths: Widths | None) -> None:
        self.kind = kind
        self.bare: Any = type("Bare", (cast(type, kind),), {"reset_parameters": _leave})
        self.widths = widths

    def prototype(
        self, block: SkippedInit, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> _Prototype:
        make = partial(self.kind, *args, **kwargs)
        if self.widths is None:
            return self._constructed(args, kwargs, make)
        try:
            widths, rest = self.widths.split(*args, **kwargs)
            if not all(type(width) is int and width > 0 for width in widths):
                return self._constructed(args, kwargs, make)
            key = (self.kind, torch.get_default_dtype(), rest, *map(type, rest))
            first = block.prototypes.get(key)
            if isinstance(first, _Prototype):
                return first.widened(widths, self.widths, make)
        except (TypeError, ValueError):  # the constructor knows what is wrong
            return self._constructed(args, kwargs, make)
        block.prototypes[key] = made = self._constructed(args, kwargs, make)
        return made

    def _constructed(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], make: _Make
    ) -> _Prototype:
        with _outside_the_block():
            layer = self.bare(*args, **kwargs)
        tensors = {**layer._parameters, **layer._buffers}
        return _Prototype(self.kind, dict(vars(layer)), tensors, make)


def _leave(layer: nn.Module) -> None:
    """Take the place of ``reset_parameters``."""


class _Prototype:
    """A layer as its constructor left it, which is given to nobody."""

    def __init__(
        self, kind: Any, own: dict[str, Any], tensors: Mapping[str, Tensor | None], make: _Make
    ) -> None:
        self.kind = kind
        self.own = own
        with torch._C.DisableTorchFunction():
            self.tensors = {name: x.detach() for name, x in tensors.items() if x is not None}
        self.make = make
        self.containers = [(n, v.copy) for n, v in own.items() if type(v) in _CONTAINERS]
        self.parameters = [each for each in self.tensors.items() if each[0] in own["_parameters"]]
        self.buffers = [each for each in self.tensors.items() if each[0] in own["_buffers"]]

    def widened(self, sizes: tuple[int, ...], widths: Widths, make: _Make) -> _Prototype:
        """The prototype of a layer of other widths."""
        own = self.own.copy()
        shapes = widths.give(own, *sizes)
        tensors = dict(self.tensors)
        with torch._C.DisableTorchFunction():
            for name in shapes.keys() & tensors.keys():  # no memory: only copies are read
                shape = shapes[name]
                tensors[name] = tensors[name].as_strided(shape, (0,) * len(shape))
        return _Prototype(self.kind, own, tensors, make)

    def copy(self, block: SkippedInit) -> Any:
        """A layer of its own."""
        layer = self.kind.__new__(self.kind)
        own: dict[str, Any] = layer.__dict__
        own.update(self.own)
        for name, copy in self.containers:
            own[name] = copy()
        if self.tensors:
            with torch._C.DisableTorchFunction():
                parameters, buffers = own["_parameters"], own["_buffers"]
                for name, first in self.parameters:
                    values = torch.empty_like(first, memory_format=torch.contiguous_format)
                    made = parameters[name] = _as_parameter(nn.Parameter, values, True)
                    block.hold_fresh(made, _as_constructed, made, name, self.make)
                for name, first in self.buffers:
                    buffers[name] = first.clone(memory_format=torch.contiguous_format)
        return layer


def _as_constructed(parameter: Tensor, name: str, make: _Make) -> None:
    parameter.copy_(getattr(make(), name))
