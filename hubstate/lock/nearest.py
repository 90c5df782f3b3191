"""The lock file that is in force: the one that is named, or the nearest above the working folder.

Looking costs one ``stat`` a folder. A lock file is read again when its size, time or inode change.
"""

from __future__ import annotations

import logging
import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from hubstate import settings
from hubstate.blobs import reachable, write_file
from hubstate.errors import InvalidSetting, NotPinned
from hubstate.reference import Reference

if TYPE_CHECKING:
    from hubstate.lock.document import LockFile, ModelPin, Pin

__all__ = [
    "NAME",
    "find_lock",
    "model_pin",
    "nearest_lock",
    "read_lock",
    "reference_pin",
    "write_lock",
]

NAME = "hubstate.lock"
_PASSED_BY = (
    "%s is not obeyed, since it is another user's, in a folder that everybody can write to: name "
    "it in HUBSTATE_LOCK if it is to be"
)
_log = logging.getLogger(__name__)


def find_lock() -> Path | None:
    """``HUBSTATE_LOCK``, or else ``hubstate.lock`` in the working folder or the nearest above it.

    One that another user has put into a folder that everybody can write to, such as /tmp, is not
    a project's, and is passed by; the log says so.
    """
    if named := settings.lock():
        return named
    try:
        folder = os.getcwd()  # noqa: PTH109 - strings, because this is done at every load
    except OSError:  # the working folder has been removed
        return None
    while True:
        path = os.path.join(folder, NAME)  # noqa: PTH118
        try:
            status = os.stat(path)  # noqa: PTH116
            if stat.S_ISREG(status.st_mode):
                if _is_trusted(folder, status):
                    return Path(path)
                _tell_passed_by(path)
        except OSError:
            pass
        above = os.path.dirname(folder)  # noqa: PTH120
        if above == folder:
            return None
        folder = above


@lru_cache
def _tell_passed_by(path: str) -> None:
    _log.warning(_PASSED_BY, path)  # once: every load looks for a lock file


def _is_trusted(folder: str, status: os.stat_result) -> bool:
    if not hasattr(os, "getuid") or status.st_uid in (0, os.getuid()):
        return True
    return not os.stat(folder).st_mode & stat.S_IWOTH  # noqa: PTH116


def nearest_lock() -> LockFile:
    """The lock file in force; one without pins where there is none.

    Raises:
        Damaged: it breaks the format.
        InvalidSetting: ``HUBSTATE_LOCK`` names a file that cannot be read.
    """
    from hubstate.lock.document import LockFile

    path = find_lock()
    return read_lock(path) if path else LockFile()


def read_lock(path: Path) -> LockFile:
    """A lock file.

    Raises:
        Damaged: it breaks the format; every problem is named.
        InvalidSetting: it cannot be read.
    """
    try:
        status = path.stat()
        return _read(path, status.st_mtime_ns, status.st_size, status.st_ino)
    except OSError as error:
        raise InvalidSetting(
            f"the lock file {path} cannot be read: {error.strerror}; 'hubstate lock add' makes one"
        ) from error


@lru_cache(maxsize=16)
def _read(path: Path, mtime: int, size: int, inode: int) -> LockFile:  # noqa: ARG001
    from hubstate.lock.document import parse_lock  # here, because most loads have no lock file

    return parse_lock(path.read_bytes(), where=str(path))


def write_lock(path: Path, lock: LockFile) -> None:
    """Write a lock file, all of it or nothing; a link is followed.

    Raises:
        Unreachable: it cannot be written.
    """
    from hubstate.lock.document import dump_lock

    target = Path(os.path.realpath(path))
    with reachable(f"the lock file {path} cannot be written"):
        write_file(target, dump_lock(lock), temporaries=target.parent)


def reference_pin(reference: Reference) -> Pin | None:
    """What the lock file in force says of a reference; None if it says nothing.

    Raises:
        NotPinned: it says nothing, the reference may come to mean something else, and the
            settings allow pinned ones only.
        Damaged: the lock file breaks the format.
        InvalidSetting: ``HUBSTATE_LOCK`` names a file that cannot be read.
    """
    path = find_lock()
    pin = read_lock(path).releases.get(str(reference)) if path else None
    if pin is None and not reference.pinned and settings.frozen():
        place = f"the lock file {path} does not have it" if path else f"there is no {NAME} here"
        raise NotPinned(
            f"{reference} is not pinned: {place}, and HUBSTATE_FROZEN or --frozen allows pinned "
            f"references only. Run 'hubstate lock add {reference}', or give a full commit or "
            "sha256: and the digest of the manifest"
        )
    return pin


def model_pin(builder: str, pretrained: bool | str) -> ModelPin | None:
    """What the lock file in force says of ``builder(pretrained=…)``; None if it says nothing.

    Raises:
        Damaged: the lock file breaks the format.
        InvalidSetting: ``HUBSTATE_LOCK`` names a file that cannot be read.
    """
    path = find_lock()
    if path is None:
        return None
    return read_lock(path).models.get(builder if pretrained is True else f"{builder}:{pretrained}")
