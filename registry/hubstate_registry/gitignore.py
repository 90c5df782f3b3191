"""Which paths a ``.gitignore`` at the root leaves out, by the rules of gitignore(5)."""

from __future__ import annotations

import re

__all__ = ["Ignore"]


class Ignore:
    """The rules of one file; the last that matches decides.

    >>> ignore = Ignore("*.log\\n!keep.log\\nbuild/")
    >>> [ignore.matches(path) for path in ("a/x.log", "keep.log", "build/x", "build")]
    [True, False, True, False]
    """

    def __init__(self, text: str) -> None:
        lines = [line.rstrip() for line in text.splitlines()[:1000] if len(line) <= 500]
        self._rules = [
            (line.startswith("!"), re.compile(_regex(line.removeprefix("!"))))
            for line in lines
            if line and not line.startswith("#")
        ]

    def matches(self, path: str) -> bool:
        """Whether the rules leave this file out."""
        ignored = False
        for negated, regex in self._rules:
            if regex.match(path):
                ignored = not negated
        return ignored


def _regex(rule: str) -> str:
    folder = rule.endswith("/")
    rule = rule.rstrip("/")
    anchored = "/" in rule
    body = "".join(_piece(piece) for piece in re.findall(r"\*\*/|/\*\*|\*+|\?|.", rule.lstrip("/")))
    start = "" if anchored else "(?:.*/)?"
    return f"{start}{body}/" if folder else f"{start}{body}(?:/|\\Z)"


def _piece(piece: str) -> str:
    if piece == "**/":
        return "(?:.*/)?"
    if piece == "/**":
        return "/.*"
    if piece.startswith("*"):
        return "[^/]*"
    return "[^/]" if piece == "?" else re.escape(piece)
