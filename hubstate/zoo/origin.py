"""What a model remembers of its making: its builder, the arguments, the load of its weights.

It is kept in private attributes, so that ``state`` shows no trace of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from hubstate.errors import GateRefused
from hubstate.manifest import BuilderRecord
from hubstate.strictjson import MAX_INTEGER, Json
from hubstate.values import frozen, replace
from hubstate.zoo.inputs import made_for

if TYPE_CHECKING:
    from torch import nn

    from hubstate.report import LoadReport

__all__ = [
    "builder_name",
    "builder_record",
    "forget",
    "load_report",
    "preprocessing_of",
    "remember",
    "remember_report",
]

_ORIGIN, _REPORT = "_hubstate_origin", "_hubstate_report"


@frozen
class _Origin:
    """What made a model, and of what images."""

    record: BuilderRecord
    preprocessing: Mapping[str, Json]
    problems: tuple[str, ...] = ()


def remember(
    model: nn.Module,
    arguments: Mapping[str, object],
    *,
    name: str,
    source: str | None,
    preprocessing: Mapping[str, Json],
) -> None:
    """Note on a model which builder made it; the arguments as they are now."""
    problems = tuple(
        f"builder: the argument {argument} of {name} is a {type(value).__name__}, "
        "which a manifest cannot hold"
        for argument, value in arguments.items()
        if not _is_plain(value)
    )
    plain = {key: _plain(value) for key, value in arguments.items() if _is_plain(value)}
    record = BuilderRecord(name=name, arguments=plain, source=source)
    sized = made_for(preprocessing, record.sizes)
    vars(model)[_ORIGIN] = _Origin(record=record, preprocessing=sized, problems=problems)


def remember_report(
    model: nn.Module, report: LoadReport, *, preprocessing: Mapping[str, Json]
) -> None:
    """Note on a model what a load did to it, and what its weights were made for, if known."""
    vars(model)[_REPORT] = report
    origin: _Origin | None = vars(model).get(_ORIGIN)
    if preprocessing and origin is not None:
        sized = made_for(preprocessing, origin.record.sizes)
        vars(model)[_ORIGIN] = replace(origin, preprocessing=sized)


def forget(model: nn.Module) -> None:
    """Note on a model that it is no longer what a builder made."""
    for name in (_ORIGIN, _REPORT):
        vars(model).pop(name, None)


def builder_name(model: nn.Module) -> str | None:
    """The name of the builder that made a model; None where no builder did."""
    origin = _origin(model)
    return origin.record.name if origin else None


def builder_record(model: nn.Module) -> BuilderRecord | None:
    """The builder that made a model, and its arguments; None where no builder did.

    Raises:
        GateRefused: an argument cannot be recorded; `.problems` names each.

    >>> from hubstate.zoo import resnet18_small
    >>> builder_record(resnet18_small(width=8)).arguments["width"]
    8
    """
    origin = _origin(model)
    if origin is not None and origin.problems:
        raise GateRefused(origin.problems)
    return origin.record if origin else None


def preprocessing_of(model: nn.Module) -> Mapping[str, Json]:
    """What the inputs of a model must be like: as the release states whose weights it has, or else
    as its builder was registered, at the size that the model was made for; else empty."""
    origin = _origin(model)
    return origin.preprocessing if origin else {}


def load_report(model: nn.Module) -> LoadReport | None:
    """The account of the weights that a builder loaded; None for a model with random weights.

    >>> from hubstate.zoo import resnet18_small
    >>> print(load_report(resnet18_small(width=4)))
    None
    """
    report: LoadReport | None = _noted(model, _REPORT)
    return report


def _origin(model: nn.Module) -> _Origin | None:
    origin: _Origin | None = _noted(model, _ORIGIN)
    return origin


def _noted(model: nn.Module, name: str) -> Any:
    """What is noted on a model, or on the one that torch.compile or a parallel wrapper holds."""
    found = vars(model).get(name)
    if found is None:
        from hubstate.walk.traits import unwrap  # here, because it brings torch

        found = vars(unwrap(model)).get(name)
    return found


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return abs(value) <= MAX_INTEGER
    return value is None or isinstance(value, str)


def _plain(value: Any) -> Json:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return cast(Json, value)
