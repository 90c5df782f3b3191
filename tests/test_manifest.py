"""The manifest: written, read, held against its schema, and attacked."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubstate.digest import Digest
from hubstate.errors import InvalidManifest, InvalidWeights
from hubstate.header import ITEM_SIZES, dump_header
from hubstate.manifest import (
    CHUNK,
    MINOR,
    BuilderRecord,
    Entry,
    FileRecord,
    Manifest,
    Probe,
    ProbeOutput,
    TensorRecord,
    chunks,
    dump,
    hash_plain,
    hash_weights,
    parse,
    structure_hash,
    verify_file,
)
from hubstate.rules import parse_rules

Path_ = tuple[str | int, ...]
ABSENT = object()
DOCS = Path(__file__).parents[1] / "docs"
GOLDEN = sorted((Path(__file__).parent / "golden").glob("manifest-v1*.json"))
VALIDATOR = jsonschema.Draft202012Validator(
    json.loads((DOCS / "manifest.schema.json").read_text(encoding="utf-8"))
)


def record(name: str, dtype: str, shape: tuple[int, ...], start: int, stop: int) -> TensorRecord:
    digests = tuple(Digest.of(f"{name}{bounds}".encode()) for bounds in chunks(start, stop))
    return TensorRecord(
        name=name, dtype=dtype, shape=shape, start=start, stop=stop, digests=digests
    )


def example() -> Manifest:
    """One of everything that a manifest can say."""
    large = 3 * CHUNK // 4
    tensors = (
        record("count", "int64", (), 1000, 1008),
        record("embed.weight", "float32", (large,), 1008, 1008 + 4 * large),
        record("head.empty", "float32", (0, 3), 1008 + 4 * large, 1008 + 4 * large),
    )
    return Manifest(
        structure=(
            Entry(path="", kind="module", class_name="toys.Tied"),
            Entry(path="embed", kind="module", class_name="torch.nn.Embedding"),
            Entry(
                path="embed.weight", kind="param", shape=(large,), dtype="float32", trainable=True
            ),
            Entry(path="head", kind="module", class_name="torch.nn.Linear"),
            Entry(
                path="head.weight",
                kind="param",
                shape=(large,),
                dtype="float32",
                trainable=True,
                tied_to="embed.weight",
            ),
            Entry(path="head.bias", kind="none"),
            Entry(path="head.empty", kind="buffer", shape=(0, 3), dtype="float32"),
            Entry(path="again", kind="module", class_name="torch.nn.Linear", tied_to="head"),
            Entry(path="count", kind="extra", shape=(), dtype="int64"),
            Entry(path="extra", kind="extra", value={"steps": 3}),
            Entry(path="training", kind="data", value=False),
            Entry(path="size", kind="data", value={"$tuple": [3, 3]}),
            Entry(path="nothing", kind="data"),
            Entry(path="act", kind="opaque"),
        ),
        files=(
            FileRecord(
                path="model.safetensors",
                size=1008 + 4 * large,
                digest=Digest.of(b"whole"),
                header=Digest.of(b"header"),
                tensors=tensors,
            ),
            FileRecord(path="docs/README.md", size=12, digest=Digest.of(b"text")),
        ),
        builder=BuilderRecord(
            name="tied", arguments={"size": 3, "deep": {"er": [None]}}, source="toys.models:tied"
        ),
        preprocessing={"mean": [0.485, 0.456], "interpolation": "bicubic"},
        labels=("Katze", "çat", "猫"),
        metrics={"accuracy": 0.97, "loss": 1e-9},
        license="Apache-2.0 OR MIT",
        provenance={"torch": "2.13.0", "commit": None},
        probe=Probe(
            seed=0,
            shape=(1, 3),
            dtype="float32",
            outputs=(ProbeOutput(path="", shape=(1, 5), stride=2, values=(0.1, -2.0, 3e-9)),),
            rtol=1e-3,
            atol=1e-5,
        ),
    )


RULES = [
    {"rename": {"embed.weight": "tokens.weight", "count": "steps"}},
    {"rename": r"head\.empty", "to": "none\\\\of\\\\it"},
    {"transpose": r"a\.kernel|b\.kernel", "order": [1, 0]},
    {"reshape": "cls", "shape": [1, -1]},
    {"flip": "conv", "axes": [2, 3]},
    {"split": "qkv", "to": ["q", "k", "v"], "axis": 0, "sizes": [1, 2, 1]},
    {"fuse": ["w1", "w2"], "to": "w12", "axis": 1},
    {"fold": "bn", "into": "conv", "eps": 1e-3},
    {"drop": r"num_batches\.tracked"},
    {"fallback": "head", "to": "head_dist", "value": 0},
    {"channels": "stem", "count": 1},
    {"interpolate": "pos", "grid": [24, 24], "prefix": 1},
]
"""One of each, by name."""


def later() -> Manifest:
    """The example, and everything that version 1.1 has beside."""
    return replace(example(), transforms=parse_rules(RULES))


# ---------------------------------------------------------------- writing and reading


def test_what_is_written_is_read_back() -> None:
    assert parse(dump(example())) == example()
    assert parse(dump(later())) == later()
    assert parse(dump(Manifest())) == Manifest()


def test_equal_manifests_give_equal_bytes() -> None:
    one = example()
    other = replace(one, metrics=dict(reversed(list(one.metrics.items()))))
    assert dump(one) == dump(other)
    assert dump(parse(dump(one))) == dump(one)
    assert dump(parse(dump(later()))) == dump(later())


def test_a_manifest_says_of_itself_the_first_version_that_can_read_it() -> None:
    assert json.loads(dump(example()))["schema"] == "1.0"
    assert json.loads(dump(later()))["schema"] == "1.1"
    assert later().structure_hash == example().structure_hash
    document = json.loads(dump(later())) | {"schema": "1.0"}
    with pytest.raises(InvalidManifest, match="only the keys"):
        parse(json.dumps(document).encode())
    assert not VALIDATOR.is_valid(document)
    assert parse(json.dumps(document | {"transforms": [], "schema": "1.1"}).encode()) == example()


def test_each_entry_is_a_line_so_that_manifests_diff_well() -> None:
    lines = dump(example()).decode().splitlines()
    for entry in example().structure:
        words = f'"kind":"{entry.kind}","path":{json.dumps(entry.path)}'
        assert sum(words in line for line in lines) == 1
    changed = replace(example(), labels=("Katze", "dog", "猫"))
    others = dump(changed).decode().splitlines()
    assert sum(a != b for a, b in zip(lines, others, strict=True)) == 1


NAMES = st.text(st.characters(codec="utf-8"), max_size=8)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | NAMES,
    lambda items: st.lists(items) | st.dictionaries(NAMES, items),
    max_leaves=6,
)
MAPPINGS = st.dictionaries(NAMES, JSON, max_size=3)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Any manifest whose tensors lie in files that hold them."""
    paths = draw(st.lists(NAMES, unique=True, max_size=8))
    structure, files, position, tensors = [], [], draw(st.integers(10, 100)), []
    for path in paths:
        kind = draw(st.sampled_from(["param", "buffer", "none", "data", "module", "opaque"]))
        if kind in ("param", "buffer"):
            dtype = draw(st.sampled_from(sorted(ITEM_SIZES)))
            shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
            trainable = draw(st.booleans()) if kind == "param" else None
            size = ITEM_SIZES[dtype]
            for length in shape:
                size *= length
            tensors.append(record(path, dtype, shape, position, position + size))
            position += size
            structure.append(
                Entry(path=path, kind=kind, shape=shape, dtype=dtype, trainable=trainable)  # type: ignore[arg-type]
            )
        else:
            value = draw(JSON) if kind == "data" else None
            structure.append(Entry(path=path, kind=kind, value=value))  # type: ignore[arg-type]
    if tensors:
        digests = {"digest": Digest.of(b"a"), "header": Digest.of(b"b")}
        files.append(FileRecord(path="w", size=position, tensors=tuple(tensors), **digests))
    return Manifest(
        structure=tuple(draw(st.permutations(structure))),
        files=tuple(files),
        preprocessing=draw(MAPPINGS),
        labels=tuple(draw(st.lists(NAMES, max_size=3))),
        metrics=draw(MAPPINGS),
        license=draw(NAMES),
        provenance=draw(MAPPINGS),
        builder=draw(st.none() | st.builds(BuilderRecord, name=st.just("b"), arguments=MAPPINGS)),
        transforms=parse_rules(draw(st.lists(st.sampled_from(RULES), max_size=3))),
    )


@given(manifests())
def test_any_manifest_is_read_back_and_fits_the_schema(manifest: Manifest) -> None:
    data = dump(manifest)
    assert parse(data) == manifest
    VALIDATOR.validate(json.loads(data))


def test_a_manifest_that_cannot_be_read_is_not_written() -> None:
    for broken in (
        replace(example(), metrics={"loss": float("nan")}),
        replace(example(), metrics={"loss": {1, 2}}),  # type: ignore[dict-item]
        replace(example(), labels=("\ud800",)),
        replace(example(), files=()),
        replace(example(), schema=2),
    ):
        with pytest.raises(InvalidManifest):
            dump(broken)


# ---------------------------------------------------------------- the schema and golden files


def test_there_is_a_golden_file() -> None:
    assert [path.name for path in GOLDEN] == ["manifest-v1.0.json", "manifest-v1.1.json"]


@pytest.mark.parametrize(("path", "meant"), [*zip(GOLDEN, (example(), later()), strict=True)])
def test_golden_files_load_for_ever(path: Path, meant: Manifest) -> None:
    data = path.read_bytes()
    assert parse(data) == meant
    assert dump(parse(data)) == data
    VALIDATOR.validate(json.loads(data))


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(VALIDATOR.schema)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *((("files", 1, "path"), text) for text in ("../a", "/a", "a//b", "a\\b", "a/", "", "a\0")),
        (("files", 1, "size"), -1),
        (("structure", 2, "shape"), None),
        (("structure", 3, "value"), 1),
        (("files", 0, "tensors", 0, "dtype"), "float4"),
        (("novelty",), 1),
    ],
)
def test_the_schema_refuses_what_can_be_said_in_a_schema(path: Path_, value: Any) -> None:
    assert not VALIDATOR.is_valid(json.loads(altered(path, value)))
    with pytest.raises(InvalidManifest):
        parse(altered(path, value))


def changed(**changes: Any) -> bytes:
    return json.dumps(json.loads(dump(example())) | changes).encode()


def test_unknown_keys_are_refused_in_this_version_and_skipped_in_a_newer_minor_one() -> None:
    document = json.loads(dump(example()))
    document["novelty"] = 1
    document["structure"][0]["novelty"] = 1
    document["files"][0]["novelty"] = 1
    document["files"][0]["tensors"][0]["novelty"] = 1
    document["probe"]["novelty"] = 1
    document["probe"]["outputs"][0]["novelty"] = 1
    document["builder"]["novelty"] = 1
    with pytest.raises(InvalidManifest, match="novelty"):
        parse(json.dumps(document).encode())
    assert parse(json.dumps(document | {"schema": f"1.{MINOR + 1}"}).encode()) == example()


@pytest.mark.parametrize(
    "path", ["structure/0", "files/0", "files/0/tensors/0", "probe", "builder"]
)
def test_an_unknown_key_is_refused_wherever_it_is(path: str) -> None:
    document = json.loads(dump(example()))
    place = document
    for key in path.split("/"):
        place = place[int(key) if key.isdigit() else key]
    place["novelty"] = 1
    with pytest.raises(InvalidManifest, match=path.partition("/")[0]):
        parse(json.dumps(document).encode())


def test_another_major_version_is_refused_clearly() -> None:
    with pytest.raises(InvalidManifest, match=r"schema: expected version 1 .*newer.*found '2\.0'"):
        parse(changed(schema="2.0", structure="anything"))
    for odd in (1, "1", None, "one.two", "1.0\n", "-1.0", "9" * 40 + ".0"):
        with pytest.raises(InvalidManifest, match="schema"):
            parse(changed(schema=odd))


# ---------------------------------------------------------------- the structure's hash


def hash_of(*entries: Entry) -> Digest:
    return structure_hash(entries)


def test_the_structure_hash_is_the_same_for_ever() -> None:
    stated = "sha256:991b11d446fcb27ecb257bd80d0e3007b9cf90eee3a0a2447465e81fc62b7565"
    assert str(example().structure_hash) == stated


def test_the_structure_hash_forgets_what_is_no_contract() -> None:
    entries = example().structure
    assert structure_hash(reversed(entries)) == structure_hash(entries)
    for index, entry in enumerate(entries):
        for change in (
            {"class_name": "other"} if entry.kind == "module" else {},
            {"trainable": False} if entry.kind == "param" else {},
            {"value": 77} if entry.kind == "data" else {},
        ):
            other = (*entries[:index], replace(entry, **change), *entries[index + 1 :])
            assert structure_hash(other) == structure_hash(entries)
    assert structure_hash(e for e in entries if e.kind != "data") == structure_hash(entries)


def test_the_structure_hash_covers_the_contract() -> None:
    entries = example().structure
    hashes = {structure_hash(entries)}
    weight = next(entry for entry in entries if entry.path == "head.weight")
    for other in (
        replace(weight, path="head.w"),
        replace(weight, kind="buffer"),
        replace(weight, kind="none", shape=None, dtype=None),
        replace(weight, shape=(1, *(weight.shape or ()))),
        replace(weight, dtype="float16"),
        replace(weight, tied_to=None),
    ):
        hashes.add(structure_hash(other if e is weight else e for e in entries))
    hashes.add(structure_hash(e for e in entries if e.path != "again"))
    assert len(hashes) == 8


def test_ties_are_groups_whichever_of_them_is_first() -> None:
    def tensor(path: str, tied_to: str | None = None) -> Entry:
        return Entry(path=path, kind="param", shape=(), dtype="float32", tied_to=tied_to)

    one = hash_of(tensor("a"), tensor("b", "a"), tensor("c", "a"))
    assert one == hash_of(tensor("c"), tensor("b", "c"), tensor("a", "c"))
    assert one != hash_of(tensor("a"), tensor("b", "a"), tensor("c"))


# ---------------------------------------------------------------- attacks


def altered(path: Path_, value: Any) -> bytes:
    """The example with one value replaced, or removed."""
    document = json.loads(dump(example()))
    place = document
    for key in path[:-1]:
        place = place[key]
    if value is ABSENT:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(document).encode()


TENSOR: Path_ = ("files", 0, "tensors", 1)
ALTERATIONS: list[tuple[Path_, Any, str]] = [
    (("files", 1, "path"), "../README.md", r"files\[1\]\.path"),
    (("files", 1, "path"), "a/./b", r"files\[1\]\.path"),
    (("files", 1, "path"), "/etc/passwd", r"files\[1\]\.path"),
    (("files", 1, "path"), "a\\b", r"files\[1\]\.path"),
    (("files", 1, "path"), "a\0b", r"files\[1\]\.path"),
    (("files", 1, "path"), "a\nb", r"files\[1\]\.path"),
    (("files", 1, "path"), "", r"files\[1\]\.path"),
    (("files", 1, "path"), "a//b", r"files\[1\]\.path"),
    (("files", 1, "path"), "a/", r"files\[1\]\.path"),
    (("files", 1, "path"), "a" * 256, r"files\[1\]\.path"),
    (("files", 1, "path"), "hubstate.json", r"files\[1\]\.path"),
    (("files", 1, "path"), "model.safetensors", "no other file has"),
    (("files", 1, "path"), "model.safetensors/a", "no file below"),
    (("files", 1, "path"), ABSENT, r"files\[1\]\.path: .*found nothing"),
    (("files", 1, "size"), -1, r"files\[1\]\.size"),
    (("files", 1, "size"), 1.0, r"files\[1\]\.size"),
    (("files", 1, "size"), True, r"files\[1\]\.size"),
    (("files", 1, "digest"), "sha256:" + "A" * 64, r"files\[1\]\.digest"),
    (("files", 1, "digest"), "md5:" + "a" * 64, r"files\[1\]\.digest"),
    (("files", 1, "digest"), 7, r"files\[1\]\.digest"),
    (("files", 0, "header"), None, r"files\[0\]\.header"),
    (("files", 0, "size"), 7, r"tensors\[-1\]\.stop"),
    (("files", 0, "tensors"), {}, r"files\[0\]\.tensors: expected a list"),
    ((*TENSOR, "start"), -8, r"tensors\[1\]\.start"),
    ((*TENSOR, "start"), 1004, r"tensors\[1\]\.stop"),
    ((*TENSOR, "stop"), 1 << 62, r"tensors\[1\]\.stop"),
    ((*TENSOR, "stop"), None, r"tensors\[1\]\.stop"),
    ((*TENSOR, "shape"), [[]], r"tensors\[1\]\.shape"),
    ((*TENSOR, "shape"), [0] * 65, r"tensors\[1\]\.shape"),
    ((*TENSOR, "dtype"), "float4", r"tensors\[1\]\.dtype"),
    ((*TENSOR, "dtype"), [], r"tensors\[1\]\.dtype"),
    ((*TENSOR, "name"), None, r"tensors\[1\]\.name"),
    ((*TENSOR, "name"), "count", r"tensors\[1\]\.shape: expected \(\), as in the structure"),
    ((*TENSOR, "name"), "head", r"tensors\[1\]\.name"),
    ((*TENSOR, "name"), "other", r"tensors\[1\]\.name"),
    ((*TENSOR, "digests"), ["sha256:" + "a" * 64] * 2, r"tensors\[1\]\.digests: expected 3"),
    ((*TENSOR, "digests"), ["sha256:" + "a" * 64] * 4, r"tensors\[1\]\.digests: expected 3"),
    ((*TENSOR, "digests"), ["sha256:" + "a" * 63] * 3, r"tensors\[1\]\.digests"),
    ((*TENSOR, "digests"), [None] * 3, r"tensors\[1\]\.digests"),
    (("files", 0, "tensors", 1), 7, r"tensors\[1\]: expected an object"),
    (("files", 0, "tensors", 1), ABSENT, r"tensors\[1\]\.start"),
    (("files", 0, "tensors", 2), ABSENT, "files: .*'head.empty'"),
    (("files", 0), [], r"files\[0\]: expected an object"),
    (("structure", 2, "shape"), [1], r"structure\[4\]\.tied_to: expected a tensor"),
    (("structure", 6, "shape"), [1], "as in the structure"),
    (("structure", 6, "dtype"), "float16", "as in the structure"),
    (("structure", 2, "shape"), ABSENT, r"structure\[2\]\.shape"),
    (("structure", 2, "dtype"), ABSENT, r"structure\[2\]\.dtype"),
    (("structure", 2, "dtype"), "no dtype", r"structure\[2\]\.dtype"),
    (("structure", 2, "trainable"), 1, r"structure\[2\]\.trainable"),
    (("structure", 2, "kind"), "tensor", r"structure\[2\]\.kind"),
    (("structure", 2, "kind"), ["param"], r"structure\[2\]\.kind"),
    (("structure", 2, "path"), 3, r"structure\[2\]\.path"),
    (("structure", 2, "path"), "x" * 5000, r"structure\[2\]\.path"),
    (("structure", 2, "path"), "head", r"structure\[3\]\.path: .*no other entry"),
    (("structure", 4, "tied_to"), "nowhere", r"structure\[4\]\.tied_to"),
    (("structure", 4, "tied_to"), "head.weight", r"structure\[4\]\.tied_to"),
    (("structure", 4, "tied_to"), "count", r"structure\[4\]\.tied_to"),
    (("structure", 4, "tied_to"), "", r"structure\[4\]\.tied_to"),
    (("structure", 4, "tied_to"), ABSENT, "files: .*'head.weight'"),
    (("structure", 7, "tied_to"), "count", r"structure\[7\]\.tied_to"),
    (("structure", 7, "class"), 7, r"structure\[7\]\.class"),
    (("structure", 5, "value"), 7, r"structure\[5\]: expected only the keys"),
    (("structure", 1, "path"), "body", "structure_hash"),
    (("structure", 0), None, r"structure\[0\]: expected an object"),
    (("structure",), None, "structure: expected a list"),
    (("structure_hash",), "sha256:" + "0" * 64, "structure_hash: expected sha256:.*, found"),
    (("structure_hash",), ABSENT, "structure_hash"),
    (("labels", 1), 7, r"labels\[1\]"),
    (("metrics",), [], "metrics: expected an object"),
    (("license",), None, "license"),
    (("builder", "name"), "", r"builder\.name"),
    (("builder", "source"), "os.system", r"builder\.source"),
    (("builder", "arguments"), [], r"builder\.arguments"),
    (("builder",), "tied", "builder: expected an object"),
    (("probe", "seed"), -1, r"probe\.seed"),
    (("probe", "rtol"), -1.0, r"probe\.rtol"),
    (("probe", "outputs", 0, "stride"), 0, r"probe\.outputs\[0\]\.stride"),
    (("probe", "outputs", 0, "values"), [0.1], r"probe\.outputs\[0\]\.values"),
    (("probe", "outputs", 0, "values", 1), True, r"probe\.outputs\[0\]\.values\[1\]"),
]


@pytest.mark.parametrize(("path", "value", "message"), ALTERATIONS)
def test_an_altered_manifest_is_refused_and_the_place_named(
    path: Path_, value: Any, message: str
) -> None:
    with pytest.raises(InvalidManifest, match=f"^hubstate.json: .*{message}"):
        parse(altered(path, value))


PLACES: list[Path_] = []


def _places(value: Any, path: Path_) -> None:
    if path:
        PLACES.append(path)
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, dict | list):
            _places(item, (*path, key))
        else:
            PLACES.append((*path, key))


_places(json.loads(dump(later())), ())
ODD_VALUES = JSON | st.sampled_from([[], {}, -1, 2**62, 1e308, "..", "", [[[]]], {"a": {}}])


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            {"rename": r"(a+)+b", "to": "c"},
            r"transforms\[0\]\.rename: expected names, and no pattern",
        ),
        ({"drop": "a.b"}, r"transforms\[0\]\.drop: expected names"),
        ({"drop": "a|"}, r"transforms\[0\]\.drop: expected names"),
        ({"drop": "("}, r"\.drop: expected names"),
        ({"fuse": ["a", "b.*"], "to": "c"}, r"\.fuse: expected names"),
        ({"fuse": ["a", "b"], "to": r"\1c"}, r"\.to: expected names"),
        ({"split": "a", "to": ["b", r"\g<0>"]}, r"\.to: expected names"),
        ({"fold": "a", "into": r"\1"}, r"\.into: expected names"),
        ({"rename": "a", "to": "b", "shift": [0]}, r"\.shift: expected names"),
        ({"novelty": "a"}, "expected one of rename"),
        ({"drop": "a", "novelty": 1}, "novelty: unknown"),
        ({"drop": 1}, "expected text"),
        ("drop", "expected one of rename"),
    ],
)
@pytest.mark.parametrize("schema", ["1.1", "1.9"])
def test_a_rule_that_is_none_or_has_a_pattern_is_refused(rule: Any, said: str, schema: str) -> None:
    data = changed(transforms=[rule], schema=schema)
    with pytest.raises(InvalidManifest, match=said) as caught:
        parse(data)
    assert len(str(caught.value)) < 400


@settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.just(ABSENT) | ODD_VALUES), max_size=3))
def test_any_alteration_is_refused_by_one_error_or_read_as_it_stands(
    changes: list[tuple[Path_, Any]],
) -> None:
    document = json.loads(dump(later()))
    for path, value in changes:
        place = document
        try:
            for key in path[:-1]:
                place = place[key]
            if value is ABSENT:
                del place[path[-1]]
            else:
                place[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change has removed this place
    try:
        manifest = parse(json.dumps(document).encode())
    except InvalidManifest as error:
        assert str(error).startswith("hubstate.json: ")
        return
    assert parse(dump(manifest)) == manifest


@settings(max_examples=150)
@given(st.data())
def test_any_change_of_bytes_is_refused_by_one_error_or_read(data: st.DataObject) -> None:
    text = bytearray(dump(later()))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        stop = start + data.draw(st.integers(0, 40))
        text[start:stop] = data.draw(st.binary(max_size=4))
    try:
        parse(bytes(text))
    except InvalidManifest as error:
        assert str(error).startswith("hubstate.json: ")


@pytest.mark.parametrize(
    "data",
    [
        b'{"schema":"1.0","structure":' + b"[" * 500_000,
        changed(metrics={"x": "y" * 5_000_000, "z": [0] * 500_000}, novelty=1),
        changed(structure=[{"path": "a", "kind": "none"}] * 100_000),
        changed(transforms=[{"drop": "a"}] * 100_000, schema="1.1"),
        changed(transforms=[{"drop": "a|" * 1_000_000 + "(a*)*b"}], schema="1.1"),
        changed(
            structure=[{"path": str(i), "kind": "module", "tied_to": "x"} for i in range(9999)]
        ),
        b" " * (33 << 20),
        b"\xff\xfe",
        b"null",
        b"[]",
        b"",
    ],
    ids=[
        "deep",
        "huge",
        "same",
        "rules",
        "pattern",
        "ties",
        "blank",
        "binary",
        "null",
        "list",
        "empty",
    ],
)
def test_hostile_bytes_are_refused_quickly(data: bytes) -> None:
    started = time.perf_counter()
    with pytest.raises(InvalidManifest):
        parse(data)
    assert time.perf_counter() - started < 20, "what is not linear takes minutes"


def test_a_message_stays_short_however_large_the_value() -> None:
    with pytest.raises(InvalidManifest) as caught:
        parse(changed(license="x" * 1_000_000))
    assert len(str(caught.value)) < 400


# ---------------------------------------------------------------- files on disk


def weights(folder: Path) -> Path:
    """A safetensors file with a small, an empty, and a tensor of three chunks."""
    shapes = {"big": ("uint8", (2 * CHUNK + 5,)), "empty": ("uint8", (0,)), "one": ("uint8", (3,))}
    path = folder / "model.safetensors"
    path.write_bytes(dump_header(shapes, {}) + os.urandom(2 * CHUNK + 8))
    return path


def test_a_file_is_hashed_whole_and_by_tensors_and_chunks(tmp_path: Path) -> None:
    path = weights(tmp_path)
    data = path.read_bytes()
    told: list[int] = []
    found = hash_weights(path, name="sub/model.safetensors", progress=told.append)
    assert (found.path, found.size) == ("sub/model.safetensors", len(data))
    assert found.digest == Digest.of(data)
    assert sum(told) == 2 * len(data)
    by_name = {tensor.name: tensor for tensor in found.tensors}
    assert list(map(len, (by_name[n].digests for n in ("big", "empty", "one")))) == [3, 1, 1]
    assert found.header == Digest.of(data[: found.tensors[0].start])
    for tensor in found.tensors:
        ranges = chunks(tensor.start, tensor.stop)
        assert tensor.digests == tuple(Digest.of(data[a:b]) for a, b in ranges)
    assert verify_file(path, found) == []


def test_every_changed_byte_is_found_and_named(tmp_path: Path) -> None:
    path = weights(tmp_path)
    found, data = hash_weights(path), path.read_bytes()
    big = next(tensor for tensor in found.tensors if tensor.name == "big")
    for position, words in [
        (0, "header: bytes 0–"),
        (20, "header: bytes 0–"),
        (big.start, f"big: bytes {big.start:,}–"),
        (big.start + CHUNK, f"big: bytes {big.start + CHUNK:,}–{big.start + 2 * CHUNK:,} differ"),
        (big.stop - 1, f"–{big.stop:,} differ"),
        (len(data) - 1, "one: bytes"),
    ]:
        with path.open("r+b") as file:
            file.seek(position)
            file.write(bytes([data[position] ^ 1]))
        (problem,) = verify_file(path, found)
        assert problem.startswith("model.safetensors: ")
        assert words in problem
        path.write_bytes(data)


def test_a_file_of_another_size_is_found_and_named(tmp_path: Path) -> None:
    path = weights(tmp_path)
    found, data = hash_weights(path), path.read_bytes()
    path.write_bytes(data[:-1])
    size, tensor = verify_file(path, found)
    assert re.search(r"expected .* bytes, found", size)
    assert re.search(r"one: bytes .* are cut off", tensor)
    path.write_bytes(data + b"\0")
    assert len(verify_file(path, found)) == 1
    path.unlink()
    assert "no such file" in verify_file(path, found)[0]


def test_a_plain_file_is_verified_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_bytes(b"hello")
    found = hash_plain(path)
    assert found == FileRecord(path="README.md", size=5, digest=Digest.of(b"hello"))
    assert verify_file(path, found) == []
    path.write_bytes(b"hellp")
    assert verify_file(path, found) == ["README.md: bytes 0–5 differ"]


def test_a_record_that_leaves_bytes_out_is_verified_as_a_whole(tmp_path: Path) -> None:
    path = weights(tmp_path)
    found = hash_weights(path)
    partial = replace(found, tensors=found.tensors[:-1])
    assert verify_file(path, partial) == []
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert verify_file(path, partial) == [f"model.safetensors: bytes 0–{found.size:,} differ"]


def test_a_file_that_is_no_safetensors_file_is_not_hashed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not a header at all")
    with pytest.raises(InvalidWeights, match=r"^model\.safetensors: "):
        hash_weights(path)
