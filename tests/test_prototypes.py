"""Layers that are copied instead of constructed are what they would have been."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from hubstate.building import skip_init
from hubstate.prototypes import prototyped
from hubstate.zoo import layers

MAKERS: dict[str, tuple[Callable[..., nn.Module], tuple[object, ...], dict[str, object]]] = {
    "AdaptiveAvgPool2d": (layers.AdaptiveAvgPool2d, ((1, 2),), {}),
    "AvgPool2d": (layers.AvgPool2d, (3,), {"stride": 2, "count_include_pad": False}),
    "BatchNorm2d": (layers.BatchNorm2d, (4,), {"eps": 1e-3}),
    "Conv2d": (layers.Conv2d, (4, 6, (3, 1)), {"stride": 2, "padding": (1, 0), "groups": 2}),
    "Dropout": (layers.Dropout, (0.25,), {}),
    "GELU": (layers.GELU, (), {"approximate": "tanh"}),
    "Hardsigmoid": (layers.Hardsigmoid, (), {}),
    "Hardswish": (layers.Hardswish, (), {"inplace": True}),
    "Identity": (layers.Identity, (), {}),
    "LayerNorm": (layers.LayerNorm, (5,), {"eps": 1e-6}),
    "Linear": (layers.Linear, (3, 2), {"bias": False}),
    "MaxPool2d": (layers.MaxPool2d, (3,), {"ceil_mode": True}),
    "ReLU": (layers.ReLU, (), {"inplace": True}),
    "ReLU6": (layers.ReLU6, (True,), {}),
    "Sequential": (layers.Sequential, (nn.ReLU(), nn.Linear(3, 2)), {}),
    "SiLU": (layers.SiLU, (), {}),
    "Sigmoid": (layers.Sigmoid, (), {}),
}


def public(module: nn.Module) -> dict[str, object]:
    return {name: value for name, value in vars(module).items() if name[0] != "_"}


def bits(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_alike(layer: nn.Module, plain: nn.Module) -> None:
    """Equal in all but the values of parameters."""
    assert type(layer) is type(plain)
    assert repr(layer) == repr(plain)
    assert list(vars(layer)) == list(vars(plain))
    assert public(layer) == public(plain)
    for mine, torchs in (
        (layer.named_parameters(), plain.named_parameters()),
        (layer.named_buffers(), plain.named_buffers()),
    ):
        for (name, value), (other, expected) in zip(mine, torchs, strict=True):
            found = (value.shape, value.stride(), value.dtype, value.requires_grad, type(value))
            assert (name, *found) == (
                other,
                expected.shape,
                expected.stride(),
                expected.dtype,
                expected.requires_grad,
                type(expected),
            )
    buffers = zip(layer.buffers(), plain.buffers(), strict=True)
    assert all(torch.equal(one, another) for one, another in buffers)


@pytest.mark.parametrize("name", layers.__all__)
def test_a_copied_layer_is_what_torch_makes(name: str) -> None:
    make, args, kwargs = MAKERS[name]
    plain = getattr(nn, name)(*args, **kwargs)
    with skip_init() as skipped:
        first, second = make(*args, **kwargs), make(*args, **kwargs)
    for layer in (first, second):
        assert_alike(layer, plain)
    skipped.finish(nn.ModuleList([first, second]))
    if not args or not isinstance(args[0], nn.Module):  # else it has the layers that it was given
        own = {value.data_ptr() for layer in (first, second) for value in layer.parameters()}
        assert len(own) == 2 * len(list(plain.parameters()))


def wide(inputs: int, outputs: int, groups: int) -> list[tuple[str, nn.Module, nn.Module]]:
    """Layers of a width, made here and by torch."""
    convolution: dict[str, Any] = {"padding": 1, "groups": groups}
    return [
        ("norm", layers.BatchNorm2d(inputs), nn.BatchNorm2d(inputs)),
        (
            "plain norm",
            layers.BatchNorm2d(inputs, affine=False),
            nn.BatchNorm2d(inputs, affine=False),
        ),
        ("by name", layers.BatchNorm2d(num_features=inputs), nn.BatchNorm2d(num_features=inputs)),
        ("linear", layers.Linear(inputs, outputs), nn.Linear(inputs, outputs)),
        ("no bias", layers.Linear(inputs, outputs, False), nn.Linear(inputs, outputs, False)),
        (
            "convolution",
            layers.Conv2d(inputs, outputs, (3, 1), **convolution),
            nn.Conv2d(inputs, outputs, (3, 1), **convolution),
        ),
        (
            "by place",
            layers.Conv2d(inputs, outputs, 3, 2, "valid", 1, groups, False),
            nn.Conv2d(inputs, outputs, 3, 2, "valid", 1, groups, False),
        ),
    ]


def test_a_layer_of_another_width_is_what_torch_makes() -> None:
    with skip_init() as skipped:
        made = [each for sizes in ((4, 6, 2), (1, 1, 1), (6, 12, 3)) for each in wide(*sizes)]
        kinds = {key[0] for key in skipped.prototypes if isinstance(key, tuple)}
    assert kinds == {nn.BatchNorm2d, nn.Conv2d, nn.Linear}
    row = nn.ModuleList([layer for _, layer, _ in made])
    skipped.finish(row)
    for _, layer, plain in made:
        assert_alike(layer, plain)
    own = {value.data_ptr() for value in (*row.parameters(), *row.buffers())}
    assert len(own) == len(list(row.parameters())) + len(list(row.buffers()))


def test_a_layer_of_another_width_gets_the_values_of_its_own_width() -> None:
    with skip_init() as skipped:
        model = nn.Sequential(layers.Linear(4, 3), layers.Linear(400, 300))
    skipped.finish(model)
    assert 0.9 / 20 < model[1].weight.abs().max() <= 1 / 20  # uniform within 1 / √400
    assert model[0].weight.abs().max() > 1 / 20


@pytest.mark.parametrize(
    ("make", "args"),
    [
        (layers.Conv2d, (3, 5, 1, 1, 0, 1, 2)),
        (layers.Conv2d, (4, 4, 1, 1, 0, 1, 0)),
        (layers.Linear, (-1, 2)),
        (layers.Linear, (2,)),
        (layers.BatchNorm2d, ("4",)),
    ],
)
def test_what_the_constructor_refuses_is_refused_as_it_says(
    make: Callable[..., nn.Module], args: tuple[object, ...]
) -> None:
    plain = {layers.Conv2d: nn.Conv2d, layers.Linear: nn.Linear}.get(make, nn.BatchNorm2d)
    with pytest.raises(Exception) as expected:
        plain(*args)
    with skip_init():
        layers.Conv2d(4, 4, 1), layers.Linear(4, 4), layers.BatchNorm2d(4)
        with pytest.raises(expected.type) as found:
            make(*args)
    assert str(found.value) == str(expected.value)


def test_a_hook_on_registrations_sees_every_layer() -> None:
    seen = []
    handle = register_module_module_registration_hook(lambda _, name, child: seen.append(name))
    try:
        with skip_init():
            layers.Sequential(layers.ReLU(), layers.ReLU())
    finally:
        handle.remove()
    assert seen == ["0", "1"]


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
