"""The lock file: which release each name means for a project, down to the digest of every file."""

from hubstate.lock.document import LockFile, ModelPin, Pin, dump_lock, parse_lock
from hubstate.lock.nearest import (
    NAME,
    find_lock,
    model_pin,
    nearest_lock,
    read_lock,
    reference_pin,
    write_lock,
)

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
