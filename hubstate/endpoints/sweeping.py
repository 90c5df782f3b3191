"""Removing from a folder registry what no release needs: what killed publishers left behind."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from hubstate.blobs import DAY, reachable
from hubstate.digest import Digest
from hubstate.endpoints.moves import all_moves
from hubstate.endpoints.shelf import Shelf
from hubstate.values import frozen

__all__ = ["Swept", "sweep"]


@frozen
class Swept:
    """What was removed, or would be."""

    paths: tuple[Path, ...]
    size: int


def sweep(root: Path, *, age: float = DAY, dry_run: bool = False) -> Swept:
    """Remove commits that no branch or tag ever named, blobs that no commit has, temporaries.

    Every release that a branch named once is kept. What is younger than ``age`` seconds is kept
    as well, because somebody may be publishing it: a publish must not take longer than that.

    Raises:
        Damaged: a record is not what was written; then nothing at all is removed.
        RepositoryNotFound: the folder is no registry.
        Unreachable: the folder cannot be read.
    """
    shelf = Shelf(root)
    with reachable(f"{root}: cannot be swept"):
        shelf.check()
        loose, needed = _survey(shelf, age)
        blobs = [path for digest, path in shelf.blobs if digest not in needed]
        doomed = [path for path in (*loose, *blobs) if _is_old(path, age)]
        size = sum(path.stat().st_size for path in doomed)
        gone = [path for path in doomed if dry_run or _remove(path, age)]
        gone += shelf.blobs.discard_temporaries(age=age, dry_run=dry_run)
    return Swept(paths=tuple(gone), size=size)


def _survey(shelf: Shelf, age: float) -> tuple[list[Path], set[Digest | None]]:
    """The records of commits that nothing names, and the blobs that the other commits have."""
    loose: list[Path] = []
    needed: set[Digest | None] = set()
    for folder in shelf.folders():
        repo = shelf.name(folder)
        named = set(_named(shelf, folder, repo))
        for id in shelf.commits(repo):
            path = folder / "commits" / f"{id}.json"
            if id not in named and _is_old(path, age):
                loose.append(path)
            else:
                needed.update(info.digest for info in shelf.commit(repo, id).files.values())
    return loose, needed


def _named(shelf: Shelf, folder: Path, repo: str) -> Iterator[str]:
    """Every commit that a branch or tag names or named, and those before it."""
    seen: set[str] = set()
    moves = [move for path in folder.glob("[bt]*/*") for move in all_moves(path)]
    waiting = [move.commit for move in moves if move.commit]
    while waiting:
        id = waiting.pop()
        if id not in seen:
            seen.add(id)
            yield id
            parent = shelf.commit(repo, id).parent
            waiting += [parent] if parent else []


def _is_old(path: Path, age: float) -> bool:
    try:
        return time.time() - path.stat().st_mtime > age
    except FileNotFoundError:
        return False


def _remove(path: Path, age: float) -> bool:
    # Looked at once more: a publisher that needs a blob marks it as used before anything else.
    with contextlib.suppress(OSError):
        if _is_old(path, age):
            path.unlink()
            return True
    return False
