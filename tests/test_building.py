"""Construction without initialisation: nobody can tell, save by the time it takes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hubstate.building import SkippedInit, skip_init
from hubstate.zoo import resnet50


def built(make: Callable[[], nn.Module]) -> tuple[nn.Module, SkippedInit]:
    with skip_init() as skipped:
        model = make()
    return model, skipped


def test_no_parameter_of_a_resnet_is_filled() -> None:
    model, skipped = built(resnet50)
    assert len(skipped) == len(list(model.parameters()))


def test_buffers_are_filled_at_once() -> None:
    model, _ = built(resnet50)
    buffers = dict(model.named_buffers())
    assert all(bool((buffers[name] == 1).all()) for name in buffers if name.endswith("var"))
    assert all(bool((buffers[name] == 0).all()) for name in buffers if not name.endswith("var"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(5, 4),
        lambda: nn.Conv2d(3, 4, 3),
        lambda: nn.Embedding(7, 3, padding_idx=2),
        lambda: nn.LSTM(3, 4),
        lambda: nn.Bilinear(2, 3, 4),
        lambda: nn.PReLU(),
        lambda: nn.GroupNorm(2, 4),
        lambda: nn.BatchNorm2d(4),
        lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)),
        lambda: nn.LazyLinear(3),
    ],
)
def test_what_gets_no_weights_is_initialised_as_ever(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    expected = make().state_dict()
    torch.manual_seed(0)
    model, skipped = built(make)
    skipped.finish(model)
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, nn.UninitializedParameter):
            assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize(
    "fill",
    [
        nn.init.normal_,
        nn.init.uniform_,
        nn.init.ones_,
        nn.init.zeros_,
        nn.init.eye_,
        nn.init.trunc_normal_,
        nn.init.xavier_normal_,
        nn.init.kaiming_normal_,
        nn.init.kaiming_uniform_,
        nn.init.orthogonal_,
        lambda weight: nn.init.constant_(weight, 0.5),
        lambda weight: weight.data.normal_(2, 0.1),
        lambda weight: nn.init.normal_(weight, std=0.1).data.mul_(3).clamp_(-0.2, 0.2),
    ],
)
def test_every_initialiser_gives_what_it_gives(fill: Callable[[Tensor], object]) -> None:
    def make() -> nn.Module:
        model = nn.ParameterList([torch.empty(6, 6)])
        with torch.no_grad():
            fill(model[0])
        return model

    torch.manual_seed(0)
    expected = make().state_dict()
    torch.manual_seed(0)
    model, skipped = built(make)
    skipped.finish(model)
    assert torch.equal(model.state_dict()["0"], expected["0"])


def test_a_loaded_parameter_is_left_alone() -> None:
    model, skipped = built(lambda: nn.Linear(3, 4))
    with torch.no_grad():
        model.get_parameter("weight").copy_(torch.full((4, 3), 7.0))
    skipped.finish(model, loaded={"weight"})
    assert bool((model.get_parameter("weight") == 7).all())
    assert bool((model.get_parameter("bias").abs() <= 3**-0.5).all())
    assert len(skipped) == 0


def test_a_replaced_parameter_costs_nothing() -> None:
    model, skipped = built(lambda: nn.Linear(3, 4))
    model.weight = nn.Parameter(torch.zeros(4, 3))
    state = torch.random.get_rng_state()
    skipped.finish(model, loaded={"weight", "bias"})
    assert torch.equal(torch.random.get_rng_state(), state)
    assert bool((model.get_parameter("weight") == 0).all())


class Slices(nn.Module):
    """Two parameters in one piece of memory."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.empty(6)
        self.a, self.b = nn.Parameter(flat[:2]), nn.Parameter(flat[2:])
        nn.init.constant_(self.a, 1)
        nn.init.constant_(self.b, 2)


def test_a_loaded_slice_survives_the_filling_of_its_neighbour() -> None:
    model, skipped = built(Slices)
    with torch.no_grad():
        model.get_parameter("a").fill_(9)
    skipped.finish(model, loaded={"a"})
    assert model.get_parameter("a").tolist() == [9, 9]
    assert model.get_parameter("b").tolist() == [2, 2, 2, 2]


def test_slices_of_one_memory_are_all_filled() -> None:
    model, skipped = built(Slices)
    skipped.finish(model)
    assert model.get_parameter("a").tolist() == [1, 1]
    assert model.get_parameter("b").tolist() == [2, 2, 2, 2]


def test_a_parameter_in_a_list_is_seen() -> None:
    with skip_init():
        parts: list[Tensor] = [nn.Parameter(torch.empty(2)) for _ in range(2)]
        for part in parts:
            nn.init.ones_(part)
        assert torch.cat(parts).tolist() == [1, 1, 1, 1]


def test_a_value_that_is_a_tensor_is_read_at_once() -> None:
    value = torch.tensor(3.0)
    with skip_init() as skipped, torch.no_grad():
        weight = nn.Parameter(torch.empty(2)).fill_(value)
        value.add_(1)
    skipped.finish(nn.ParameterList([weight]))
    assert weight.tolist() == [3, 3]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.out = nn.Linear(3, 4, bias=False)
        self.out.weight = self.embed.weight


def test_a_tied_parameter_is_loaded_through_either_name() -> None:
    model, skipped = built(Tied)
    with torch.no_grad():
        model.get_parameter("embed.weight").fill_(5)
    skipped.finish(model, loaded={"embed.weight"})
    assert bool((model.get_parameter("out.weight") == 5).all())


class Constants(nn.Module):
    """Tensors that no state dict brings, made with in-place functions."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.empty(4))
        noise = torch.empty(4).normal_(generator=generator)
        self.register_buffer("noise", noise, persistent=False)
        self.twos = torch.empty(4).fill_(2)
        nn.init.uniform_(self.weight, 1, 2)
        self.scale = float(self.weight.detach().abs().max())
        self.register_buffer("inverse", 1 / self.weight.detach(), persistent=False)


def test_tensors_that_are_no_parameters_are_real() -> None:
    model, _ = built(Constants)
    expected = torch.empty(4).normal_(generator=torch.Generator().manual_seed(3))
    assert torch.equal(model.get_buffer("noise"), expected)
    assert vars(model)["twos"].tolist() == [2, 2, 2, 2]


def test_what_is_computed_from_a_parameter_sees_its_values() -> None:
    model, _ = built(Constants)
    weight = model.get_parameter("weight")
    assert 1 <= vars(model)["scale"] <= 2
    assert torch.equal(model.get_buffer("inverse"), 1 / weight.detach())


def test_a_tensor_that_became_a_parameter_shows_its_values() -> None:
    with skip_init():
        tensor = torch.empty(3)
        nn.init.ones_(nn.Parameter(tensor))
        assert tensor.sum() == 3


def test_a_generator_of_its_own_is_used_at_once() -> None:
    generator = torch.Generator().manual_seed(1)
    with skip_init() as skipped:
        weight = nn.Parameter(torch.empty(4))
        nn.init.normal_(weight, generator=generator)
    assert len(skipped) == 0
    expected = torch.empty(4).normal_(generator=torch.Generator().manual_seed(1))
    assert torch.equal(weight.detach(), expected)


def test_the_random_generator_is_not_advanced() -> None:
    state = torch.random.get_rng_state()
    built(resnet50)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_other_threads_initialise_as_ever() -> None:
    layers: list[nn.Linear] = []
    thread = threading.Thread(target=lambda: layers.append(nn.Linear(64, 64)))
    with skip_init() as skipped:
        thread.start()
        thread.join()
        assert len(skipped) == 0
    assert 0.05 < float(layers[0].weight.detach().std()) < 0.1


def test_the_mode_ends_with_an_error() -> None:
    with pytest.raises(RuntimeError), skip_init():
        raise RuntimeError
    assert bool((nn.LayerNorm(3).weight == 1).all())


def test_parameters_without_memory_are_let_through() -> None:
    with skip_init() as skipped:
        nn.init.ones_(nn.Parameter(torch.empty(3, device="meta")))
        nn.init.zeros_(nn.Parameter(torch.empty(0, 3)))
        nn.Parameter(torch.eye(3).to_sparse()).data.zero_()
    assert len(skipped) == 0


STEPS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "fill": lambda a, b: a.fill_(2),
    "ones": lambda a, b: nn.init.ones_(a),
    "zero": lambda a, b: a.zero_(),
    "double": lambda a, b: a.mul_(2),
    "add": lambda a, b: a.add_(1),
    "add the other": lambda a, b: a.add_(b),
    "copy the other": lambda a, b: a.copy_(b),
    "fill by the other": lambda a, b: a.fill_(b[0].detach()),
    "set one": lambda a, b: a.__setitem__(1, 5),
    "part": lambda a, b: a[1:].fill_(7),
    "part of the data": lambda a, b: a.data[:2].mul_(3),
    "view": lambda a, b: a.view(2, 2).t()[0].fill_(4),
    "swap": lambda a, b: setattr(a, "data", b.data.clone()),
    "share": lambda a, b: setattr(a, "data", b.data),
}


@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.booleans()), max_size=12))
def test_any_sequence_of_fillings_ends_the_same(steps: list[tuple[str, bool]]) -> None:
    def make() -> nn.Module:
        model = nn.ParameterList([torch.full((4,), 3.0), torch.arange(1.0, 5.0)])
        with torch.no_grad():
            for name, first in steps:
                STEPS[name](*(tuple(model) if first else tuple(model)[::-1]))
        return model

    expected = make().state_dict()
    model, skipped = built(make)
    skipped.finish(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name])
