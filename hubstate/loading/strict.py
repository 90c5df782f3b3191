"""Strict loading, by one plan, whatever the source and whatever is done with it.

::

    source (module, state, dict of tensors)    entries (manifest, header)
                     │ source.read_tree                │ source.read_entries
                     └────────────────┬────────────────┘
          hubstate.naming             │ names in the model's words
          planning, matching          ▼
                                    Plan ── agreed() ──> StructureMismatch, with everything
                     ┌────────────────┼────────────────┐
              writing.write    writing.assign        report only
              loadmodel        assign_tensors        check
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hubstate.filters import Filter, Strict
from hubstate.loading.plan import Plan
from hubstate.loading.planning import make_plan
from hubstate.loading.source import Source, read_entries, read_tree
from hubstate.loading.writing import assign, write
from hubstate.manifest import Entry
from hubstate.naming import Rules
from hubstate.report import LoadReport, with_rules

if TYPE_CHECKING:
    from hubstate.transforms import Rules as Transforms

__all__ = ["assign_tensors", "check", "loadmodel", "plan_entries"]


def loadmodel(
    dst: Any,
    src: Any,
    *,
    filter: Filter | None = None,
    strict: Strict = True,
    rename: Rules | None = None,
    transforms: Transforms | None = None,
) -> LoadReport:
    """Copy the tensors of a source into a model, all of them or none.

    Values are copied in place, so that optimizers, ties, strides, gradients, hooks and the mode
    stay as they are; floating-point values are cast to the model's dtype. A bias that the source
    has as None or False becomes zero. Plain data is compared and reported, never copied, except
    for the extra state of modules with a ``set_extra_state()``. Load hooks are not called.

    Args:
        dst: a module, or a container of modules and tensors.
        src: a module, a ``state()``, a ``state_dict()``, or any dict of tensors or arrays, by
            dotted names or nested. ``_orig_mod.`` and ``module.`` prefixes are cut off.
        filter: ``filter(path, leaf)`` says which names are loaded and checked. It is asked once
            about each name of the model, and of the source where the model has none; a child
            without parameters is shown as ``()``. See ``hubstate.only`` and ``hubstate.without``.
        strict: also refuse tensors and parameter-free children that only one side has; with
            "tensors", the tensors alone. Otherwise they are left alone and reported; what is on
            both sides must fit all the same.
        rename: regular expressions and their replacements, applied in turn to the source's names.
        transforms: rules that make the model's tensors of the source's, before ``rename``; see
            ``hubstate.transforms``. Plain data is not compared then.

    Returns:
        The account of every tensor on both sides.

    Raises:
        StructureMismatch: the two differ; nothing was written, and ``.issues`` has every
            difference in the order of the model.
        InvalidSetting: a rule of ``transforms`` that means nothing.
        TypeError: a source that is none, an optimizer, or a filter that cannot be called.
        ValueError: a tree that contains itself, or a rule that is no regular expression.

    >>> from torch import nn
    >>> from hubstate import state
    >>> model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    >>> print(loadmodel(model, state(other)))
    2 loaded
    >>> loadmodel(model, {"weight": other.weight})
    Traceback (most recent call last):
    hubstate.errors.StructureMismatch: 1 difference, nothing was loaded:
      bias: missing: not in the source, model (2,) float32
    """
    source = _transformed(read_tree(src), transforms)
    plan = make_plan(dst, source, filter=filter, strict=strict, rename=rename)
    return _told(write(plan.agreed()), transforms)


def check(
    model: Any,
    entries: Iterable[Entry],
    *,
    filter: Filter | None = None,
    strict: Strict = True,
    rename: Rules | None = None,
    transforms: Transforms | None = None,
) -> LoadReport:
    """What ``loadmodel`` would do with a source of this structure, of which no tensor is here yet.

    Whether a bias that the model lacks is all zero, and whether two names of one tensor agree, is
    left to the load.

    Args:
        model: as ``dst`` of ``loadmodel``.
        entries: a manifest's structure, or entries of tensors alone, as a header tells them.
        filter: as in ``loadmodel``; a tensor of the source only is shown on the meta device.
        strict: as in ``loadmodel``.
        rename: as in ``loadmodel``.
        transforms: as in ``loadmodel``.

    Raises:
        StructureMismatch: the two differ; ``.issues`` has every difference.
        InvalidSetting: a rule of ``transforms`` that means nothing.

    >>> from torch import nn
    >>> from hubstate import describe
    >>> print(check(nn.Linear(3, 2), describe(nn.Linear(3, 2, bias=False))))
    2 loaded
    """
    source = _transformed(read_entries(entries), transforms)
    plan = make_plan(model, source, filter=filter, strict=strict, rename=rename)
    return _told(plan.agreed().report, transforms)


def plan_entries(
    model: Any,
    entries: Iterable[Entry],
    *,
    filter: Filter | None = None,
    strict: Strict = True,
    rename: Rules | None = None,
    fresh: bool = False,
) -> Plan:
    """The plan behind ``check``: its ``wanted`` names are those to fetch, and then
    ``assign_tensors(plan, tensors)`` carries it out without looking at the structure again.

    Args:
        model: as in ``check``.
        entries: as in ``check``.
        filter: as in ``check``.
        strict: as in ``check``.
        rename: as in ``check``.
        fresh: the model's own values are of no interest, so it may be on the meta device.

    Raises:
        StructureMismatch: as in ``check``.
    """
    source = read_entries(entries)
    plan = make_plan(model, source, filter=filter, strict=strict, rename=rename, fresh=fresh)
    return plan.agreed()


def assign_tensors(
    model: Any,
    tensors: Mapping[str, Tensor],
    *,
    filter: Filter | None = None,
    strict: Strict = True,
    rename: Rules | None = None,
) -> LoadReport:
    """``loadmodel`` for a model that was just built: the tensors themselves become its own.

    Nothing is copied but what must be cast or moved, or is known outside the registries; ties
    stay ties. An optimizer made before would keep the old parameters.

    Args:
        model: the model, or a plan of ``plan_entries``, for which the other arguments are spent.
        tensors: by their names in the source; they must not be used for anything else after.
        filter: as in ``loadmodel``.
        strict: as in ``loadmodel``.
        rename: as in ``loadmodel``.

    Raises:
        StructureMismatch: as in ``loadmodel``; nothing has changed.
    """
    if isinstance(model, Plan):
        return assign(model.bind(tensors))
    source = read_tree(tensors)
    plan = make_plan(model, source, filter=filter, strict=strict, rename=rename, fresh=True)
    return assign(plan.agreed())


def _transformed(source: Source, transforms: Transforms | None) -> Source:
    if not transforms:
        return source
    from hubstate.loading.transforming import transformed  # here, because few loads have any

    return transformed(source, transforms)


def _told(report: LoadReport, transforms: Transforms | None) -> LoadReport:
    if not transforms:
        return report
    from hubstate.rules import parse_rules

    return with_rules(report, {"call": parse_rules(transforms)})
