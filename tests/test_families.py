"""The families of the zoo: what they are called, their names and shapes, what they accept."""

from __future__ import annotations

import ast
import hashlib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hubstate import zoo
from hubstate.zoo.create import create_model, find_builder
from hubstate.zoo.index import BUILTIN, FAMILIES

GOLDEN = Path(__file__).with_name("golden") / "zoo-families.tsv"
OTHERS = sorted(set(BUILTIN) - set(FAMILIES["resnet"]))  # those have a golden file of their own

# Pixels, where 64 are too few or the builder takes images of one size only.
SIZES = {"inception_v3": 128}


def row(name: str, model: nn.Module) -> str:
    """A builder's name; how many tensors; how many numbers in parameters; names and shapes."""
    tensors = model.state_dict()
    text = "".join(f"{key} {tuple(tensor.shape)}\n" for key, tensor in tensors.items())
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    numbers = sum(parameter.numel() for parameter in model.parameters())
    return f"{name}\t{len(tensors)}\t{numbers}\t{digest}"


FILLINGS = {Tensor.normal_, Tensor.uniform_, nn.init.kaiming_uniform_}


class Unfilled(TorchFunctionMode):
    """Leaves out random fillings: without memory they do nothing, and take most of the time."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        filled = [*args, *kwargs.values()][0] if func in FILLINGS else None
        return func(*args, **kwargs) if filled is None else filled


def build(name: str, **arguments: object) -> nn.Module:
    """A model without memory for its weights."""
    with torch.device("meta"), Unfilled():
        return create_model(name, **arguments)


@pytest.mark.parametrize("name", OTHERS)
def test_names_and_shapes_are_those_of_the_golden_file(name: str) -> None:
    rows = dict(line.split("\t", 1) for line in GOLDEN.read_text().splitlines())
    assert row(name, build(name)) == f"{name}\t{rows.get(name)}"


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_classes_and_channels_are_honoured(family: str) -> None:
    name = FAMILIES[family][0]
    size = SIZES.get(name, 64)
    with Unfilled():
        model = create_model(name, num_classes=7, in_chans=5).eval()
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.zero_()
        assert model(torch.zeros(2, 5, size, size)).shape[:2] == (2, 7)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_an_argument_that_a_builder_does_not_have_is_refused(family: str) -> None:
    for name in FAMILIES[family]:
        with pytest.raises(TypeError, match=f"{name}.*unexpected keyword argument 'num_clases'"):
            create_model(name, num_clases=10)


@pytest.mark.parametrize("name", ["squeezenet1_1"])
def test_a_small_forward_pass_is_finite_and_depends_on_the_image(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=5).eval()
    size = SIZES.get(name, 64)
    with torch.inference_mode():
        logits = model(torch.randn(2, 3, size, size))
    assert logits.shape == (2, 5)
    assert bool(logits.isfinite().all())
    assert not torch.allclose(logits[0], logits[1], rtol=1e-5, atol=1e-9)


def test_every_builder_is_in_the_index_and_says_what_its_images_are_like() -> None:
    for family, names in FAMILIES.items():
        module = import_module(f"hubstate.zoo.{family}")
        for name in names:
            builder = getattr(module, name)
            assert builder is find_builder(name) is getattr(zoo, name)
            assert builder.registration.source == f"hubstate.zoo.{family}:{name}"
            assert builder.__doc__
            missing = {"input_size", "mean", "std", "interpolation"} - {
                *builder.registration.preprocessing
            }
            assert not missing or name == "resnet18_small"


def test_no_family_stands_in_the_way_of_a_builder() -> None:
    assert not set(FAMILIES) & set(BUILTIN)


def test_type_checkers_see_every_builder() -> None:
    tree = ast.parse(Path(zoo.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == BUILTIN


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'vgg12'"):
        _ = zoo.vgg12
