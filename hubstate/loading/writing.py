"""Carrying a plan out: into the model's own memory, or by putting other tensors in its place."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import Parameter

from hubstate.errors import Issue, StructureMismatch
from hubstate.loading.overlap import groups, is_same_view, span_of
from hubstate.loading.plan import Extra, Move, Plan
from hubstate.report import LoadReport

__all__ = ["assign", "write"]

_as_parameter: Any = Tensor._make_subclass  # what Parameter(tensor) comes down to
_HARMLESS_LOADERS = (
    nn.Module._load_from_state_dict,
    _NormBase._load_from_state_dict,  # adds a missing num_batches_tracked, as the plan does
    _InstanceNorm._load_from_state_dict,
)


def write(plan: Plan) -> LoadReport:
    """Copy every value into the model's own tensors, which stay the objects they are.

    Raises:
        StructureMismatch: a ``set_extra_state()`` that failed; nothing has changed then.
    """
    _set_extras(plan.extras)
    _copy(plan.moves)
    return plan.report


def assign(plan: Plan) -> LoadReport:
    """Put the source's tensors in the place of the model's, without a copy where none is needed.

    Dtypes, devices and ties stay the model's. A value is copied all the same where something
    beside the registries may know the old tensor: in a module with load hooks or its own
    ``_load_from_state_dict``, and in a tensor that overlaps another, is not contiguous, has
    gradient hooks, or is a subclass of Parameter.

    Raises:
        StructureMismatch: as for ``write``.
    """
    rooted = set(_rooted(plan))
    taken: set[int] = set()
    put: dict[int, Tensor] = {}
    rest = []
    for move in plan.moves:
        if move.given is None or id(move.target) in rooted:
            rest.append(move)
        elif id(move.target) not in put:
            put[id(move.target)] = _replacement(move, taken)
    _set_extras(plan.extras)
    _copy(rest)
    # Over all names, and not over the moves: a tie must stay one under names left out of the load.
    for path, _, value, owner in plan.found:
        if owner is not None and id(value) in put:
            _put(owner, path.rpartition(".")[2], put[id(value)])
    return plan.report


def _rooted(plan: Plan) -> Iterator[int]:
    """The identities of the tensors that must stay where they are."""
    yield from plan.entangled
    last, is_open = None, False
    for _, kind, value, owner in plan.found:
        if kind == "param" or kind == "buffer":
            if owner is not last:
                last, is_open = owner, owner is not None and _is_open(owner)
            if not (is_open and _is_loose(value)):
                yield id(value)


def _is_open(owner: nn.Module) -> bool:
    if owner._load_state_dict_pre_hooks or owner._load_state_dict_post_hooks:
        return False
    kind: Any = type(owner)
    return _loads_plainly(kind)


@functools.lru_cache(maxsize=4096)
def _loads_plainly(kind: Any) -> bool:
    return kind._load_from_state_dict in _HARMLESS_LOADERS


def _is_loose(tensor: Any) -> bool:
    if type(tensor) is not Parameter and type(tensor) is not Tensor:
        return False
    if tensor._backward_hooks or tensor._post_accumulate_grad_hooks:
        return False
    return tensor.layout is torch.strided and tensor.is_contiguous()


def _replacement(move: Move, taken: set[int]) -> Tensor:
    target, tensor = move.target, move.given
    assert isinstance(tensor, Tensor)
    device = tensor.device if target.is_meta else target.device
    if tensor.dtype is not target.dtype or tensor.device != device:
        tensor = tensor.to(device, target.dtype)
    if type(tensor) is not Tensor or tensor.requires_grad or not tensor.is_contiguous():
        tensor = tensor.detach().contiguous()
    address = tensor.data_ptr()
    if address in taken:  # one tensor of the source under two names that the model keeps apart
        tensor = tensor.clone()
    taken.add(address or id(tensor))
    if type(target) is not Parameter:
        return tensor
    parameter = _as_parameter(Parameter, tensor, target.requires_grad)
    if attributes := target.__dict__:
        parameter.__dict__.update(attributes)
    return parameter  # type: ignore[no-any-return]


def _put(owner: nn.Module, name: str, tensor: Tensor) -> None:
    own = owner.__dict__
    if type(owner).__setattr__ is not nn.Module.__setattr__:
        setattr(owner, name, tensor)  # recurrent layers keep a list of their weights
    elif name in own["_parameters"]:
        own["_parameters"][name] = tensor
    else:
        own["_buffers"][name] = tensor


def _copy(moves: Sequence[Move]) -> None:
    with torch.no_grad():
        for move, value in zip(moves, _apart(moves), strict=True):
            if value is None:
                move.target.zero_()
            else:
                move.target.copy_(value)


def _apart(moves: Sequence[Move]) -> list[Tensor | None]:
    """What to write, cloned where writing one tensor would change the source of another."""
    values = [move.given if isinstance(move.given, Tensor) else None for move in moves]
    sources = [index for index, value in enumerate(values) if value is not None]
    spans = [span_of(move.target) for move in moves]
    spans += [span_of(value) for value in values if value is not None]
    count = len(moves)
    for group in groups(spans):
        if group[0] >= count:
            continue
        for index in [sources[member - count] for member in group if member >= count]:
            value = values[index]
            if value is not None and not is_same_view(value, moves[index].target):
                values[index] = value.clone()
    return values


def _set_extras(extras: Sequence[Extra]) -> None:
    before = []
    for path, owner, value in extras:
        try:
            before.append((owner, copy.deepcopy(owner.get_extra_state())))
            owner.set_extra_state(_own(value))
        except Exception as error:
            for module, old in reversed(before):
                module.set_extra_state(old)
            issue = Issue(path, "extra", f"set_extra_state: {type(error).__name__}: {error}")
            raise StructureMismatch([issue]) from error


def _own(value: Any) -> Any:
    """An extra state that shares no memory with the source."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _own(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_own(item) for item in value)
    return value
