"""The state of anything as a tree, and the structure of it as a list of entries."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from hubstate.manifest import Entry
from hubstate.records import encode
from hubstate.walk import EXTRA, Row, as_tensor, attributes, extra_of, is_array, members, rows
from hubstate.walk.plain import fields_of, plain, shaped_like
from hubstate.walk.traits import (
    Why,
    raise_refused,
    refuse_cycle,
    refuse_optimizer,
    refused_module,
    refused_tensor,
    unwrap,
)

__all__ = ["describe", "state"]


def state(x: Any, *, trainable_only: bool = False) -> Any:
    """What ``x`` knows, as a tree of plain containers, tensors and plain data.

    A module becomes a dict: each registered parameter, persistent buffer and child under its
    registered name, then its other public attributes. Lists, tuples and dicts stay what they are;
    dataclasses and NamedTuples become dicts. Tensors are detached and share their storage with
    ``x``; a tied one is the same object under each name. Plain data is kept: None, bool, int,
    float, complex, str, and containers of these. Anything else is ``()``: the name exists, and
    has no state. Wrappers (torch.compile, DataParallel, DistributedDataParallel) are looked
    through.

    Args:
        x: a module, a container of modules and tensors, or anything else.
        trainable_only: every tensor that does not require a gradient becomes ``()`` as well:
            frozen parameters, and all buffers.

    Warns:
        UserWarning: tensors and modules in plain attributes, which ``state_dict()`` and ``.to()``
            pass over too; they become ``()``.

    Raises:
        ValueError: a parameter that is still lazy, a module that keeps weights outside its
            registries (quantised ones), sharded tensors, a tree that contains itself, or dict
            keys that become equal as text; the path is named.
        TypeError: an optimizer, whose ``state_dict()`` belongs beside the model's state.

    >>> list(state(nn.Linear(3, 2)))
    ['weight', 'bias', 'training', 'in_features', 'out_features']
    >>> state(nn.Sequential(nn.ReLU()))
    {'0': {'training': True, 'inplace': False}, 'training': True}
    """
    builder = _Builder(trainable_only)
    tree = builder.build(x, "")
    raise_refused(builder.refused)
    _warn(builder.lost)
    return tree


class _Builder:
    def __init__(self, trainable_only: bool) -> None:
        self.trainable_only = trainable_only
        self.tensors: dict[int, Tensor] = {}
        self.refused: list[tuple[str, Why]] = []
        self.lost: list[str] = []
        self.above: set[int] = set()

    def build(self, x: Any, path: str) -> Any:
        if isinstance(x, nn.Module):
            return self.module(unwrap(x), path)
        if isinstance(x, Tensor):
            return self.tensor(x, path)
        if is_array(x):
            return () if self.trainable_only else x
        if path.rpartition(".")[2] == EXTRA:
            return plain(x, path=path, lost=self.lost, tensors=True)[1]
        return self.container(x, path)

    def container(self, x: Any, path: str) -> Any:
        fields = fields_of(x, path)
        if fields is None:
            refuse_optimizer(x, path)
            return plain(x, path=path, lost=self.lost)[1]
        refuse_cycle(x, path, self.above)
        self.above.add(id(x))
        dot = f"{path}." if path else ""
        tree = {name: self.build(item, dot + name) for name, item in fields.items()}
        self.above.discard(id(x))
        return shaped_like(x, tree)

    def module(self, module: nn.Module, path: str) -> Any:
        if refused := refused_module(module):
            self.refused.append((path, refused))
            return ()
        refuse_cycle(module, path, self.above)
        self.above.add(id(module))
        dot = f"{path}." if path else ""
        tree = {name: self.member(kind, value, dot + name) for name, kind, value in members(module)}
        for name, _, value in attributes(module, dot, self.lost):
            tree.setdefault(name, value)
        self.above.discard(id(module))
        return tree

    def member(self, kind: str, value: Any, path: str) -> Any:
        if kind == "module":
            return self.module(unwrap(value), path)
        if kind == "extra":
            return extra_of((path, kind, value, value))
        if kind == "refused":
            self.refused.append((path, value))
            return ()
        return self.tensor(value, path) if isinstance(value, Tensor) else value

    def tensor(self, tensor: Tensor, path: str) -> Any:
        if refused := refused_tensor(tensor):
            self.refused.append((path, refused))
            return ()
        if self.trainable_only and not tensor.requires_grad:
            return ()
        return self.tensors.setdefault(id(tensor), tensor.detach())


def describe(x: Any) -> tuple[Entry, ...]:
    """The structure of a model, as a manifest records it: an entry for each name, parents first.

    Plain data is encoded as JSON; see ``hubstate.records``.

    Args:
        x: a module, a state tree, or a flat dict of tensors (each of which counts as a param).

    Warns:
        UserWarning: as ``state`` does.

    Raises:
        ValueError, TypeError: as ``state`` does.

    >>> for entry in describe(nn.Linear(3, 2))[:3]:
    ...     print(repr(entry.path), entry.kind, entry.shape, entry.dtype)
    '' module None None
    'weight' param (2, 3) float32
    'bias' param (2,) float32
    """
    lost: list[str] = []
    found = rows(x, records=True, lost=lost)
    raise_refused([(path, why) for path, kind, why, _ in found if kind == "refused"])
    _warn(lost)
    return tuple(_entries(found))


def _entries(found: list[Row]) -> Iterator[Entry]:
    first: dict[object, str] = {}
    for row in found:
        path, kind, value, _ = row
        if kind == "module":
            tied_to = first.setdefault(id(value), path)
            yield Entry(
                path=path,
                kind="module",
                tied_to=None if tied_to == path else tied_to,
                class_name=_class_name(value),
            )
        elif kind in ("param", "buffer"):
            yield _tensor_entry(row, first)
        elif kind == "extra":
            yield _extra_entry(path, extra_of(row))
        else:
            yield _plain_entry(path, kind, value)


def _class_name(value: object) -> str | None:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}" if isinstance(value, nn.Module) else None


def _tensor_entry(row: Row, first: dict[object, str]) -> Entry:
    path, kind, value, owner = row
    tensor = as_tensor(value)
    tied_to = first.setdefault(_identity(tensor), path)
    return Entry(
        path=path,
        kind="param" if kind == "param" else "buffer",
        shape=tuple(tensor.shape),
        dtype=dtype_name(tensor),
        trainable=tensor.requires_grad if kind == "param" and owner is not None else None,
        tied_to=None if tied_to == path else tied_to,
    )


def _identity(tensor: Tensor) -> object:
    """Equal for two tensors that are one: the same object, or the same elements of memory."""
    try:
        address = tensor.data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse, fake
        address = 0
    if not address or not tensor.numel():
        return id(tensor)
    return (tensor.device, address, tensor.dtype, tensor.shape, tensor.stride())


def dtype_name(tensor: Any) -> str:
    """torch's name of a dtype without the prefix, such as ``float32``."""
    return str(tensor.dtype).removeprefix("torch.")


def _extra_entry(path: str, value: object) -> Entry:
    if isinstance(value, Tensor):
        return Entry(path=path, kind="extra", shape=tuple(value.shape), dtype=dtype_name(value))
    return _plain_entry(path, "extra", value)


def _plain_entry(path: str, kind: str, value: object) -> Entry:
    if kind == "none":
        return Entry(path=path, kind="none")
    if kind == "opaque":
        return Entry(path=path, kind="opaque")
    try:
        return Entry(path=path, kind="extra" if kind == "extra" else "data", value=encode(value))
    except TypeError:  # an extra state with tensors deep inside has no JSON
        return Entry(path=path, kind="opaque")


def _warn(lost: list[str]) -> None:
    if lost:
        names = ", ".join(lost[:20]) + (" …" if len(lost) > 20 else "")
        warnings.warn(
            f"{len(lost)} tensor(s) or module(s) in plain attributes are no state, since neither "
            f".to() nor state_dict() reaches them; register them: {names}",
            stacklevel=3,
        )
