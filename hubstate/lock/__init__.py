"""The lock file: which release each name means for a project, down to the digest of every file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubstate.lazy import importing
from hubstate.lock.nearest import (
    NAME,
    find_lock,
    model_pin,
    nearest_lock,
    read_lock,
    reference_pin,
    write_lock,
)

if TYPE_CHECKING:
    from hubstate.lock.document import LockFile, ModelPin, Pin, dump_lock, parse_lock

__all__ = [
    "NAME",
    "LockFile",
    "ModelPin",
    "Pin",
    "dump_lock",
    "find_lock",
    "model_pin",
    "nearest_lock",
    "parse_lock",
    "read_lock",
    "reference_pin",
    "write_lock",
]

__getattr__ = importing(
    __name__, {"document": ("LockFile", "ModelPin", "Pin", "dump_lock", "parse_lock")}
)
