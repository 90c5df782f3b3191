"""The families of the zoo: what they are called, their names and shapes, what they accept."""

from __future__ import annotations

import ast
import hashlib
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import hubstate
from hubstate import zoo
from hubstate.errors import StructureMismatch
from hubstate.zoo.blocks import DropBranch
from hubstate.zoo.builders import builder_record
from hubstate.zoo.create import create_model, find_builder
from hubstate.zoo.index import BUILTIN, FAMILIES

GOLDEN = Path(__file__).with_name("golden") / "zoo-families.tsv"
OTHERS = sorted(set(BUILTIN) - set(FAMILIES["resnet"]))  # those have a golden file of their own

# Pixels, where 64 are too few or more than needed.
SIZES = {"inception_resnet_v2": 128, "inception_v3": 128, "inception_v4": 128}
# Further arguments of builders whose images are of one size, and what that is.
FIXED = {
    name: {"image_size": 32}
    for name in ("gmlp_b16_224", "mixer_b16_224", "resmlp_12_224", "vit_b_16")
}


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
    size = 32 if name in FIXED else SIZES.get(name, 64)
    with Unfilled():
        model = create_model(name, num_classes=7, in_chans=5, **FIXED.get(name, {})).eval()
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.zero_()
        assert model(torch.zeros(2, 5, size, size)).shape[:2] == (2, 7)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_an_argument_that_a_builder_does_not_have_is_refused(family: str) -> None:
    for name in FAMILIES[family]:
        with pytest.raises(TypeError, match=f"{name}.*unexpected keyword argument 'num_clases'"):
            create_model(name, num_clases=10)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        ({"num_classes": 0}, ValueError, r"expected 1 or more, found 0; hubstate\.backbone"),
        ({"num_classes": True}, TypeError, "expected a whole number, found True"),
        ({"in_chans": -3}, ValueError, "expected 1 or more, found -3$"),
        ({"in_chans": 3.0}, TypeError, r"expected a whole number, found 3\.0"),
    ],
)
def test_a_size_that_is_none_is_refused(
    family: str, wrong: dict[str, Any], kind: type[Exception], said: str
) -> None:
    name, (argument,) = FAMILIES[family][0], wrong
    with pytest.raises(kind, match=rf"{name}\(\): {argument}: {said}"):
        create_model(name, **wrong)


def test_a_size_may_be_any_whole_number() -> None:
    model = build("resnet18_small", num_classes=np.int64(3), in_chans=torch.tensor(4))
    record = builder_record(model)
    assert record is not None and record.arguments["num_classes"] == 3
    assert record.arguments["in_chans"] == 4


@pytest.mark.parametrize(
    "name", ["mobilenet_v3_small", "regnet_y_400mf", "shufflenet_v2_x0_5", "squeezenet1_1"]
)
def test_a_small_forward_pass_is_finite_and_depends_on_the_image(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=5).eval()
    size = SIZES.get(name, 64)
    with torch.inference_mode():
        logits = model(torch.randn(2, 3, size, size))
    assert logits.shape == (2, 5)
    assert bool(logits.isfinite().all())
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize(
    "name", ["densenet121", "mnasnet0_5", "regnet_y_400mf", "res2net50_14w_8s", "swin_v2_t"]
)
def test_gradients_reach_every_parameter(name: str) -> None:
    model = create_model(name, num_classes=5).train()
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]


def test_an_mnasnet_of_version_1_is_refused_and_has_a_builder_of_its_own() -> None:
    torch.manual_seed(0)
    old = create_model("mnasnet0_5", num_classes=2, fixed_stem=True).state_dict()
    assert old["layers.0.weight"].shape == (32, 3, 3, 3)
    assert old["layers.6.weight"].shape == (16, 32, 1, 1)
    model = create_model("mnasnet0_5", num_classes=2)
    with pytest.raises(StructureMismatch) as caught:
        hubstate.loadmodel(model, old)
    assert {issue.kind for issue in caught.value.issues} == {"shape"}
    names = {issue.path.split(".")[1] for issue in caught.value.issues}
    assert names == {"0", "1", "3", "4", "6", "7", "8"}
    same = create_model("mnasnet0_5", num_classes=2, fixed_stem=True)
    hubstate.loadmodel(same, old)
    assert (same._version, model._version) == (1, 2)
    wide = [build("mnasnet1_0", fixed_stem=fixed).state_dict() for fixed in (True, False)]
    assert [t.shape for t in wide[0].values()] == [t.shape for t in wide[1].values()]


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_are_an_argument(name: str) -> None:
    both = build(name, num_classes=7)
    alone = build(name, num_classes=7, aux_logits=False)
    extra = set(both.state_dict()) - set(alone.state_dict())
    assert {key.split(".")[0] for key in extra} in ({"aux1", "aux2"}, {"AuxLogits"})
    with torch.no_grad(), torch.device("meta"):
        images = torch.zeros(2, 3, 299, 299)
        answers = both.train()(images)
        assert [answer.shape for answer in answers] == [(2, 7)] * len(answers)
        assert alone.train()(images).shape == both.eval()(images).shape == (2, 7)


def test_only_images_of_three_channels_can_be_renormalised() -> None:
    with pytest.raises(ValueError, match="3 channels, not 1"):
        build("googlenet", transform_input=True, in_chans=1)


def test_a_vision_transformer_refuses_images_of_another_size() -> None:
    with pytest.raises(ValueError, match="multiple of 16, not 225"):
        build("vit_b_16", image_size=225)
    with pytest.raises(ValueError, match="64 × 32 pixels, where 32 × 32 are expected"):
        build("vit_b_16", image_size=32)(torch.zeros(1, 3, 64, 32, device="meta"))


@pytest.mark.parametrize("bilinear", [False, True])
def test_a_u_net_gives_maps_as_large_as_the_images(bilinear: bool) -> None:
    model = create_model("unet", bilinear=bilinear).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 37, 50)).shape == (1, 2, 37, 50)
    assert ("up1.up.weight" in model.state_dict()) is not bilinear


@pytest.mark.parametrize(("bilinear", "numbers"), [(False, 31_037_633), (True, 17_262_977)])
def test_a_u_net_of_one_class_has_as_many_numbers_as_its_reference(
    bilinear: bool, numbers: int
) -> None:
    model = build("unet", bilinear=bilinear, num_classes=1)
    assert sum(parameter.numel() for parameter in model.parameters()) == numbers


def test_dropped_branches_keep_the_expected_value() -> None:
    torch.manual_seed(0)
    drop = DropBranch(0.25)
    kept = drop(torch.ones(4000, 2, 1, 1))
    assert set(kept.unique().tolist()) == {0.0, float(torch.tensor(1 / 0.75))}
    assert float(kept.mean()) == pytest.approx(1.0, abs=0.05)
    assert bool((kept[:, 0] == kept[:, 1]).all())  # by image, not by number
    assert drop.eval()(kept) is kept


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
