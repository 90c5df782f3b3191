"""Where the values come from, whatever its form: what each name of it brings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from hubstate.errors import Issue
from hubstate.manifest import Entry
from hubstate.records import decode
from hubstate.walk import EXTRA, Row, as_tensor, extra_of, rows
from hubstate.walk.plain import EXACT, fields_of
from hubstate.walk.traits import Why

__all__ = ["Given", "Promise", "Source", "read_entries", "read_tree", "refuse_scalar", "was_module"]


class Promise:
    """A tensor that is only announced: what a plan can be made with before any byte is here.

    Args:
        name: its name in the source, before any renaming.
        shape: its shape.
        dtype: its dtype.
        tied_to: the name in the source that holds its bytes, where that is another one.
    """

    __slots__ = ("dtype", "name", "shape", "tied_to")
    is_meta = False
    layout = torch.strided

    def __init__(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype, tied_to: str | None
    ) -> None:
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self.tied_to = tied_to


Given: TypeAlias = Tensor | Promise

_EXTRA = f".{EXTRA}"


class Source:
    """Every name of a source by what it holds.

    Args:
        tensors: by name.
        extras: the extra states of modules.
        records: None, plain data, and ``()`` for what has no state.
        children: path of a container to whether it came from a module.
        refused: what has a state that cannot be told.
        structured: whether it tells of modules too, and not of tensors only.
    """

    def __init__(
        self,
        *,
        tensors: dict[str, Given] | None = None,
        extras: dict[str, Any] | None = None,
        records: dict[str, Any] | None = None,
        children: dict[str, bool] | None = None,
        refused: dict[str, Why] | None = None,
        structured: bool = False,
    ) -> None:
        self.tensors = {} if tensors is None else tensors
        self.extras = {} if extras is None else extras
        self.records = {} if records is None else records
        self.children = {} if children is None else children
        self.refused = {} if refused is None else refused
        self.structured = structured

    def renamed(self, name: Callable[[str], str]) -> tuple[Source, list[Issue]]:
        """The same under other names, and the collisions among its tensors."""
        issues: list[Issue] = []
        renamed = Source(
            tensors=_renamed(self.tensors, name, issues),
            extras=_renamed(self.extras, name, issues),
            records=_renamed(self.records, name),
            children=_renamed_children(self.children, name),
            refused=_renamed(self.refused, name),
            structured=self.structured,
        )
        return renamed, issues


def read_tree(x: Any) -> Source:
    """The names of a module, a state tree, a flat dict of tensors or arrays, or a container.

    Raises:
        TypeError: anything else.
        ValueError: a tree that contains itself, or keys that become equal as text.
    """
    refuse_scalar(x)
    source = Source()
    for row in rows(x, records=True):
        _take(row, source)
    opaque = (value == () for value in source.records.values())
    source.structured = any(source.children.values()) or any(opaque)
    return source


def refuse_scalar(x: Any) -> None:
    """Raise a TypeError for what is no tree at all, such as a path."""
    if not isinstance(x, nn.Module | Tensor) and fields_of(x, "") is None:
        raise TypeError(f"expected a module, a state or a dict of tensors, found {x!r:.200}")


def _take(row: Row, source: Source) -> None:
    path, kind, value, _ = row
    if kind == "param" or kind == "buffer":
        _take_tensor(path, value, source)
    elif kind == "module":
        source.children[path] = isinstance(value, nn.Module) or was_module(value)
    elif kind == "extra":
        source.extras[path] = extra_of(row)
    elif kind == "refused":
        source.refused[path] = value
    else:
        source.records[path] = value


def _take_tensor(path: str, value: Any, source: Source) -> None:
    try:
        source.tensors[path] = as_tensor(value)
    except TypeError:
        source.refused[path] = ("dtype", f"torch has no {value.dtype}")


def was_module(value: Any) -> bool:
    """Whether a container is the state of a module: all of them have a ``training``."""
    return isinstance(value, Mapping) and isinstance(value.get("training"), bool)


def read_entries(entries: Iterable[Entry]) -> Source:
    """The names of a manifest's structure, or of a safetensors header; no tensor is here yet."""
    source = Source()
    records = source.records
    for entry in entries:
        kind, value = entry.kind, entry.value
        if kind == "data":
            records[entry.path] = value if type(value) in EXACT else decode(value)
        elif entry.shape is not None:
            _promise(entry, entry.shape, source)
        elif kind == "module":
            source.children[entry.path] = source.structured = True
        elif kind == "extra":
            source.extras[entry.path] = decode(value)
        else:
            records[entry.path] = () if kind == "opaque" else None
    return source


def _promise(entry: Entry, shape: tuple[int, ...], source: Source) -> None:
    dtype = getattr(torch, entry.dtype or "", None)
    if not isinstance(dtype, torch.dtype):
        source.refused[entry.path] = ("dtype", f"torch has no {entry.dtype}")
        return
    promise = Promise(entry.path, shape, dtype, entry.tied_to)
    is_extra = entry.kind == "extra" or f".{entry.path}".endswith(_EXTRA)
    (source.extras if is_extra else source.tensors)[entry.path] = promise


def _renamed(
    items: Mapping[str, Any], name: Callable[[str], str], issues: list[Issue] | None = None
) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    first: dict[str, str] = {}
    for old, item in items.items():
        new = name(old)
        if issues is not None and new in renamed:
            issues.append(Issue(new, "rename", f"{first[new]} and {old} both become this name"))
        first.setdefault(new, old)
        renamed.setdefault(new, item)
    return renamed


def _renamed_children(items: Mapping[str, bool], name: Callable[[str], str]) -> dict[str, bool]:
    renamed: dict[str, bool] = {}
    for old, was_module in items.items():
        inside = name(f"{old}.").rstrip(".") if old else old  # "^old\." is meant for the child too
        new = inside if inside != old else name(old)
        renamed[new] = renamed.get(new, False) or was_module
    return renamed
