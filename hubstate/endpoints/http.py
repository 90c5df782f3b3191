"""A registry behind HTTP: its name, under which the cache keeps what came from it.

Requests are not made by this version: what the cache has can be used, offline or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import NoReturn

from hubstate.endpoints.base import TIP, Changes, Commit, Refs, Stream
from hubstate.errors import Unreachable
from hubstate.reference import Reference

__all__ = ["HttpEndpoint"]


class HttpEndpoint:
    """The registry at a URL.

    >>> HttpEndpoint("https://registry.example/").name
    'https://registry.example'
    """

    def __init__(self, url: str) -> None:
        self._name = url.rstrip("/")

    def __repr__(self) -> str:
        return f"HttpEndpoint({self._name!r})"

    @property
    def name(self) -> str:
        """The URL without a slash at its end."""
        return self._name

    @property
    def remote(self) -> bool:
        """True: the offline setting forbids asking it."""
        return True

    def _refuse(self, what: str) -> NoReturn:
        raise Unreachable(
            f"{self._name}: {what} needs a request, and this version makes none: name a folder "
            "registry in HUBSTATE_REGISTRY"
        )

    def resolve(self, reference: Reference) -> Commit:
        """Not in this version.

        Raises:
            Unreachable: always.
        """
        self._refuse(f"resolving {reference}")

    def read(
        self,
        commit: Commit,
        path: str,
        *,
        start: int = 0,
        stop: int | None = None,
    ) -> AbstractContextManager[Stream]:
        """Not in this version.

        Raises:
            Unreachable: always.
        """
        self._refuse(f"fetching {path} of {commit.repo}")

    def repositories(self, pattern: str = "*") -> Iterator[str]:
        """Not in this version.

        Raises:
            Unreachable: always.
        """
        self._refuse(f"listing {pattern}")

    def refs(self, repo: str) -> Refs:
        """Not in this version.

        Raises:
            Unreachable: always.
        """
        self._refuse(f"listing the branches of {repo}")

    def history(self, reference: Reference) -> Iterator[Commit]:
        """Not in this version.

        Raises:
            Unreachable: always.
        """
        self._refuse(f"the history of {reference}")

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
        """Not in this version.

        Raises:
            Unreachable: always.
        """
        self._refuse(f"publishing {repo}")

    def tag(self, repo: str, tag: str, *, commit: str, author: str) -> None:
        """Not in this version.

        Raises:
            Unreachable: always.
        """
        self._refuse(f"tagging {repo}")
