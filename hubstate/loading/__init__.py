"""Strict loading: nothing is written unless everything fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubstate.lazy import importing
from hubstate.loading.outlined import assign_rows, fitting_rows, headers_of
from hubstate.loading.plan import Plan
from hubstate.loading.strict import assign_tensors, check, loadmodel, plan_entries
from hubstate.naming import Rules
from hubstate.report import LoadReport
from hubstate.states import describe, state

if TYPE_CHECKING:
    from hubstate.loading.transforming import transform_entries

__all__ = [
    "LoadReport",
    "Plan",
    "Rules",
    "assign_rows",
    "assign_tensors",
    "check",
    "describe",
    "fitting_rows",
    "headers_of",
    "loadmodel",
    "plan_entries",
    "state",
    "transform_entries",
]

__getattr__ = importing(__name__, {"transforming": ("transform_entries",)})
