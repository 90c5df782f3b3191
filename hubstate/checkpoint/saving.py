"""A checkpoint, written in one pass: the header's place is kept, and filled in at the end."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor, nn

from hubstate.checkpoint.tree import Shelf, encode
from hubstate.errors import InvalidWeights
from hubstate.header import dump_header
from hubstate.manifest import chunks, write_entry
from hubstate.states import describe
from hubstate.walk import as_tensor, is_array, rows
from hubstate.walk.plain import fields_of
from hubstate.weights.memory import bytes_of, dtype_name, replacing
from hubstate.weights.saving import sort_tensors, unstorable

__all__ = ["CONTENT", "SEAL", "UNSEALED", "save", "sealed"]

CONTENT = "hubstate.checkpoint"
"""The key of the metadata that holds the trees and the tensors' digests."""
SEAL = "hubstate.header"
"""The key of the metadata that holds the digest of the header, itself taken as UNSEALED."""
UNSEALED = "0" * 64
SCHEMA = "1.0"


def save(
    path: str | os.PathLike[str], *, model: Any = None, optimizer: Any = None, **plain: Any
) -> None:
    """Write the state of a training to one file, which appears whole or not at all.

    Args:
        path: the file, a safetensors file whatever its name; replaced if it exists.
        model: a module, or a mapping or list of modules, or a state of one.
        optimizer: an optimizer, or its ``state_dict()``, or a mapping or list of these.
        **plain: anything else by name: numbers, text, tensors, NumPy arrays, lists, tuples and
            mappings of these, and things with a ``state_dict()``, such as schedulers.

    Raises:
        TypeError: something is none of these; all of them are named.
        ValueError: the state of a module cannot be told.
        InvalidWeights: tensors that no safetensors file can hold; all of them are named.
        OSError: the file cannot be written.

    >>> import torch
    >>> from tempfile import TemporaryDirectory
    >>> from hubstate.checkpoint import load
    >>> with TemporaryDirectory() as folder:
    ...     save(f"{folder}/last.safetensors", model=torch.nn.Linear(2, 1), epoch=3)
    ...     load(f"{folder}/last.safetensors").plain
    {'epoch': 3}
    """
    if wrong := _misplaced(model, optimizer):
        raise TypeError("\n  ".join(["a checkpoint cannot hold these:", *wrong]))
    shelf = Shelf()
    parts = {"model": _flat(model), "optimizer": optimizer, "plain": plain}
    trees = {name: encode(part, name, shelf) for name, part in parts.items()}
    if shelf.problems:
        raise TypeError("\n  ".join(["a checkpoint cannot hold these:", *shelf.problems]))
    if problems := unstorable(shelf.tensors):
        raise InvalidWeights("\n  ".join(["a checkpoint cannot hold these:", *problems]))
    tensors = sort_tensors(shelf.tensors)
    structure = () if model is None else describe(model)
    content = {"schema": SCHEMA, "structure": list(map(write_entry, structure)), **trees}
    with replacing(Path(path)) as file:
        _write(file, tensors, content)


def _misplaced(model: Any, optimizer: Any) -> list[str]:
    """A line for each of the two that is something else altogether, such as a path."""
    is_model = isinstance(model, nn.Module) or fields_of(model, "") is not None
    is_optimizer = isinstance(optimizer, Mapping | list | tuple) or (
        hasattr(optimizer, "state_dict") and not isinstance(optimizer, nn.Module | type)
    )
    lines = []
    if not (model is None or is_model):
        expected = "a module, a mapping or list of modules, or a state of one"
        lines.append(f"model: expected {expected}, found {type(model).__name__}")
    if not (optimizer is None or is_optimizer):
        expected = "an optimizer, its state_dict(), or a mapping or list of these"
        lines.append(f"optimizer: expected {expected}, found {type(optimizer).__name__}")
    return lines


def _flat(model: Any) -> dict[str, Any] | None:
    """Tensors and extra states by their ``state_dict()`` key; None for no model."""
    if model is None:
        return None
    found = {}
    for path, kind, value, owner in rows(model):
        if kind == "extra":
            found[path] = value if owner is None else owner.get_extra_state()
        elif kind == "refused":
            raise ValueError(f"{path or 'the model'}: {value[0]}: {value[1]}")
        elif isinstance(value, Tensor) or is_array(value):
            found[path] = as_tensor(value)
    return found


def _write(file: BinaryIO, tensors: Mapping[str, Tensor], content: dict[str, Any]) -> None:
    digests = {name: [UNSEALED] * _count(tensor) for name, tensor in tensors.items()}
    file.write(_header(tensors, {**content, "digests": digests}))
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1)) as pool:
        for name, tensor in tensors.items():
            view = bytes_of(tensor)
            hashes = [pool.submit(_hash, view[a:b]) for a, b in chunks(0, len(view))]
            file.write(view)
            digests[name] = [digest.result() for digest in hashes]
    file.seek(0)
    file.write(sealed(_header(tensors, {**content, "digests": digests})))


def _count(tensor: Tensor) -> int:
    return len(chunks(0, tensor.numel() * tensor.element_size()))


def _hash(data: memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _header(tensors: Mapping[str, Tensor], content: dict[str, Any]) -> bytes:
    shapes = {name: (dtype_name(t), tuple(t.shape)) for name, t in tensors.items()}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return dump_header(shapes, {"format": "pt", CONTENT: text, SEAL: UNSEALED})


def sealed(header: bytes) -> bytes:
    """A header that is UNSEALED, with its own digest in that place."""
    place = f'"{SEAL}":"'.encode()
    digest = hashlib.sha256(header).hexdigest().encode()
    return header.replace(place + UNSEALED.encode(), place + digest)
