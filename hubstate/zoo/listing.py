"""A catalogue file: what it may say, read and checked.

``catalogue.toml`` beside this module explains every field.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from hubstate.digest import Digest
from hubstate.errors import InvalidReference, InvalidSetting
from hubstate.reference import Reference
from hubstate.strictjson import Json
from hubstate.values import frozen
from hubstate.zoo.inputs import input_problems

__all__ = ["CatalogueEntry", "parse_catalogue", "read_catalogue"]

SCHEMA = 1
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")

_FIELDS: dict[str, tuple[Any, str]] = {
    "builder": (str, "the name of a builder"),
    "tag": (str, "a name"),
    "repository": (str, "a repository"),
    "license": (str, "an SPDX identifier"),
    "default": (bool, "true or false"),
    "revision": (str, "a revision"),
    "manifest": (str, "sha256: and 64 hex digits"),
    "registry": (str, "a folder or a URL"),
    "arguments": (dict, "a table"),
    "transforms": (list | str, "a list of rules, or the name of one in [rules]"),
    "preprocessing": (dict, "a table"),
    "metrics": (dict, "a table"),
}
_REQUIRED = ("builder", "tag", "repository", "license")


@frozen
class CatalogueEntry:
    """One release of weights for one builder."""

    builder: str
    tag: str
    reference: Reference
    """Pinned by the digest of the manifest, where the catalogue states it."""
    license: str | None = None
    """An SPDX identifier; None where ``register_model`` was told no more than a reference."""
    default: bool = False
    """Whether ``pretrained=True`` means this entry."""
    registry: str | None = None
    """Where the repository is, if not in the configured registry."""
    arguments: Mapping[str, Json] = field(default_factory=dict)
    """What the builder must be called with to fit these weights."""
    transforms: tuple[Mapping[str, Json], ...] = ()
    """Rules that make the builder's tensors of the release's; see ``hubstate.transforms``."""
    preprocessing: Mapping[str, Json] = field(default_factory=dict)
    """What is other than the builder states of its images; see ``hubstate.zoo.inputs``."""
    metrics: Mapping[str, Json] = field(default_factory=dict)
    """Figures that were measured with these weights."""


def read_catalogue(path: Path, *, builder: str | None = None) -> tuple[CatalogueEntry, ...]:
    """The entries of one file.

    Args:
        path: of the file.
        builder: read its entries only, and look at nothing else; for files that were checked.

    Raises:
        InvalidSetting: the file cannot be read or breaks the format; every problem is named.
    """
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"the catalogue {path} cannot be read: {error}") from error
    return parse_catalogue(text, where=str(path), builder=builder)


def parse_catalogue(
    text: str, *, where: str, builder: str | None = None
) -> tuple[CatalogueEntry, ...]:
    """The entries of a catalogue's text; ``where`` names it in messages.

    ``builder``: as for :func:`read_catalogue`.

    Raises:
        InvalidSetting: the text breaks the format; every problem is named.
    """
    import tomllib  # here, because a load by reference reads no catalogue

    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidSetting(f"the catalogue {where} is not TOML: {error}") from error
    if builder is not None:
        document = _narrowed(document, builder)
    problems = list(_problems(document))
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise InvalidSetting(f"the catalogue {where} breaks the format:\n{lines}")
    rules = document.get("rules", {})
    return tuple(_entry(table, rules) for table in document.get("model", []))


def _narrowed(document: dict[str, Any], builder: str) -> dict[str, Any]:
    """A sound document with the entries of one builder, and the rules that they name."""
    tables = [table for table in document["model"] if table["builder"] == builder]
    used = {table.get("transforms") for table in tables if type(table.get("transforms")) is str}
    rules = {name: rules for name, rules in document.get("rules", {}).items() if name in used}
    return {**document, "model": tables, "rules": rules}


def _entry(table: Mapping[str, Json], named: Mapping[str, Any]) -> CatalogueEntry:
    fields: dict[str, object] = dict(table)
    revision = fields.pop("manifest", None) or fields.get("revision", "main")
    fields.pop("revision", None)
    rules: Any = table.get("transforms", ())
    fields["transforms"] = tuple(named[rules] if isinstance(rules, str) else rules)
    reference = Reference(repo=str(fields.pop("repository")), revision=str(revision))
    return CatalogueEntry(reference=reference, **fields)  # type: ignore[arg-type]


def _problems(document: Mapping[str, object]) -> Iterator[str]:
    if document.get("schema") != SCHEMA or isinstance(document.get("schema"), bool):
        yield f"schema: expected {SCHEMA}, found {document.get('schema')!r}"
    for key in document.keys() - {"schema", "model", "rules"}:
        yield f"{key}: unknown; the tables are [rules] and [[model]]"
    named = document.get("rules", {})
    if not isinstance(named, dict):
        yield f"rules: expected lists of rules by name, found {type(named).__name__}"
        return
    for key, rules in named.items():
        yield from (f"rules.{key}: {problem}" for problem in _rule_problems(rules))
    tables = document.get("model", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        yield f"model: expected [[model]] tables, found {type(tables).__name__}"
        return
    for number, table in enumerate(tables, 1):
        name = f"entry {number} ({table.get('builder', '?')}, {table.get('tag', '?')})"
        yield from (f"{name}: {problem}" for problem in _entry_problems(table))
        rules = table.get("transforms")
        if isinstance(rules, str) and rules not in named:
            yield f"{name}: transforms: [rules] has no {rules!r}: {', '.join(named) or 'nothing'}"
    yield from _duplicates(tables)


def _entry_problems(table: Mapping[str, object]) -> Iterator[str]:
    for key in table.keys() - _FIELDS.keys():
        yield f"{key}: unknown; the fields are {', '.join(_FIELDS)}"
    for key in _REQUIRED:
        if key not in table:
            yield f"{key}: missing"
    for key, (kind, meaning) in _FIELDS.items():
        value = table.get(key)
        if key in table and (not isinstance(value, kind) or value == ""):
            yield f"{key}: expected {meaning}, found {value!r}"
        elif key in table:
            yield from (f"{key}: {problem}" for problem in _value_problems(key, value))


def _value_problems(key: str, value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from input_problems(value) if key == "preprocessing" else _table_problems(value)
        return
    if isinstance(value, list):
        yield from _rule_problems(value)
        return
    text = str(value)
    try:
        if key == "repository":
            Reference(repo=text)
        elif key == "revision":
            Reference(repo="any", revision=text)
        elif key == "manifest":
            Digest.parse(text)
    except (InvalidReference, ValueError) as error:
        yield str(error)
    if key == "tag" and not _TAG.match(text):
        yield f"expected letters, digits, '.', '_' and '-', found {text!r}"


def _rule_problems(rules: Any) -> Iterator[str]:
    from hubstate.rules import parse_rules  # here, because few entries have any

    try:
        parse_rules(rules)
    except InvalidSetting as error:
        yield str(error)


def _table_problems(table: Mapping[str, object]) -> Iterator[str]:
    for key, value in table.items():
        if not _is_plain(value):
            yield f"{key}: expected what JSON can say, found {value!r}"


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return isinstance(value, bool | int | str) or (
        isinstance(value, float) and math.isfinite(value)
    )


def _duplicates(tables: list[dict[str, object]]) -> Iterator[str]:
    tags: dict[object, int] = {}
    defaults: dict[object, int] = {}
    for number, table in enumerate(tables, 1):
        builder, tag = str(table.get("builder")), str(table.get("tag"))
        first = tags.setdefault((builder, tag), number)
        if first != number:
            yield f"entry {number} ({builder}, {tag}): tag: entry {first} has it already"
        if table.get("default") is True and defaults.setdefault(builder, number) != number:
            yield (
                f"entry {number} ({builder}, {tag}): default: entry {defaults[builder]} is the "
                "default already"
            )
