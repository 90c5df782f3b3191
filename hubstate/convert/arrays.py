"""NumPy's ``.npz``: a zip of arrays; pickles in it are refused.

::

    file.npz
    └── <name>.npy   one for each tensor: a header with shape, dtype and order, then its bytes
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hubstate.convert.limits import refuse_swollen
from hubstate.errors import InvalidWeights

__all__ = ["load_npz", "save_npz", "to_array", "to_tensor"]

_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal tensors give equal files


def load_npz(path: Path) -> dict[str, Tensor]:
    """Every array of a file.

    Raises:
        InvalidWeights: an array of Python objects or text, one that is compressed beyond belief,
            or a damaged file.
        OSError: it cannot be read.
    """
    problems: list[str] = []
    tensors: dict[str, Tensor] = {}
    with path.open("rb") as file:
        try:
            archive: Any = np.load(file, allow_pickle=False)
            refuse_swollen(sum(member.file_size for member in archive.zip.infolist()), path)
            for name in archive.files:
                _take(archive, name, tensors, problems)
        except InvalidWeights:
            raise
        except AttributeError:
            raise InvalidWeights(f"{path.name}: one array without a name, not an .npz") from None
        except Exception as error:  # of zipfile, zlib, numpy: a damaged file may raise any
            raise InvalidWeights(f"{path.name}: not an .npz that can be read: {error}") from None
    if problems:
        raise InvalidWeights("\n  ".join([f"{path.name}: refused:", *problems]))
    return tensors


def _take(archive: Any, name: str, tensors: dict[str, Tensor], problems: list[str]) -> None:
    if name in tensors:
        problems.append(f"{name}: two arrays have this name")
    try:
        tensors[name] = to_tensor(archive[name], name=name)
    except InvalidWeights as error:
        problems.append(str(error))
    except ValueError as error:
        why = "Python objects, which only a pickle holds" if "pickle" in str(error) else str(error)
        problems.append(f"{name}: {why}")


def to_tensor(array: Any, *, name: str) -> Tensor:
    """An array as a tensor of its own memory, in row-major order.

    Raises:
        InvalidWeights: torch has no such dtype.
    """
    array = np.asarray(array)
    native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True)
    try:
        return torch.from_numpy(native)
    except TypeError:
        raise InvalidWeights(f"{name}: torch has no {array.dtype}") from None


def to_array(tensor: Tensor, *, name: str, widen: bool) -> Any:
    """A tensor as an array.

    Args:
        tensor: on any device.
        name: for messages.
        widen: store what NumPy has no dtype for, such as bfloat16, as float32.

    Raises:
        InvalidWeights: NumPy has no such dtype.
    """
    try:
        return tensor.detach().cpu().contiguous().numpy()
    except TypeError:
        if widen and tensor.is_floating_point():
            return tensor.detach().cpu().float().numpy()
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise InvalidWeights(
            f"{name}: NumPy has no {dtype}; as float32 it loses nothing (widen=True, --widen)"
        ) from None


def save_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays; equal arrays give equal bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy", date_time=_EPOCH)
            with archive.open(info, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
