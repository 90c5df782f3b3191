"""``hubstate.json`` from bytes, with every claim in it held against the others.

A manifest is read before each load, so the checks of the two long lists, structure and tensors,
are a few comparisons for each item; the place is put into words only where one fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Any

from hubstate.errors import InvalidManifest
from hubstate.header import is_sizes
from hubstate.manifest.agreement import check_agreement
from hubstate.manifest.document import MINOR, NAME, SCHEMA, Manifest
from hubstate.manifest.fields import Fields, Wrong, fail
from hubstate.manifest.files import FileRecord
from hubstate.manifest.meaning import BuilderRecord, Probe, ProbeOutput
from hubstate.manifest.structure import TENSOR_KINDS, Entry, make_data, make_entry
from hubstate.manifest.tensors import read_tensors
from hubstate.strictjson import at, loads

if TYPE_CHECKING:
    from hubstate.rules import Rule

__all__ = ["parse", "read_structure"]

MAX_BYTES = 32 << 20

_SCHEMA = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})\Z")
_SOURCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*\Z")
_KEYS = {
    "builder",
    "files",
    "labels",
    "license",
    "metrics",
    "preprocessing",
    "probe",
    "provenance",
    "schema",
    "structure",
    "structure_hash",
}
_ENTRY_KEYS = {
    "param": {"path", "kind", "shape", "dtype", "trainable", "tied_to"},
    "buffer": {"path", "kind", "shape", "dtype", "tied_to"},
    "none": {"path", "kind"},
    "data": {"path", "kind", "value"},
    "opaque": {"path", "kind"},
    "module": {"path", "kind", "class", "tied_to"},
    "extra": {"path", "kind", "shape", "dtype", "value", "tied_to"},
}
_DATA_KEYS = _ENTRY_KEYS["data"]
_DETAILS = ("shape", "dtype", "trainable", "tied_to", "class")


def parse(data: bytes) -> Manifest:
    """Read a manifest.

    Keys that are unknown are refused, except in a manifest of a newer minor version of the
    schema, where they are skipped.

    Raises:
        InvalidManifest: it is not JSON, or not of the schema, or its parts contradict each
            other; the message names the place.

    >>> parse(b'{"schema": "2.0"}')
    Traceback (most recent call last):
    hubstate.errors.InvalidManifest: hubstate.json: schema: expected version 1 (a newer hubstate \
may read this one), found '2.0'
    """
    document = loads(data, what=NAME, max_bytes=MAX_BYTES, error=InvalidManifest)
    top = Fields(document, "")
    minor = _minor(top)
    newer = minor > MINOR
    top.check_keys(_KEYS | {"transforms"} if minor else _KEYS, newer=newer)
    manifest = Manifest(
        structure=read_structure(top.items("structure"), newer),
        files=tuple(_file(file, newer) for file in top.objects("files")),
        builder=_builder(top.optional("builder"), newer),
        preprocessing=top.mapping("preprocessing"),
        labels=_labels(top.items("labels", [])),
        metrics=top.mapping("metrics"),
        license=top.text("license", ""),
        provenance=top.mapping("provenance"),
        probe=_probe(top.optional("probe"), newer),
        transforms=_transforms(top.items("transforms", [])),
    )
    check_agreement(manifest, top.digest("structure_hash"))
    return manifest


def _minor(top: Fields) -> int:
    text = top.text("schema", limit=32)
    match = _SCHEMA.match(text)
    if not match:
        fail("schema", "a version such as '1.0'", text)
    if int(match[1]) != SCHEMA:
        fail("schema", f"version {SCHEMA} (a newer hubstate may read this one)", text)
    return int(match[2])


def read_structure(items: list[Any], newer: bool = False) -> tuple[Entry, ...]:
    """Entries from JSON, each checked by itself.

    Raises:
        InvalidManifest: one is malformed.
    """
    entries: list[Entry] = []
    try:
        for item in items:
            # Most entries are plain data, of which there is little to check.
            if type(item) is dict and item.get("kind") == "data" and item.keys() == _DATA_KEYS:
                path = item["path"]
                if type(path) is str and len(path) <= 4096:
                    entries.append(make_data(path, item["value"]))
                    continue
            entries.append(_entry(item, newer))
    except Wrong as wrong:
        raise wrong.within(at("structure", len(entries))) from None
    return tuple(entries)


def _entry(item: Any, newer: bool) -> Entry:
    if type(item) is not dict:
        raise Wrong("", "an object", item)
    kind = item.get("kind")
    known = _ENTRY_KEYS.get(kind) if type(kind) is str else None
    if known is None:
        raise Wrong("kind", f"one of {', '.join(_ENTRY_KEYS)}", kind)
    if not newer and not item.keys() <= known:
        raise Wrong("", f"only the keys {sorted(known)} of a {kind}", min(item.keys() - known))
    path = item.get("path")
    if type(path) is not str or len(path) > 4096:
        raise Wrong("path", "text of at most 4096 characters", path)
    return make_entry((path, kind, *_details(item, kind), item.get("value")))


def _details(item: dict[str, Any], kind: Any) -> tuple[Any, ...]:
    details: Iterator[Any] = map(item.get, _DETAILS)
    shape, dtype, trainable, tied_to, class_name = details
    if shape is not None or dtype is not None or kind in TENSOR_KINDS:
        if not is_sizes(shape):
            raise Wrong("shape", "a list of sizes", shape)
        if type(dtype) is not str or not dtype.isidentifier():
            raise Wrong("dtype", "the name of a dtype", dtype)
        shape = tuple(shape)
    if trainable is not None and type(trainable) is not bool:
        raise Wrong("trainable", "true or false", trainable)
    if tied_to is not None and type(tied_to) is not str:
        raise Wrong("tied_to", "a path", tied_to)
    if class_name is not None and type(class_name) is not str:
        raise Wrong("class", "a name", class_name)
    return shape, dtype, trainable, tied_to, class_name


def _file(fields: Fields, newer: bool) -> FileRecord:
    fields.check_keys({"path", "size", "digest", "header", "tensors"}, newer=newer)
    size = fields.integer("size")
    tensors = read_tensors(
        fields.items("tensors", []), at(fields.place, "tensors"), size=size, newer=newer
    )
    header = fields.digest("header") if fields.value.get("header") is not None else None
    if tensors and header is None:
        fields.wrong("header", "a digest, since the file has tensors", None)
    return FileRecord(
        path=_file_path(fields),
        size=size,
        digest=fields.digest("digest"),
        header=header,
        tensors=tensors,
    )


def _file_path(fields: Fields) -> str:
    path = fields.text("path")
    parts = path.split("/")
    if (
        not all(0 < len(part.encode()) <= 255 and part not in (".", "..") for part in parts)
        or "\\" in path
        or not path.isprintable()
        or path == NAME
    ):
        fields.wrong("path", f"a relative path below the release, not {NAME}", path)
    return path


def _builder(fields: Fields | None, newer: bool) -> BuilderRecord | None:
    if fields is None:
        return None
    fields.check_keys({"name", "arguments", "source"}, newer=newer)
    source = fields.text("source") if fields.value.get("source") is not None else None
    if source is not None and not _SOURCE.match(source):
        fields.wrong("source", "'package.module:function'", source)
    if not (name := fields.text("name")):
        fields.wrong("name", "a name", name)
    return BuilderRecord(name=name, arguments=fields.mapping("arguments"), source=source)


def _labels(items: list[Any]) -> tuple[str, ...]:
    for index, label in enumerate(items):
        if type(label) is not str:
            fail(at("labels", index), "text", label)
    return tuple(items)


def _transforms(items: list[Any]) -> tuple[Rule, ...]:
    if not items:
        return ()
    from hubstate.manifest.transforms import read_transforms  # here, because few have any

    return read_transforms(items)


def _probe(fields: Fields | None, newer: bool) -> Probe | None:
    if fields is None:
        return None
    fields.check_keys({"seed", "shape", "dtype", "outputs", "rtol", "atol"}, newer=newer)
    return Probe(
        seed=fields.integer("seed"),
        shape=fields.sizes("shape"),
        dtype=fields.text("dtype"),
        outputs=tuple(_output(output, newer) for output in fields.objects("outputs")),
        rtol=fields.number("rtol"),
        atol=fields.number("atol"),
    )


def _output(fields: Fields, newer: bool) -> ProbeOutput:
    fields.check_keys({"path", "shape", "stride", "values"}, newer=newer)
    shape, stride, values = fields.sizes("shape"), fields.integer("stride"), fields.items("values")
    if stride == 0:
        fields.wrong("stride", "an integer from 1", stride)
    for index, value in enumerate(values):
        if type(value) is not float and type(value) is not int:
            fail(at(at(fields.place, "values"), index), "a number", value)
    if len(values) != -(-prod(shape) // stride):
        fields.wrong("values", f"one of each {stride} of an output {shape}", values)
    return ProbeOutput(
        path=fields.text("path"), shape=shape, stride=stride, values=tuple(map(float, values))
    )
