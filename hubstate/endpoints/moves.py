"""The moves of a branch or a tag: compare-and-swap with nothing but hard links.

::

    main/
    ├── 00000001   {"commit": "<40 hex digits>", "author": "ada", "date": "…", "schema": 1}
    ├── 00000002
    └── 00000003   the highest number is where the branch is now; commit null: it was deleted

A move is written whole to a temporary and linked under the next number, which exactly one of
several writers can do. A move is never changed, so a reader needs no lock, and what a branch
named before stays on record.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from hubstate.blobs import link_once
from hubstate.endpoints.records import dump_record, parse_date, parse_record
from hubstate.errors import Damaged, reason
from hubstate.values import frozen

__all__ = ["Move", "all_moves", "last_move", "push_move", "read_move"]

_NUMBER = re.compile(r"[0-9]{8}\Z")
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")


@frozen
class Move:
    """One move of a reference, the ``number``-th."""

    number: int
    commit: str | None
    author: str
    date: datetime


def all_moves(folder: Path) -> list[Move]:
    """Every move of a reference, the first one first.

    Raises:
        Damaged: a move that is not what was written.
        OSError: the folder cannot be read.
    """
    return [read_move(folder, number) for number in sorted(_numbers(folder))]


def last_move(folder: Path) -> Move | None:
    """Where a reference is now; None if it never moved.

    Raises:
        Damaged: the move is not what was written.
        OSError: the folder cannot be read.
    """
    number = max(_numbers(folder), default=0)
    return read_move(folder, number) if number else None


def push_move(
    folder: Path,
    *,
    after: Move | None,
    commit: str | None,
    author: str,
    date: datetime,
    temporaries: Path,
) -> bool:
    """Move a reference, if it has not moved since ``after``.

    Raises:
        OSError: the folder cannot be written.
    """
    number = after.number + 1 if after else 1
    data = dump_record({"commit": commit, "author": author, "date": date.isoformat()})
    return link_once(folder / f"{number:08}", data, temporaries=temporaries)


def _numbers(folder: Path) -> list[int]:
    try:
        return [int(path.name) for path in folder.iterdir() if _NUMBER.match(path.name)]
    except FileNotFoundError:
        return []


def read_move(folder: Path, number: int) -> Move:
    """One move of a reference, by its number.

    Raises:
        Damaged: it is not what was written.
        OSError: it is not there, or cannot be read.
    """
    path = folder / f"{number:08}"
    record = parse_record(path.read_bytes(), what=str(path))
    try:
        commit = record["commit"]
        if commit is not None and not _COMMIT.match(commit):
            raise ValueError(f"commit {commit!r}")
        date = parse_date(record["date"])
        return Move(number=number, commit=commit, author=str(record["author"]), date=date)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{path}: expected a move, found {reason(error)}") from error
