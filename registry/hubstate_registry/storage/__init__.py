"""The registry's folder: one database, content-addressed files, one key.

::

    DIR/
    ├── registry.sqlite3        who, what, which commit (and -wal, -shm while it runs)
    ├── secret.key              signs upload addresses; 0600
    ├── blobs/sha256/ab/abcd…   the bytes of files (see blobs.py)
    ├── uploads/                what is arriving
    └── xorbs/                  what came by Xet (see hubstate_registry.xet)
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from threading import Lock

from hubstate_registry.signing import Signer
from hubstate_registry.storage import commits
from hubstate_registry.storage.blobs import BlobFolder
from hubstate_registry.storage.database import Connection, Database
from hubstate_registry.storage.glance import Glance
from hubstate_registry.storage.repositories import Repository
from hubstate_registry.storage.trees import Tree

__all__ = ["Storage"]

_CACHED_FILES = 200_000


class Storage:
    """Everything that outlives the process."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.files = BlobFolder(root)
        self.signer = Signer.open(root / "secret.key")
        self.database = Database(root / "registry.sqlite3")
        self.glance = Glance(self.database.path)
        self._trees: OrderedDict[tuple[int, str], Tree] = OrderedDict()
        self._weight = 0
        self._lock = Lock()

    def tree(self, connection: Connection | Glance, repository: Repository, *, commit: str) -> Tree:
        """The files of a commit, from memory where possible: a commit never changes.

        Raises:
            RevisionNotFound: the repository has no such commit.
            Beyond: a glance does not tell.
        """
        key = (repository.number, commit)
        with self._lock:
            if key in self._trees:
                self._trees.move_to_end(key)
                return self._trees[key]
        if isinstance(connection, Glance):
            tree = connection.tree(repository, commit=commit)
        else:
            tree = commits.load_tree(connection, repository, commit=commit)
        self._remember(key, tree)
        return tree

    def close(self) -> None:
        """Close the database."""
        self.glance.close()
        self.database.close()

    def _remember(self, key: tuple[int, str], tree: Tree) -> None:
        with self._lock:
            if key not in self._trees:
                self._trees[key] = tree
                self._weight += _weigh(tree)
            while len(self._trees) > 1 and self._weight > _CACHED_FILES:
                self._weight -= _weigh(self._trees.popitem(last=False)[1])


def _weigh(tree: Tree) -> int:
    return len(tree) + 4  # an empty one is not nothing
