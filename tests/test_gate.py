"""What the gate's fresh process finds, looked at from within this one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from quick import described
from torch import nn
from toys import drifting, toy

from hubstate.errors import GateRefused
from hubstate.gate import inspect, pass_gate
from hubstate.manifest import NAME, BuilderRecord, Manifest, dump, hash_weights, parse
from hubstate.staging import WEIGHTS, recorded_builder, stage
from hubstate.weights import read_weights, save_weights


def staged(model: nn.Module, folder: Path) -> Path:
    meaning = described(builder=recorded_builder(model, None, None), probe=(1, 3, 8, 8))
    stage(model, folder, meaning, repository="org/toy", limit=5 * 10**9)
    return folder


def rewrite(folder: Path, change: Callable[[Manifest], Manifest]) -> None:
    path = folder / NAME
    path.write_bytes(dump(change(parse(path.read_bytes()))))


def test_a_sound_release_passes(tmp_path: Path) -> None:
    assert inspect(staged(toy(), tmp_path)) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_half_the_precision_pass(tmp_path: Path, dtype: torch.dtype) -> None:
    """Their builder makes float32, which holds every one of their values."""
    assert inspect(staged(toy().to(dtype), tmp_path)) == []


def test_weights_of_twice_the_precision_would_lose_values(tmp_path: Path) -> None:
    model = toy().double()
    nn.init.constant_(model.fc.bias, 1 / 3)
    problems = inspect(staged(model, tmp_path))
    assert "fc.bias: the rebuilt model holds other values than the weights file" in problems


def test_a_byte_that_changed_since_is_found(tmp_path: Path) -> None:
    path = staged(toy(), tmp_path) / WEIGHTS
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (problem,) = inspect(tmp_path)
    assert "differ" in problem


def test_another_architecture_is_found(tmp_path: Path) -> None:
    staged(toy(), tmp_path)
    record = BuilderRecord(name="toy", arguments={"width": 4}, source="toys:toy")
    rewrite(tmp_path, lambda manifest: dataclasses.replace(manifest, builder=record))
    (problem,) = inspect(tmp_path)
    assert "conv.weight: shape" in problem


def test_a_builder_that_is_not_there_is_found(tmp_path: Path) -> None:
    staged(toy(), tmp_path)
    record = BuilderRecord(name="nowhere:to_be_found", source="nowhere:to_be_found")
    rewrite(tmp_path, lambda manifest: dataclasses.replace(manifest, builder=record))
    (problem,) = inspect(tmp_path)
    assert "nowhere" in problem


def test_a_builder_that_makes_no_module_is_found(tmp_path: Path) -> None:
    staged(toy(), tmp_path)
    record = BuilderRecord(name="builtins:dict", source="builtins:dict")
    rewrite(tmp_path, lambda manifest: dataclasses.replace(manifest, builder=record))
    (problem,) = inspect(tmp_path)
    assert "TypeError: the builder builtins:dict returned dict" in problem
    with pytest.raises(GateRefused, match="returned dict"):
        pass_gate(tmp_path)


def test_another_output_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staged(drifting(), tmp_path)
    assert inspect(tmp_path) == []
    monkeypatch.setenv("GATE_DRIFT", "1")
    (problem,) = inspect(tmp_path)
    assert "probe output" in problem


def test_weights_that_are_not_the_models_own_are_found(tmp_path: Path) -> None:
    """A manifest that was made for other weights of the same structure does not fit these."""
    staged(toy(), tmp_path)
    tensors = read_weights(tmp_path / WEIGHTS)
    save_weights(tmp_path / WEIGHTS, {k: t + 1 for k, t in tensors.items()})
    record = hash_weights(tmp_path / WEIGHTS)
    rewrite(tmp_path, lambda manifest: dataclasses.replace(manifest, files=(record,)))
    assert any("probe output" in problem for problem in inspect(tmp_path))
