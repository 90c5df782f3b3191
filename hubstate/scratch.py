"""Folders for work in progress, which a killed process leaves behind for the next one to clear.

They lie in the system's folder for temporary files, or in another one, named by host and process::

    hubstate-<8 hex of the host's name>-<process>-<random>/
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["last_write", "scratch_folder"]

_HOUR = 3600.0  # seconds


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """An empty folder that is removed after the block; those of dead processes are removed first.

    Args:
        parent: where it is made, instead of the system's folder for temporary files. Others may
            share it whose processes cannot be told from here, in containers of one host's name:
            there, what was written to within the last hour is not removed.

    >>> with scratch_folder() as folder:
    ...     list(folder.iterdir())
    []
    >>> folder.exists()
    False
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    for path in place.glob(f"{_prefix()}*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            mine = path.lstat().st_uid == os.getuid()
            left = parent is None or time.time() - last_write(path) > _HOUR
            if mine and left and not _is_alive(int(path.name.split("-")[2])):
                shutil.rmtree(path)
    with tempfile.TemporaryDirectory(prefix=f"{_prefix()}{os.getpid()}-", dir=place) as folder:
        yield Path(folder)


def last_write(path: Path) -> float:
    """When a file, or a folder or the youngest file in it, was last written to.

    Raises:
        OSError: it is not there.
    """
    inside = path.iterdir() if path.is_dir() else ()
    times: list[float] = [part.stat().st_mtime for part in (path, *inside)]
    return max(times)


def _prefix() -> str:
    host = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
    return f"hubstate-{host}-"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's by now
        pass
    return True
