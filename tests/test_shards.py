"""Shards and their index: how a state is split, and what an index has to say to be believed."""

from __future__ import annotations

import json
from pathlib import Path

import hypothesis
import pytest
import torch
from huggingface_hub import load_torch_model, save_torch_state_dict
from huggingface_hub.serialization._base import parse_size_to_int
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hubstate import settings
from hubstate.errors import InvalidSetting, InvalidWeights
from hubstate.shards import (
    check_files,
    check_shards,
    dump_index,
    open_index,
    parse_size,
    read_index,
    split,
)
from hubstate.weights import map_weights, save_sharded, save_weights

INDEX = "model.safetensors.index.json"


def state(*sizes: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {f"t{number}": torch.randn(size) for number, size in enumerate(sizes)}


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


@pytest.mark.parametrize("text", ["5GB", "500MB", "1.5kb", " 2 TB "])
def test_a_size_is_what_huggingface_hub_reads(text: str) -> None:
    assert parse_size(text) == parse_size_to_int(text)


@pytest.mark.parametrize(("text", "count"), [("1KiB", 1024), ("3 GiB", 3 << 30), ("7", 7), (7, 7)])
def test_a_size_may_be_binary_or_bytes(text: str | int, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("size", ["", "GB", "5 apples", "-1GB", "0", 0, -1, True, 1.5, None])
def test_what_is_no_size_is_refused(size: object) -> None:
    with pytest.raises(InvalidSetting, match="max_shard_size: expected bytes"):
        parse_size(size)  # type: ignore[arg-type]


def test_the_limit_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.max_shard_size() == 5 * 10**9
    monkeypatch.setenv("HUBSTATE_MAX_SHARD_SIZE", "20kB")
    assert settings.max_shard_size() == 20_000
    monkeypatch.setenv("HUBSTATE_MAX_SHARD_SIZE", "much")
    with pytest.raises(InvalidSetting, match="HUBSTATE_MAX_SHARD_SIZE"):
        settings.max_shard_size()


@given(st.lists(st.integers(0, 20)), st.integers(1, 30))
def test_groups_are_in_order_and_as_full_as_they_can_be(sizes: list[int], limit: int) -> None:
    known = {str(number): size for number, size in enumerate(sizes)}
    groups = split(known, limit)
    assert [name for group in groups for name in group] == list(known)
    assert all(groups) or not known
    filled = [sum(known[name] for name in group) for group in groups]
    for group, size in zip(groups, filled, strict=True):
        assert size <= limit or sum(known[name] > 0 for name in group) == 1
    for size, after in zip(filled, groups[1:], strict=False):
        assert size + known[after[0]] > limit


def test_a_state_below_the_limit_is_the_file_that_it_was(tmp_path: Path) -> None:
    tensors = state(10, 20)
    save_weights(tmp_path / "a.safetensors", tensors)
    (path,) = save_sharded(tmp_path / "b.safetensors", tensors, limit=120)
    assert path.read_bytes() == (tmp_path / "a.safetensors").read_bytes()


def test_shards_follow_the_order_of_the_state(tmp_path: Path) -> None:
    tensors = state(10, 20, 100, 5)
    *shards, index = save_sharded(tmp_path / "model.safetensors", tensors, limit=120)
    assert names(shards) == [f"model-0000{k}-of-00003.safetensors" for k in (1, 2, 3)]
    assert [list(map_weights(path)) for path in shards] == [["t0", "t1"], ["t2"], ["t3"]]
    assert json.loads(index.read_bytes())["metadata"] == {"total_size": 540}


def test_what_huggingface_hub_splits_alike_has_the_same_index(tmp_path: Path) -> None:
    tensors = state(10, 20, 15, 5, 25)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    save_sharded(ours / "model.safetensors", tensors, limit=120)
    save_torch_state_dict(tensors, theirs, max_shard_size=120)
    assert sorted(names([*ours.iterdir()])) == sorted(names([*theirs.iterdir()]))
    found = [json.loads((folder / INDEX).read_bytes()) for folder in (ours, theirs)]
    assert found[0] == found[1]


def test_stock_clients_read_the_shards(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    assert len(save_sharded(tmp_path / "model.safetensors", model.state_dict(), limit=200)) > 3
    other = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    load_torch_model(other, tmp_path, strict=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


def test_one_tensor_under_names_far_apart_is_stored_once(tmp_path: Path) -> None:
    tensors = state(10, 10, 10)
    tensors = {**tensors, "again": tensors["t0"]}
    *shards, index = save_sharded(tmp_path / "model.safetensors", tensors, limit=40)
    assert len(shards) == 3
    assert "again" not in read_index(index.read_bytes(), what=INDEX)
    first = map_weights(shards[0])
    assert first["again"] is first["t0"]
    assert sum(path.stat().st_size for path in shards) < 120 + 3 * 200


def test_what_no_file_can_hold_is_refused_before_the_first_is_written(tmp_path: Path) -> None:
    tensors = {**state(10, 10), "last": torch.zeros(3, dtype=torch.complex128)}
    with pytest.raises(InvalidWeights, match=r"last: dtype complex128"):
        save_sharded(tmp_path / "model.safetensors", tensors, limit=40)
    assert list(tmp_path.iterdir()) == []


# An index from a stranger

plain = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)


@hypothesis.settings(max_examples=30)
@given(st.dictionaries(st.text(max_size=4), plain.map("{}.safetensors".format), min_size=1))
def test_an_index_is_read_as_it_was_written(weight_map: dict[str, str]) -> None:
    assert read_index(dump_index(weight_map, total_size=1), what=INDEX) == weight_map


@pytest.mark.parametrize(
    "file",
    [
        *("../a.safetensors", "/a.safetensors", "x/../a.safetensors", "..\\a.safetensors"),
        *("C:\\a.safetensors", "C:a.safetensors", "./a.safetensors", "x//a.safetensors"),
        *("a.bin", "a.safetensors\n", "a\0.safetensors", ".git/a.safetensors", "", 3, None, []),
    ],
)
def test_a_file_that_is_not_beside_the_index_is_refused(file: object) -> None:
    data = json.dumps({"weight_map": {"good": "a.safetensors", "bad": file}}).encode()
    with pytest.raises(InvalidWeights, match=r"index: bad: expected the name of a \.safetensors"):
        read_index(data, what="index")


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {}}', b"\xff"),
        b'{"weight_map": {"a": "a.safetensors", "a": "b.safetensors"}}',
    ],
)
def test_what_is_no_index_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidWeights, match=r"^index: "):
        read_index(data, what="index")


@given(st.dictionaries(plain, plain, min_size=1), st.data())
def test_an_index_is_believed_only_if_the_files_say_the_same(
    weight_map: dict[str, str], data: st.DataObject
) -> None:
    shards = {file: {n for n, f in weight_map.items() if f == file} for file in weight_map.values()}
    check_shards(weight_map, shards, what=INDEX)
    file = data.draw(st.sampled_from(sorted(shards)))
    name = data.draw(st.sampled_from(sorted(weight_map)) | plain)
    shards[file] ^= {name}
    with pytest.raises(InvalidWeights) as caught:
        check_shards(weight_map, shards, what=INDEX)
    assert name in str(caught.value)
    assert file in str(caught.value)


def test_every_disagreement_is_told_with_what_was_expected_and_found() -> None:
    weight_map = {"a": "1.safetensors", "b": "2.safetensors"}
    with pytest.raises(InvalidWeights) as caught:
        check_shards(weight_map, {"1.safetensors": {"b"}, "2.safetensors": {"b", "c"}}, what=INDEX)
    assert str(caught.value).split("\n  ") == [
        f"{INDEX}: a: expected in 1.safetensors, found no such tensor there",
        "b: expected in 2.safetensors, found in 1.safetensors",
        "c: expected nowhere, found in 2.safetensors",
    ]


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    *shards, index = save_sharded(tmp_path / "model.safetensors", state(10, 10), limit=40)
    assert list(open_index(index).values()) == shards
    shards[1].unlink()
    with pytest.raises(InvalidWeights, match=rf"expected the file {shards[1].name}, found none"):
        open_index(index)
    with pytest.raises(InvalidWeights, match=r"expected the file a, found none\n  expected the"):
        check_files({"x": "a", "y": "b"}, {}, what=INDEX)
