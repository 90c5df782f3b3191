"""Outlines: what a warm load needs to know of a manifest, so that it need not read all of it again.

A manifest has a line for each name of a model, and reading and comparing them is most of a warm
load. Whether a model is, name by name, what a manifest describes can be told by one digest instead:
of its names, kinds, shapes, dtypes and plain data, module by module. Where the digests are the
same, every tensor fits and no record differs, and all that is left to know is where the tensors
lie. Where they are not, nothing is said: the manifest is read, and says what differs.

An outline follows from the bytes of its manifest alone, so that the cache can keep it beside them.
As text it is a line with the digest of the rest, and then one JSON object.
"""

from __future__ import annotations

import hashlib
import json
import marshal
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from hubstate.digest import Digest
from hubstate.errors import Damaged
from hubstate.manifest import TENSOR_KINDS, Entry, Manifest
from hubstate.records import decode
from hubstate.strictjson import Json, loads
from hubstate.values import frozen

__all__ = [
    "Members",
    "Outline",
    "OutlinedFile",
    "arrange",
    "dump_outline",
    "names_digest",
    "outline_of",
    "parse_outline",
]

Members: TypeAlias = list[tuple[Any, ...]]
"""The names of one module in their order: ``(name, "param" or "buffer", shape, dtype)``,
``(name, "module")``, ``(name, "none")``, ``(name, "opaque")`` or ``(name, "data", value)``."""

_SCHEMA = 1
_BARE = frozenset({"module", "none", "opaque"})


@frozen
class OutlinedFile:
    """A file of a release."""

    size: int
    digest: Digest
    seal: Digest | None = None
    """The digest of the digests of all its chunks, where it is a weights file."""


@frozen
class Outline:
    """A manifest in brief."""

    names: Digest
    """Of all names of the model, see :func:`names_digest`."""
    contract: Digest
    """The manifest's ``structure_hash``."""
    files: Mapping[str, OutlinedFile]
    places: tuple[tuple[int, int], ...]
    """Where each tensor is, in the order of the names: the number of its file, the first byte."""
    preprocessing: Mapping[str, Json]

    @property
    def weights(self) -> tuple[str, ...]:
        """The files with tensors, in the order of their numbers."""
        return tuple(name for name, file in self.files.items() if file.seal)


def names_digest(modules: Iterable[tuple[str, Members]]) -> Digest:
    """The digest of modules and their names, a module before its children.

    Exact: two lists have one digest only if all is the same, types included. It stands for a
    comparison in this cache and nowhere else; another version of Python may give others.
    """
    return Digest(hashlib.sha256(marshal.dumps(list(modules), 2)).hexdigest())


def outline_of(manifest: Manifest, seals: Mapping[str, Digest | None]) -> Outline | None:
    """The outline of a manifest; None where a load takes more than putting tensors in their places.

    That is where tensors are tied, where modules have extra states, and where there are transforms.

    Args:
        manifest: of a release.
        seals: of its weights files.
    """
    weights = [file for file in manifest.files if file.tensors]
    if manifest.transforms or not weights or not all(seals.get(file.path) for file in weights):
        return None
    arranged = arrange(manifest.structure)
    if arranged is None:
        return None
    modules, tensors = arranged
    starts = {t.name: (n, t.start) for n, file in enumerate(weights) for t in file.tensors}
    return Outline(
        names=names_digest(modules),
        contract=manifest.structure_hash,
        files={
            file.path: OutlinedFile(size=file.size, digest=file.digest, seal=seals.get(file.path))
            for file in manifest.files
        },
        places=tuple(starts[path] for path in tensors),
        preprocessing=manifest.preprocessing,
    )


def arrange(entries: Iterable[Entry]) -> tuple[list[tuple[str, Members]], list[str]] | None:
    """Entries by module, and the paths of the tensors in the order of the modules.

    None where there is a tie, an extra state, or a name without a module.
    """
    modules: dict[str, Members] = {}
    tensors: dict[str, list[str]] = {}
    for entry in entries:
        path = entry.path
        parent, _, name = path.rpartition(".")
        if path:
            member = _member(name, entry)
            if member is None or parent not in modules:
                return None
            modules[parent].append(member)
        if entry.kind == "module":
            modules[path], tensors[path] = [], []
        elif entry.is_tensor:
            tensors[parent].append(path)
    return list(modules.items()), [path for paths in tensors.values() for path in paths]


def _member(name: str, entry: Entry) -> tuple[Any, ...] | None:
    if entry.kind == "data":
        return name, "data", decode(entry.value)
    if entry.kind in TENSOR_KINDS and entry.tied_to is None:
        return name, entry.kind, entry.shape, entry.dtype
    return (name, entry.kind) if entry.kind in _BARE else None


def dump_outline(outline: Outline) -> bytes:
    """An outline as text."""
    document = {
        "schema": _SCHEMA,
        "names": str(outline.names),
        "contract": str(outline.contract),
        "files": [
            [name, file.size, str(file.digest), str(file.seal) if file.seal else None]
            for name, file in outline.files.items()
        ],
        "places": outline.places,
        "preprocessing": outline.preprocessing,
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    return b"%s\n%s" % (str(Digest.of(text)).encode(), text)


def parse_outline(data: bytes) -> Outline:
    """Read an outline that was written here.

    Raises:
        Damaged: it is not what was written, or by another version.
    """
    stated, _, text = data.partition(b"\n")
    if stated != str(Digest.of(text)).encode():
        raise Damaged("outline: expected the digest of what follows in its first line")
    document = loads(text, what="outline")
    if document["schema"] != _SCHEMA:
        raise Damaged(f"outline: expected schema {_SCHEMA}, found {document['schema']}")
    return Outline(
        names=Digest.parse(document["names"]),
        contract=Digest.parse(document["contract"]),
        files={name: _file(*facts) for name, *facts in document["files"]},
        places=tuple(map(tuple, document["places"])),
        preprocessing=document["preprocessing"],
    )


def _file(size: int, digest: str, seal: str | None) -> OutlinedFile:
    return OutlinedFile(
        size=size, digest=Digest.parse(digest), seal=Digest.parse(seal) if seal else None
    )
