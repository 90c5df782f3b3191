"""Tensors in a safetensors file."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hubstate.errors import InvalidWeights
from hubstate.header import ITEM_SIZES, dump_header, read_header
from hubstate.weights import map_weights, read_weights, save_weights

READERS = [map_weights, read_weights]


def same(a: Tensor, b: Tensor) -> bool:
    """Equal to the bit, NaN included."""
    return a.dtype == b.dtype and a.shape == b.shape and raw(a) == raw(b)


def raw(tensor: Tensor) -> bytes:
    copy = torch.empty(tensor.shape, dtype=tensor.dtype)
    copy.copy_(tensor.detach())
    return copy.reshape(-1).view(torch.uint8).numpy().tobytes() if copy.numel() else b""


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """A tensor of any dtype, shape and layout."""
    dtype = getattr(torch, draw(st.sampled_from(sorted(ITEM_SIZES))))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    count = torch.empty(shape).numel()
    if dtype is torch.bool:
        whole = torch.tensor(
            draw(st.lists(st.booleans(), min_size=count, max_size=count)), dtype=dtype
        )
    else:
        data = bytearray(
            draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
        )
        whole = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
    tensor = whole.reshape(shape)
    match draw(st.sampled_from(["plain", "transposed", "channels_last", "expanded", "sliced"])):
        case "transposed":
            return tensor.movedim(0, -1) if shape else tensor
        case "channels_last" if len(shape) == 4 and dtype.itemsize > 1:
            return tensor.to(memory_format=torch.channels_last)
        case "expanded":
            return tensor[None].expand(3, *shape)
        case "sliced" if shape:
            return tensor[::2]
    return tensor


NAMES = st.text(st.characters(codec="utf-8"), max_size=6).filter(
    lambda name: name != "__metadata__"
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(NAMES, tensors(), max_size=6), st.dictionaries(NAMES, NAMES, max_size=3))
def test_what_is_saved_is_mapped_and_read_back(
    tmp_path_factory: pytest.TempPathFactory, given: dict[str, Tensor], metadata: dict[str, str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    save_weights(path, given, metadata=metadata)
    assert read_header(path).metadata.items() >= metadata.items()
    library = safetensors.torch.load_file(path)
    for read in READERS:
        found = read(path)
        assert found.keys() == given.keys()
        for name, tensor in given.items():
            assert same(found[name], tensor), name
            assert found[name].is_contiguous()
    for name, tensor in library.items():
        assert same(tensor, given[name]), name


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(NAMES, tensors(), max_size=6))
def test_equal_input_gives_equal_bytes_whatever_its_order_and_strides(
    tmp_path_factory: pytest.TempPathFactory, given: dict[str, Tensor]
) -> None:
    path = tmp_path_factory.getbasetemp() / "equal.safetensors"
    save_weights(path, given, metadata={"b": "1", "a": "2"})
    data = path.read_bytes()
    copies = {name: given[name].contiguous().clone() for name in reversed(given)}
    save_weights(path, copies, metadata={"a": "2", "b": "1"})
    assert path.read_bytes() == data


@pytest.mark.parametrize("form", [str, Path, lambda path: Entry(str(path))])
def test_a_path_is_text_or_anything_that_is_one(tmp_path: Path, form: Any) -> None:
    path = form(tmp_path / "a.safetensors")
    assert save_weights(path, {"a": torch.ones(2)}).path == tmp_path / "a.safetensors"
    for read in READERS:
        assert torch.equal(read(path)["a"], torch.ones(2))


class Entry:
    """A path that is no Path."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return self.path


def test_the_bytes_are_those_of_the_safetensors_library(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    state = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)).state_dict()
    save_weights(path, state)
    assert path.read_bytes() == safetensors.torch.save(state, {"format": "pt"})


# ---------------------------------------------------------------- ties and layouts


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def test_tied_tensors_are_stored_once_and_come_back_as_one(tmp_path: Path) -> None:
    path = tmp_path / "tied.safetensors"
    state = Tied().state_dict()
    saved = save_weights(path, state)
    assert dict(saved.ties) == {"head.weight": "embed.weight"}
    assert list(read_header(path).tensors) == ["embed.weight"]
    for read in READERS:
        found = read(path)
        assert found["head.weight"] is found["embed.weight"]
        Tied().load_state_dict(found)
        (alone,) = read(path, ["head.weight"]).items()
        assert alone[0] == "head.weight"
        assert same(alone[1], state["head.weight"])


def test_views_that_only_overlap_are_stored_apart(tmp_path: Path) -> None:
    path = tmp_path / "views.safetensors"
    whole = torch.arange(6.0).reshape(2, 3)
    given = {"whole": whole, "row": whole[0], "turned": whole.t(), "bits": whole.view(torch.int32)}
    saved = save_weights(path, given)
    assert not saved.ties
    assert saved.copied == ("turned",)
    for name, tensor in read_weights(path).items():
        assert same(tensor, given[name])


def test_negated_and_conjugated_views_are_stored_as_they_read(tmp_path: Path) -> None:
    path = tmp_path / "lazy.safetensors"
    number = torch.tensor([1 + 2j, 3 - 4j])
    given = {"plain": number, "conj": number.conj(), "imag": number.conj().imag}
    save_weights(path, given)
    for name, tensor in read_weights(path).items():
        assert torch.equal(tensor, given[name]), name


def hostile_ties(path: Path, ties: str) -> Path:
    path.write_bytes(dump_header({"a": ("uint8", (1,))}, {"hubstate.ties": ties}) + b"1")
    return path


@pytest.mark.parametrize(
    "ties", ["", "[]", "7", '{"b":"c"}', '{"b":7}', '{"a":"a"}', '{"b":"b"}', '{"b":["a"]}']
)
def test_ties_that_lead_nowhere_are_refused(tmp_path: Path, ties: str) -> None:
    with pytest.raises(InvalidWeights, match=r"hubstate\.ties"):
        map_weights(hostile_ties(tmp_path / "a", ties))


# ---------------------------------------------------------------- what cannot be stored


def test_everything_that_cannot_be_stored_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "no.safetensors"
    bad: dict[str, Any] = {
        "sparse": torch.eye(2).to_sparse(),
        "wide": torch.zeros(1, dtype=torch.complex128),
        "exponent": torch.zeros(1, dtype=torch.float8_e8m0fnu),
        "meta": torch.zeros(1, device="meta"),
        "lazy": nn.LazyLinear(2).weight,
        "number": 7,
        "__metadata__": torch.zeros(1),
        "fine": torch.zeros(1),
    }
    with pytest.raises(InvalidWeights) as caught:
        save_weights(path, bad)
    text = str(caught.value)
    assert "sparse: layout sparse_coo" in text
    assert "wide: dtype complex128" in text
    assert "exponent: dtype float8_e8m0fnu" in text
    assert "meta: on the meta device" in text
    assert "lazy: " in text
    assert "number: expected a tensor, found int" in text
    assert "'__metadata__'" in text
    assert "fine" not in text
    assert list(tmp_path.iterdir()) == []


def test_quantized_tensors_are_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)
    with pytest.raises(InvalidWeights, match="q: dtype quint8"):
        save_weights(tmp_path / "q", {"q": quantized})


# ---------------------------------------------------------------- whole or not at all


def test_the_mode_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_weights(tmp_path / "a", {"a": torch.zeros(1)})
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_weights(path, {"a": torch.zeros(2)})
    data = path.read_bytes()

    with pytest.raises(TypeError, match="metadata"):
        save_weights(path, {"a": torch.ones(2)}, metadata={"x": 7})  # type: ignore[dict-item]
    with pytest.raises(OSError, match=r"No space|File too large"):
        small_disk(path)
    assert [item.name for item in tmp_path.iterdir()] == ["a.safetensors"]
    assert path.read_bytes() == data


def small_disk(path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        save_weights(path, {"a": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


KILLER = """
import os, random, signal, sys, time, torch
from pathlib import Path
from hubstate.checkpoint import load, save
from hubstate.weights import read_weights, save_weights

path = Path(sys.argv[1])
checkpoint = path.with_name("checkpoint")
torch.set_num_threads(1)

def write(step):
    tensors = {"a": torch.full((300_000,), step), "step": torch.tensor(step)}
    save_weights(path, tensors)
    save(checkpoint, **tensors)

def write_for_ever():
    for step in range(1_000_000):
        write(step)

write(-1)
steps, kills = set(), 0
while kills < 10 or len(steps) < 3:  # so that some writes are done, whatever else is running
    kills += 1
    writer = os.fork()
    if writer == 0:
        write_for_ever()
    time.sleep(random.uniform(0, 0.08))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    found = read_weights(path)
    assert bool((found["a"] == found["step"]).all())
    found = load(checkpoint).plain
    assert bool((found["a"] == found["step"]).all())
    steps.add(int(found["step"]))
strangers = {item for item in path.parent.iterdir() if item.suffix != ".tmp"}
assert strangers == {path, checkpoint}
"""


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    answer = subprocess.run(
        [sys.executable, "-c", KILLER, str(path)], capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr


# ---------------------------------------------------------------- mapping


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    state = nn.Sequential(nn.Linear(300, 200), nn.BatchNorm1d(200)).state_dict()
    save_weights(path, {**state, "empty": torch.zeros(0, 4)})
    return path


def test_writing_to_mapped_tensors_never_changes_a_file_that_may_be_read_only(file: Path) -> None:
    file.chmod(0o444)
    before = hashlib.sha256(file.read_bytes()).digest()
    tensors = map_weights(file)
    for tensor in tensors.values():
        tensor.fill_(7)
    assert tensors["0.weight"].sum() == 7 * 60_000
    assert hashlib.sha256(file.read_bytes()).digest() == before
    assert map_weights(file)["0.weight"].abs().max() < 1


def test_mapped_parameters_can_be_trained(file: Path) -> None:
    weight = nn.Parameter(map_weights(file, ["0.weight"])["0.weight"])
    weight.square().sum().backward()  # type: ignore[no-untyped-call]
    torch.optim.SGD([weight], lr=0.5).step()
    assert weight.abs().max() < 1e-6


def test_each_mapped_tensor_has_a_storage_of_its_own(file: Path) -> None:
    tensors = map_weights(file)
    for tensor in tensors.values():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
    pickled = io.BytesIO()
    torch.save(tensors["0.bias"], pickled)
    assert pickled.tell() < 5_000


def test_some_tensors_can_be_asked_for(file: Path) -> None:
    for read in READERS:
        assert list(read(file, ["1.bias", "empty"])) == ["1.bias", "empty"]
        assert read(file, []) == {}
        assert read(file, ["empty"])["empty"].shape == (0, 4)
        with pytest.raises(InvalidWeights, match=r"model\.safetensors: expected x, y, found no"):
            read(file, ["x", "1.bias", "y"])


def test_prefaulted_and_copied_tensors_are_equal(file: Path) -> None:
    one, other, third = map_weights(file), map_weights(file, prefault=True), read_weights(file)
    assert all(same(one[name], other[name]) and same(one[name], third[name]) for name in one)


def test_copied_tensors_outlive_the_file(file: Path) -> None:
    expected = map_weights(file)["0.weight"].clone()
    tensors = read_weights(file)
    os.truncate(file, 0)
    assert same(tensors["0.weight"], expected)


def test_misaligned_tensors_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    header = dump_header({"byte": ("uint8", (1,)), "float": ("float32", (2,))}, {})
    path.write_bytes(header + b"\x07" + bytes(torch.tensor([1.5, -2.0]).numpy().data))
    for read in READERS:
        assert read(path)["float"].tolist() == [1.5, -2.0]
        assert read(path)["byte"].tolist() == [7]


def test_a_truncated_file_names_the_first_tensor_that_does_not_fit(file: Path) -> None:
    data, header = file.read_bytes(), read_header(file)
    for tensor in header.tensors.values():
        if tensor.stop == tensor.start:
            continue
        file.write_bytes(data[: tensor.stop - 1])
        for read in READERS:
            with pytest.raises(InvalidWeights, match=rf"^model\.safetensors: {tensor.name}: "):
                read(file)


def test_any_truncation_is_one_kind_of_error(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, {"a": torch.zeros(3), "b": torch.zeros(2, dtype=torch.int8)})
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(InvalidWeights, match=r"^model\.safetensors: "):
            map_weights(path)


def test_neither_reading_nor_writing_holds_a_second_copy(tmp_path: Path) -> None:
    script = f"""
        import resource, torch
        from pathlib import Path
        from hubstate.weights import save_weights, read_weights, map_weights
        path = Path({str(tmp_path / "big")!r})
        save_weights(path, {{"a": torch.zeros(8)}})
        tensors = {{str(i): torch.ones(2_000_000) for i in range(10)}}  # 80 MB
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        unit = 1 if __import__("sys").platform == "darwin" else 1024
        before = peak()
        save_weights(path, tensors)
        saving = peak() - before
        del tensors
        before = peak()
        map_weights(path)
        mapping = peak() - before
        print(saving * unit, mapping * unit)
    """
    answer = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    saving, mapping = map(int, answer.stdout.split())
    assert saving < 20_000_000
    assert mapping < 20_000_000


def test_the_metadata_can_be_read_by_others(file: Path) -> None:
    with safetensors.safe_open(file, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}
    header = file.read_bytes()[8 : read_header(file).size]
    assert json.loads(header)["__metadata__"] == {"format": "pt"}
