"""The YAML front-matter of a model card: checked when it is pushed, searched afterwards.

YAML is read by PyYAML's safe loader with aliases refused (ten lines of them can stand for
gigabytes), at most 64 KiB and 32 levels of it, and what comes out is made plain JSON.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

import yaml  # type: ignore[import-untyped]

__all__ = ["InvalidCard", "parse_card", "tags_of"]

_FRONT = re.compile(
    r"\A\s*---[ \t]*\r?\n(.*?)(?:^|\n)---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE
)
_LIMIT = 64 * 1024
_DEPTH = 32


class InvalidCard(ValueError):
    """The front-matter is no YAML mapping; the message says where."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader, without aliases and without depth."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise InvalidCard("the metadata may not use YAML aliases")
        self.depth += 1
        if self.depth > _DEPTH:
            raise InvalidCard("the metadata is nested too deeply")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def parse_card(text: str) -> Mapping[str, object]:
    """The front-matter of a README, as plain JSON; empty where there is none.

    >>> parse_card("---\\nlicense: mit\\n---\\n# Title")
    {'license': 'mit'}

    Raises:
        InvalidCard: it is no YAML, no mapping, or over a limit.
    """
    match = _FRONT.match(text)
    if match is None:
        return {}
    if len(match[1]) > _LIMIT:
        raise InvalidCard(f"the metadata is longer than {_LIMIT} characters")
    try:
        plain = _plain(yaml.load(match[1], _Loader))
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError, TypeError) as error:
        raise InvalidCard(f"the metadata is not valid YAML: {error}") from error
    if plain is None:
        return {}
    if not isinstance(plain, dict):
        raise InvalidCard("the metadata must be a mapping of names to values")
    return plain


def tags_of(card: Mapping[str, object]) -> list[str]:
    """What a model is found by, in the spelling of the hub: ``license:mit``, ``pytorch`` …

    >>> tags_of({"license": "mit", "tags": ["vision"], "library_name": "timm"})
    ['timm', 'vision', 'license:mit']
    """
    if not card:
        return []
    found = [*_texts(card.get("library_name")), *_texts(card.get("pipeline_tag"))]
    found += [*_texts(card.get("tags")), *_texts(card.get("language"))]
    for name, prefix in [
        ("license", "license"),
        ("datasets", "dataset"),
        ("base_model", "base_model"),
    ]:
        found += [f"{prefix}:{text}" for text in _texts(card.get(name))]
    return list(dict.fromkeys(found))[:200]


def _texts(value: object) -> Iterator[str]:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str) and 0 < len(item) <= 200:
            yield item


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {_text(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return _text(value)


def _text(value: object) -> str:
    return str(value).replace("\0", "").encode("utf-8", "replace").decode()
