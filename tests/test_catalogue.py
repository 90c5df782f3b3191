"""The catalogue: strict to read, and clear about what is not in it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubstate.errors import InvalidReference, InvalidSetting, UnknownModel
from hubstate.reference import Reference
from hubstate.zoo.builders import BUILTIN
from hubstate.zoo.catalogue import CatalogueEntry, choose, entries, parse_catalogue

ENTRY = {
    "builder": '"resnet18"',
    "tag": '"v1"',
    "repository": '"org/name"',
    "license": '"mit"',
}
DIGEST = "sha256:" + "0123456789abcdef" * 4


def table(**fields: str | None) -> str:
    kept = {key: value for key, value in {**ENTRY, **fields}.items() if value is not None}
    return "[[model]]\n" + "".join(f"{key} = {value}\n" for key, value in kept.items())


def catalogue(*tables: str) -> str:
    return "schema = 1\n" + "\n".join(tables)


def read(*tables: str) -> tuple[CatalogueEntry, ...]:
    return parse_catalogue(catalogue(*tables), where="here.toml")


def name_catalogues(monkeypatch: pytest.MonkeyPatch, folder: Path, *texts: str) -> None:
    paths = [folder / f"{number}.toml" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    monkeypatch.setenv("HUBSTATE_CATALOGUE", os.pathsep.join(map(str, paths)))


def test_the_library_s_own_catalogue_is_valid_and_names_its_builders() -> None:
    known = entries()
    assert ("resnet18_small", "digits") in {(entry.builder, entry.tag) for entry in known}
    assert {entry.builder for entry in known} <= BUILTIN.keys()


def line(entry: CatalogueEntry) -> str:
    """An entry by what names it, and the digest of all that it says but which one is the default:
    ``pretrained=True`` may come to mean newer weights, and a tag may not."""
    said = {
        item.name: getattr(entry, item.name) for item in fields(entry) if item.name != "default"
    }
    digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()
    return f"{entry.builder}\t{entry.tag}\t{entry.reference}\t{digest[:16]}"


def test_what_an_entry_says_never_changes() -> None:
    """Newer weights get a tag of their own, and a line at the end of the golden file."""
    golden = Path(__file__).with_name("golden") / "catalogue.tsv"
    published, found = golden.read_text().splitlines(), list(map(line, entries()))
    assert sorted(set(published) - set(found)) == [], (
        "was published, and is gone or says other things"
    )
    assert sorted(set(found) - set(published)) == [], "new: add these lines to tests/golden"


def test_the_public_hub_s_weights_are_listed_under_torchvision_s_names() -> None:
    hub = [entry for entry in entries() if entry.registry]
    assert {entry.builder for entry in hub} >= {"resnet18", "wide_resnet50_2", "densenet121"}
    assert choose("resnet50", True).reference == "timm/resnet50.tv2_in1k@main"
    assert choose("resnet50", "imagenet1k_v1").reference == "timm/resnet50.tv_in1k@main"
    assert choose("resnet18", True).registry == "https://huggingface.co"
    defaults = [entry.builder for entry in hub if entry.default]
    assert sorted(defaults) == sorted({entry.builder for entry in hub})


def test_a_file_is_not_read_before_its_turn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name_catalogues(monkeypatch, tmp_path, catalogue(table(default="true")), "not a catalogue")
    assert choose("resnet18", True).tag == "v1"
    with pytest.raises(InvalidSetting):
        choose("resnet18", "v2")


def test_an_entry_is_read_with_its_defaults() -> None:
    (entry,) = read(table())
    expected = CatalogueEntry(
        builder="resnet18", tag="v1", reference=Reference(repo="org/name"), license="mit"
    )
    assert entry == expected


def test_every_field_is_read() -> None:
    (entry,) = read(
        table(
            default="true",
            revision='"v1.2"',
            registry='"https://registry.example"',
            arguments="{ num_classes = 7, blocks = [1, 2] }",
            preprocessing="{ input_size = [3, 8, 9], crop_pct = 0.5 }",
            metrics="{ accuracy = 0.5 }",
        )
    )
    assert str(entry.reference) == "org/name@v1.2"
    assert entry.default
    assert entry.registry == "https://registry.example"
    assert entry.arguments == {"num_classes": 7, "blocks": [1, 2]}
    assert entry.preprocessing == {"input_size": [3, 8, 9], "crop_pct": 0.5}
    assert entry.metrics == {"accuracy": 0.5}


def test_rules_are_written_once_for_several_entries() -> None:
    rules = "[rules]\nolder = [{ drop = 'epoch' }]\n"
    named = table(transforms='"older"')
    first, second = parse_catalogue(
        catalogue(rules, named, table(tag='"v2"', transforms="[]")), where="here.toml"
    )
    assert first.transforms == ({"drop": "epoch"},)
    assert second.transforms == ()


@pytest.mark.parametrize(
    ("rules", "name", "expected"),
    [
        ("", '"older"', r"entry 1 .*: transforms: \[rules\] has no 'older': nothing"),
        ("[rules]\na = []\nb = []", '"older"', "has no 'older': a, b"),
        ("[rules]\nolder = 3", '"older"', r"rules\.older: transforms: expected a list of rules"),
        ("[rules]\nolder = [{ dropp = 'a' }]", '"older"', r"rules\.older: transforms\[0\]: "),
        ("rules = 3", '"older"', "rules: expected lists of rules by name, found int"),
    ],
)
def test_rules_that_are_not_there_or_mean_nothing_are_refused(
    rules: str, name: str, expected: str
) -> None:
    with pytest.raises(InvalidSetting, match=expected):
        parse_catalogue(catalogue(rules, table(transforms=name)), where="here.toml")


def test_the_digest_of_a_manifest_pins_the_reference() -> None:
    (entry,) = read(table(revision='"main"', manifest=f'"{DIGEST}"'))
    assert str(entry.reference) == f"org/name@{DIGEST}"


@pytest.mark.parametrize("key", sorted(ENTRY))
def test_a_missing_field_is_named(key: str) -> None:
    with pytest.raises(InvalidSetting, match=rf"here\.toml[\s\S]*entry 1 .*: {key}: missing"):
        read(table(**{key: None}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("builder", "3"),
        ("builder", '""'),
        ("tag", '"a/b"'),
        ("tag", '"-v"'),
        ("repository", '"a/b/c"'),
        ("revision", '"a..b"'),
        ("manifest", '"sha256:12"'),
        ("manifest", '"md5:12"'),
        ("license", "true"),
        ("default", '"yes"'),
        ("default", "1"),
        ("registry", '""'),
        ("arguments", "[1]"),
        ("arguments", "{ when = 2020-01-01 }"),
        ("arguments", "{ rates = [nan] }"),
        ("metrics", "{ accuracy = inf }"),
        ("preprocessing", "3"),
        ("preprocessing", "{ size = 3 }"),
        ("preprocessing", "{ input_size = [3, 224] }"),
        ("preprocessing", "{ input_size = [3, 224, 0] }"),
        ("preprocessing", "{ input_size = [3, 224, 224.0] }"),
        ("preprocessing", "{ input_size = 224 }"),
        ("preprocessing", "{ mean = 0.5 }"),
        ("preprocessing", "{ mean = ['0.5'] }"),
        ("preprocessing", "{ mean = [0.5, nan] }"),
        ("preprocessing", "{ std = [0.5, 0] }"),
        ("preprocessing", "{ std = [0.5], input_size = [3, 8, 8] }"),
        ("preprocessing", "{ interpolation = 'magic' }"),
        ("preprocessing", "{ interpolation = ['bilinear'] }"),
        ("preprocessing", "{ crop_pct = 1.5 }"),
        ("preprocessing", "{ crop_pct = true }"),
        ("transforms", "{ drop = 'a' }"),
        ("transforms", "[{ dropp = 'a' }]"),
        ("metric", "{ accuracy = 1 }"),
    ],
)
def test_a_wrong_value_is_refused_where_it_stands(key: str, value: str) -> None:
    place = rf"here\.toml[\s\S]*entry 2 \(.*\): {key}: "
    with pytest.raises(InvalidSetting, match=place):
        read(table(tag='"first"'), table(**{key: value}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "schema: expected 1, found None"),
        ("schema = 2", "schema: expected 1, found 2"),
        ("schema = true", "schema: expected 1, found True"),
        ("schema = 1\nmodels = []", "models: unknown"),
        ("schema = 1\nmodel = 3", "model: expected"),
        ("schema = 1\nmodel = [3]", "model: expected"),
        ("schema = ", "not TOML"),
        ("a = " + "[" * 100_000, "not TOML"),
    ],
)
def test_a_file_of_another_kind_is_refused(text: str, expected: str) -> None:
    with pytest.raises(InvalidSetting, match=expected):
        parse_catalogue(text, where="here.toml")


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(InvalidSetting) as caught:
        read(table(tag="1", license="2"), table(builder=None, colour='"red"'))
    assert len(str(caught.value).splitlines()) == 1 + 4


def test_a_tag_is_taken_once_for_each_builder() -> None:
    assert len(read(table(), table(builder='"resnet34"'))) == 2
    with pytest.raises(InvalidSetting, match=r"entry 2 .*: tag: entry 1 has it already"):
        read(table(), table())


def test_a_builder_has_one_default() -> None:
    with pytest.raises(InvalidSetting, match=r"entry 2 .*: default: entry 1 is the default"):
        read(table(default="true"), table(tag='"v2"', default="true"))


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_catalogue(text, where="here.toml")
    except InvalidSetting as error:
        assert "here.toml" in str(error)


VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(
    st.lists(st.dictionaries(st.sampled_from(sorted([*ENTRY, "default", "preprocessing"])), VALUES))
)
def test_any_tables_are_read_or_refused(tables: list[dict[str, object]]) -> None:
    from hubstate.zoo.listing import _problems

    problems = list(_problems({"schema": 1, "model": tables}))
    assert problems or all(ENTRY.keys() <= given.keys() for given in tables)


def test_true_means_the_default_and_a_word_its_tag(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = catalogue(table(), table(tag='"v2"', default="true", revision='"two"'))
    name_catalogues(monkeypatch, tmp_path, text)
    assert choose("resnet18", True).reference == "org/name@two"
    assert choose("resnet18", "v1").reference == "org/name@main"


def test_a_reference_needs_no_catalogue() -> None:
    source = choose("resnet18", "org/name@v3")
    assert (source.reference, source.registry, source.arguments) == ("org/name@v3", None, {})


def test_a_reference_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(InvalidReference):
        choose("resnet18", "org/name@a..b")


@pytest.mark.parametrize("wanted", [True, "v9"])
def test_a_missing_entry_names_the_valid_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wanted: bool | str
) -> None:
    name_catalogues(
        monkeypatch,
        tmp_path,
        catalogue(table(builder='"alexnet"'), table(builder='"alexnet"', tag='"v2"')),
    )
    with pytest.raises(UnknownModel, match="'v1', 'v2'"):
        choose("alexnet", wanted)


def test_a_builder_without_weights_says_what_can_be_given() -> None:
    with pytest.raises(UnknownModel, match=r"no entry for it.*org/name@revision.*CATALOGUE"):
        choose("alexnet", True)


def test_the_first_file_counts_most(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ours = table(builder='"resnet18_small"', tag='"digits"', default="true", registry='"/mirror"')
    other = table(builder='"resnet18_small"', tag='"digits"', repository='"org/other"')
    name_catalogues(monkeypatch, tmp_path, catalogue(ours), catalogue(other))
    assert choose("resnet18_small", True).registry == "/mirror"
    assert [e.registry for e in entries() if e.builder == "resnet18_small"] == ["/mirror"]


def test_a_file_that_is_not_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HUBSTATE_CATALOGUE", str(tmp_path / "absent.toml"))
    with pytest.raises(InvalidSetting, match=r"absent\.toml cannot be read"):
        entries()


def test_a_file_that_is_not_text_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "image.toml").write_bytes(b"\x89PNG\xff")
    monkeypatch.setenv("HUBSTATE_CATALOGUE", str(tmp_path / "image.toml"))
    with pytest.raises(InvalidSetting, match=r"image\.toml cannot be read"):
        entries()


def test_the_command_lists_weights_and_imports_neither_torch_nor_an_architecture() -> None:
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hubstate", "models", "resnet*"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "imagenet1k_v2 (default)" in answer.stdout
    assert "timm/resnet50.tv_in1k@main" in answer.stdout
    imported = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert "hubstate.zoo.catalogue" in imported
    assert not {"torch", "numpy", *BUILTIN.values()} & imported
