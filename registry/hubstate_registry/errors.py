"""Every refusal of the registry, in one tree, each with the answer that a client gets.

::

    RegistryError
    ├── BadRequest           400
    │   └── ContentMismatch  422  bytes that do not hash to their name, or have another size
    ├── Unauthorized         401  a token that means nothing (not a missing repository)
    ├── Forbidden            403  a known caller who may read, but not do this
    │   └── Gated            403  GatedRepo: a member of the namespace may, this caller may not
    ├── RepoNotFound         404  RepoNotFound: absent, or private to others; never says which
    ├── RevisionNotFound     404  RevisionNotFound
    ├── EntryNotFound        404  EntryNotFound, with X-Repo-Commit
    ├── NoSuchRoute          404  NotSupported: a part of the protocol that is not spoken here
    ├── Conflict             409  the name is taken
    ├── StaleParent          412  somebody else committed first
    ├── TooLarge             413
    ├── TooSlow              408
    ├── TooMany              429  with Retry-After
    ├── Full                 507  the disk is full
    └── Busy                 503  with Retry-After: the database is locked for too long

The stock client reads ``X-Error-Code`` and ``X-Error-Message`` and little else.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "BadRequest",
    "Busy",
    "Conflict",
    "ContentMismatch",
    "EntryNotFound",
    "Forbidden",
    "Full",
    "Gated",
    "NoSuchRoute",
    "RegistryError",
    "RepoNotFound",
    "RevisionNotFound",
    "StaleParent",
    "TooLarge",
    "TooMany",
    "TooSlow",
    "Unauthorized",
]


class RegistryError(Exception):
    """The root of every refusal."""

    status = 500
    code: str | None = None

    def __init__(self, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.headers: Mapping[str, str] = headers or {}
        self.body: Mapping[str, object] = {}


class BadRequest(RegistryError):
    """A request that cannot be read or means nothing."""

    status = 400


class ContentMismatch(BadRequest):
    """Bytes that do not hash to their name, or have another size; nothing was stored."""

    status = 422


class Unauthorized(RegistryError):
    """A token or signature that is unknown, expired or revoked."""

    status = 401


class Forbidden(RegistryError):
    """The caller may read this and may not do what was asked."""

    status = 403


class Gated(Forbidden):
    """The files of a gated repository are for members of its namespace."""

    code = "GatedRepo"


class RepoNotFound(RegistryError):
    """No such repository, or none that this caller may know of."""

    status = 404
    code = "RepoNotFound"

    def __init__(self, repo: str) -> None:
        super().__init__(f"Repository not found, or your token may not read it: {repo}")


class RevisionNotFound(RegistryError):
    """The repository has no such branch, tag or commit."""

    status = 404
    code = "RevisionNotFound"

    def __init__(self, revision: str) -> None:
        super().__init__(f"Invalid rev id: {revision}")


class EntryNotFound(RegistryError):
    """The commit has no such file or folder."""

    status = 404
    code = "EntryNotFound"

    def __init__(self, message: str, *, commit: str) -> None:
        super().__init__(message, headers={"X-Repo-Commit": commit})


class NoSuchRoute(RegistryError):
    """A part of the hub protocol that this server does not speak."""

    status = 404
    code = "NotSupported"


class Conflict(RegistryError):
    """The name is taken; a repository's answer says where it is."""

    status = 409

    def __init__(self, message: str, *, url: str | None = None) -> None:
        super().__init__(message)
        self.body = {"url": url} if url else {}


class StaleParent(RegistryError):
    """The branch has moved past the parent that the caller named; nothing was committed."""

    status = 412


class TooLarge(RegistryError):
    """A body, a line, a file or a list over its limit."""

    status = 413


class TooSlow(RegistryError):
    """A body that did not arrive in time."""

    status = 408


class _Later(RegistryError):
    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message, headers={"Retry-After": str(max(1, round(retry_after)))})


class TooMany(_Later):
    """Over the rate limit."""

    status = 429


class Busy(_Later):
    """The database was locked for longer than its timeout."""

    status = 503


class Full(_Later):
    """The disk is full; nothing was stored."""

    status = 507
