"""Flax's message packs: nested maps whose leaves are arrays.

::

    map                      name -> map or leaf
    ├── extension 1          an array: packed (shape, dtype, bytes), in row-major order
    ├── extension 2          a complex number
    ├── extension 3          a NumPy scalar, packed as an array
    └── map with __msgpack_chunked_array__   an array of more than 1 GiB, in flat pieces
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hubstate.convert.packages import need
from hubstate.errors import InvalidWeights

__all__ = ["load_msgpack"]

_CHUNKED = "__msgpack_chunked_array__"
_ARRAYS = (1, 3)


def load_msgpack(path: Path) -> Any:
    """What ``flax.serialization.to_bytes`` wrote, as nested dicts of tensors and plain data.

    Raises:
        InvalidWeights: it is no message pack of that kind.
        HubstateError: msgpack is not installed.
        OSError: it cannot be read.
    """
    msgpack = need("msgpack", what=f"{path.name}: Flax")
    try:
        tree = msgpack.unpackb(
            path.read_bytes(), raw=False, strict_map_key=False, ext_hook=_Extensions(msgpack)
        )
        return _joined(tree)
    except OSError:
        raise
    except Exception as error:  # msgpack has a tree of its own, and the content any other
        raise InvalidWeights(
            f"{path.name}: not a message pack of Flax: {type(error).__name__}: {error}"
        ) from None


class _Extensions:
    def __init__(self, msgpack: Any) -> None:
        self.msgpack = msgpack

    def __call__(self, code: int, data: bytes) -> Any:
        if code in _ARRAYS:
            return _array(*self.msgpack.unpackb(data, raw=True, use_list=True))
        return ()  # a complex number is no weight


def _array(shape: Any, dtype: bytes, data: bytes) -> Tensor:
    kind = getattr(torch, {"bool_": "bool"}.get(dtype.decode(), dtype.decode()), None)
    if not isinstance(kind, torch.dtype):
        raise ValueError(f"torch has no {dtype.decode()}")
    sizes = tuple(int(size) for size in shape)
    if len(data) != prod(sizes) * kind.itemsize:
        raise ValueError(f"{len(data)} bytes for an array of {kind} {sizes}")
    if not data:
        return torch.empty(sizes, dtype=kind)
    return torch.frombuffer(bytearray(data), dtype=kind).reshape(sizes)


def _joined(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    if _CHUNKED in tree:
        pieces = [tree["chunks"][str(i)] for i in range(len(tree["chunks"]))]
        shape = [int(tree["shape"][str(i)]) for i in range(len(tree["shape"]))]
        return torch.cat(pieces).reshape(shape)
    return {str(name): _joined(value) for name, value in tree.items()}
