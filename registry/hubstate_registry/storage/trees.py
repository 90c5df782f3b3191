"""The files of a commit, and the object ids that git would give them.

A tree is stored with its commit, whole, as zlib-compressed JSON::

    [[path, sha256, size, git object id, large, id of the commit that last changed it], …]

sorted by path. Clients compare object ids to find out what changed, so they must be git's:
of the content for a small file, of the LFS pointer for a large one.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from operator import attrgetter
from typing import NamedTuple

__all__ = ["Entry", "Tree", "git_oid", "large_entry", "pointer", "small_entry"]


class Entry(NamedTuple):
    """One file of a commit, in the order of the stored form."""

    path: str
    sha256: str
    size: int
    oid: str
    large: bool
    changed: str = ""
    """The commit that brought this content; empty until it is committed."""

    @property
    def etag(self) -> str:
        """What the stock client caches the file under."""
        return self.sha256 if self.large else self.oid


def git_oid(kind: str, content: bytes) -> str:
    """The id that git gives an object.

    >>> git_oid("blob", b"")
    'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    header = f"{kind} {len(content)}\0".encode()
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """The LFS pointer file, version 1."""
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return text.encode()


def small_entry(path: str, content: bytes) -> Entry:
    """A file that came inside a commit body."""
    return Entry(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        oid=git_oid("blob", content),
        large=False,
    )


def large_entry(path: str, *, sha256: str, size: int) -> Entry:
    """A file that came by LFS or Xet."""
    oid = git_oid("blob", pointer(sha256, size))
    return Entry(path=path, sha256=sha256, size=size, oid=oid, large=True)


class Tree(Mapping[str, Entry]):
    """The files of one commit by path; never changes."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        ordered = sorted(entries, key=attrgetter("path"))
        self._entries = {entry.path: entry for entry in ordered}

    def __getitem__(self, path: str) -> Entry:
        return self._entries[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @classmethod
    def load(cls, data: bytes) -> Tree:
        """Read the stored form."""
        return cls(map(Entry._make, json.loads(zlib.decompress(data))))

    def dump(self) -> bytes:
        """The stored form."""
        rows = list(self.values())
        return zlib.compress(json.dumps(rows, separators=(",", ":")).encode(), 6)

    def under(self, folder: str) -> Iterator[Entry]:
        """The files below a folder, at any depth; the root is ``""``."""
        if not folder:
            return iter(self.values())
        start, stop = (bisect_left(self._paths, folder + end) for end in ("/", "0"))  # "0" is next
        return (self._entries[path] for path in self._paths[start:stop])

    def stamped(self, commit: str) -> Tree:
        """The tree in which every new entry says that ``commit`` brought it."""
        return Tree(e if e.changed else e._replace(changed=commit) for e in self.values())

    @cached_property
    def _paths(self) -> Sequence[str]:
        return list(self._entries)

    @cached_property
    def folders(self) -> Mapping[str, str]:
        """Every folder, the root as ``""``, with the id that git would give its tree."""
        children: dict[str, dict[str, tuple[bool, str]]] = {"": {}}
        for entry in self.values():
            folder, _, name = entry.path.rpartition("/")
            for ancestor in _ancestors(entry.path):
                children.setdefault(ancestor, {})
            children[folder][name] = (False, entry.oid)
        oids: dict[str, str] = {}
        for folder in sorted(children, key=lambda path: (-path.count("/"), path == "", path)):
            oids[folder] = git_oid("tree", _tree_object(children[folder]))
            if folder:
                above, _, name = folder.rpartition("/")
                children[above][name] = (True, oids[folder])
        return oids

    @cached_property
    def listings(self) -> Mapping[str, tuple[str, ...]]:
        """The names in each folder, as full paths in order."""
        found: dict[str, list[str]] = {folder: [] for folder in self.folders}
        for path in [*self, *(folder for folder in self.folders if folder)]:
            found[path.rpartition("/")[0]].append(path)
        return {folder: tuple(sorted(paths)) for folder, paths in found.items()}


def _ancestors(path: str) -> Iterator[str]:
    while path:
        path = path.rpartition("/")[0]
        yield path


def _tree_object(children: Mapping[str, tuple[bool, str]]) -> bytes:
    """git's tree: sorted as if folders ended in a slash."""

    def key(name: str) -> bytes:
        return name.encode() + (b"/" if children[name][0] else b"")

    return b"".join(
        (b"40000 " if children[name][0] else b"100644 ")
        + name.encode()
        + b"\0"
        + bytes.fromhex(children[name][1])
        for name in sorted(children, key=key)
    )
