"""Strict loading: nothing is written unless everything fits."""

from hubstate.loading.plan import Plan
from hubstate.loading.strict import assign_tensors, check, loadmodel, plan_entries
from hubstate.loading.transforming import transform_entries
from hubstate.naming import Rules
from hubstate.report import LoadReport
from hubstate.states import describe, state

__all__ = [
    "LoadReport",
    "Plan",
    "Rules",
    "assign_tensors",
    "check",
    "describe",
    "loadmodel",
    "plan_entries",
    "state",
    "transform_entries",
]
