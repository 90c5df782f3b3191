"""The probe: the same input everywhere, and an answer that tells a changed model from rounding."""

from __future__ import annotations

import copy
import dataclasses
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hubstate.probe import check_probe, make_probe, probe_input
from hubstate.zoo import resnet50


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3),
        nn.Flatten(),
        nn.Linear(8 * 6 * 6, 10),
    )


@given(st.integers(0, 2**32), st.lists(st.integers(1, 5), max_size=4))
def test_the_input_is_a_function_of_seed_and_shape(seed: int, shape: list[int]) -> None:
    first, second = probe_input(seed, shape), probe_input(seed, shape)
    assert torch.equal(first, second)
    assert first.shape == tuple(shape)
    assert first.abs().max() <= 3**0.5


def test_the_input_has_mean_0_and_variance_1() -> None:
    noise = probe_input(7, (100_000,))
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.var()) - 1) < 0.02


def test_tokens_are_zeros_and_ones() -> None:
    tokens = probe_input(0, (4, 64), dtype="int64")
    assert tokens.dtype == torch.int64
    assert set(tokens.flatten().tolist()) == {0, 1}
    with pytest.raises(ValueError, match="float32 or int64"):
        probe_input(0, (1,), dtype="float64")


def test_a_model_passes_its_own_probe_and_is_left_as_it_was() -> None:
    model = network().train()
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    probe = make_probe(model, (2, 3, 8, 8))
    assert check_probe(model, probe) == []
    assert model.training
    assert not model[1].training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_forward_that_changes_buffers_is_undone() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)
            self.register_buffer("calls", torch.zeros(1))
            self.register_buffer("last", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.last = x.mean()
            answer: torch.Tensor = self.fc(x) + self.calls
            return answer

    model = Counting()
    last = model.last
    probe = make_probe(model, (2, 3))
    assert check_probe(model, probe) == []
    assert model.calls.item() == 0
    assert model.last is last


def test_the_tolerance_holds_across_threads_layouts_and_algorithms() -> None:
    model = network()
    probe = make_probe(model, (2, 3, 8, 8))
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert check_probe(model, probe) == []
    finally:
        torch.set_num_threads(threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch speaks of Intel GPUs whenever a flag is set
        with torch.backends.mkldnn.flags(enabled=False):
            assert check_probe(model, probe) == []
    assert check_probe(model.to(memory_format=torch.channels_last), probe) == []


def test_a_model_that_computes_something_else_fails() -> None:
    model = network()
    probe = make_probe(model, (2, 3, 8, 8))
    model[1].eps = 1e-2
    (problem,) = check_probe(model, probe)
    assert "values differ" in problem
    assert "should be" in problem


def test_nan_never_passes() -> None:
    model = network()
    probe = make_probe(model, (2, 3, 8, 8))
    with torch.no_grad():
        model[5].bias.fill_(float("nan"))
    assert len(check_probe(model, probe)) == 1
    with pytest.raises(ValueError, match="not finite"):
        make_probe(model, (2, 3, 8, 8))


def test_half_precision_weights_are_probed_in_float32() -> None:
    model = network().to(torch.bfloat16)
    probe = make_probe(model, (1, 3, 8, 8))
    assert check_probe(model, probe) == []
    assert model[0].weight.dtype == torch.bfloat16


class Branches(nn.Module):
    """Answers with nested containers."""

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        return {"logits": x * 2, "features": (x.sum(1), [x[0]])}


def test_nested_outputs_are_named_by_their_path() -> None:
    probe = make_probe(Branches(), (2, 3))
    assert [output.path for output in probe.outputs] == ["logits", "features.0", "features.1.0"]
    assert check_probe(Branches(), probe) == []
    fewer = dataclasses.replace(probe, outputs=probe.outputs[:1])
    assert len(check_probe(Branches(), fewer)) == 2
    assert "found no such output" in check_probe(nn.Identity(), probe)[1]


def test_a_large_output_is_sampled() -> None:
    probe = make_probe(nn.Identity(), (2, 5000))
    (output,) = probe.outputs
    assert output.shape == (2, 5000)
    assert len(output.values) <= 256
    assert check_probe(nn.Identity(), probe) == []


def test_another_output_shape_is_named() -> None:
    probe = make_probe(nn.Linear(4, 2), (1, 4))
    (problem,) = check_probe(nn.Linear(4, 3), probe)
    assert "expected shape (1, 2), found (1, 3)" in problem


def test_a_model_without_tensor_output_has_no_probe() -> None:
    class Silent(nn.Module):
        def forward(self, x: torch.Tensor) -> None:
            return None

    with pytest.raises(ValueError, match="nothing to probe"):
        make_probe(Silent(), (1,))


def test_rounding_is_far_inside_the_tolerance_of_a_deep_network() -> None:
    torch.manual_seed(0)
    model = resnet50(num_classes=10).train()
    with torch.no_grad():
        for _ in range(2):  # so that the running statistics are those of some data
            model(torch.rand(8, 3, 64, 64))
    probe = make_probe(model, (2, 3, 64, 64))
    exact = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        answer = exact(probe_input(probe.seed, probe.shape).double()).flatten()
    recorded = torch.tensor(probe.outputs[0].values, dtype=torch.float64)
    error = (recorded - answer).abs() / (probe.atol + probe.rtol * answer.abs())
    assert float(error.max()) < 0.1, "any machine's rounding, even ten times worse, still passes"
