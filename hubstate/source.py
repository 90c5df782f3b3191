"""Where the values come from, whatever its form: what each name of it brings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from hubstate.manifest import Entry
from hubstate.plain import fields_of
from hubstate.records import decode
from hubstate.traits import Why
from hubstate.walk import EXTRA, Row, as_tensor, extra_of, rows

__all__ = ["Given", "Promise", "Source", "read_entries", "read_tree", "was_module"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """A tensor that is only announced: what a plan can be made with before any byte is here."""

    name: str
    """Its name in the source, before any renaming."""
    shape: tuple[int, ...]
    dtype: torch.dtype
    tied_to: str | None = None
    is_meta: bool = False
    layout: torch.layout = torch.strided


Given: TypeAlias = Tensor | Promise


@dataclass(kw_only=True, slots=True)
class Source:
    """Every name of a source by what it holds."""

    tensors: dict[str, Given] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    records: dict[str, Any] = field(default_factory=dict)
    """None, plain data, and ``()`` for what has no state."""
    children: dict[str, bool] = field(default_factory=dict)
    """Path of a container to whether it came from a module."""
    refused: dict[str, Why] = field(default_factory=dict)
    structured: bool = False
    """Whether it tells of modules too, and not of tensors only."""


def read_tree(x: Any) -> Source:
    """The names of a module, a state tree, a flat dict of tensors or arrays, or a container.

    Raises:
        TypeError: anything else.
        ValueError: a tree that contains itself, or keys that become equal as text.
    """
    if not isinstance(x, nn.Module | Tensor) and fields_of(x, "") is None:
        raise TypeError(f"expected a module, a state or a dict of tensors, found {x!r:.200}")
    source = Source()
    for row in rows(x, records=True):
        _take(row, source)
    opaque = (value == () for value in source.records.values())
    source.structured = any(source.children.values()) or any(opaque)
    return source


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
    for entry in entries:
        if entry.shape is not None:
            _promise(entry, entry.shape, source)
        elif entry.kind == "module":
            source.children[entry.path] = source.structured = True
        elif entry.kind == "extra":
            source.extras[entry.path] = decode(entry.value)
        else:
            source.records[entry.path] = () if entry.kind == "opaque" else decode(entry.value)
    return source


def _promise(entry: Entry, shape: tuple[int, ...], source: Source) -> None:
    dtype = getattr(torch, entry.dtype or "", None)
    if not isinstance(dtype, torch.dtype):
        source.refused[entry.path] = ("dtype", f"torch has no {entry.dtype}")
        return
    promise = Promise(name=entry.path, shape=shape, dtype=dtype, tied_to=entry.tied_to)
    is_extra = entry.kind == "extra" or entry.path.rpartition(".")[2] == EXTRA
    (source.extras if is_extra else source.tensors)[entry.path] = promise
