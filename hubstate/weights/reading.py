"""Tensors from a safetensors file, mapped or copied."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from hubstate.errors import InvalidWeights
from hubstate.header import ITEM_SIZES, Header, HeaderTensor, read_header
from hubstate.strictjson import loads
from hubstate.weights.memory import read_into, tensor_bytes

__all__ = ["TIES", "empty", "map_weights", "read_weights"]

TIES = "hubstate.ties"
"""The key of the metadata that maps each alias to the name that holds its bytes."""

_POPULATE_READ = 22  # MADV_POPULATE_READ of Linux 5.14, which the mmap module does not name


def map_weights(
    path: str | os.PathLike[str],
    names: Iterable[str] | None = None,
    *,
    header: Header | None = None,
    prefault: bool = False,
) -> dict[str, Tensor]:
    """Map the tensors of a safetensors file, copy on write: nothing is read until it is used.

    Tensors may be written to; that changes neither the file, which may be read-only, nor any
    other mapping of it. Each has a storage of its own. Names that share bytes are one tensor.
    The file must not be truncated while it is mapped: replace it by renaming.

    Args:
        path: the file.
        names: the tensors wanted; all, if None.
        header: what the file's header is known to say, so that it need not be read.
        prefault: read the pages in now, and not at the first use (Linux).

    Raises:
        InvalidWeights: the file breaks the format, or ends before a tensor does, or has no
            tensor of such a name.
        OSError: the file cannot be read.
    """
    path = Path(path)
    header, ties, wanted = _choose(path, names, header)
    with path.open("rb", buffering=0) as file:
        if not any(tensor.stop > tensor.start for tensor in wanted):
            return _named({tensor.name: empty(tensor) for tensor in wanted}, ties)
        pages = mmap.mmap(file.fileno(), header.stop, access=mmap.ACCESS_COPY)
    if prefault:
        _prefault(pages, wanted)
    return _named({tensor.name: _view(pages, tensor) for tensor in wanted}, ties)


def read_weights(
    path: str | os.PathLike[str],
    names: Iterable[str] | None = None,
    *,
    header: Header | None = None,
) -> dict[str, Tensor]:
    """Copy the tensors of a safetensors file into memory.

    Args:
        path: the file.
        names: the tensors wanted; all, if None.
        header: as for `map_weights`.

    Raises:
        InvalidWeights: as `map_weights`.
        OSError: the file cannot be read.
    """
    path = Path(path)
    _, ties, wanted = _choose(path, names, header)
    tensors = {tensor.name: empty(tensor) for tensor in wanted}
    with path.open("rb", buffering=0) as file:
        for tensor in wanted:
            read_into(file.fileno(), tensor_bytes(tensors[tensor.name]), tensor.start)
    return _named(tensors, ties)


def _choose(
    path: Path, names: Iterable[str] | None, header: Header | None
) -> tuple[Header, dict[str, str], list[HeaderTensor]]:
    """The header, the wanted names with the name that holds their bytes, and those tensors."""
    header = read_header(path) if header is None else header
    if (size := path.stat().st_size) != header.stop:  # a file may have lost its end since
        raise InvalidWeights(f"{path.name}: expected {header.stop:,} bytes, found {size:,}")
    known = {name: name for name in header.tensors} | _stated_ties(path.name, header)
    if names is None:
        return header, known, list(header.tensors.values())
    chosen = {name: known.get(name, "") for name in names}
    if not known.keys() >= chosen.keys():
        absent = ", ".join(name for name in chosen if name not in known)
        raise InvalidWeights(f"{path.name}: expected {absent}, found no such tensor")
    kept = set(chosen.values())
    return header, chosen, [tensor for tensor in header.tensors.values() if tensor.name in kept]


def _stated_ties(file: str, header: Header) -> dict[str, str]:
    if TIES not in header.metadata:
        return {}
    what = f"{file}: {TIES}"
    ties = loads(header.metadata[TIES].encode(), what=what, error=InvalidWeights)
    if type(ties) is not dict:
        raise InvalidWeights(f"{what}: expected names by alias, found {type(ties).__name__}")
    for alias, name in ties.items():
        if type(name) is not str or name not in header.tensors or alias in header.tensors:
            raise InvalidWeights(f"{what}: {alias}: expected the name of a tensor, found {name!r}")
    return ties


def _named(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    return {name: tensors[kept] for name, kept in names.items()}


def empty(tensor: HeaderTensor) -> Tensor:
    """Memory for a tensor of a file."""
    return torch.empty(tensor.shape, dtype=getattr(torch, tensor.dtype))


def _view(pages: mmap.mmap, tensor: HeaderTensor) -> Tensor:
    size, item = tensor.stop - tensor.start, ITEM_SIZES[tensor.dtype]
    if size == 0:
        return empty(tensor)
    dtype = getattr(torch, tensor.dtype)
    if tensor.start % item:  # no file of ours; torch wants items where the processor does
        data = bytearray(pages[tensor.start : tensor.stop])
        return torch.frombuffer(data, dtype=dtype).view(tensor.shape)
    flat = torch.frombuffer(pages, dtype=dtype, count=size // item, offset=tensor.start)
    return flat if len(tensor.shape) == 1 else flat.view(tensor.shape)


def _prefault(pages: mmap.mmap, wanted: list[HeaderTensor]) -> None:
    if sys.platform == "linux":
        first = min(tensor.start for tensor in wanted) // mmap.PAGESIZE * mmap.PAGESIZE
        last = max(tensor.stop for tensor in wanted)
        with suppress(OSError):  # an older kernel: the first use reads the pages
            pages.madvise(_POPULATE_READ, first, last - first)
