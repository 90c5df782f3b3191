"""Building a model without filling parameters that are about to be replaced.

Random initialisation is most of the time that a constructor takes, and a model that is built for
pretrained weights throws all of it away. Inside ``skip_init`` an initialiser that is called on a
parameter is held back instead of run. Nothing can tell the difference: whatever reads such a
parameter, or any other tensor on its memory, first has the initialisers run, in their order. What
is still held back when the weights are in place is run for the parameters that got none.

Buffers and plain tensors are always filled at once, since no state dict may bring them. So is a
call that names its own generator, so that the generator ends where it would have.

The mode belongs to the thread that entered it, unlike a patched ``torch.nn.init``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn, overrides
from torch.overrides import TorchFunctionMode

__all__ = ["SkippedInit", "current_block", "fill", "skip_init"]

_innermost_mode: Callable[[], TorchFunctionMode | None] = overrides._get_current_function_mode

_Call = tuple[Callable[..., object], tuple[Any, ...], Mapping[str, Any]]
_NO_OPTIONS: Mapping[str, Any] = {}

# Initialisers that give every element a new value, whatever was there before.
_OVERWRITE = {
    Tensor.normal_,
    Tensor.uniform_,
    Tensor.fill_,
    Tensor.zero_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.constant_,
    nn.init.kaiming_uniform_,
}
# Arithmetic with numbers that follows one of those: scaling, truncated normal distributions.
_ADJUST = {Tensor.add_, Tensor.sub_, Tensor.mul_, Tensor.div_, Tensor.clamp_, Tensor.erfinv_}

# Reads no element. An alias is safe to hand out, because memory is watched and not the tensor.
_ATTRIBUTES = (
    "data device dtype grad grad_fn is_cuda is_leaf is_meta is_sparse layout ndim "
    "requires_grad shape _backward_hooks _version"
)
_METHODS = (
    "detach dim element_size is_complex is_contiguous is_floating_point ndimension nelement "
    "new_empty new_ones new_zeros numel register_hook requires_grad_ size stride"
)
_HARMLESS: set[object] = {
    *(getattr(Tensor, name).__get__ for name in _ATTRIBUTES.split()),
    *(getattr(Tensor, name) for name in _METHODS.split()),
    torch.empty_like,
    torch.is_complex,
    torch.is_floating_point,
    torch.ones_like,
    torch.zeros_like,
    torch._C._set_grad_enabled,  # half of all calls, and it takes no tensor
}


class SkippedInit:
    """The initialisers that a ``skip_init`` block has held back, by the memory they fill."""

    def __init__(self) -> None:
        self._calls: dict[int, list[_Call]] = {}
        self.prototypes: dict[object, object] = {}
        """For ``hubstate.prototypes``: what has been made in the block, by kind and arguments."""

    def __len__(self) -> int:
        """How many pieces of memory are still unfilled."""
        return len(self._calls)

    def finish(self, model: nn.Module, *, loaded: Collection[str] = ()) -> None:
        """Fill the parameters of ``model`` that are not named in ``loaded``; forget all others.

        Args:
            model: the model that was built inside the block.
            loaded: the dotted names of the parameters that have their values already.
        """
        parameters = list(model.named_parameters(remove_duplicate=False))
        ready = [tensor for name, tensor in parameters if name in loaded]
        empty = [tensor for name, tensor in parameters if name not in loaded]
        if not empty:
            self._calls.clear()
            return
        wanted = self._calls.keys() & {_memory(tensor) for tensor in empty}
        # A tensor with values may share memory with an empty one: a tie, slices of one storage.
        kept = [(tensor, tensor.clone()) for tensor in ready if _memory(tensor) in wanted]
        for memory in [memory for memory in self._calls if memory in wanted]:  # as they were made
            self._run(memory)
        with torch.no_grad():
            for tensor, values in kept:
                tensor.copy_(values)
        self._calls.clear()

    def forget(self) -> None:
        """Fill nothing: every parameter has its values."""
        self._calls.clear()

    def hold(self, tensor: Tensor, initialiser: Callable[..., object], *args: object) -> bool:
        """Take an initialiser of all of a tensor into keeping; False where it must run now."""
        with torch._C.DisableTorchFunction():
            return self._hold(tensor, (initialiser, args, {}), overwrites=True)

    def hold_fresh(self, tensor: Tensor, initialiser: Callable[..., object], *args: object) -> None:
        """As ``hold``, for a parameter of which nobody knows yet."""
        if memory := tensor.data_ptr():
            self._calls[memory] = [(initialiser, args, _NO_OPTIONS)]

    def _hold(self, target: Tensor, call: _Call, *, overwrites: bool) -> bool:
        """Take a call into keeping; False where it must run now."""
        memory = _memory(target)
        known = memory in self._calls
        if not memory or not (known or type(target) is nn.Parameter):
            return False
        if not known or (overwrites and _fills_its_memory(target)):
            self._calls[memory] = []
        self._calls[memory].append(call)
        return True

    def _settle(self, values: Iterable[object]) -> None:
        """Run what is held back for the memory of every tensor among the values."""
        if self._calls:
            for tensor in _tensors(values):
                self._run(_memory(tensor))

    def _run(self, memory: int) -> None:
        with torch.no_grad():
            for function, args, kwargs in self._calls.pop(memory, ()):
                function(*args, **kwargs)


@contextmanager
def skip_init() -> Iterator[SkippedInit]:
    """Build modules without random initialisation, in this thread.

    What is skipped does not advance the global random generator; what ``finish`` runs does so
    then. A seed gives the same model each time, though not always the one it gives outside.

    Returns:
        What has been held back: call its ``finish`` when the weights are loaded, and only then
        use the model.

    >>> with skip_init() as skipped:
    ...     layer = nn.Linear(3, 2)
    >>> len(skipped)  # the weight and the bias
    2
    >>> skipped.finish(layer)
    >>> len(skipped), bool(layer.bias.abs().max() < 1)
    (0, True)
    """
    skipped = SkippedInit()
    try:
        with _Mode(skipped):
            yield skipped
    finally:
        skipped.prototypes.clear()


def current_block() -> SkippedInit | None:
    """The ``skip_init`` block around this line, unless another mode (a device) is nearer to it."""
    mode = _innermost_mode()
    return mode.skipped if type(mode) is _Mode else None


class _Mode(TorchFunctionMode):
    def __init__(self, skipped: SkippedInit) -> None:
        super().__init__()
        self.skipped = skipped

    def __torch_function__(
        self,
        func: Any,
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _HARMLESS:
            return func(*args, **kwargs)
        if func in _OVERWRITE or func in _ADJUST:
            target, *rest = (*args, *kwargs.values())
            fixed = not any(isinstance(value, Tensor | torch.Generator) for value in rest)
            call, overwrites = (func, args, kwargs), func in _OVERWRITE
            if fixed and self.skipped._hold(target, call, overwrites=overwrites):
                return target
        self.skipped._settle(chain(args, kwargs.values()))
        return func(*args, **kwargs)


def fill(tensor: Tensor, initialiser: Callable[[Tensor], object]) -> None:
    """Run an initialiser that gives every element of a tensor its value; hold it back in a block.

    The same as calling it, but as one step, however many tensor operations it makes.
    """
    block = current_block()
    if block is None or not block.hold(tensor, initialiser, tensor):
        initialiser(tensor)


def _memory(tensor: Tensor) -> int:
    """The address of a tensor's storage: 0 where it has none to watch."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError, ValueError):  # sparse, lazy, wrapped
        return 0


def _fills_its_memory(tensor: Tensor) -> bool:
    size = tensor.numel() * tensor.element_size()
    return size == tensor.untyped_storage().nbytes()


def _tensors(values: Iterable[object]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())
