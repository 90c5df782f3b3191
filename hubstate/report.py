"""The account of one load: what happened to each tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any

from hubstate.records import encode
from hubstate.strictjson import Json
from hubstate.values import frozen, replace

if TYPE_CHECKING:
    from hubstate.rules import Rule

__all__ = ["LoadReport", "with_rules"]

_SHOWN = 10


@frozen
class LoadReport:
    """What a load did; paths are dotted and in the order of the model.

    >>> print(LoadReport(loaded=("weight", "bias"), cast={"weight": ("float16", "float32")}))
    2 loaded, 1 cast
      cast: weight (float16 -> float32)
    """

    loaded: tuple[str, ...] = ()
    """Tensors, and extra states, that now have the source's values."""
    skipped: tuple[str, ...] = ()
    """Left out on purpose: excluded by the filter, a ``num_batches_tracked`` that older files
    lack, or an all-zero bias that the model does not have."""
    missing: tuple[str, ...] = ()
    """In the model only, and kept as they were (``strict=False``)."""
    unexpected: tuple[str, ...] = ()
    """In the source only, and not loaded (``strict=False``)."""
    adapted: Mapping[str, str] = field(default_factory=dict)
    """Path to the rule by which its tensor was changed to fit."""
    cast: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Path to (dtype in the source, dtype in the model), for those that differ."""
    drift: Mapping[str, tuple[object, object]] = field(default_factory=dict)
    """Path to (the model's plain data, the source's), for those that differ; ``()`` is none."""
    rules: Mapping[str, tuple[Mapping[str, Json], ...]] = field(default_factory=dict)
    """The transforms that were applied, in their order, by whose they are: the release's own, the
    builder's migrations, the call's."""

    @property
    def is_complete(self) -> bool:
        """Whether every tensor of the model has the source's values."""
        return not (self.skipped or self.missing or self.adapted)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON data; plain data as in ``hubstate.records``."""
        return {
            "loaded": list(self.loaded),
            "skipped": list(self.skipped),
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "adapted": dict(self.adapted),
            "cast": {path: list(pair) for path, pair in self.cast.items()},
            "drift": {path: [encode(value) for value in pair] for path, pair in self.drift.items()},
            "rules": {whose: list(rules) for whose, rules in self.rules.items()},
        }

    def __str__(self) -> str:
        lists = {"loaded": list(self.loaded), **dict(self._details())}
        counts = ", ".join(f"{len(items)} {name}" for name, items in lists.items())
        lines = [f"  {name}: {_capped(items)}" for name, items in lists.items() if name != "loaded"]
        return "\n".join([counts, *lines])

    def _details(self) -> Iterator[tuple[str, list[str]]]:
        for name in ("missing", "unexpected", "skipped"):
            if paths := getattr(self, name):
                yield name, list(paths)
        if self.adapted:
            yield "adapted", [f"{path} ({how})" for path, how in self.adapted.items()]
        if self.cast:
            yield "cast", [f"{path} ({a} -> {b})" for path, (a, b) in self.cast.items()]
        if self.drift:
            yield (
                "drift",
                [f"{path} ({_brief(a)}, not {_brief(b)})" for path, (a, b) in self.drift.items()],
            )

        if self.rules:
            from hubstate.rules import brief  # here, because few loads have any

            yield (
                "rules",
                [f"{brief(r)} ({whose})" for whose, each in self.rules.items() for r in each],
            )


def with_rules(report: LoadReport, rules: Mapping[str, Sequence[Rule]]) -> LoadReport:
    """The report of a load to which these rules were applied, by whose they are."""
    from hubstate.rules import dump_rules  # here, because few loads have any

    return replace(report, rules={whose: tuple(dump_rules(each)) for whose, each in rules.items()})


def _capped(items: list[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f", … and {more} more" if more > 0 else "")


def _brief(value: object) -> str:
    text = "nothing" if value == () else repr(value)
    return text if len(text) <= 40 else text[:39] + "…"
