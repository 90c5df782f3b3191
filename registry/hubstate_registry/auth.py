"""Who is calling, and what they may do.

A caller's role in a namespace is the lesser of two: what the *user* is there (administrator of
the registry, owner of the namespace, or member of the organisation) and what the *token* allows
there. Without a token a caller may read public repositories, if the registry allows that.

Roles, each including those before it:
    read   read private repositories
    write  create repositories, commit, move branches and tags
    admin  delete, move and change the settings of repositories

A repository that a caller may not read is answered for exactly as one that does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

__all__ = ["ANONYMOUS", "Principal", "Role"]


class Role(IntEnum):
    """What a caller may do in a namespace."""

    NONE = 0
    READ = 1
    WRITE = 2
    ADMIN = 3

    @classmethod
    def parse(cls, text: str) -> Role:
        """Read ``read``, ``write`` or ``admin``; any other word is no role."""
        return {"read": cls.READ, "write": cls.WRITE, "admin": cls.ADMIN}.get(text, cls.NONE)

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller, as their token describes them.

    >>> someone = Principal(user="ada", scopes={"*": Role.WRITE}, memberships={"lab": Role.READ})
    >>> str(someone.role("ada")), str(someone.role("lab")), str(someone.role("other"))
    ('write', 'read', 'none')
    """

    user: str | None = None
    token: str = ""
    token_name: str = ""
    admin: bool = False
    scopes: Mapping[str, Role] = field(default_factory=dict)
    memberships: Mapping[str, Role] = field(default_factory=dict)
    expires: float | None = None

    def role(self, namespace: str) -> Role:
        """What this caller may do in a namespace."""
        if self.user is None:
            return Role.NONE
        owner = self.admin or namespace == self.user
        user = Role.ADMIN if owner else self.memberships.get(namespace, Role.NONE)
        token = max(self.scopes.get(namespace, Role.NONE), self.scopes.get("*", Role.NONE))
        return min(user, token)

    @property
    def is_operator(self) -> bool:
        """Whether this token administers the whole registry."""
        return self.admin and self.scopes.get("*", Role.NONE) is Role.ADMIN

    @property
    def best(self) -> Role:
        """The strongest role that the token gives anywhere."""
        return max(self.scopes.values(), default=Role.NONE)

    @property
    def readable(self) -> frozenset[str] | None:
        """The namespaces whose private repositories this caller reads; None means all."""
        if self.admin and "*" in self.scopes:
            return None
        names = {*self.memberships, *self.scopes, self.user or ""} - {"*"}
        return frozenset(name for name in names if self.role(name) >= Role.READ)


ANONYMOUS = Principal()
