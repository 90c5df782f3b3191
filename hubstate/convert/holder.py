"""A module that only holds tensors, so that weights without an architecture can be published."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from hubstate.errors import InvalidWeights

__all__ = ["hold"]


def hold(tensors: Mapping[str, Tensor]) -> nn.Module:
    """Modules within modules whose ``state_dict()`` has these names; it computes nothing.

    Floating-point tensors become parameters that are not trained, others buffers. Ties stay.

    Raises:
        InvalidWeights: a name that is a tensor and a module at once.

    >>> import torch
    >>> list(hold({"a.b.weight": torch.zeros(2), "a.step": torch.tensor(1)}).state_dict())
    ['a.step', 'a.b.weight']
    """
    root = nn.Module()
    made: dict[int, Tensor] = {}
    for path, tensor in tensors.items():
        *parents, name = path.split(".")
        module = root
        for parent in parents:
            if parent in module._parameters or parent in module._buffers:
                raise InvalidWeights(f"{path}: there is a tensor where it has the module {parent}")
            # Not by attribute: a name may be one that nn.Module uses itself.
            child = module._modules.setdefault(parent, nn.Module())
            assert child is not None
            module = child
        if name in module._modules:
            raise InvalidWeights(f"{path}: there is a module of this name")
        held = made.setdefault(id(tensor), _held(tensor))
        if isinstance(held, nn.Parameter):
            module._parameters[name] = held
        else:
            module._buffers[name] = held
    return root


def _held(tensor: Tensor) -> Tensor:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return tensor
    return nn.Parameter(tensor, requires_grad=False)
