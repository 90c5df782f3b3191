"""The catalogue: which weights are known for which builder, in TOML files.

A file has a schema number and one table for each release of weights; ``catalogue.toml`` beside
this module is the library's own and explains every field::

    schema = 1

    [[model]]
    builder = "resnet18_small"
    tag = "digits"
    …

Files named in ``HUBSTATE_CATALOGUE`` come first, in their order, then what ``register_model`` was
told, then the library's own: for one builder and tag the first entry counts, and so does the
first default. A mirror or a newer release can thus be put before what the library ships.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hubstate.digest import Digest
from hubstate.errors import InvalidReference, InvalidSetting, UnknownModel
from hubstate.reference import Reference
from hubstate.settings import catalogues
from hubstate.strictjson import Json

__all__ = ["CatalogueEntry", "Source", "choose", "entries", "parse_catalogue", "read_catalogue"]

SCHEMA = 1
_OWN = Path(__file__).with_name("catalogue.toml")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")

_FIELDS: dict[str, tuple[type, str]] = {
    "builder": (str, "the name of a builder"),
    "tag": (str, "a name"),
    "repository": (str, "a repository"),
    "license": (str, "an SPDX identifier"),
    "default": (bool, "true or false"),
    "revision": (str, "a revision"),
    "manifest": (str, "sha256: and 64 hex digits"),
    "registry": (str, "a folder or a URL"),
    "arguments": (dict, "a table"),
    "transforms": (list, "a list of rules"),
    "metrics": (dict, "a table"),
}
_REQUIRED = ("builder", "tag", "repository", "license")


@dataclass(frozen=True, kw_only=True, slots=True)
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
    metrics: Mapping[str, Json] = field(default_factory=dict)
    """Figures that were measured with these weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where ``pretrained=…`` of a builder leads."""

    reference: str
    tag: str | None = None
    """Of the entry; None for a reference that was given as such."""
    registry: str | None = None
    arguments: Mapping[str, Json] = field(default_factory=dict)
    transforms: tuple[Mapping[str, Json], ...] = ()


def entries() -> tuple[CatalogueEntry, ...]:
    """Every entry of every catalogue file, the first of each builder and tag only.

    Raises:
        InvalidSetting: a file cannot be read or breaks the format; every problem is named.

    >>> [entry.tag for entry in entries() if entry.builder == "resnet18_small"]
    ['digits']
    """
    return _first_of_each(entry for path in _files() for entry in read_catalogue(path))


def choose(builder: str, pretrained: bool | str, *, own: Iterable[CatalogueEntry] = ()) -> Source:
    """The weights that ``builder(pretrained=…)`` means.

    Args:
        builder: the name of the builder.
        pretrained: True for the default entry, a tag, or a reference, which has a ``/``.
        own: the entries that the builder was registered with.

    Raises:
        UnknownModel: there is no such entry; the message names those that there are.
        InvalidReference: a reference that cannot be read.
        InvalidSetting: a catalogue file breaks the format.

    >>> choose("resnet18", "org/name@v1").reference
    'org/name@v1'
    """
    if isinstance(pretrained, str) and "/" in pretrained:
        return Source(reference=str(Reference.parse(pretrained)))
    known = []
    for entry in _known(builder, own):
        known.append(entry)
        if entry.default if pretrained is True else entry.tag == pretrained:
            return Source(
                reference=str(entry.reference),
                tag=entry.tag,
                registry=entry.registry,
                arguments=entry.arguments,
                transforms=entry.transforms,
            )
    raise UnknownModel(_absent(builder, pretrained, known))


def _known(builder: str, own: Iterable[CatalogueEntry]) -> Iterator[CatalogueEntry]:
    """The entries for a builder, the first of each tag; no file is read before its turn."""
    named = (entry for path in catalogues() for entry in read_catalogue(path))
    tags = set()
    for entries in (named, own, _shipped()):
        for entry in entries:
            if entry.builder == builder and entry.tag not in tags:
                tags.add(entry.tag)
                yield entry


def _shipped() -> Iterator[CatalogueEntry]:
    yield from read_catalogue(_OWN)


def _files() -> list[Path]:
    return [*catalogues(), _OWN]


def _first_of_each(found: Iterable[CatalogueEntry]) -> tuple[CatalogueEntry, ...]:
    first: dict[tuple[str, str], CatalogueEntry] = {}
    for entry in found:
        first.setdefault((entry.builder, entry.tag), entry)
    return tuple(first.values())


def _absent(builder: str, pretrained: bool | str, known: list[CatalogueEntry]) -> str:
    wanted = "default weights" if pretrained is True else f"weights tagged {pretrained!r}"
    tags = ", ".join(repr(entry.tag) for entry in known)
    found = f"its tags are {tags}" if tags else "the catalogue has no entry for it"
    return (
        f"{builder} has no {wanted}: {found}; a reference, pretrained='org/name@revision', "
        "or a catalogue file named in HUBSTATE_CATALOGUE can be given"
    )


def read_catalogue(path: Path) -> tuple[CatalogueEntry, ...]:
    """The entries of one file.

    Raises:
        InvalidSetting: the file cannot be read or breaks the format; every problem is named.
    """
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"the catalogue {path} cannot be read: {error}") from error
    return parse_catalogue(text, where=str(path))


def parse_catalogue(text: str, *, where: str) -> tuple[CatalogueEntry, ...]:
    """The entries of a catalogue's text; ``where`` names it in messages.

    Raises:
        InvalidSetting: the text breaks the format; every problem is named.
    """
    import tomllib  # here, because a load by reference reads no catalogue

    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidSetting(f"the catalogue {where} is not TOML: {error}") from error
    problems = list(_problems(document))
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise InvalidSetting(f"the catalogue {where} breaks the format:\n{lines}")
    return tuple(_entry(table) for table in document.get("model", []))


def _entry(table: Mapping[str, Json]) -> CatalogueEntry:
    fields: dict[str, object] = dict(table)
    revision = fields.pop("manifest", None) or fields.get("revision", "main")
    fields.pop("revision", None)
    rules: Any = table.get("transforms", ())
    fields["transforms"] = tuple(rules)
    reference = Reference(repo=str(fields.pop("repository")), revision=str(revision))
    return CatalogueEntry(reference=reference, **fields)  # type: ignore[arg-type]


def _problems(document: Mapping[str, object]) -> Iterator[str]:
    if document.get("schema") != SCHEMA or isinstance(document.get("schema"), bool):
        yield f"schema: expected {SCHEMA}, found {document.get('schema')!r}"
    for key in document.keys() - {"schema", "model"}:
        yield f"{key}: unknown; the tables are [[model]]"
    tables = document.get("model", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        yield f"model: expected [[model]] tables, found {type(tables).__name__}"
        return
    for number, table in enumerate(tables, 1):
        name = f"entry {number} ({table.get('builder', '?')}, {table.get('tag', '?')})"
        yield from (f"{name}: {problem}" for problem in _entry_problems(table))
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
        yield from _table_problems(value)
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


def _rule_problems(rules: list[Any]) -> Iterator[str]:
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
