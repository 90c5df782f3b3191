"""A load of a whole release into a model that is, name by name, what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hubstate.header import Header, HeaderTensor
from hubstate.loading.overlap import span_of
from hubstate.loading.plan import Move, Plan
from hubstate.loading.writing import assign
from hubstate.outline import Outline, names_digest
from hubstate.report import LoadReport
from hubstate.walk import Row
from hubstate.walk.outline import outlined

__all__ = ["assign_rows", "fitting_rows", "headers_of"]


def fitting_rows(model: Any, outline: Outline) -> list[Row] | None:
    """The tensors of a model for which an outline has one each, in its order.

    None where that is not known: then the manifest may fit all the same, or says what does not.
    """
    found = outlined(model)
    if found is None:
        return None
    modules, rows = found
    if len(rows) != len(outline.places) or names_digest(modules) != outline.names:
        return None
    targets = [row[2] for row in rows]
    return rows if _are_plain(targets) and _are_apart(targets) else None


def _are_plain(targets: Sequence[Tensor]) -> bool:
    return all(target.layout is torch.strided for target in targets)


def _are_apart(targets: Sequence[Tensor]) -> bool:
    """Whether no two of them share memory, so that there are no ties."""
    spans = sorted(map(span_of, targets))
    return all(one[0] != two[0] or one[2] <= two[1] for one, two in pairwise(spans))


def headers_of(rows: Sequence[Row], outline: Outline) -> dict[str, Header]:
    """What is in each weights file, as the outline places the tensors of these rows."""
    files: list[dict[str, HeaderTensor]] = [{} for _ in outline.weights]
    names: dict[torch.dtype, str] = {}
    for (path, _, target, _), (number, start) in zip(rows, outline.places, strict=True):
        dtype = target.dtype
        if dtype not in names:
            names[dtype] = str(dtype).removeprefix("torch.")
        files[number][path] = HeaderTensor(
            path, names[dtype], tuple(target.shape), start, start + target.nbytes
        )
    return {
        name: Header(size=min(t.start for t in tensors.values()), tensors=tensors, metadata={})
        for name, tensors in zip(outline.weights, files, strict=True)
    }


def assign_rows(model: Any, rows: Sequence[Row], tensors: Mapping[str, Tensor]) -> LoadReport:
    """Put tensors in the place of those of the rows, which they fit; see ``assign_tensors``."""
    moves = tuple(Move(path, target, tensors[path], owner) for path, _, target, owner in rows)
    plan = Plan(
        moves=moves,
        extras=(),
        blanks={},
        ties=(),
        entangled=frozenset(),
        report=LoadReport(loaded=tuple(move.path for move in moves)),
        dst=model,
        found=rows,
    )
    return assign(plan)
