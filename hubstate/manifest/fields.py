"""Checked access to the fields of a JSON object, with errors that name the place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from hubstate.digest import Digest
from hubstate.errors import InvalidManifest
from hubstate.header import is_sizes
from hubstate.manifest.document import NAME
from hubstate.strictjson import at

__all__ = ["Fields", "Wrong", "fail"]

_ABSENT: Any = object()


class Wrong(Exception):
    """A field that is not what it must be; whoever knows the place makes the error of it."""

    def __init__(self, key: str, expected: str, found: object) -> None:
        super().__init__(key, expected, found)
        self.key, self.expected, self.found = key, expected, found

    def within(self, place: str) -> InvalidManifest:
        """The error, now that the place is known."""
        where = at(place, self.key) if self.key else place
        return InvalidManifest(
            f"{NAME}: {where}: expected {self.expected}, found {show(self.found)}"
        )


def fail(place: str, expected: str, found: object) -> NoReturn:
    """Raise InvalidManifest for the value at a place."""
    raise Wrong("", expected, found).within(place)


def show(value: object) -> str:
    """A value in few words, however large it is."""
    if value is _ABSENT:
        return "nothing"
    if isinstance(value, dict | list):
        word = "an object" if isinstance(value, dict) else "a list"
        return f"{word} of {len(value)}"
    text = repr(value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 80 else text[:79] + "…"


class Fields:
    """An object of the manifest; each method takes one field, of one type."""

    def __init__(self, value: Any, place: str) -> None:
        if type(value) is not dict:
            fail(place or "manifest", "an object", value)
        self.value: dict[str, Any] = value
        self.place = place

    def check_keys(self, known: set[str], *, newer: bool) -> None:
        """Refuse unknown keys, unless the manifest is of a newer minor version, which adds some."""
        if not newer and (unknown := self.value.keys() - known):
            fail(self.place or "manifest", f"only the keys {sorted(known)}", min(unknown))

    def text(self, key: str, default: str = _ABSENT, *, limit: int = 4096) -> str:
        value = self.value.get(key, default)
        if type(value) is not str or len(value) > limit:
            self.wrong(key, f"text of at most {limit} characters", value)
        return value

    def integer(self, key: str) -> int:
        value = self.value.get(key, _ABSENT)
        if type(value) is not int or value < 0:
            self.wrong(key, "an integer from 0", value)
        return value

    def number(self, key: str) -> float:
        value = self.value.get(key, _ABSENT)
        if type(value) not in (int, float) or value < 0:
            self.wrong(key, "a number from 0", value)
        return float(value)

    def sizes(self, key: str) -> tuple[int, ...]:
        value = self.value.get(key, _ABSENT)
        if not is_sizes(value):
            self.wrong(key, "a list of sizes", value)
        return tuple(value)

    def digest(self, key: str) -> Digest:
        value = self.value.get(key, _ABSENT)
        try:
            return Digest.parse(value)
        except (ValueError, AttributeError, TypeError):
            self.wrong(key, "sha256: and 64 hex digits", value)

    def items(self, key: str, default: list[Any] = _ABSENT) -> list[Any]:
        value = self.value.get(key, default)
        if type(value) is not list:
            self.wrong(key, "a list", value)
        return value

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self.value.get(key, {})
        if type(value) is not dict:
            self.wrong(key, "an object", value)
        return value

    def objects(self, key: str, default: list[Any] = _ABSENT) -> Iterator[Fields]:
        for index, item in enumerate(self.items(key, default)):
            yield Fields(item, at(at(self.place, key), index))

    def optional(self, key: str) -> Fields | None:
        value = self.value.get(key)
        return None if value is None else Fields(value, at(self.place, key))

    def wrong(self, key: str, expected: str, found: object) -> NoReturn:
        raise Wrong(key, expected, found).within(self.place)
