"""What a registry can do, whatever it is: the seam between the hub and folders or servers."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from hubstate.blobs import FileInfo, Stream
from hubstate.digest import Digest
from hubstate.errors import InvalidReference
from hubstate.manifest import NAME as MANIFEST
from hubstate.reference import Reference
from hubstate.values import frozen

__all__ = [
    "MANIFEST",
    "OWN",
    "TIP",
    "Changes",
    "Commit",
    "Endpoint",
    "FileInfo",
    "Refs",
    "Stream",
    "apply_changes",
    "check_path",
    "check_paths",
    "matching",
]

OWN = frozenset({".gitattributes"})
"""What a hub server puts in a repository by itself."""

TIP: Final = "tip"
"""As a parent: whatever the branch names when the commit begins."""

Changes = Mapping[str, Path | bytes | None]
"""Files to write, by path, from a file or from memory; None removes one."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")


@frozen
class Commit:
    """A published, immutable state of a repository's files."""

    repo: str
    id: str
    """40 hex digits."""
    parent: str | None
    message: str
    author: str
    date: datetime
    files: Mapping[str, FileInfo]

    @property
    def manifest(self) -> Digest | None:
        """The digest of its ``hubstate.json``, where there is one and its digest is stated."""
        info = self.files.get(MANIFEST)
        return info.digest if info else None

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(info.size or 0 for info in self.files.values())


@frozen
class Refs:
    """Which commit each branch and each tag names."""

    branches: Mapping[str, str]
    tags: Mapping[str, str]


class Endpoint(Protocol):
    """A registry. Making one asks nothing of it: only its methods do.

    Every method raises Unreachable where the registry does not answer, and RepositoryNotFound,
    RevisionNotFound or FileNotInRelease where it has no such thing.
    """

    @property
    def name(self) -> str:
        """The URL that tells this registry from others, and the same in every process."""
        ...

    @property
    def remote(self) -> bool:
        """Whether asking it takes a network, which the offline setting forbids."""
        ...

    @property
    def scratch(self) -> Path | None:
        """A folder on the registry's own disk; what is published from below it is moved there."""
        ...

    def ask_ahead(self, references: Sequence[Reference]) -> int:
        """Find out what references mean, where that is quicker for many; of how many it was."""
        ...

    def resolve(self, reference: Reference) -> Commit:
        """The commit that a reference means now."""
        ...

    def holds(self, commit: Commit, path: str) -> bool:
        """Whether a file has come along already with an answer, so that reading it asks nobody."""
        ...

    def read(
        self, commit: Commit, path: str, *, start: int = 0, stop: int | None = None
    ) -> AbstractContextManager[Stream]:
        """The bytes of one file, or a range of them; whoever reads them verifies them."""
        ...

    def repositories(self, pattern: str = "*") -> Iterator[str]:
        """The repositories with something in them, by name; ``*`` and ``?`` as in a shell."""
        ...

    def refs(self, repo: str) -> Refs:
        """The branches and tags of a repository."""
        ...

    def history(self, reference: Reference) -> Iterator[Commit]:
        """A commit and those before it, the newest first."""
        ...

    def commit(
        self,
        repo: str,
        changes: Changes,
        *,
        message: str,
        author: str,
        branch: str = "main",
        parent: str | None = TIP,
        tag: str | None = None,
    ) -> Commit:
        """Change files on a branch, all at once; the repository is made where there is none.

        ``parent`` is the commit that the branch must still name; None where it must not exist
        yet; :data:`TIP` for whatever it names now. Changes that change nothing make no commit:
        the branch's own is returned, and still gets the tag.

        Raises:
            Conflict: the branch was moved by somebody else, or the tag names another commit.
        """
        ...

    def tag(self, repo: str, tag: str, *, commit: str, author: str) -> None:
        """Name a commit for ever; nothing happens where the tag names it already.

        Raises:
            Conflict: the tag names another commit.
        """
        ...


def check_path(path: str) -> str:
    """The path of a file in a repository, unchanged, once it is known to be harmless.

    Raises:
        InvalidReference: it is absolute, empty, or climbs out of the folder it is put in.
    """
    parts = path.split("/")
    if _CONTROL.search(path) or len(path) > 1000 or {"", ".", "..", ".git"} & set(parts):
        raise InvalidReference(
            f"file {path[:120]!r}: expected a relative path such as 'model.safetensors' or "
            "'onnx/model.onnx', with no '..', '.git', backslash or control character"
        )
    return path


def check_paths(paths: Mapping[str, object]) -> None:
    """Check every path, and that they can stand in one folder on every system.

    Raises:
        InvalidReference: a path that is not harmless, two that differ in case only, or a file
            where another path needs a folder.
    """
    seen: dict[str, str] = {}
    folders = {folder for path in paths for folder in _above(check_path(path).casefold())}
    for path in paths:
        key = path.casefold()
        if key in seen:
            raise InvalidReference(f"files {seen[key]!r} and {path!r} differ in case only")
        if key in folders:
            raise InvalidReference(f"file {path!r} is also the folder of another file")
        seen[key] = path


def _above(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def apply_changes(
    files: Mapping[str, FileInfo], changes: Mapping[str, FileInfo | None]
) -> Mapping[str, FileInfo]:
    """The files of a commit from those of its parent."""
    kept = {path: info for path, info in files.items() if path not in changes}
    written = {path: info for path, info in changes.items() if info is not None}
    return {**kept, **written}


def matching(names: Iterator[str], pattern: str) -> Iterator[str]:
    """The names that match a pattern, case and all."""
    return (name for name in names if fnmatch.fnmatchcase(name, pattern))
