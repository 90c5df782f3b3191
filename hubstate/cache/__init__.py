"""The cache: verified files by content, and what is known of the releases they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubstate.cache.layers import Cache, Found
from hubstate.cache.releases import KnownRelease
from hubstate.cache.source import Source, offline_error
from hubstate.lazy import importing

if TYPE_CHECKING:
    from hubstate.cache.remote import Traffic
    from hubstate.cache.upkeep import (
        CacheEntry,
        Freed,
        Verified,
        entries,
        prune,
        remove,
        total_size,
        verify,
    )

__all__ = [
    "Cache",
    "CacheEntry",
    "Found",
    "Freed",
    "KnownRelease",
    "Source",
    "Traffic",
    "Verified",
    "entries",
    "offline_error",
    "prune",
    "remove",
    "total_size",
    "verify",
]

__getattr__ = importing(
    __name__,
    {
        "remote": ("Traffic",),
        "upkeep": (
            "CacheEntry",
            "Freed",
            "Verified",
            "entries",
            "prune",
            "remove",
            "total_size",
            "verify",
        ),
    },
)
