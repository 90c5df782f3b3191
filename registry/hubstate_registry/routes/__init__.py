"""The routes of the hub protocol, a module for each concern."""

from __future__ import annotations

from collections.abc import Sequence

from hubstate_registry.dispatch import Rule
from hubstate_registry.routes import (
    account,
    commit,
    lfs,
    listing,
    ops,
    refs,
    releases,
    repos,
    resolve,
    tree,
    usage,
)

__all__ = ["RULES"]

RULES: Sequence[Rule] = [
    *ops.RULES,
    *account.RULES,
    *repos.RULES,
    *listing.RULES,
    *usage.RULES,
    *releases.RULES,
    *refs.RULES,
    *tree.RULES,
    *commit.RULES,
    *lfs.RULES,
    *resolve.RULES,
]
