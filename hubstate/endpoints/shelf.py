"""The files of a folder registry: where each thing is, and how it is read back.

::

    ROOT/
    ├── hubstate-registry.json              {"schema": 1}
    ├── blobs/sha256/ab/<64 hex>            content, never changed; mode 0444 less the umask
    ├── repos/org/name/                     a repository without an organisation is _/name
    │   ├── commits/<40 hex>.json           a commit; the name begins the digest of its bytes
    │   ├── branches/<quoted name>/00000007 moves of a branch, see hubstate.endpoints.moves
    │   ├── tags/<quoted name>/00000001     the same for a tag, which moves once
    │   └── refs.json                       a copy of the last moves, for readers that cannot
    │                                       list a folder (a static web server); never the truth
    └── tmp/                                what is being written, files and folders of files
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from hubstate.blobs import Blobs, make_folders, write_file
from hubstate.endpoints.base import Commit, Refs
from hubstate.endpoints.moves import Move, last_move
from hubstate.endpoints.records import dump_commit, dump_record, parse_commit, parse_record
from hubstate.errors import Conflict, DigestMismatch, InvalidSetting, RepositoryNotFound
from hubstate.reference import quote_name, unquote_name

__all__ = ["Kind", "Shelf", "commit_id"]

MARK = "hubstate-registry.json"
Kind = Literal["branches", "tags"]


def commit_id(data: bytes) -> str:
    """The id of a commit: the first 40 digits of the SHA-256 of its record."""
    return hashlib.sha256(data).hexdigest()[:40]


class Shelf:
    """The paths below one registry's root. Every method may raise OSError."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = Blobs(root)
        self._repos = root / "repos"

    def check(self) -> None:
        """Refuse a folder that is not a registry.

        Raises:
            RepositoryNotFound: there is nothing yet.
            Damaged: it is a registry of a schema that this version does not know.
        """
        try:
            parse_record((self.root / MARK).read_bytes(), what=str(self.root / MARK))
        except FileNotFoundError:
            raise RepositoryNotFound(
                f"there is no registry at {self.root} ({MARK} is not there): publish something "
                "to it, or name another one in HUBSTATE_REGISTRY"
            ) from None

    @property
    def scratch(self) -> Path | None:
        """The folder for temporary files; None where there is no registry, or none to write to."""
        place = self.blobs.temporaries
        if not (self.root / MARK).is_file() or not os.access(self.root, os.W_OK | os.X_OK):
            return None
        make_folders(place)
        return place if os.access(place, os.W_OK | os.X_OK) else None

    def create(self) -> None:
        """Make the folder a registry, unless it is one.

        Raises:
            InvalidSetting: it holds something else.
        """
        if (self.root / MARK).exists():
            return self.check()
        make_folders(self.root)
        others = [path.name for path in self.root.iterdir() if path.name not in (MARK, "tmp")]
        if others and not (self.root / MARK).exists():
            raise InvalidSetting(
                f"{self.root} is no registry, and holds other things ({others[0]!r}): expected "
                "a new or an empty folder"
            )
        return write_file(self.root / MARK, dump_record({}), temporaries=self.blobs.temporaries)

    def repo(self, name: str) -> Path:
        """The folder of a repository."""
        return self._repos / (name if "/" in name else f"_/{name}")

    def names(self) -> Iterator[str]:
        """Every repository in which something was published, in order."""
        for path in self.folders():
            if any(path.glob("branches/*/0*")) or any(path.glob("tags/*/0*")):
                yield self.name(path)

    def folders(self) -> list[Path]:
        """The folder of every repository, in order; with nothing in it if its making broke off."""
        return sorted(self._repos.glob("*/*"))

    @staticmethod
    def name(folder: Path) -> str:
        """The repository that a folder is of."""
        org = folder.parent.name
        return folder.name if org == "_" else f"{org}/{folder.name}"

    def claim(self, name: str) -> None:
        """Refuse a new repository whose name only differs in case from another's.

        Raises:
            Conflict: it does.
        """
        path = self.repo(name)
        for part in (path.parent, path):
            taken = [other.name for other in part.parent.glob("*") if _alike(other, part)]
            if taken:
                raise Conflict(
                    f"{name!r} differs in case only from {taken[0]!r}, which {self.root} has: "
                    "many file systems cannot keep them apart"
                )

    def commits(self, repo: str) -> list[str]:
        """The ids of every commit of a repository."""
        return sorted(path.stem for path in (self.repo(repo) / "commits").glob("*.json"))

    def commit(self, repo: str, id: str) -> Commit:
        """Read a commit and verify it against its id.

        Raises:
            Damaged: it is not what was written.
            FileNotFoundError: there is no such commit.
        """
        path = self.repo(repo) / "commits" / f"{id}.json"
        data = path.read_bytes()
        if commit_id(data) != id:
            raise DigestMismatch(f"{path}: expected commit {id}, found {commit_id(data)}")
        return parse_commit(data, repo=repo, id=id, what=str(path))

    def add_commit(self, commit: Commit) -> str:
        """Write a commit, not yet named by anything; its id."""
        data = dump_commit(commit)
        id = commit_id(data)
        path = self.repo(commit.repo) / "commits" / f"{id}.json"
        write_file(path, data, temporaries=self.blobs.temporaries, mode=0o444)
        return id

    def moves(self, repo: str, kind: Kind, name: str) -> Path:
        """The folder of a branch's or a tag's moves."""
        return self.repo(repo) / kind / quote_name(name)

    def last(self, repo: str, kind: Kind, name: str) -> Move | None:
        """Where a branch or a tag is now."""
        return last_move(self.moves(repo, kind, name))

    def refs(self, repo: str) -> Refs:
        """Where every branch and tag is now."""
        return Refs(branches=self._refs(repo, "branches"), tags=self._refs(repo, "tags"))

    def _refs(self, repo: str, kind: Kind) -> dict[str, str]:
        found = {}
        for folder in sorted((self.repo(repo) / kind).glob("*")):
            move = last_move(folder)
            if move and move.commit:
                found[unquote_name(folder.name)] = move.commit
        return found

    def write_refs(self, repo: str) -> None:
        """Bring ``refs.json`` up to date, also when others move references meanwhile."""
        refs, written = self.refs(repo), None
        while refs != written:  # whoever writes last has looked after writing
            data = dump_record({"branches": refs.branches, "tags": refs.tags})
            write_file(self.repo(repo) / "refs.json", data, temporaries=self.blobs.temporaries)
            refs, written = self.refs(repo), refs


def _alike(other: Path, part: Path) -> bool:
    return other.name != part.name and other.name.casefold() == part.name.casefold()
