"""Layers that are copied instead of constructed are what they would have been."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from hubstate.building import skip_init
from hubstate.prototypes import prototyped
from hubstate.zoo import layers

MAKERS: dict[str, tuple[Callable[..., nn.Module], tuple[object, ...], dict[str, object]]] = {
    "BatchNorm2d": (layers.BatchNorm2d, (4,), {"eps": 1e-3}),
    "Conv2d": (layers.Conv2d, (4, 6, (3, 1)), {"stride": 2, "padding": (1, 0), "groups": 2}),
    "Dropout": (layers.Dropout, (0.25,), {}),
    "Hardswish": (layers.Hardswish, (), {"inplace": True}),
    "LayerNorm": (layers.LayerNorm, (5,), {"eps": 1e-6}),
    "Linear": (layers.Linear, (3, 2), {"bias": False}),
    "ReLU": (layers.ReLU, (), {"inplace": True}),
    "ReLU6": (layers.ReLU6, (True,), {}),
}


def public(module: nn.Module) -> dict[str, object]:
    return {name: value for name, value in vars(module).items() if name[0] != "_"}


def bits(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("name", layers.__all__)
def test_a_copied_layer_is_what_torch_makes(name: str) -> None:
    make, args, kwargs = MAKERS[name]
    plain = getattr(nn, name)(*args, **kwargs)
    with skip_init() as skipped:
        first, second = make(*args, **kwargs), make(*args, **kwargs)
    for layer in (first, second):
        assert type(layer) is type(plain)
        assert repr(layer) == repr(plain)
        assert vars(layer).keys() == vars(plain).keys()
        assert public(layer) == public(plain)
        for (name, value), (other, expected) in zip(
            layer.named_parameters(), plain.named_parameters(), strict=True
        ):
            assert (name, value.shape, value.dtype) == (other, expected.shape, expected.dtype)
            assert value.requires_grad
        buffers = zip(layer.named_buffers(), plain.named_buffers(), strict=True)
        assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in buffers)
    skipped.finish(nn.ModuleList([first, second]))
    own = {value.data_ptr() for layer in (first, second) for value in layer.parameters()}
    assert len(own) == 2 * len(list(plain.parameters()))


def test_a_copy_gets_values_of_its_own_when_it_gets_no_weights() -> None:
    with skip_init() as skipped:
        model = nn.Sequential(layers.Linear(30, 20), layers.Linear(30, 20))
    skipped.finish(model, loaded={"0.bias"})
    first, second = model[0].weight, model[1].weight
    assert not torch.equal(first, second)
    for weight in (first, second):  # Linear's default: uniform within 1 / √30
        assert 0.9 / 30**0.5 < weight.abs().max() <= 1 / 30**0.5
    assert 0 < model[1].bias.abs().max() <= 1 / 30**0.5


def test_a_read_in_the_block_sees_the_values_of_the_constructor() -> None:
    with skip_init() as skipped:
        layers.LayerNorm(4)
        norm = layers.LayerNorm(4)
        assert norm.weight.tolist() == [1.0] * 4
        assert norm.bias.tolist() == [0.0] * 4
    assert len(skipped) == 2  # the one that nobody has read


def test_what_is_done_to_a_layer_does_not_reach_its_copies() -> None:
    with skip_init():
        first = layers.BatchNorm2d(3)
        first.eps = 1.0
        first.running_mean.add_(5)
        first.register_forward_hook(lambda *_: None)
        first.weight = nn.Parameter(torch.zeros(3))
        second = layers.BatchNorm2d(3)
    assert second.eps == 1e-5
    assert second.running_mean.tolist() == [0.0] * 3
    assert not second._forward_hooks
    assert second.weight is not first.weight


def test_equal_arguments_of_other_types_make_other_layers() -> None:
    with skip_init():
        assert layers.Dropout(1).p is not layers.Dropout(1.0).p
        assert isinstance(layers.Dropout(1).p, int)


def test_a_dtype_or_device_that_changes_in_the_block_is_followed() -> None:
    with skip_init():
        assert layers.Linear(2, 2).weight.dtype is torch.float32
        torch.set_default_dtype(torch.float64)
        try:
            assert layers.Linear(2, 2).weight.dtype is torch.float64
        finally:
            torch.set_default_dtype(torch.float32)
        with torch.device("meta"):
            assert layers.Linear(2, 2).weight.is_meta
        assert not layers.Linear(2, 2).weight.is_meta
    with torch.device("meta"), skip_init():
        assert all(layers.Linear(2, 2).weight.is_meta for _ in range(2))


def test_arguments_that_cannot_be_hashed_are_given_to_the_constructor() -> None:
    with skip_init():
        assert layers.LayerNorm([2, 3]).normalized_shape == (2, 3)


def test_outside_a_block_it_is_the_constructor() -> None:
    torch.manual_seed(0)
    made = bits(prototyped(nn.Linear)(3, 2))
    torch.manual_seed(0)
    expected = bits(nn.Linear(3, 2))
    assert all(torch.equal(made[name], expected[name]) for name in expected)
