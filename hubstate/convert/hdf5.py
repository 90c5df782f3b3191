"""HDF5, and Keras's weights in it.

::

    file.h5, model.weights.h5                 file.keras
    └── a/b/kernel   dataset -> a.b.kernel    └── model.weights.h5, in a zip

Groups become dots. What would read another file (external links, external and virtual datasets)
is refused. ``:0``, which TensorFlow appends to names, is cut off.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hubstate.convert.arrays import to_tensor
from hubstate.convert.limits import Budget, refuse_swollen
from hubstate.convert.packages import need
from hubstate.errors import HubstateError, InvalidWeights

__all__ = ["load_hdf5", "open_hdf5", "refuse_foreign_bytes", "save_hdf5"]

_KERAS = "model.weights.h5"
_BESIDE = ("optimizer_weights", "optimizer")  # where Keras keeps what is no model's
_DEEPEST = 64


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """An HDF5 file, or the one in a ``.keras`` archive, for reading.

    Raises:
        InvalidWeights: it is neither, or turns out to be damaged while it is read.
        HubstateError: h5py is not installed.
        OSError: it cannot be read.
    """
    h5py = need("h5py", what=f"{path.name}: HDF5")
    path.open("rb").close()  # an error that is none of the format's
    try:
        with h5py.File(_content(path), "r") as file:
            yield file
    except HubstateError:
        raise
    except Exception as error:  # h5py turns damage into any of KeyError, OSError, RuntimeError …
        raise InvalidWeights(f"{path.name}: not an HDF5 file that can be read: {error}") from None


def _content(path: Path) -> Any:
    if not zipfile.is_zipfile(path):
        return path
    with zipfile.ZipFile(path) as archive:
        refuse_swollen(archive.getinfo(_KERAS).file_size, path)
        return io.BytesIO(archive.read(_KERAS))


def load_hdf5(path: Path) -> dict[str, Any]:
    """The numeric datasets of a file by dotted name.

    Raises:
        InvalidWeights: it refers to bytes in other files, or holds far more than its size, or is no
            HDF5 file.
        HubstateError: h5py is not installed.
    """
    with open_hdf5(path) as file:
        found: dict[str, Any] = {}
        _walk(file, "", found, Budget(path))
    return found


def _walk(group: Any, prefix: str, found: dict[str, Any], budget: Budget) -> None:
    h5py = need("h5py", what="HDF5")
    if prefix.count(".") > _DEEPEST:
        raise InvalidWeights(f"{prefix[:80]}…: refused: more than {_DEEPEST} groups deep")
    for name in group:
        budget.spend()
        where = f"{prefix}{name.removesuffix(':0')}"
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise InvalidWeights(f"{where}: refused: a link into another file, {link.filename!r}")
        if isinstance(link, h5py.SoftLink) or (not prefix and name in _BESIDE):
            continue
        item = group[name]
        if isinstance(item, h5py.Group):
            _walk(item, f"{where}.", found, budget)
        elif (
            isinstance(item, h5py.Dataset) and item.dtype.kind in "biufc" and item.shape is not None
        ):
            refuse_foreign_bytes(item, where)
            if where in found:
                raise InvalidWeights(f"{where}: two datasets have this name")
            budget.spend(item.nbytes)
            found[where] = to_tensor(item[()], name=where)


def refuse_foreign_bytes(dataset: Any, where: str) -> None:
    """Raise where the values of a dataset would come from another file.

    Raises:
        InvalidWeights: they would.
    """
    if dataset.external or dataset.is_virtual:
        raise InvalidWeights(f"{where}: refused: its values would be read from another file")


def save_hdf5(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays as datasets; dots become groups.

    Raises:
        InvalidWeights: a name that is a group and an array at once.
        HubstateError: h5py is not installed.
    """
    h5py = need("h5py", what=f"{path.name}: HDF5")
    with h5py.File(path, "w", track_order=True) as file:
        for name, array in arrays.items():
            try:
                file.create_dataset(name.replace(".", "/"), data=array, track_times=False)
            except (ValueError, TypeError) as error:
                raise InvalidWeights(f"{name}: HDF5 cannot hold it: {error}") from None
