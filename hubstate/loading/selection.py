"""Which names a load is about: a filter, asked once about each of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hubstate.filters import Filter, check_filter
from hubstate.loading.source import Promise, was_module
from hubstate.manifest import TENSOR_KINDS
from hubstate.walk import Row, extra_of

__all__ = ["BEARING", "Selection", "children_of", "leaf_of", "parents_of"]

BEARING = frozenset({"param", "buffer", "extra", "refused"})
"""The kinds of rows that make a child one with parameters."""


class Selection:
    """The answers of a filter: first about the model's names, in order, then about others."""

    def __init__(self, filter: Filter | None, found: Sequence[Row]) -> None:
        check_filter(filter)
        self.filter = filter
        self.answers: dict[str, bool] | None = None
        self.tensors = self.chosen = 0
        if filter is not None:
            self.answers = {}
            self._ask_all(found)

    def __call__(self, path: str, leaf: Any) -> bool:
        if self.filter is None or self.answers is None:
            return True
        if path not in self.answers:
            self.answers[path] = bool(self.filter(path, _state_form(leaf)))
        return self.answers[path]

    @property
    def is_empty(self) -> bool:
        """Whether the filter leaves out every tensor of a model that has some."""
        return self.answers is not None and self.tensors > 0 and not self.chosen

    def _ask_all(self, found: Sequence[Row]) -> None:
        free = children_of(found) - parents_of(row[0] for row in found if row[1] in BEARING)
        for row in found:
            path, kind = row[:2]
            if kind == "module" and path not in free:
                continue
            answer = self(path, leaf_of(row))
            if kind in TENSOR_KINDS:
                self.tensors += 1
                self.chosen += answer


def leaf_of(row: Row) -> Any:
    """What a filter is shown of a row: tensors and plain data, ``()`` for anything else."""
    _, kind, value, _ = row
    if kind in ("module", "refused"):
        return ()
    return extra_of(row) if kind == "extra" else value


def _state_form(leaf: Any) -> Any:
    if isinstance(leaf, Promise):
        return torch.empty(leaf.shape, dtype=leaf.dtype, device="meta")
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def children_of(found: Iterable[Row]) -> set[str]:
    """The paths of the modules below the top."""
    modules = (
        path
        for path, kind, value, _ in found
        if kind == "module" and (isinstance(value, nn.Module) or was_module(value))
    )
    return set(modules) - {""}


def parents_of(paths: Iterable[str]) -> set[str]:
    """Every path above one of the paths.

    >>> sorted(parents_of(["layer.0.weight", "weight"]))
    ['', 'layer', 'layer.0']
    """
    parents: set[str] = set()
    for path in paths:
        while path:
            path = path.rpartition(".")[0]
            if path in parents:
                break
            parents.add(path)
    return parents
