"""What classes of modules and tensors mean for their state: wrappers, and those to refuse."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter, UninitializedBuffer, UninitializedParameter

__all__ = [
    "Why",
    "has_extra",
    "raise_refused",
    "refuse_cycle",
    "refuse_optimizer",
    "refused_module",
    "refused_tensor",
    "unwrap",
]

Why: TypeAlias = tuple[str, str]
"""Why something is refused: one word, and a sentence."""

_ORDINARY = frozenset({Tensor, Parameter})
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_WRAPPERS = {  # by name, since importing these modules takes longer than loading most models
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.CheckpointWrapper": (
        "_checkpoint_wrapped_module"
    ),
}
_SHARDED = {
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel",
    "torch.distributed.tensor.DTensor",
    "torch.distributed._shard.sharded_tensor.api.ShardedTensor",
}


class _Traits(NamedTuple):
    wraps: str | None
    refused: Why | None
    has_extra: bool


@functools.lru_cache(maxsize=4096)
def _traits(kind: Any) -> _Traits:
    names = _names(kind)
    wraps = next((_WRAPPERS[name] for name in names if name in _WRAPPERS), None)
    if issubclass(kind, _PARALLEL):
        wraps = "module"
    has_extra = kind.get_extra_state is not nn.Module.get_extra_state
    return _Traits(wraps, _refused_module(kind, names), has_extra)


def _of(module: nn.Module) -> _Traits:
    kind: Any = type(module)
    return _traits(kind)


def _refused_module(kind: type[nn.Module], names: list[str]) -> Why | None:
    if not _SHARDED.isdisjoint(names):
        return ("sharded", "gather the full tensors first")
    saves = kind._save_to_state_dict
    if saves in (
        nn.Module._save_to_state_dict,
        nn.modules.lazy.LazyModuleMixin._save_to_state_dict,
    ):
        return None
    return ("packed", f"{kind.__name__} keeps weights outside its parameters and buffers")


def _names(kind: type) -> list[str]:
    return [f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__]


@functools.lru_cache(maxsize=4096)
def _refused_tensor(kind: Any) -> Why | None:
    if issubclass(kind, UninitializedParameter | UninitializedBuffer):
        return ("lazy", "not initialised yet: run one forward pass first")
    if not _SHARDED.isdisjoint(_names(kind)):
        return ("sharded", "call full_tensor() first")
    return None


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside torch.compile, DataParallel and DistributedDataParallel, however deep."""
    while name := _of(module).wraps:
        module = module._modules[name]  # type: ignore[assignment]
    return module


def has_extra(module: nn.Module) -> bool:
    """Whether a module has a ``get_extra_state()`` of its own."""
    return _of(module).has_extra


def refused_module(module: nn.Module) -> Why | None:
    """Why the state of a module cannot be told, as (kind, detail); None where it can."""
    return _of(module).refused


def refused_tensor(tensor: Tensor) -> Why | None:
    """Why the values of a tensor cannot be told, as (kind, detail); None where they can."""
    return None if type(tensor) in _ORDINARY else _refused_tensor(type(tensor))


def raise_refused(refused: list[tuple[str, Why]]) -> None:
    """Raise a ValueError that names every path whose state cannot be told, if there is any."""
    if refused:
        lines = (f"{path or 'the model'}: {kind}: {detail}" for path, (kind, detail) in refused)
        raise ValueError("\n".join(lines))


def refuse_cycle(x: object, path: str, above: set[int]) -> None:
    """Raise a ValueError if a tree contains itself."""
    if id(x) in above:
        raise ValueError(f"{path}: contains itself")


def refuse_optimizer(x: object, path: str) -> None:
    """Raise a TypeError if a tree holds an optimizer, whose state has another shape."""
    if isinstance(x, torch.optim.Optimizer):
        where = f"{path}: " if path else ""
        raise TypeError(f"{where}an optimizer: keep its state_dict() beside the model's state")
