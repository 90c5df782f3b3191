"""The structure of a model: every name it has, and the hash of what must agree.

A tensor is the contract: weights fit a model if its tensors, its ties and its children agree.
Class names, plain data, ``training`` and the order of registration are records that may differ.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from operator import itemgetter
from typing import Any, Literal

from hubstate.digest import Digest
from hubstate.strictjson import Json
from hubstate.values import frozen

__all__ = ["TENSOR_KINDS", "Entry", "Kind", "make_data", "make_entry", "structure_hash"]

Kind = Literal["param", "buffer", "none", "data", "opaque", "module", "extra"]
TENSOR_KINDS = frozenset({"param", "buffer"})
_CONTRACT = frozenset({"param", "buffer", "none"})


@frozen
class Entry:
    """One name of a model's structure."""

    path: str
    """Dotted, equal to the key in ``state_dict()`` for tensors; ``""`` is the model itself."""
    kind: Kind
    """What the name holds.

    param, buffer: a tensor. none: a parameter or buffer registered as None. data: plain data.
    opaque: something without state. module: a child. extra: a module's ``_extra_state``, which is
    a tensor if it has a shape and plain data otherwise.
    """
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    """torch's name without the prefix, such as ``float32``."""
    trainable: bool | None = None
    """Parameters only: ``requires_grad``."""
    tied_to: str | None = None
    """The first path of the same tensor, or of the same module; None at that first path."""
    class_name: str | None = None
    """Modules only, and informative."""
    value: Json = None
    """data and extra only."""

    @property
    def is_tensor(self) -> bool:
        """Whether the weights hold bytes for this name, or for the name that it is tied to."""
        return self.kind in TENSOR_KINDS or (self.kind == "extra" and self.shape is not None)


class _OpenEntry:
    """The slots of an Entry, filled by plain assignment."""

    __slots__ = (
        "class_name",
        "dtype",
        "kind",
        "path",
        "shape",
        "tied_to",
        "trainable",
        "value",
    )


def make_entry(fields: Iterable[Any]) -> Entry:
    """An Entry of its fields in order, in a third of the time of ``Entry(…)``.

    A frozen dataclass sets each field by way of ``object.__setattr__``, which takes most of the
    time of reading a manifest. Fields of an open twin are set directly; then it becomes frozen.
    """
    entry: Any = _OpenEntry()
    (
        entry.path,
        entry.kind,
        entry.shape,
        entry.dtype,
        entry.trainable,
        entry.tied_to,
        entry.class_name,
        entry.value,
    ) = fields
    entry.__class__ = Entry
    return entry  # type: ignore[no-any-return]


def make_data(path: str, value: Json) -> Entry:
    """An Entry of plain data, as ``make_entry`` makes it."""
    entry: Any = _OpenEntry()
    entry.path = path
    entry.kind = "data"
    entry.shape = entry.dtype = entry.trainable = entry.tied_to = entry.class_name = None
    entry.value = value
    entry.__class__ = Entry
    return entry  # type: ignore[no-any-return]


def structure_hash(entries: Iterable[Entry]) -> Digest:
    """The hash of the contract: equal for two models that can exchange every tensor.

    It covers (path, kind, shape, dtype) of each param, buffer and none, the groups of tensors
    that are one, and the names of the modules. It is SHA-256 of the compact JSON text
    ``[[[path, kind, shape, dtype], …], [[path, path, …], …], [module path, …]]`` in ASCII, each
    list sorted.

    >>> weight = Entry(path="weight", kind="param", shape=(1, 2), dtype="float32")
    >>> structure_hash([weight]).hex[:16]
    '7acb65c966efcbf5'
    """
    tensors: list[list[Any]] = []
    modules: list[str] = []
    groups: dict[str, list[str]] = {}
    for entry in entries:
        if entry.kind in _CONTRACT:
            tensors.append([entry.path, entry.kind, entry.shape, entry.dtype])
            if entry.tied_to is not None:
                groups.setdefault(entry.tied_to, [entry.tied_to]).append(entry.path)
        elif entry.kind == "module" and entry.path:
            modules.append(entry.path)
    tensors.sort(key=itemgetter(0))
    ties = sorted(sorted(group) for group in groups.values())
    text = json.dumps([tensors, ties, sorted(modules)], separators=(",", ":"))
    return Digest(hashlib.sha256(text.encode()).hexdigest())
