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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["scratch_folder"]


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """An empty folder that is removed after the block; those of dead processes are removed first.

    Args:
        parent: where it is made, instead of the system's folder for temporary files.

    >>> with scratch_folder() as folder:
    ...     list(folder.iterdir())
    []
    >>> folder.exists()
    False
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    for path in place.glob(f"{_prefix()}*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            if path.lstat().st_uid == os.getuid() and not _is_alive(int(path.name.split("-")[2])):
                shutil.rmtree(path)
    with tempfile.TemporaryDirectory(prefix=f"{_prefix()}{os.getpid()}-", dir=place) as folder:
        yield Path(folder)


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
