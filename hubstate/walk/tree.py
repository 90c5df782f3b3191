"""The torch tree: the only place that looks inside a module.

A module is its registered parameters, persistent buffers and children under their registered
names, and its other public attributes. ``rows`` lays any tree (a module, a container of modules
and tensors, a state tree, a flat dict) out as a list of names, each with a kind::

    param  buffer   a tensor (what a container holds counts as a param)
    none            registered as None, or None in a container
    data            plain data: None, bool, int, float, complex, str and containers of these
    opaque          anything else: the name exists, and has no state
    extra           what get_extra_state() returns, or an ``_extra_state`` in a container
    module          a module, or a container with a tensor or a module somewhere in it
    refused         something whose state cannot be told: (kind, why)
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from hubstate.walk.plain import EXACT, fields_of, is_exact, plain
from hubstate.walk.traits import (
    has_extra,
    raise_refused,
    refuse_cycle,
    refuse_optimizer,
    refused_module,
    refused_tensor,
    unwrap,
)

__all__ = [
    "EXTRA",
    "Row",
    "as_tensor",
    "attributes",
    "extra_of",
    "is_array",
    "members",
    "rows",
    "tensors_of",
]

EXTRA = "_extra_state"
"""The name under which torch keeps what ``get_extra_state()`` returns."""

Row: TypeAlias = tuple[str, str, Any, nn.Module | None]
"""(path, kind, value, the module that holds it); a plain tuple, as there are thousands of them."""


def members(module: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """The registered names of one unwrapped module in ``state_dict()`` order: name, kind, value."""
    own = module.__dict__
    for name, parameter in own["_parameters"].items():
        yield _member(name, "param", parameter)
    if buffers := own["_buffers"]:
        transient = own["_non_persistent_buffers_set"]
        for name, buffer in buffers.items():
            yield (name, "opaque", ()) if name in transient else _member(name, "buffer", buffer)
    if has_extra(module):
        yield EXTRA, "extra", module
    for name, child in own["_modules"].items():
        yield name, "none" if child is None else "module", child


def _member(name: str, kind: str, tensor: Any) -> tuple[str, str, Any]:
    if type(tensor) is Parameter or type(tensor) is Tensor:  # nearly all
        return name, kind, tensor
    if tensor is None:
        return name, "none", None
    if refused := refused_tensor(tensor):
        return name, "refused", refused
    return name, kind, tensor


def attributes(module: nn.Module, path: str, lost: list[str]) -> Iterator[tuple[str, str, Any]]:
    """The other public attributes of one module: name, kind (data or opaque), value.

    The paths of tensors and modules among them, which no ``state_dict()`` holds, go to ``lost``.
    """
    for name, value in vars(module).items():
        if name[:1] != "_":
            yield name, *attribute(module, name, value, path=path, lost=lost)


def attribute(
    module: nn.Module, name: str, value: Any, *, path: str, lost: list[str]
) -> tuple[str, Any]:
    if isinstance(value, Tensor) and _is_computed(module, name):
        return "opaque", ()
    return plain(value, path=f"{path}{name}", lost=lost)


def _is_computed(module: nn.Module, name: str) -> bool:
    """Whether weight_norm, spectral_norm or prune computes this attribute from parameters."""
    known = module._parameters
    return f"{name}_orig" in known or (f"{name}_g" in known and f"{name}_v" in known)


def is_array(value: object) -> bool:
    """Whether a value is a NumPy array of numbers (without importing NumPy for the question)."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray) and value.dtype.kind in "biufc"


def as_tensor(value: Any) -> Tensor:
    """A tensor or an array as a tensor; an array's memory is shared where torch can.

    Raises:
        TypeError: torch has no such dtype.
    """
    if isinstance(value, Tensor):
        return value
    if not value.flags.writeable or not value.dtype.isnative or min(value.strides, default=0) < 0:
        value = value.astype(value.dtype.newbyteorder("="))
    return torch.from_numpy(value)


def extra_of(row: Row) -> object:
    """The value of a row of kind extra: tensors detached, plain data, or ``()`` for the rest."""
    _, _, value, owner = row
    raw = value if owner is None else owner.get_extra_state()
    return plain(raw, path=row[0], lost=[], tensors=True)[1]


def tensors_of(x: Any) -> dict[str, Tensor]:
    """Every tensor of a tree by its dotted path, detached and not copied, ties under each name.

    For a module these are the tensors in ``state_dict()``, in its order.

    Raises:
        ValueError: a tensor or module whose state cannot be told; all are named.

    >>> {path: tuple(tensor.shape) for path, tensor in tensors_of(nn.Linear(3, 2)).items()}
    {'weight': (2, 3), 'bias': (2,)}
    """
    found: dict[str, Tensor] = {}
    refused = []
    for row in rows(x):
        path, kind, value, _ = row
        if kind == "extra":
            value = extra_of(row)
        if kind == "refused":
            refused.append((path, value))
        elif isinstance(value, Tensor) or is_array(value):
            found[path] = as_tensor(value).detach()
    raise_refused(refused)
    return found


def rows(x: Any, *, records: bool = False, lost: list[str] | None = None) -> list[Row]:
    """Every name of a tree, parents first.

    Args:
        x: a module, or any container of modules, tensors and plain data.
        records: also list a module's plain attributes, which takes as long as all the rest.
        lost: takes the paths of tensors and modules in plain attributes.

    Raises:
        TypeError: an optimizer.
        ValueError: a tree that contains itself, or two of whose names are equal.
    """
    walker = _Walker(records, [] if lost is None else lost)
    walker.walk(x, "")
    if not isinstance(x, nn.Module):
        _refuse_doubles(walker.rows)
    return walker.rows


def _refuse_doubles(found: list[Row]) -> None:
    """Keys of a container may hold dots, and then two of its paths may meet."""
    if len({row[0] for row in found}) < len(found):
        paths = collections.Counter(row[0] for row in found)
        doubles = [path for path, count in paths.items() if count > 1]
        raise ValueError(f"two values have the name {', '.join(doubles[:20])}")


class _Walker:
    def __init__(self, records: bool, lost: list[str]) -> None:
        self.rows: list[Row] = []
        self.records = records
        self.lost = lost
        self.above: set[int] = set()

    def walk(self, x: Any, path: str) -> None:
        if is_exact(x) and x is not None and not path.endswith(EXTRA):  # what most leaves are
            self.rows.append((path, "opaque" if x == () else "data", x, None))
        elif isinstance(x, nn.Module):
            self.module(unwrap(x), path)
        elif isinstance(x, Tensor):
            why = refused_tensor(x)
            self.rows.append((path, "refused", why, None) if why else (path, "param", x, None))
        elif is_array(x):
            self.rows.append((path, "param", x, None))
        elif x is None:
            self.rows.append((path, "none", None, None))
        elif path.endswith(EXTRA) and path.rpartition(".")[2] == EXTRA:
            self.rows.append((path, "extra", x, None))
        elif not self.container(x, path):
            refuse_optimizer(x, path)
            kind, value = plain(x, path=path, lost=self.lost)
            # In a tree that state() made, () is what stands for something without state.
            self.rows.append((path, "opaque" if value == () else kind, value, None))

    def module(self, module: nn.Module, path: str) -> None:
        if refused := refused_module(module):
            self.rows.append((path, "refused", refused, module))
            return
        self.enter(module, path)
        add = self.rows.append
        add((path, "module", module, module))
        prefix = f"{path}." if path else ""
        for name, kind, value in members(module):
            if kind == "module":
                self.module(unwrap(value), prefix + name)
            else:
                add((prefix + name, kind, value, module))
        if self.records:
            for name, value in vars(module).items():
                if name[:1] == "_":
                    continue
                if type(value) in EXACT or is_exact(value):
                    add((prefix + name, "data", value, module))
                else:
                    found = attribute(module, name, value, path=prefix, lost=self.lost)
                    add((prefix + name, *found, module))
        self.above.discard(id(module))

    def container(self, x: Any, path: str) -> bool:
        fields = fields_of(x, path)
        if fields is None or (path and not holds_state(x, self.above)):
            return False
        self.enter(x, path)
        self.rows.append((path, "module", x, None))
        for name, value in fields.items():
            self.walk(value, f"{path}.{name}" if path else name)
        self.above.discard(id(x))
        return True

    def enter(self, x: object, path: str) -> None:
        refuse_cycle(x, path, self.above)
        self.above.add(id(x))


def holds_state(x: Any, above: set[int]) -> bool:
    """Whether a container is part of a tree, and not plain data as a whole."""
    if isinstance(x, Tensor | nn.Module | torch.optim.Optimizer) or is_array(x):
        return True
    fields = None if id(x) in above else fields_of(x, "")
    if fields is None:
        return False
    if isinstance(fields.get("training"), bool) or EXTRA in fields:
        return True
    return any(holds_state(item, above | {id(x)}) for item in fields.values())
