"""Each tensor of a model with what a source brings for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hubstate.errors import Issue
from hubstate.loading.overlap import (
    groups,
    is_expanded,
    is_folded,
    is_same_view,
    span_of,
    uncovered,
)
from hubstate.loading.plan import Move, show
from hubstate.loading.selection import Selection
from hubstate.loading.source import Given, Source
from hubstate.walk import Row, as_tensor

__all__ = ["Matcher"]

_CASTABLE = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
_COUNTER = "num_batches_tracked"
_NOTHING: Any = object()


class Matcher:
    """Fills ``moves`` with what fits, and the rest with what does not."""

    def __init__(self, source: Source, wants: Selection, *, fresh: bool) -> None:
        self.source = source
        self.wants = wants
        self.fresh = fresh
        self.seen: set[str] = set()
        self.moves: list[Move] = []
        self.issues: list[Issue] = []
        self.skipped: list[str] = []
        self.cast: dict[str, tuple[str, str]] = {}
        self.ties: list[tuple[int, ...]] = []
        self.missing: dict[str, str] = {}
        self.covered: list[str] = []
        self.entangled: set[int] = set()
        self._alone: list[Move] = []
        self._others: list[Tensor] = []

    def match(self, found: list[Row]) -> None:
        """Look at every tensor of the model once, and then at the memory they lie on."""
        given, answers, moves = self.source.tensors, self.wants.answers, self.moves
        for path, kind, target, owner in found:
            if kind != "param" and kind != "buffer":
                continue
            self.seen.add(path)
            if answers is not None and not answers[path]:
                self.skipped.append(path)
                if owner is not None:
                    self._others.append(target)
                continue
            value = given.get(path)
            if (
                value is None
                or owner is None
                or value.dtype is not target.dtype
                or value.shape != target.shape
                or value.layout is not target.layout
                or value.is_meta
                or target.is_meta
                or target.is_inference()
            ):
                self._examine(path, target, owner)
            else:
                moves.append(Move(path, target, value, owner))
        self._share_memory()

    def _examine(self, path: str, target: Any, owner: nn.Module | None) -> None:
        """What needs more than a glance: no value, another dtype, or something that is wrong."""
        if not isinstance(target, Tensor):
            target, array = as_tensor(target), target
            if target.data_ptr() != array.ctypes.data:
                self.issues.append(Issue(path, "read-only", "torch cannot write to this array"))
                return
        value = self.source.tensors.get(path)
        if value is None:
            self._absent(Move(path, target, None, owner))
            return
        issues = list(self._misfits(path, target, value))
        self.issues += issues
        if not issues:
            self.moves.append(Move(path, target, value, owner))
            if value.dtype is not target.dtype:
                self.cast[path] = (_dtype(value), _dtype(target))

    def _misfits(self, path: str, target: Tensor, value: Given) -> Iterator[Issue]:
        both = f"source {show(value)}, model {show(target)}"
        if value.shape != target.shape:
            yield Issue(path, "shape", both)
        if value.dtype is not target.dtype and not {value.dtype, target.dtype} <= _CASTABLE:
            yield Issue(path, "dtype", both)
        if value.layout is not target.layout:
            yield Issue(path, "layout", f"source {value.layout}, model {target.layout}")
        if value.is_meta:
            yield Issue(path, "meta", "the source has no values on the meta device")
        yield from self._unwritable(path, target)

    def _unwritable(self, path: str, target: Tensor) -> Iterator[Issue]:
        if target.is_meta and not self.fresh:
            yield Issue(path, "meta", "the model has no memory on the meta device")
        if target.is_inference() and not (self.fresh or torch.is_inference_mode_enabled()):
            detail = "the model's tensor was made in inference mode, and can be written only there"
            yield Issue(path, "inference", detail)

    def _absent(self, move: Move) -> None:
        path = move.path
        record = self.source.records.get(path, _NOTHING)
        if path in self.source.refused:
            return
        if path in self.source.children:
            self._mistyped(move, "a subtree")
        elif record is None or record is False:
            if path.rpartition(".")[2].startswith("bias"):
                self.issues += self._unwritable(path, move.target)
                self.moves.append(move)
            else:
                self._lacks(move, f"{record} in the source")
        elif isinstance(record, tuple) and not record:
            self._lacks(move, "() in the source")
        elif record is not _NOTHING:
            self._mistyped(move, f"{record!r:.60}")
        elif self._is_tolerated(path):
            self.skipped.append(path)
        else:
            self._lacks(move, "not in the source")

    def _lacks(self, move: Move, detail: str) -> None:
        self.missing[move.path] = f"{detail}, model {show(move.target)}"
        self._alone.append(move)

    def _mistyped(self, move: Move, found: str) -> None:
        detail = f"found {found} in the source, model {show(move.target)}"
        self.issues.append(Issue(move.path, "type", detail))

    def _is_tolerated(self, path: str) -> bool:
        """Files from before PyTorch 0.4.1 have no counter; torch's batch norm lets that pass."""
        if self.source.structured or not path.endswith(_COUNTER):
            return False
        return f"{path.removesuffix(_COUNTER)}running_var" in self.source.tensors

    def _share_memory(self) -> None:
        """Find the ties, and the missing names whose memory is written through another name."""
        targets = [move.target for move in (*self.moves, *self._alone)] + self._others
        for group in groups([span_of(target) for target in targets]):
            self._match_group(group, targets)
        for index, move in enumerate(self.moves):
            target = move.target
            if target.layout is torch.strided and not target.is_contiguous():
                self._examine_strides(index, move)

    def _match_group(self, group: list[int], targets: list[Tensor]) -> None:
        count = len(self.moves)
        given = tuple(index for index in group if index < count)
        if len(given) > 1:
            self.ties.append(given)
        written = [targets[index] for index in given]
        for index in group[len(given) :]:
            if index - count < len(self._alone):
                self._find_covered(self._alone[index - count], written)
        distinct = {id(targets[index]) for index in group}
        if len(distinct) > 1:
            self.entangled |= distinct

    def _find_covered(self, move: Move, written: list[Tensor]) -> None:
        if any(is_same_view(move.target, other) for other in written) or (
            written and not uncovered([move.target], written)
        ):
            del self.missing[move.path]
            self.covered.append(move.path)

    def _examine_strides(self, index: int, move: Move) -> None:
        if is_expanded(move.target):
            detail = f"several indices of the model's {show(move.target)} are one element"
            self.issues.append(Issue(move.path, "expanded", detail))
        elif is_folded(move.target) and not any(index in tie for tie in self.ties):
            self.ties.append((index,))


def _dtype(value: Given) -> str:
    return str(value.dtype).removeprefix("torch.")
