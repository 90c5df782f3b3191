"""Which paths a ``.gitignore`` at the root leaves out, by the rules of gitignore(5).

Matched segment by segment, without regular expressions: the rules are the caller's, and a
pattern made for it could keep a backtracking engine busy for years.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

__all__ = ["Ignore"]

_RULES, _LENGTH, _STARS = 1000, 500, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    negated: bool
    folder: bool
    parts: Sequence[str]


class Ignore:
    """The rules of one file; the last that matches decides.

    >>> ignore = Ignore("*.log\\n!keep.log\\nbuild/")
    >>> [ignore.matches(path) for path in ("a/x.log", "keep.log", "build/x", "build")]
    [True, False, True, False]
    """

    def __init__(self, text: str) -> None:
        lines = [line.rstrip() for line in text.splitlines()[:_RULES] if len(line) <= _LENGTH]
        self._rules = [_rule(line) for line in lines if line.strip("/!") and line[0] != "#"]

    def matches(self, path: str) -> bool:
        """Whether the rules leave this file out."""
        ignored, parts = False, path.split("/")
        for rule in self._rules:
            if _matches(rule, parts):
                ignored = not rule.negated
        return ignored


def _rule(line: str) -> _Rule:
    text = line.removeprefix("!")
    parts = text.strip("/").split("/")
    if "/" not in text.rstrip("/"):
        parts = ["**", *parts]
    return _Rule(negated=line.startswith("!"), folder=text.endswith("/"), parts=parts)


def _matches(rule: _Rule, parts: Sequence[str]) -> bool:
    """Whether the rule names the path or a folder above it: how far it can reach, step by step."""
    ends = {0}
    for number, pattern in enumerate(rule.parts):
        if pattern == "**":
            inside = number == len(rule.parts) - 1  # "a/**" is what is in a, not a itself
            ends = set(range(min(ends) + inside, len(parts) + 1))
        else:
            ends = {at + 1 for at in ends if at < len(parts) and _fits(pattern, parts[at])}
        if not ends:
            return False
    return bool(ends - {len(parts)}) if rule.folder else True


def _fits(pattern: str, name: str) -> bool:
    if pattern.replace("**", "*").count("*") > _STARS:  # nobody means this; match nothing
        return False
    return fnmatchcase(name, pattern)
