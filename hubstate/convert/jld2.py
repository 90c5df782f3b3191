"""Julia's JLD2: HDF5 in which values of Julia types are compounds, and arrays lie column by column.

::

    jldsave("model.jld2"; model_state = Flux.state(model))

    model_state     compound, or group
    └── layers      compound: fields "1", "2", … of a tuple, or an array of references
        └── 1       compound: weight, bias as references; a field that is () is not stored at all
            ├── weight   reference -> dataset; Julia's size (2, 3) is HDF5's (3, 2)
            └── bias     null where it is missing

    Bool            bit fields            Complex{T}     compound: re, im
    an empty array  no data at all; its size, as HDF5 has it, in the attribute dimensions

A tuple's fields count from 1 there and from 0 here, as in ``nn.Sequential``. An array gets Julia's
axes in Julia's order. (Structure as written by JLD2.jl: fields without data are left out of the
compound, tuples of more than ten equal types become vectors, dicts become vectors of pairs.)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hubstate.convert.arrays import to_tensor
from hubstate.convert.hdf5 import open_hdf5, refuse_foreign_bytes
from hubstate.convert.limits import Budget
from hubstate.convert.packages import need
from hubstate.errors import InvalidWeights

__all__ = ["load_jld2"]

_TYPES = "_types"  # JLD2 keeps Julia's types there
_DEEPEST = 64
_PAIR = {"first", "second"}


def load_jld2(path: Path) -> dict[str, Any]:
    """The numeric arrays of a file as nested dicts, with Julia's names and shapes.

    Raises:
        InvalidWeights: it refers to itself or to other files, or holds far more than its size, or
            is no HDF5 file.
        HubstateError: h5py is not installed.
    """
    with open_hdf5(path) as file:
        reader = _Reader(file, Budget(path))
        return {
            name: value
            for name in file
            if name != _TYPES and (value := reader.item(file, name)) is not None
        }


class _Reader:
    """Julia values as nested dicts of tensors; what is no array, and what is missing, is None."""

    def __init__(self, file: Any, budget: Budget) -> None:
        self.file = file
        self.budget = budget
        self.h5py = need("h5py", what="JLD2")
        self.path: list[str] = []

    def item(self, group: Any, name: str) -> Any:
        link = group.get(name, getlink=True)
        if not isinstance(link, self.h5py.HardLink):
            raise InvalidWeights(f"{self.where(name)}: refused: a link; JLD2 files have none")
        return self.at(name, group[name])

    def where(self, name: str = "") -> str:
        return ".".join([*self.path, *([name] if name else [])])

    def at(self, name: str, value: Any) -> Any:
        """A value one level down."""
        if len(self.path) >= _DEEPEST:
            raise InvalidWeights(f"{self.where()[:80]}…: refused: it contains itself")
        self.path.append(name)
        found = self.value(value)
        self.path.pop()
        return found

    def value(self, value: Any) -> Any:
        self.budget.spend()
        if isinstance(value, self.h5py.Group):
            return _kept((name, self.item(value, name)) for name in value)
        if isinstance(value, self.h5py.Dataset):
            return self.dataset(value)
        if isinstance(value, self.h5py.Reference):
            return self.value(self.target(value)) if value else None
        if isinstance(value, np.void) and value.dtype.names:
            return self.compound(value)
        return None

    def target(self, reference: Any) -> Any:
        try:
            return self.file[reference]
        except (KeyError, ValueError) as error:
            raise InvalidWeights(f"{self.where()}: a reference that leads nowhere") from error

    def dataset(self, dataset: Any) -> Any:
        if not self.is_known(dataset):
            return None
        if dataset.shape is None:  # nothing: a null dataspace
            return self.empty(dataset)
        refuse_foreign_bytes(dataset, self.where())
        self.budget.spend(dataset.nbytes)
        data = dataset[()]
        if isinstance(dataset.id.get_type(), self.h5py.h5t.TypeBitfieldID):
            data = data.astype(bool)
        if isinstance(data, np.ndarray) and data.ndim and _is_complex(data):
            data = data["re"] + 1j * data["im"]
        if isinstance(data, np.ndarray) and data.dtype.kind in "biufc" and data.ndim:
            return to_tensor(data.T, name=self.where())
        if isinstance(data, np.ndarray) and data.ndim == 1:
            return self.vector(list(data))
        return self.value(data)

    def is_known(self, dataset: Any) -> bool:
        """Whether NumPy has the type: integers of 128 bits, such as seeds, are no weights."""
        try:
            return dataset.dtype is not None
        except TypeError as error:
            if dataset.id.get_type().get_class() == self.h5py.h5t.INTEGER:
                return False
            raise InvalidWeights(f"{self.where()}: a type that is not known: {error}") from None

    def empty(self, dataset: Any) -> Any:
        """An array without elements has no data, and its size in an attribute."""
        size = dataset.attrs.get("dimensions", ())
        if dataset.dtype.kind not in "biufc" or 0 not in size:
            return None
        return to_tensor(np.zeros(tuple(size)[::-1], dataset.dtype), name=self.where())

    def vector(self, items: list[Any]) -> Any:
        if items and all(_is_pair(item) for item in items):  # a dict
            return _kept(
                (key := _text(pair["first"]), self.at(key, pair["second"])) for pair in items
            )
        return _kept((str(i), self.at(str(i), item)) for i, item in enumerate(items))

    def compound(self, value: Any) -> Any:
        names = list(value.dtype.names)
        if _is_complex(value):
            return None  # a number, not an array
        is_tuple = all(name.isdecimal() for name in names)
        renamed = [(str(int(name) - 1) if is_tuple else name, name) for name in names]
        return _kept((new, self.at(new, value[old])) for new, old in renamed)


def _kept(items: Iterator[tuple[str, Any]] | Any) -> dict[str, Any] | None:
    """The items that are something; None where none is."""
    return {name: value for name, value in items if value is not None} or None


def _is_pair(item: Any) -> bool:
    return isinstance(item, np.void) and set(item.dtype.names or ()) == _PAIR


def _is_complex(value: Any) -> bool:
    return set(value.dtype.names or ()) == {"re", "im"}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
