"""Many files while they are being fetched, with one journal: a folder and a lock for all of them.

::

    FOLDER/run-<8 hex of the machine>-<process>-<random>/
    ├── <64 hex>-1   a file, named by its key, as hubstate.transport.runs has one
    ├── <64 hex>-2   another one
    └── journal      a line for each verified chunk: "<64 hex>-1 start stop sha256"

To go on with one of them, once the process was killed, it is given a run of its own first, and is
then what any other broken-off transfer is.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from hubstate.blobs import listed, make_folders
from hubstate.digest import Digest
from hubstate.transport.chunks import Chunk
from hubstate.transport.part import Part
from hubstate.transport.runs import is_own, lines_of, lock_run, new_run, runs_in

__all__ = ["Convoy", "find_members", "has_member", "unpack"]

_LINE = re.compile(rb"^([0-9a-f]{64}-\d{1,9}) (\d{1,18}) (\d{1,18}) ([0-9a-f]{64})\n", re.MULTILINE)


class _Member(Part):
    """A file of a convoy, which has its journal in common with others."""

    def __init__(self, folder: Path, *, journal: int, name: str) -> None:
        super().__init__(folder, journal=journal, name=name)
        self.prefix = name.encode() + b" "

    def leave_journal(self) -> None:
        pass

    def discard(self) -> None:
        if not self.moved:
            with contextlib.suppress(OSError):
                self.path.unlink()


class Convoy:
    """The files that one process fetches together; its folder is made with the first of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[Path, tuple[Path, int]] = {}
        self._count = 0

    def begin(self, place: Path, key: str) -> Part:
        """A new file, in a run in ``place``.

        Raises:
            OSError: the folder cannot be written.
        """
        with self._lock:
            if place not in self._runs:
                make_folders(place, durable=False)
                self._runs[place] = new_run(place)
            self._count += 1
            folder, journal = self._runs[place]
            return _Member(folder, journal=journal, name=f"{key}-{self._count}")

    def close(self) -> None:
        """Leave nothing behind but what was broken off. No file may be under way any more."""
        for folder, journal in self._runs.values():
            with contextlib.suppress(OSError):
                if os.listdir(folder) == ["journal"]:  # noqa: PTH208 - the names alone
                    (folder / "journal").unlink()
                    folder.rmdir()
            os.close(journal)
        self._runs.clear()


def find_members(place: Path, key: str) -> Iterator[tuple[Path, Sequence[Chunk]]]:
    """Files with this key in the convoys of other processes, living or not, and what they have."""
    for run in runs_in(place):
        for path in listed(run, f"{key}-*") if not is_own(run) else ():
            yield path, _read_journal(run).get(path.name, ())


def has_member(place: Path, key: str) -> bool:
    """Whether :func:`find_members` finds any."""
    others = (run for run in runs_in(place) if not is_own(run))
    return any(True for run in others for _ in listed(run, f"{key}-*"))


def unpack(place: Path, home: Path) -> None:
    """Give the files of killed processes' convoys runs of their own, in the folders of their keys.

    Args:
        place: where the convoys are.
        home: the folder of those folders.
    """
    for run in runs_in(place):
        with contextlib.suppress(OSError):
            if (journal := lock_run(run)) is not None:
                try:
                    _unpack(run, home)
                finally:
                    os.close(journal)


def _unpack(run: Path, home: Path) -> None:
    known = _read_journal(run)
    for path in listed(run, "*-*"):
        folder = home / path.name.partition("-")[0]
        make_folders(folder, durable=False)
        with contextlib.suppress(OSError):
            _, journal = new_run(folder, file=path, lines=lines_of(known.get(path.name, ())))
            os.close(journal)
    (run / "journal").unlink()
    run.rmdir()


def _read_journal(run: Path) -> dict[str, list[Chunk]]:
    found: dict[str, list[Chunk]] = {}
    with contextlib.suppress(OSError):
        for name, start, stop, hex in _LINE.findall((run / "journal").read_bytes()):
            chunk = Chunk(int(start), int(stop), Digest(hex.decode()))
            found.setdefault(name.decode(), []).append(chunk)
    return found
