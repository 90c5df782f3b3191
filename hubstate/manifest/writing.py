"""A manifest as bytes: canonical, and one line for each entry, so that two of them diff well."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hubstate.errors import InvalidManifest
from hubstate.manifest.document import MINOR, NAME, SCHEMA, Manifest
from hubstate.manifest.files import FileRecord, TensorRecord
from hubstate.manifest.meaning import BuilderRecord, Probe
from hubstate.manifest.reading import parse
from hubstate.manifest.structure import Entry

__all__ = ["dump", "write_entry"]


def dump(manifest: Manifest) -> bytes:
    """Write a manifest as UTF-8 JSON: sorted keys, a line for each entry, a last newline.

    Equal manifests give equal bytes, and ``parse`` reads back what was written: it is asked
    here, so that no manifest is written that nobody can read.

    Raises:
        InvalidManifest: a value that JSON cannot say, or parts that contradict each other.

    >>> print(dump(Manifest(license="MIT", metrics={"accuracy": 0.5})).decode(), end="")
    {
    "builder":null,
    "files":[],
    "labels":[],
    "license":"MIT",
    "metrics":{
    "accuracy":0.5
    },
    "preprocessing":{},
    "probe":null,
    "provenance":{},
    "schema":"1.0",
    "structure":[],
    "structure_hash":"sha256:5ae1625b488b3935122d8dd627fe575b388a5aa360378fa4407aad08baaed1e2"
    }
    """
    if manifest.schema != SCHEMA:
        raise InvalidManifest(f"{NAME}: schema: expected {SCHEMA}, found {manifest.schema}")
    try:
        data = (_object(_parts(manifest)) + "\n").encode()
    except (TypeError, ValueError, RecursionError, AttributeError) as cause:
        raise InvalidManifest(f"{NAME}: JSON cannot say this: {cause}") from None
    parse(data)
    return data


def _parts(manifest: Manifest) -> dict[str, str]:
    """Each top-level key with its JSON text."""
    parts = {
        "builder": _line(_builder(manifest.builder)),
        "files": _array(map(_file, manifest.files)),
        "labels": _array(map(_line, manifest.labels)),
        "license": _line(manifest.license),
        "metrics": _mapping(manifest.metrics),
        "preprocessing": _mapping(manifest.preprocessing),
        "probe": _line(_probe(manifest.probe)),
        "provenance": _mapping(manifest.provenance),
        "schema": _line(f"{SCHEMA}.{MINOR if manifest.transforms else 0}"),
        "structure": _array(_line(write_entry(entry)) for entry in manifest.structure),
        "structure_hash": _line(str(manifest.structure_hash)),
    }
    if manifest.transforms:
        from hubstate.rules import dump_rules  # here, because few manifests have any

        parts["transforms"] = _array(map(_line, dump_rules(manifest.transforms)))
    return parts


def _file(file: FileRecord) -> str:
    return _object(
        {
            "digest": _line(str(file.digest)),
            "header": _line(None if file.header is None else str(file.header)),
            "path": _line(file.path),
            "size": _line(file.size),
            "tensors": _array(_line(_tensor(tensor)) for tensor in file.tensors),
        }
    )


def _tensor(tensor: TensorRecord) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": tensor.shape,
        "start": tensor.start,
        "stop": tensor.stop,
        "digests": [str(digest) for digest in tensor.digests],
    }


def write_entry(entry: Entry) -> dict[str, Any]:
    """An entry as JSON, without the fields that are None."""
    fields = {
        "path": entry.path,
        "kind": entry.kind,
        "shape": entry.shape,
        "dtype": entry.dtype,
        "trainable": entry.trainable,
        "tied_to": entry.tied_to,
        "class": entry.class_name,
        "value": entry.value,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _builder(builder: BuilderRecord | None) -> dict[str, Any] | None:
    if builder is None:
        return None
    return {"name": builder.name, "arguments": builder.arguments, "source": builder.source}


def _probe(probe: Probe | None) -> dict[str, Any] | None:
    if probe is None:
        return None
    outputs = [
        {"path": o.path, "shape": o.shape, "stride": o.stride, "values": o.values}
        for o in probe.outputs
    ]
    return {
        "seed": probe.seed,
        "shape": probe.shape,
        "dtype": probe.dtype,
        "outputs": outputs,
        "rtol": probe.rtol,
        "atol": probe.atol,
    }


def _mapping(mapping: Mapping[str, Any]) -> str:
    return _object({key: _line(mapping[key]) for key in sorted(mapping)})


def _object(texts: Mapping[str, str]) -> str:
    lines = [f"{_line(key)}:{text}" for key, text in texts.items()]
    return "{\n" + ",\n".join(lines) + "\n}" if lines else "{}"


def _array(texts: Iterable[str]) -> str:
    lines = list(texts)
    return "[\n" + ",\n".join(lines) + "\n]" if lines else "[]"


def _line(value: Any) -> str:
    return json.dumps(
        value,
        allow_nan=False,
        default=_plain,
        ensure_ascii=False,
        separators=(",", ":"),
        sort_keys=True,
    )


def _plain(value: object) -> object:
    """Any mapping and any sequence, where the json module knows dict, list and tuple alone."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"a {type(value).__name__}")
