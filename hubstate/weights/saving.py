"""Tensors of any shape, stride and device, written to one safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from hubstate.errors import InvalidWeights
from hubstate.header import ITEM_SIZES, SAFETENSORS_NAMES, dump_header
from hubstate.values import frozen
from hubstate.weights.memory import bytes_of, dtype_name, replacing
from hubstate.weights.reading import TIES

__all__ = [
    "SavedWeights",
    "check_storable",
    "identity",
    "save_weights",
    "sort_tensors",
    "ties_of",
    "unstorable",
]

_METADATA = "__metadata__"
_ORDER = {dtype: rank for rank, dtype in enumerate(reversed(ITEM_SIZES))}


@frozen
class SavedWeights:
    """What became of the tensors that were saved."""

    path: Path
    size: int
    """Bytes of the file."""
    ties: Mapping[str, str]
    """alias -> the name that holds its bytes."""
    copied: tuple[str, ...]
    """Tensors that were not contiguous, and are in the file."""


def save_weights(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    *,
    metadata: Mapping[str, str] | None = None,
) -> SavedWeights:
    """Write tensors of any shape, stride and device to one safetensors file.

    The file appears whole or not at all, with the mode that the umask gives. Equal input gives
    equal bytes. Names of one and the same tensor share its bytes, which the first of them
    holds; a tensor that is not contiguous is copied, one at a time.

    Args:
        path: the file, which is replaced if it exists.
        tensors: by name; the names are kept as they are.
        metadata: text by name, beside ``format`` and the ties.

    Raises:
        InvalidWeights: tensors that no safetensors file can hold, each with its name and why.
        TypeError: metadata that is not text.
        OSError: the file cannot be written.

    >>> from tempfile import TemporaryDirectory
    >>> weight = torch.zeros(2, 3)
    >>> with TemporaryDirectory() as folder:
    ...     save_weights(f"{folder}/a", {"in": weight, "out": weight}).ties
    {'out': 'in'}
    """
    path = Path(path)
    check_storable(tensors, what=path.name)
    ties = ties_of(tensors)
    stored = sort_tensors({name: t for name, t in tensors.items() if name not in ties})
    notes = _notes(metadata or {}, ties)
    shapes = {name: (dtype_name(t), tuple(t.shape)) for name, t in stored.items()}
    with replacing(path) as file:
        file.write(dump_header(shapes, notes))
        for tensor in stored.values():
            file.write(bytes_of(tensor))
        size = file.tell()
    copied = tuple(name for name, t in stored.items() if not t.is_contiguous())
    return SavedWeights(path=path, size=size, ties=ties, copied=copied)


def _notes(metadata: Mapping[str, str], ties: Mapping[str, str]) -> dict[str, str]:
    for key, text in metadata.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(f"metadata: expected text by name, found {key!r}: {text!r}")
    notes = {"format": "pt", **metadata}
    notes.pop(TIES, None)  # it may have been copied from another file
    if ties:
        notes[TIES] = json.dumps(ties, separators=(",", ":"), sort_keys=True)
    return notes


def check_storable(tensors: Mapping[str, object], *, what: str) -> None:
    """See, before anything is written, that a safetensors file can hold all of these.

    Raises:
        InvalidWeights: it cannot; each is named, and why.
    """
    if problems := unstorable(tensors):
        raise InvalidWeights("\n  ".join([f"{what}: cannot hold these:", *problems]))


def unstorable(tensors: Mapping[str, object]) -> list[str]:
    """A line for each tensor that no safetensors file can hold: its name, and why."""
    problems = []
    for name, tensor in tensors.items():
        if type(name) is not str or name == _METADATA:
            problems.append(f"{name!r}: not a name for a tensor")
        elif reason := _reason(tensor):
            problems.append(f"{name}: {reason}")
    return problems


def _reason(tensor: Any) -> str | None:
    if not isinstance(tensor, Tensor):
        return f"expected a tensor, found {type(tensor).__name__}"
    if is_lazy(tensor):
        return "a parameter that is not initialised yet"
    if bool(is_traceable_wrapper_subclass(tensor)):
        return f"a {type(tensor).__name__}, which wraps other tensors"
    if tensor.layout is not torch.strided:
        return f"layout {str(tensor.layout).removeprefix('torch.')}, expected strided"
    if tensor.device.type == "meta":
        return "on the meta device, which holds no data"
    if dtype_name(tensor) not in SAFETENSORS_NAMES:
        return f"dtype {dtype_name(tensor)}, which safetensors files do not have"
    return None


def sort_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In the order of the file: larger items first, so that all are aligned, then by name."""
    items = sorted(tensors.items(), key=lambda item: (_ORDER[dtype_name(item[1])], item[0]))
    return dict(items)


def ties_of(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """alias -> first name, for tensors that are one."""
    first: dict[object, str] = {}
    names = {name: first.setdefault(identity(tensor), name) for name, tensor in tensors.items()}
    return {name: kept for name, kept in names.items() if name != kept}


def identity(tensor: Tensor) -> object:
    """Equal for two tensors that are the same view of the same memory."""
    if _reason(tensor) or tensor.numel() == 0:
        return id(tensor)  # it has no memory of its own, or memory of no size: any address
    view = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
    return (tensor.device, *view, tensor.is_conj(), tensor.is_neg())
