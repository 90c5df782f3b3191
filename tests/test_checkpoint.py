"""Checkpoints: training resumes bit by bit, and damage is named."""

from __future__ import annotations

import math
import os
import random
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hubstate.checkpoint import load, save
from hubstate.checkpoint.saving import CONTENT, SEAL, UNSEALED, sealed
from hubstate.errors import InvalidWeights
from hubstate.header import dump_header, parse_header, read_header
from hubstate.manifest import CHUNK, structure_hash
from hubstate.states import describe

# ---------------------------------------------------------------- training resumes


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    )


def train(model: nn.Module, optimizer: Any, scheduler: Any, steps: range) -> None:
    model.train()
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(8, 1, 8, 8, generator=generator)
        loss = nn.functional.cross_entropy(model(images), torch.arange(8) % 3)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()


def groups(model: nn.Module) -> list[dict[str, Any]]:
    parameters = list(model.parameters())
    return [{"params": parameters[:2], "lr": 0.05}, {"params": parameters[2:], "weight_decay": 0.1}]


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda m: torch.optim.Adam(m.parameters(), lr=0.01),
    "adamw": lambda m: torch.optim.AdamW(groups(m), lr=0.01, amsgrad=True),
    "tensor-lr": lambda m: torch.optim.Adam(m.parameters(), lr=torch.tensor(0.01)),
}
SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
    "milestones": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 5]),
    "warmup": lambda o: torch.optim.lr_scheduler.LinearLR(o, total_iters=4),
}


def start(optimizer: str, scheduler: str) -> tuple[nn.Module, Any, Any]:
    torch.manual_seed(0)
    model = network()
    stepper = OPTIMIZERS[optimizer](model)
    return model, stepper, SCHEDULERS[scheduler](stepper)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_resumes_bit_by_bit(tmp_path: Path, optimizer: str, scheduler: str) -> None:
    model, stepper, rates = start(optimizer, scheduler)
    train(model, stepper, rates, range(3))
    save(tmp_path / "c", model=model, optimizer=stepper, scheduler=rates, step=3)
    train(model, stepper, rates, range(3, 7))

    torch.manual_seed(1)
    other = network()
    resumed = OPTIMIZERS[optimizer](other)
    schedule = SCHEDULERS[scheduler](resumed)
    found = load(tmp_path / "c")
    other.load_state_dict(found.model or {})
    resumed.load_state_dict(found.optimizer)
    schedule.load_state_dict(found.plain["scheduler"])
    train(other, resumed, schedule, range(found.plain["step"], 7))

    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert same(stepper.state_dict(), resumed.state_dict())
    assert same(rates.state_dict(), schedule.state_dict())


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    rng = numpy.random.default_rng(0)
    random.seed(0)
    states = {"python": random.getstate(), "numpy": rng.bit_generator.state}
    save(tmp_path / "c", torch_rng=torch.get_rng_state(), legacy=numpy.random.get_state(), **states)
    expected = (random.random(), rng.random(), torch.rand(3), numpy.random.random())
    found = load(tmp_path / "c").plain
    random.setstate(found["python"])
    rng.bit_generator.state = found["numpy"]
    torch.set_rng_state(found["torch_rng"])
    numpy.random.set_state(found["legacy"])
    again = (random.random(), rng.random(), torch.rand(3), numpy.random.random())
    assert again[:2] == expected[:2]
    assert torch.equal(again[2], expected[2])
    assert again[3] == expected[3]


# ---------------------------------------------------------------- what is kept


def same(a: Any, b: Any) -> bool:
    """Equal in kind and value, to the bit."""
    if isinstance(a, Tensor):
        return type(b) is Tensor and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, numpy.ndarray):
        return type(b) is numpy.ndarray and a.dtype == b.dtype and numpy.array_equal(a, b)
    if isinstance(a, dict):
        return type(b) is type(a) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return type(b) is float and struct.pack("d", a) == struct.pack("d", b)
    return type(a) is type(b) and bool(a == b)


TEXT = st.text(st.characters(codec="utf-8"), max_size=5) | st.sampled_from(
    ["$tensor", "$dict", "$", ""]
)
KEYS = TEXT | st.integers() | st.booleans() | st.none() | st.tuples(st.integers(), TEXT)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.just(math.nan)
    | TEXT
    | st.integers(0, 3).map(torch.ones)
    | st.integers(0, 3).map(lambda size: torch.zeros(2, size, dtype=torch.bfloat16))
    | st.integers(0, 3).map(numpy.arange)
)
TREES = st.recursive(
    SCALARS,
    lambda items: (
        st.lists(items, max_size=3)
        | st.lists(items, max_size=3).map(tuple)
        | st.dictionaries(KEYS, items, max_size=3)
        | st.dictionaries(KEYS, st.integers(), max_size=3).map(Counter)
    ),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None)
@given(TREES, TREES)
def test_any_tree_is_loaded_as_it_was_saved(
    tmp_path_factory: pytest.TempPathFactory, one: Any, two: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "tree"
    save(path, optimizer=[one], data=two)
    found = load(path)
    assert same([one], found.optimizer)
    assert same(two, found.plain["data"])
    assert found.model is None
    data = path.read_bytes()
    save(path, optimizer=[one], data=two)
    assert path.read_bytes() == data


def test_numbers_of_other_libraries_become_plain(tmp_path: Path) -> None:
    save(
        tmp_path / "c",
        a=numpy.float64(0.5),
        b=numpy.int8(3),
        c=numpy.float32(2),
        d=OrderedDict(x=1),
    )
    assert same(load(tmp_path / "c").plain, {"a": 0.5, "b": 3, "c": 2.0, "d": {"x": 1}})
    assert load(tmp_path / "c").plain == {"a": 0.5, "b": 3, "c": 2.0, "d": {"x": 1}}


def test_several_optimizers_and_models_are_kept_by_name(tmp_path: Path) -> None:
    models = {"g": nn.Linear(2, 2), "d": nn.Linear(2, 1)}
    steppers = {name: torch.optim.Adam(model.parameters()) for name, model in models.items()}
    for name, model in models.items():
        model(torch.ones(1, 2)).sum().backward()
        steppers[name].step()
    save(tmp_path / "c", model=models, optimizer=steppers)
    found = load(tmp_path / "c")
    assert found.model is not None
    assert torch.equal(found.model["g.weight"], models["g"].weight)
    for name, stepper in steppers.items():
        assert same(stepper.state_dict(), found.optimizer[name])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 30)
        self.head = nn.Linear(30, 50, bias=False)
        self.head.weight = self.embed.weight
        self.steps = 0

    def get_extra_state(self) -> Any:
        return {"steps": self.steps, "seen": torch.ones(2)}

    def set_extra_state(self, state: Any) -> None:
        self.steps = state["steps"] + int(state["seen"].sum())


def test_ties_are_stored_once_and_extra_state_is_kept(tmp_path: Path) -> None:
    model = Tied()
    model.steps = 5
    for source in (model, model.state_dict()):
        save(tmp_path / "c", model=source)
        assert (tmp_path / "c").stat().st_size < 1.5 * model.embed.weight.nbytes
        found = load(tmp_path / "c")
        assert found.model is not None
        assert found.model["head.weight"] is found.model["embed.weight"]
        other = Tied()
        other.load_state_dict(found.model)
        assert other.steps == 7
        assert torch.equal(other.head.weight, model.head.weight)


def test_wrappers_leave_no_trace(tmp_path: Path) -> None:
    model = network()
    save(tmp_path / "c", model=nn.DataParallel(model))
    found = load(tmp_path / "c").model
    assert found is not None
    assert found.keys() == model.state_dict().keys()


def test_the_structure_is_recorded(tmp_path: Path) -> None:
    model = network()
    save(tmp_path / "c", model=model)
    found = load(tmp_path / "c").structure
    assert found == describe(model)
    assert structure_hash(found) == structure_hash(describe(model))


@pytest.mark.parametrize("thing", ["text", 3, b"x", torch.ones(2), object(), nn.Linear])
def test_what_is_neither_model_nor_optimizer_is_refused_by_name(tmp_path: Path, thing: Any) -> None:
    with pytest.raises(TypeError) as caught:
        save(tmp_path / "c", model=thing, optimizer=thing)
    model, optimizer = str(caught.value).splitlines()[1:]
    name = type(thing).__name__
    assert model.startswith("  model: expected a module") and model.endswith(f"found {name}")
    assert optimizer.startswith("  optimizer: expected an optimizer")
    assert optimizer.endswith(f"found {name}")
    with pytest.raises(TypeError, match=r"optimizer: .* found Linear"):
        save(tmp_path / "c", optimizer=nn.Linear(1, 1))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_kept_is_named_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TypeError) as caught:
        save(tmp_path / "c", a={"x": [print]}, b=loop, c={torch.ones(1): 1}, d="\ud800", e=b"")
    text = str(caught.value)
    assert "plain.a.x.0: a builtin_function_or_method" in text
    assert "plain.b" in text
    assert "contains itself" in text
    assert "a key that holds a tensor" in text
    assert "surrogate" in text
    assert "plain.e: a bytes" in text
    with pytest.raises(InvalidWeights) as refused:
        save(tmp_path / "c", a=torch.ones(1, dtype=torch.complex128), b=torch.eye(2).to_sparse())
    assert "plain.a: dtype complex128" in str(refused.value)
    assert "plain.b: layout sparse_coo" in str(refused.value)
    with pytest.raises(ValueError, match="weight"):
        save(tmp_path / "c", model=nn.LazyLinear(3))
    assert list(tmp_path.iterdir()) == []


def test_loaded_tensors_are_independent_of_the_file(tmp_path: Path) -> None:
    save(tmp_path / "c", a=torch.ones(1000))
    found = load(tmp_path / "c").plain["a"]
    os.truncate(tmp_path / "c", 0)
    assert found.sum() == 1000


def test_any_safetensors_reader_can_open_it(tmp_path: Path) -> None:
    import safetensors.torch

    save(tmp_path / "c", model=nn.Linear(2, 1), optimizer={"x": torch.ones(3)})
    names = safetensors.torch.load_file(tmp_path / "c").keys()
    assert names == {"model.weight", "model.bias", "optimizer.x"}


# ---------------------------------------------------------------- damage


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A checkpoint with an optimizer, and a tensor of two chunks."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    path = tmp_path / "last.safetensors"
    big = torch.zeros(CHUNK + 8, dtype=torch.uint8)
    save(path, model=model, optimizer=optimizer, big=big, pair=(torch.ones(1), 7))
    return path


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 0x10]))


def test_a_flipped_byte_in_any_tensor_is_named_and_the_rest_salvaged(file: Path) -> None:
    whole = load(file)
    for tensor in read_header(file).tensors.values():
        for position in {tensor.start, tensor.stop - 1}:
            flip(file, position)
            with pytest.raises(
                InvalidWeights, match=rf"{tensor.name}: digest: bytes [\d,]+–[\d,]+ "
            ):
                load(file)
            found = load(file, salvage=True)
            assert found.report.lost == (tensor.name,)
            assert set(found.report.intact) == set(whole.report.intact) - {tensor.name}
            assert f"{tensor.name}: digest: bytes" in str(found.report)
            flip(file, position)
    assert same(whole.optimizer, load(file, salvage=True).optimizer)


def test_a_damaged_chunk_is_named_by_its_bytes(file: Path) -> None:
    tensor = read_header(file).tensors["plain.big"]
    flip(file, tensor.stop - 1)
    with pytest.raises(
        InvalidWeights, match=f"bytes {tensor.start + CHUNK:,}–{tensor.stop:,} differ"
    ):
        load(file)


def test_salvage_leaves_out_what_is_lost(file: Path) -> None:
    tensors = read_header(file).tensors
    for name in ("model.bias", "optimizer.state.0.exp_avg", "plain.big", "plain.pair.0"):
        flip(file, tensors[name].start)
    found = load(file, salvage=True)
    assert found.model is not None
    assert found.model.keys() == {"weight"}
    assert found.optimizer["state"][0].keys() == {"step", "exp_avg_sq"}
    assert found.plain == {"pair": (None, 7)}
    assert len(found.report.problems) == 4


def test_any_flip_in_the_header_is_found_and_nothing_is_believed(file: Path) -> None:
    for position in range(read_header(file).size):
        flip(file, position)
        for salvage in (False, True):
            with pytest.raises(InvalidWeights, match=r"^last\.safetensors: "):
                load(file, salvage=salvage)
        flip(file, position)
    load(file)


def test_a_truncated_file_names_what_is_cut_off(file: Path) -> None:
    tensors = list(read_header(file).tensors.values())
    for index, tensor in reversed(list(enumerate(tensors))):
        os.truncate(file, tensor.stop - 1)
        with pytest.raises(InvalidWeights, match=f"{tensor.name}: cut off: expected bytes"):
            load(file)
        found = load(file, salvage=True)
        assert set(found.report.intact) == {t.name for t in tensors[:index]}
        assert set(found.report.lost) == {t.name for t in tensors[index:]}


def test_a_file_that_ends_in_its_header_is_refused(file: Path) -> None:
    for size in range(read_header(file).size - 1, -1, -7):
        os.truncate(file, size)
        with pytest.raises(InvalidWeights, match=r"^last\.safetensors: "):
            load(file, salvage=True)


def test_bytes_after_the_end_are_reported(file: Path) -> None:
    with file.open("ab") as end:
        end.write(b"more")
    with pytest.raises(InvalidWeights, match="belong to no tensor"):
        load(file)
    found = load(file, salvage=True)
    assert len(found.report.problems) == 1
    assert found.plain["pair"][1] == 7


def test_a_weights_file_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(dump_header({}, {}))
    with pytest.raises(InvalidWeights, match="no checkpoint"):
        load(path)


def forged(path: Path, content: str) -> Path:
    """A checkpoint of one byte, with any content and a valid seal."""
    header = dump_header({"t": ("uint8", (1,))}, {CONTENT: content, SEAL: UNSEALED})
    path.write_bytes(sealed(header) + b"1")
    return path


GOOD = (
    '{"schema":"1.0","structure":[],"model":null,"optimizer":null,"plain":{"x":VALUE},'
    '"digests":{"t":["6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"]}}'
)


def test_a_forged_checkpoint_can_be_read_if_it_is_sound(tmp_path: Path) -> None:
    found = load(forged(tmp_path / "c", GOOD.replace("VALUE", '{"$tensor":"t"}')))
    assert found.plain["x"].tolist() == [49]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        GOOD.replace("1.0", "2.0").replace("VALUE", "1"),
        GOOD.replace('"t":[', '"u":[').replace("VALUE", "1"),
        GOOD.replace('"t":[', '"t":[null,').replace("VALUE", "1"),
        GOOD.replace('"structure":[]', '"structure":[{"kind":"x"}]').replace("VALUE", "1"),
        GOOD.replace('"structure":[]', '"structure":7').replace("VALUE", "1"),
        GOOD.replace('"6b86', '"6b87').replace("VALUE", "1"),
        *(
            GOOD.replace("VALUE", value)
            for value in (
                '{"$tensor":"u"}',
                '{"$tensor":["t"]}',
                '{"$novel":1}',
                '{"$float":"1e5"}',
                '{"$tuple":7}',
                '{"$complex":[1]}',
                '{"$int":"x"}',
                '{"$int":"' + "9" * 5000 + '"}',
                '{"$dict":[[1]]}',
                '{"$dict":[[[],1]]}',
                '{"$array":7}',
                "[" * 300 + "]" * 300,
            )
        ),
    ],
)
def test_a_forged_checkpoint_is_refused_by_one_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(InvalidWeights, match=r"^c: "):
        load(forged(tmp_path / "c", content))


def test_a_header_that_promises_more_than_the_file_costs_no_memory(tmp_path: Path) -> None:
    content = GOOD.replace("VALUE", "1").replace('"t":[', '"t":[' + '"",' * ((1 << 16) - 1))
    shapes = {"t": ("uint8", ((1 << 16) * CHUNK,))}
    (tmp_path / "c").write_bytes(sealed(dump_header(shapes, {CONTENT: content, SEAL: UNSEALED})))
    with pytest.raises(InvalidWeights, match="cut off"):
        load(tmp_path / "c")
    assert load(tmp_path / "c", salvage=True).report.lost == ("t",)


def test_the_seal_is_the_digest_of_the_header(file: Path) -> None:
    import hashlib

    data = file.read_bytes()
    header = parse_header(data, file_size=None)
    seal = header.metadata[SEAL]
    unsealed = data[: header.size].replace(seal.encode(), b"0" * 64)
    assert hashlib.sha256(unsealed).hexdigest() == seal


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c"
    save(path, step=1)

    class Broken:
        def state_dict(self) -> Any:
            raise OSError("the device is gone")

    with pytest.raises(OSError, match="the device is gone"):
        save(path, step=2, broken=Broken())
    assert load(path).plain == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]
