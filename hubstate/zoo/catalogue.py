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

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from pathlib import Path

from hubstate.errors import UnknownModel
from hubstate.reference import Reference
from hubstate.settings import catalogues
from hubstate.strictjson import Json
from hubstate.values import frozen
from hubstate.zoo.listing import CatalogueEntry, parse_catalogue, read_catalogue

__all__ = [
    "CatalogueEntry",
    "Source",
    "choose",
    "entries",
    "find_entry",
    "parse_catalogue",
    "read_catalogue",
]

_OWN = Path(__file__).with_name("catalogue.toml")


@frozen
class Source:
    """Where ``pretrained=…`` of a builder leads."""

    reference: str
    tag: str | None = None
    """Of the entry; None for a reference that was given as such."""
    registry: str | None = None
    arguments: Mapping[str, Json] = field(default_factory=dict)
    transforms: tuple[Mapping[str, Json], ...] = ()
    preprocessing: Mapping[str, Json] = field(default_factory=dict)


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
    entry = find_entry(builder, pretrained, own=own)
    return Source(
        reference=str(entry.reference),
        tag=entry.tag,
        registry=entry.registry,
        arguments=entry.arguments,
        transforms=entry.transforms,
        preprocessing=entry.preprocessing,
    )


def find_entry(
    builder: str, tag: bool | str, *, own: Iterable[CatalogueEntry] = ()
) -> CatalogueEntry:
    """The entry of that tag; True means the default.

    Raises:
        UnknownModel, InvalidSetting: as for :func:`choose`.
    """
    known = []
    for entry in _known(builder, own):
        known.append(entry)
        if entry.default if tag is True else entry.tag == tag:
            return entry
    raise UnknownModel(_absent(builder, tag, known))


def _known(builder: str, own: Iterable[CatalogueEntry]) -> Iterator[CatalogueEntry]:
    """The entries for a builder, the first of each tag; no file is read before its turn."""
    named = (entry for path in catalogues() for entry in read_catalogue(path))
    tags = set()
    for entries in (named, own, _shipped(builder)):
        for entry in entries:
            if entry.builder == builder and entry.tag not in tags:
                tags.add(entry.tag)
                yield entry


def _shipped(builder: str) -> Iterator[CatalogueEntry]:
    yield from read_catalogue(_OWN, builder=builder)


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
