"""Weights for another number of classes, or of channels, than a release was made for.

Two arguments of a builder change the shape of a few tensors and of nothing else. Each has a rule,
and each tensor that it touches is named in the report; whatever else differs stays an error.

==============  ==============================================================================
 argument        what happens to the tensors that it shapes
==============  ==============================================================================
 num_classes     the head keeps the values that the model was initialised with
 in_chans        to 1: the stem's channels are summed, so that a grey image answers as its
                 RGB copy did; to any other: they are repeated in turn and scaled by
                 there/here, so that the sum of the responses stays the same
==============  ==============================================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from hubstate.filters import Filter
from hubstate.manifest import Entry
from hubstate.report import LoadReport
from hubstate.transforms.rules import Channels, Rule
from hubstate.walk import tensors_of

__all__ = ["Adaptation", "find_adaptation"]

_CLASSES, _CHANNELS = "num_classes", "in_chans"


@dataclass(frozen=True, kw_only=True, slots=True)
class Adaptation:
    """What is done to the tensors of a release that are not of the model's shape."""

    rules: tuple[Rule, ...]
    """For the stem."""
    kept: frozenset[str]
    """The head, which is not loaded."""
    account: Mapping[str, str]
    """Path to what was done, as ``LoadReport.adapted`` has it."""

    _wanted: set[str] = field(default_factory=set)
    """Names of the head that the caller's filter lets pass."""

    def narrow(self, filter: Filter | None) -> Filter | None:
        """The filter that leaves the head out as well."""
        return _Narrow(self.kept, filter, self._wanted) if self.kept else filter

    def tell(self, report: LoadReport) -> LoadReport:
        """The report with what was adapted; what a filter left out is not."""
        kept = self._wanted
        touched = {*report.loaded, *kept}
        return replace(
            report,
            skipped=tuple(path for path in report.skipped if path not in kept),
            adapted={path: how for path, how in self.account.items() if path in touched},
        )


@dataclass(frozen=True)
class _Narrow:
    kept: frozenset[str]
    filter: Filter | None
    wanted: set[str]

    def __call__(self, path: str, leaf: object) -> bool:
        if self.filter is not None and not self.filter(path, leaf):
            return False
        if path in self.kept:
            self.wanted.add(path)
            return False
        return True


def find_adaptation(
    model: nn.Module,
    entries: Iterable[Entry],
    arguments: Mapping[str, int],
    *,
    stated: Mapping[str, Any],
) -> Adaptation:
    """Which tensors of a release have another shape because of an argument of the builder.

    Args:
        model: what is to be loaded into.
        entries: the structure of the release.
        arguments: ``num_classes`` and ``in_chans`` that the model was made with; one that is not
            given is not adapted to.
        stated: the arguments that the release was made with, as far as it says.
    """
    shapes = {path: tuple(tensor.shape) for path, tensor in tensors_of(model).items()}
    pairs = {e.path: (e.shape, shapes[e.path]) for e in entries if e.shape and e.path in shapes}
    differ = {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}
    heads = _along(0, differ, arguments.get(_CLASSES), stated.get(_CLASSES))
    stems = _along(1, differ, arguments.get(_CHANNELS), stated.get(_CHANNELS))
    account = {
        path: f"re-initialised: {a} classes there, {b} here" for path, (a, b) in heads.items()
    }
    account |= {path: _folding(a, b) for path, (a, b) in stems.items()}
    rules = [Channels(channels=re.escape(path), count=here) for path, (_, here) in stems.items()]
    return Adaptation(rules=tuple(rules), kept=frozenset(heads), account=account)


def _along(
    axis: int,
    differ: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
    here: int | None,
    there: object,
) -> dict[str, tuple[int, int]]:
    """The tensors that differ along one axis alone, from what is there to what is here."""
    found = {
        path: (old[axis], new[axis])
        for path, (old, new) in differ.items()
        if len(old) == len(new) > axis
        and new[axis] == here
        and (there is None or old[axis] == there)
        and (*old[:axis], *old[axis + 1 :]) == (*new[:axis], *new[axis + 1 :])
    }
    return found if len(set(found.values())) == 1 else {}


def _folding(there: int, here: int) -> str:
    if here == 1:
        return f"{there} channels summed to 1"
    return f"{there} channels repeated to {here}, times {there}/{here}"
