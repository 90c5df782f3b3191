"""The header of a safetensors file."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from hubstate.errors import InvalidWeights
from hubstate.header import (
    ITEM_SIZES,
    SAFETENSORS_NAMES,
    dump_header,
    header_size,
    parse_header,
    read_header,
)


def header_of(document: Any, *, data: int = 0) -> bytes:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def tensor(dtype: str, shape: Any, *offsets: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


def test_it_reads_what_the_safetensors_library_writes(tmp_path: Path) -> None:
    tensors = {name: torch.zeros(2, 3, dtype=getattr(torch, name)) for name in ITEM_SIZES}
    tensors |= {"scalar": torch.tensor(1.0), "empty": torch.zeros(0, 7)}
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(tensors, path, {"key": "täxt"})
    header = read_header(path)
    assert header.metadata == {"key": "täxt"}
    assert header.stop == path.stat().st_size
    for name, found in header.tensors.items():
        assert found.name == name
        assert found.shape == tuple(tensors[name].shape)
        assert found.dtype == str(tensors[name].dtype).removeprefix("torch.")
        assert found.stop - found.start == tensors[name].nbytes


def test_it_writes_what_the_safetensors_library_writes() -> None:
    tensors = {
        f't {name} \u2028"\n': torch.zeros(3, dtype=getattr(torch, name)) for name in ITEM_SIZES
    }
    shapes = {name: (str(t.dtype)[6:], (3,)) for name, t in reversed(tensors.items())}
    header = dump_header(shapes, {"format": "pt"})
    assert safetensors.torch.save(tensors, {"format": "pt"}).startswith(header)


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8")).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(sorted(SAFETENSORS_NAMES)), st.lists(st.integers(0, 3))),
    ),
    st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8"))),
)
def test_what_is_written_is_read_back(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    shapes = {name: (dtype, tuple(shape)) for name, (dtype, shape) in tensors.items()}
    data = dump_header(shapes, metadata)
    header = parse_header(data, file_size=None)
    assert header.metadata == metadata
    assert {name: (t.dtype, t.shape) for name, t in header.tensors.items()} == shapes
    assert header.size == len(data) == header_size(data)
    assert len(data) % 8 == 0
    parse_header(data, file_size=header.stop)


GOOD = header_of({"a": tensor("F32", [2], 0, 8), "b": tensor("I8", [], 8, 9)})


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_changed_byte_gives_a_header_or_one_kind_of_error(position: int, byte: int) -> None:
    data = bytearray(GOOD)
    data[position] = byte
    try:
        header = parse_header(bytes(data), file_size=len(GOOD) + 9)
    except InvalidWeights:
        return
    assert header.stop == len(GOOD) + 9


@given(st.binary())
@example(b"\x02\0\0\0\0\0\0\0[]")
@example(b"\x04\0\0\0\0\0\0\0null")
def test_any_bytes_give_a_header_or_one_kind_of_error(data: bytes) -> None:
    for prefix in (data, len(data).to_bytes(8, "little") + data):
        with suppress(InvalidWeights):
            parse_header(prefix, file_size=None)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [1], 4, 8)}, "b: .*overlaps"),
        ({"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [1], 12, 16)}, "b: .*a gap"),
        ({"a": tensor("F32", [2], 4, 12)}, "a: .*a gap"),
        ({"a": tensor("F32", [2], 0, 12)}, "a: expected 8 bytes"),
        ({"a": tensor("F32", [-1], 0, 8)}, "a: shape"),
        ({"a": tensor("F32", [True], 0, 4)}, "a: shape"),
        ({"a": tensor("F32", [1] * 65, 0, 4)}, "a: shape"),
        ({"a": tensor("F32", "2", 0, 8)}, "a: shape"),
        ({"a": tensor("F32", [2], -8, 0)}, "a: data_offsets"),
        ({"a": tensor("F32", [2], 8)}, "a: data_offsets"),
        ({"a": tensor("F32", [2**62, 2**62], 0, 8)}, "a: expected"),
        ({"a": tensor("F4", [2], 0, 1)}, "a: dtype: 'F4'"),
        ({"a": tensor(["F32"], [2], 0, 8)}, "a: dtype"),  # type: ignore[arg-type]
        ({"a": {"dtype": "F32", "shape": [2]}}, "a: expected dtype, shape and data_offsets"),
        ({"a": 7}, "a: expected dtype"),
        ({"__metadata__": {"a": 7}}, "__metadata__"),
        ({"__metadata__": None}, "__metadata__"),
        ([], "expected an object, found list"),
        (b'{"a":{},"a":{}}', "a: the key appears twice"),
        (b"{}  x", "not JSON"),
    ],
)
def test_a_broken_header_names_the_tensor(document: Any, message: str) -> None:
    with pytest.raises(InvalidWeights, match=message):
        parse_header(header_of(document), file_size=None)


def test_a_file_cut_short_names_the_first_tensor_that_does_not_fit() -> None:
    with pytest.raises(InvalidWeights, match=r"^b: expected bytes .*the file ends at"):
        parse_header(GOOD, file_size=len(GOOD) + 8)


def test_bytes_after_the_last_tensor_are_refused() -> None:
    with pytest.raises(InvalidWeights, match="belong to no tensor"):
        parse_header(GOOD, file_size=len(GOOD) + 10)


@pytest.mark.parametrize("length", [0, 1, 100_000_001, 2**63])
def test_a_length_that_no_header_has_is_refused(length: int) -> None:
    with pytest.raises(InvalidWeights, match="bytes 0–8"):
        header_size(length.to_bytes(8, "little"))


@pytest.mark.parametrize("size", [0, 7, 8, 40])
def test_a_file_that_ends_in_its_header_says_so(tmp_path: Path, size: int) -> None:
    path = tmp_path / "short.safetensors"
    path.write_bytes(GOOD[:size])
    with pytest.raises(InvalidWeights, match=r"^short\.safetensors: "):
        read_header(path)


def test_a_header_longer_than_the_first_read_is_read(tmp_path: Path) -> None:
    data = dump_header({f"t{i}": ("uint8", (0,)) for i in range(5000)}, {})
    assert len(data) > 1 << 16
    path = tmp_path / "long.safetensors"
    path.write_bytes(data)
    assert len(read_header(path).tensors) == 5000
