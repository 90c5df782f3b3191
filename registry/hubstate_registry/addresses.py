"""What an address says: a rule with the words of its path, and the query; or where it is now."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_plus

from hubstate_registry.errors import BadRequest
from hubstate_registry.names import RepoId, parse_repo

if TYPE_CHECKING:
    from hubstate_registry.dispatch import Rule

__all__ = ["Moved", "Place", "Query"]


class Moved(Exception):
    """The repository is elsewhere; the answer is a redirect that keeps method and body."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.location = location


class Place:
    """What a path names; the same for all who ask for it."""

    def __init__(self, rule: Rule, words: Mapping[str, str]) -> None:
        self.rule = rule
        self.raw_repo = words.get("repo", "")
        """The repository's id as it stands in the path, percent-encoded."""
        self._words = words

    @cached_property
    def params(self) -> Mapping[str, str]:
        """The words of the path, decoded.

        Raises:
            BadRequest: one of them is no text.
        """
        return {name: _decode(value) for name, value in self._words.items()}

    @cached_property
    def id(self) -> RepoId:
        """The repository's id.

        Raises:
            BadRequest: it is none.
        """
        return parse_repo(self.params["repo"])

    @cached_property
    def revision(self) -> str:
        """The revision, ``main`` if the path has none."""
        return self.params.get("revision") or "main"


class Query(dict[str, str]):
    """The query of an address; of several values of a name, the last one counts."""

    def __init__(self, text: bytes) -> None:
        self._pairs = [_pair(part) for part in text.decode("latin-1").split("&") if part]
        super().__init__(self._pairs)

    def getlist(self, name: str) -> list[str]:
        """All values of a name."""
        return [value for key, value in self._pairs if key == name] if name in self else []


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if "%" in text or "+" in text:
        return unquote_plus(name), unquote_plus(value)
    return name, value


def _decode(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise BadRequest("the address is not UTF-8") from error
