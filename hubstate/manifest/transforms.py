"""The rules of a manifest: read, checked, and by name alone.

A pattern from elsewhere could be one that is tried for ever, so a manifest has none: each rule
names its tensors, and what it makes of them. They are written that way when a release is published.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hubstate.errors import InvalidManifest
from hubstate.manifest.document import NAME
from hubstate.manifest.fields import fail
from hubstate.rules import Rule, names_in, parse_rules, problems_of
from hubstate.strictjson import at

__all__ = ["read_transforms"]

_MOST = 4096  # rules; each is applied to all tensors
_TEMPLATE = re.compile(r"(?:[^\\]|\\\\)*\Z", re.DOTALL)  # no group of a pattern


def read_transforms(items: list[Any]) -> tuple[Rule, ...]:
    """Rules from JSON. An unknown one is refused whatever the version: it cannot be left out.

    Raises:
        InvalidManifest: a rule means nothing, or has a pattern.
    """
    if len(items) > _MOST:
        fail("transforms", f"{_MOST} rules at most", items)
    for number, item in enumerate(items):
        place = at("transforms", number)
        for key, text in _patterns(item):  # first: to compile a pattern takes time, too
            fail(at(place, key), "names, and no pattern", text)
        for problem in problems_of(item):
            raise InvalidManifest(f"{NAME}: {place}: {problem}")
    return parse_rules(items)


def _patterns(item: Any) -> Iterator[tuple[str, str]]:
    """What is no name, with its key."""
    for key, value in item.items() if isinstance(item, dict) else ():
        if key == "shift":  # of a group
            yield key, str(value)
        texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        for text in texts:
            if isinstance(text, str) and not _is_exact(key, text):
                yield key, text


def _is_exact(key: str, text: str) -> bool:
    return bool(_TEMPLATE.match(text) if key in ("to", "into") else names_in(text))
