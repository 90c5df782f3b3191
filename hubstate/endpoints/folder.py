"""A registry that is a folder: no server, safe for several writers, on local disks and on NFS.

What lies where is drawn in :mod:`hubstate.endpoints.shelf`. A commit is made in this order,
each step on the disk before the next begins, so that a kill or a power cut at any point leaves
the last release as it was::

    blobs ──► commit record ──► move of the branch ──► move of the tag ──► refs.json
                                └ from here on the release is there

Whoever is killed before that leaves blobs and a record that nothing names;
:func:`hubstate.endpoints.sweeping.sweep` removes them a day later.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hubstate.blobs import Stream, reachable
from hubstate.endpoints.base import TIP, Changes, Commit, Refs, matching
from hubstate.endpoints.shelf import Kind, Shelf
from hubstate.errors import (
    Damaged,
    FileNotInRelease,
    RepositoryNotFound,
    RevisionNotFound,
)
from hubstate.reference import Reference, check_repo

__all__ = ["FolderEndpoint"]

_KINDS: tuple[Kind, ...] = ("branches", "tags")


class FolderEndpoint:
    """The registry in a folder, which is made one when something is first published to it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     registry = FolderEndpoint(Path(folder))
    ...     commit = registry.commit("org/name", {"a.txt": b"1"}, message="First", author="ada")
    ...     registry.resolve(Reference.parse("org/name")) == commit
    True
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow links
        self._shelf = Shelf(self.root)

    def __repr__(self) -> str:
        return f"FolderEndpoint({str(self.root)!r})"

    @property
    def name(self) -> str:
        """The folder as a ``file://`` URL."""
        return self.root.as_uri()

    @property
    def remote(self) -> bool:
        """False: a folder takes no network of ours, so that it works offline too."""
        return False

    @property
    def scratch(self) -> Path | None:
        """The folder for temporary files of a registry that is there and can be written."""
        return self._shelf.scratch

    # Reading

    def ask_ahead(self, references: Sequence[Reference]) -> int:
        """0: each answer takes a few reads."""
        return 0

    def holds(self, commit: Commit, path: str) -> bool:
        """False: what is read is on the disk."""
        return False

    def resolve(self, reference: Reference) -> Commit:
        """The commit that a reference means now; a branch goes before a tag of the same name.

        Raises:
            Unreachable: the folder is no registry or cannot be read.
            RepositoryNotFound: nothing was published under that name.
            RevisionNotFound: no branch, tag or commit of that name, or several commits.
            Damaged: a record is not what was written.
        """
        with reachable(f"{self.root}: cannot read {reference}"):
            return self._commit(reference, self._find(reference))

    def _find(self, reference: Reference) -> str:
        if reference.commit:
            return reference.commit
        if reference.manifest:
            return self._find_manifest(reference)
        for kind in _KINDS:
            move = self._shelf.last(reference.repo, kind, reference.revision)
            if move and move.commit:
                return move.commit
        return self._find_prefix(reference)

    def _find_manifest(self, reference: Reference) -> str:
        commits = (self._shelf.commit(reference.repo, id) for id in self._ids(reference))
        found = [commit for commit in commits if commit.manifest == reference.manifest]
        if not found:
            raise self._not_found(reference)
        return max(found, key=lambda commit: commit.date).id

    def _find_prefix(self, reference: Reference) -> str:
        prefix = reference.prefix
        found = [id for id in self._ids(reference) if prefix and id.startswith(prefix)]
        if len(found) > 1:
            raise RevisionNotFound(f"{reference} may be any of {', '.join(found)}")
        if not found:
            raise self._not_found(reference)
        return found[0]

    def _ids(self, reference: Reference) -> list[str]:
        return self._shelf.commits(reference.repo)

    def _commit(self, reference: Reference, id: str) -> Commit:
        try:
            return self._shelf.commit(reference.repo, id)
        except FileNotFoundError:
            pass
        if reference.commit:
            raise self._not_found(reference)
        raise Damaged(f"{self.root}: {reference} names commit {id}, whose record is missing")

    def _not_found(self, reference: Reference) -> RepositoryNotFound | RevisionNotFound:
        self._shelf.check()
        refs = self._shelf.refs(reference.repo)
        known = [*refs.branches, *refs.tags]
        if known:
            names = ", ".join(known[:10]) + (", …" if len(known) > 10 else "")
            return RevisionNotFound(f"{reference}: no such revision in {self.root}; it has {names}")
        names = ", ".join(self._alike(reference.repo)) or "nothing of a similar name"
        return RepositoryNotFound(
            f"{reference.repo}: no such repository in {self.root}; it has {names}"
        )

    def _alike(self, repo: str) -> list[str]:
        import difflib

        return difflib.get_close_matches(repo, self._shelf.names(), n=5)

    @contextmanager
    def read(
        self, commit: Commit, path: str, *, start: int = 0, stop: int | None = None
    ) -> Iterator[Stream]:
        """The bytes of one file from ``start``, up to ``stop`` where it is given.

        Raises:
            FileNotInRelease: the commit has no such file.
            Unreachable: its blob cannot be read.
        """
        info = commit.files.get(path)
        if info is None or info.digest is None:
            raise FileNotInRelease(f"{commit.repo}@{commit.id}: no file {path!r}")
        what = f"{self.root}: cannot read {path} of {commit.repo}@{commit.id}"
        with reachable(what):
            file = _File(self._shelf.blobs.path(info.digest), what)
        with file:
            file.seek(start)
            yield file if stop is None else _Window(file, stop - start)

    def repositories(self, pattern: str = "*") -> Iterator[str]:
        """The repositories in which something was published; none where there is no registry.

        Raises:
            Unreachable: the folder cannot be read.
        """
        with reachable(f"{self.root}: cannot list repositories"):
            yield from matching(self._shelf.names(), pattern)

    def refs(self, repo: str) -> Refs:
        """The branches and tags of a repository.

        Raises:
            RepositoryNotFound: nothing was published under that name.
            Unreachable: the folder cannot be read.
        """
        with reachable(f"{self.root}: cannot read {repo}"):
            refs = self._shelf.refs(check_repo(repo))
            if not refs.branches and not refs.tags:
                raise self._not_found(Reference(repo=repo))
            return refs

    def history(self, reference: Reference) -> Iterator[Commit]:
        """A commit and those before it, the newest first.

        Raises:
            Damaged: a record is missing or not what was written.
        """
        commit = self.resolve(reference)
        yield commit
        while commit.parent:
            with reachable(f"{self.root}: cannot read {reference}"):
                commit = self._commit(reference, commit.parent)
            yield commit

    # Writing

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
        """Change files on a branch, all at once; see :meth:`Endpoint.commit`.

        Raises:
            Conflict: somebody else moved the branch, or the tag names another commit.
            InvalidReference: a name or a path that cannot be stored.
            InvalidSetting: the folder holds something that is no registry.
            RevisionNotFound: the parent is no commit of the repository.
            Unreachable: the folder cannot be written, or a file not read.
        """
        from hubstate.endpoints.writing import write_commit  # here, as few processes write

        return write_commit(
            self._shelf,
            repo,
            changes,
            message=message,
            author=author,
            branch=branch,
            parent=parent,
            tag=tag,
        )

    def tag(self, repo: str, tag: str, *, commit: str, author: str) -> None:
        """Name a commit for ever; nothing happens where the tag names it already.

        Raises:
            Conflict: the tag names another commit, or is a branch.
            RevisionNotFound: there is no such commit.
            Unreachable: the folder cannot be written.
        """
        from hubstate.endpoints.writing import set_tag

        found = self.resolve(Reference(repo=repo, revision=commit))
        set_tag(self._shelf, found, tag, author=author)


class _File(io.FileIO):
    """A file; errors in reading name the one that was asked for."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(path)
        self._what = what

    def readinto(self, buffer: Any, /) -> int | None:
        with reachable(self._what):
            return super().readinto(buffer)


class _Window:
    """The next bytes of an open file."""

    def __init__(self, file: io.FileIO, left: int) -> None:
        self._file = file
        self._left = left

    def readinto(self, buffer: memoryview, /) -> int | None:
        count = self._file.readinto(buffer[: self._left]) or 0
        self._left -= count
        return count
