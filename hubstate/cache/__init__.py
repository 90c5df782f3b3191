"""The cache: verified files by content, and what is known of the releases they belong to."""

from hubstate.cache.layers import Cache, Found
from hubstate.cache.releases import KnownRelease
from hubstate.cache.source import Source, offline_error
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
    "Verified",
    "entries",
    "offline_error",
    "prune",
    "remove",
    "total_size",
    "verify",
]
