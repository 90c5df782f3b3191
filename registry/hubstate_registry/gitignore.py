"""Which paths a ``.gitignore`` at the root leaves out, by the rules of gitignore(5).

Matched segment by segment: the rules and the paths are the caller's, and a pattern made for it
could keep an engine that takes a whole path at once busy for years. What is left, many rules times
many deep paths, has an end as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import translate

from hubstate_registry.errors import BadRequest

__all__ = ["Ignore"]

_RULES, _LENGTH, _STARS = 1000, 500, 8
_STEPS = 2_000_000  # about a second; 256 files under a hundred rules take a tenth of it
_Part = Callable[[str], object] | None
"""Whether a segment fits; None stands for ``**``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    negated: bool
    folder: bool
    parts: Sequence[_Part]


class Ignore:
    """The rules of one file; the last that matches decides.

    >>> ignore = Ignore("*.log\\n!keep.log\\nbuild/")
    >>> [ignore.matches(path) for path in ("a/x.log", "keep.log", "build/x", "build")]
    [True, False, True, False]
    """

    def __init__(self, text: str) -> None:
        lines = [line.rstrip() for line in text.splitlines()[:_RULES] if len(line) <= _LENGTH]
        self._rules = [_rule(line) for line in lines if line.strip("/!") and line[0] != "#"]
        self._steps = 0

    def matches(self, path: str) -> bool:
        """Whether the rules leave this file out.

        Raises:
            BadRequest: all that was asked so far takes too long.
        """
        ignored, parts = False, path.split("/")
        for rule in self._rules:
            if self._matches(rule, parts):
                ignored = not rule.negated
        return ignored

    def _matches(self, rule: _Rule, parts: Sequence[str]) -> bool:
        """Whether the rule names the path or a folder above it: how far it can reach, by steps."""
        ends = {0}
        for number, fits in enumerate(rule.parts):
            if fits is None:
                inside = number == len(rule.parts) - 1  # "a/**" is what is in a, not a itself
                ends = set(range(min(ends) + inside, len(parts) + 1))
            else:
                ends = {at + 1 for at in ends if at < len(parts) and fits(parts[at])}
            self._count(len(ends) + 1)
            if not ends:
                return False
        return bool(ends - {len(parts)}) if rule.folder else True

    def _count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > _STEPS:
            raise BadRequest("so many rules of .gitignore for so many files take too long here")


def _rule(line: str) -> _Rule:
    text = line.removeprefix("!")
    parts = text.strip("/").split("/")
    if "/" not in text.rstrip("/"):
        parts = ["**", *parts]
    return _Rule(
        negated=line.startswith("!"), folder=text.endswith("/"), parts=list(map(_part, parts))
    )


def _part(pattern: str) -> _Part:
    if pattern == "**":
        return None
    if not set(pattern) & set("*?["):
        return pattern.__eq__
    if pattern.replace("**", "*").count("*") > _STARS:  # nobody means this
        return "".__eq__  # no segment is empty
    return re.compile(translate(pattern)).match
