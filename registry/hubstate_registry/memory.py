"""What is known of the database, until the database says that it has changed.

Most requests of a registry ask the same few things again. SQLite says cheaply whether any
connection, of this process or another, has committed since (``PRAGMA data_version``); if one has,
a journal that the database's own triggers write says to which repositories. What is known of those
is forgotten, and what is known of the others stays: a request that begins after a change was
acknowledged never sees what was before it.

Nothing here depends on who asks, but for the facts about everything, whose keys say it. Whether a
caller may know of a repository is found out anew for each request.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Hashable
from contextlib import nullcontext
from typing import cast

from hubstate_registry.auth import Principal
from hubstate_registry.names import RepoId
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.glance import Glance
from hubstate_registry.storage.repositories import Repository

__all__ = ["Facts", "Known", "Memory", "Principals"]

_MOST_BYTES = 32 << 20
_MOST_PRINCIPALS = 4096
_SMALL = 1024  # bytes that keeping anything takes, roughly


class Facts(dict[Hashable, object]):
    """What was found out since something last changed.

    A thread that is still at work when this is forgotten goes on with what it has, and what it
    keeps then is where nobody looks any more.
    """

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self._memory = memory

    def keep(self, key: Hashable, value: object, *, size: int = 0) -> None:
        """Remember one thing, which has about ``size`` bytes."""
        if size <= _MOST_BYTES // 16:
            self[key] = value
            self._memory.bytes += _SMALL + size


class Known:
    """A repository, and what was found out since it last changed."""

    __slots__ = ("facts", "repository")

    def __init__(self, repository: Repository, facts: Facts) -> None:
        self.repository = repository
        self.facts = facts


class Principals:
    """For whom tokens speak, since any account last changed. Tokens are not kept, digests are."""

    def __init__(self) -> None:
        self._found: dict[bytes, Principal] = {}

    def find(self, header: bytes) -> Principal | None:
        """Who this Authorization header is known to speak for, if it has not expired meanwhile."""
        found = self._found.get(hashlib.sha256(header).digest())
        if found is not None and found.expires is not None and found.expires <= time.time():
            return None
        return found

    def keep(self, header: bytes, principal: Principal) -> None:
        """Remember who this header speaks for."""
        if len(self._found) < _MOST_PRINCIPALS:
            self._found[hashlib.sha256(header).digest()] = principal


class Memory:
    """What is remembered for all requests; only the event loop's thread asks for it."""

    def __init__(self, glance: Glance) -> None:
        self._glance = glance
        self.view = nullcontext(cast(Connection, glance))
        """What routes read in the event loop, in place of a connection."""
        self._version: int | None = None
        self._seen = 0  # how far the journal was read
        self._forget()

    def refresh(self) -> None:
        """Forget what is no longer so. Call it first for each request."""
        version = self._glance.version()
        if version != self._version:
            self._follow()
            self._version = version
        if self.bytes > _MOST_BYTES:
            self._forget()

    def find(self, id: RepoId) -> Known | None:
        """The repository that has this id in any spelling, if it is known."""
        return self._known.get(id.key)

    def learn(self, repository: Repository) -> Known:
        """Note that there is this repository. Find it out in the thread that refreshes."""
        self._drop(repository.number)  # it may have moved since the last look
        known = self._known[repository.id.key] = Known(repository, Facts(self))
        self._keys[repository.number] = repository.id.key
        self.bytes += _SMALL
        return known

    def _follow(self) -> None:
        changes = self._glance.changes(since=self._seen)
        if changes is None:
            self._seen = self._glance.newest_change()
            self._forget()
        elif changes:
            self._seen += len(changes)
            self.anything = Facts(self)
            for number in changes:
                self._drop(number)

    def _drop(self, number: int) -> None:
        self._known.pop(self._keys.pop(number, ""), None)

    def _forget(self) -> None:
        self.anything = Facts(self)
        """What was found out since anything at all changed."""
        self.principals = Principals()
        self._known: dict[str, Known] = {}
        self._keys: dict[int, str] = {}
        self.bytes = 0
        """What all of it takes, roughly; of what was forgotten since, too."""
