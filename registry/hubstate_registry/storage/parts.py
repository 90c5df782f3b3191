"""A file that arrives in parts: over several connections at once, each writing at its own place.

The file gets its name once the whole of it hashes to that. Whoever still had it open for writing
could then change bytes that everybody trusts. So a part is written under a shared lock, and the
whole is hashed and renamed under the exclusive one, which nobody gets while a part still comes.
Locks end with their process, and this folder is local, as the database beside it has to be.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from hubstate_registry.errors import Busy

__all__ = ["taking", "writing"]


@contextmanager
def writing(path: Path) -> Iterator[int]:
    """A descriptor to write a part with; the file is made if it is not there.

    Raises:
        Busy: the whole is being taken at this moment.
    """
    while True:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            _lock(descriptor, shared=True)
            if _is_at(descriptor, path):  # and was not taken between the two lines before
                yield descriptor
                return
        finally:
            os.close(descriptor)


@contextmanager
def taking(path: Path) -> Iterator[FileIO]:
    """The whole file, which nobody writes to within the block.

    Raises:
        Busy: a part is still being written, or somebody else takes the whole.
        FileNotFoundError: nothing has arrived, or it was taken already.
    """
    with path.open("rb", buffering=0) as file:
        _lock(file.fileno(), shared=False)
        if not _is_at(file.fileno(), path):
            raise FileNotFoundError(path)
        yield file


def _lock(descriptor: int, *, shared: bool) -> None:
    import fcntl  # only where the server runs; the module can be read anywhere

    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Busy("Another request is at work on this upload; try again") from error


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
