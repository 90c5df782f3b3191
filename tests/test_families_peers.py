"""The zoo's other families beside torchvision's and timm's: names, shapes, types, outputs.

Run by ``scripts/test-peers``. Weights go both ways, and equal weights give equal outputs. The
largest networks are compared by names and shapes alone, and by the outputs of smaller siblings.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from quick import publish_quickly
from test_families import GOLDEN, OTHERS, build
from test_peers import theirs  # noqa: F401 (a fixture)
from torch import nn

from hubstate.convert import export_weights
from hubstate.subject import open_subject
from hubstate.zoo.builders import builder_record, preprocessing_of
from hubstate.zoo.create import create_model

pytestmark = pytest.mark.peer

MOST_NUMBERS = 60e6
# Pixels, where images of 64 × 96 are too small or of the wrong size.
SIZES = {
    "inception_v3": (299, 299),
    "inception_v4": (139, 107),
    "inception_resnet_v2": (139, 107),
    "vit_b_16": (224, 224),
    "vit_b_32": (224, 224),
}
FIXED_SIZES = ("gmlp", "mixer", "resmlp")
NO_PRETRAINING = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}
# What timm calls them, where it is something else.
TIMM = {"mobilenet_v1": "mobilenetv1_100", "xception": "legacy_xception"}
# Here squeeze and excitation come after what ``resnet.py`` has.
UNORDERED = ("seresn",)

Make = Callable[..., nn.Module]


def numbers(name: str) -> int:
    lines = GOLDEN.read_text().splitlines()
    return {line.split("\t")[0]: int(line.split("\t")[2]) for line in lines}[name]


@pytest.fixture(params=OTHERS)
def twins(request: pytest.FixtureRequest, theirs: Any) -> tuple[str, Make]:  # noqa: F811
    """A builder's name and the function of the other library that makes the same network."""
    name: str = request.param
    if name in theirs.list_models(module=theirs):
        fixed = NO_PRETRAINING.get(name, {})
        return name, lambda **arguments: getattr(theirs, name)(**arguments, **fixed)
    if name == "unet":
        pytest.skip("its reference is no package")
    if find_spec("timm") is None:
        pytest.skip("timm is not installed")
    timm: Any = import_module("timm")  # after torchvision, which it imports
    return name, lambda **arguments: timm.create_model(TIMM.get(name, name), **arguments)


def randomised(model: nn.Module) -> nn.Module:
    """Statistics and scales that are not those of a fresh model, so that a swap would show."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith("running_mean") or (tensor.numel() > 1 and not tensor.any()):
                tensor.normal_(0, 0.1, generator=generator)
            elif name.endswith(("layer_scale", "ls1", "ls2")):
                tensor.uniform_(0.1, 1.0, generator=generator)
    return model.eval()


def kinds(model: nn.Module) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    return [(key, tuple(t.shape), t.dtype) for key, t in model.state_dict().items()]


def test_names_their_order_shapes_and_types_are_theirs(twins: tuple[str, Make]) -> None:
    name, make = twins
    # torchvision computes a RegNet's widths with tensors, which must have values.
    with nullcontext() if name.startswith("regnet") else torch.device("meta"):
        expected = make()
    model = build(name)
    if name.startswith(UNORDERED):
        assert sorted(kinds(model), key=str) == sorted(kinds(expected), key=str)
    else:
        assert kinds(model) == kinds(expected)


def test_weights_go_both_ways_and_give_equal_outputs(twins: tuple[str, Make]) -> None:
    name, make = twins
    if numbers(name) > MOST_NUMBERS and name not in SIZES:
        pytest.skip("large: names and shapes only")
    expected = randomised(make(num_classes=7))
    ours, again = create_model(name, num_classes=7).eval(), make(num_classes=7).eval()
    ours.load_state_dict(expected.state_dict(), strict=True)
    again.load_state_dict(ours.state_dict(), strict=True)
    usual = (224, 224) if name.startswith(FIXED_SIZES) else (64, 96)
    images = torch.randn(2, 3, *SIZES.get(name, usual))
    with torch.inference_mode():
        found, wanted, back = ours(images), expected(images), again(images)
    spread = float(wanted.std())
    assert spread > 0
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * spread)
    torch.testing.assert_close(back, wanted, rtol=1e-4, atol=1e-4 * spread)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mobilenet_v1", {"in_chans": 1}),
        ("mixer_s32_224", {"image_size": 64}),
        *((name, {}) for name in ("timm:resnet18", "vgg11_bn", "densenet121", "xception")),
    ],
)
def test_timm_loads_the_folder_of_what_has_its_tensors(
    name: str,
    arguments: dict[str, int],
    theirs: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    timm = pytest.importorskip("timm")
    model = randomised(create_model(name, num_classes=7, **arguments))
    stated = dict(preprocessing_of(model))
    publish_quickly(model, "org/net", builder=builder_record(model), preprocessing=stated)
    folder = tmp_path / "folder"
    export_weights(open_subject("org/net"), folder, to="folder")
    same = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(2, *stated["input_size"])
    with torch.inference_mode():
        torch.testing.assert_close(same(images), model(images), rtol=1e-4, atol=1e-5)
    assert list(same.pretrained_cfg["mean"]) == stated["mean"]


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_training_gives_what_theirs_gives(name: str, theirs: Any) -> None:  # noqa: F811
    expected = getattr(theirs, name)(init_weights=False, transform_input=True)
    ours = create_model(name, transform_input=True)
    ours.load_state_dict(expected.state_dict(), strict=True)
    for module in [*expected.modules(), *ours.modules()]:
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    images = torch.randn(2, 3, 299, 299)
    answers, wanted = ours.train()(images), expected.train()(images)
    assert answers._fields == wanted._fields
    for found, answer in zip(answers, wanted, strict=True):
        torch.testing.assert_close(found, answer, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["swin_t", "swin_v2_t"])
def test_windows_are_padded_as_theirs(name: str, theirs: Any) -> None:  # noqa: F811
    expected, ours = getattr(theirs, name)().eval(), create_model(name).eval()
    ours.load_state_dict(expected.state_dict(), strict=True)
    for size in ((100, 132), (300, 68)):
        images = torch.randn(1, 3, *size)
        with torch.inference_mode():
            torch.testing.assert_close(ours(images), expected(images), rtol=1e-4, atol=1e-5)


def test_an_mnasnet_of_version_1_goes_both_ways(theirs: Any) -> None:  # noqa: F811
    ours = randomised(create_model("mnasnet0_5", num_classes=7, fixed_stem=True))
    expected, again = (theirs.mnasnet0_5(num_classes=7).eval() for _ in range(2))
    for peer, state in ((expected, ours.state_dict()), (again, None)):
        with pytest.warns(UserWarning, match="previous version"):
            peer.load_state_dict(state or expected.state_dict(), strict=True)
    back = create_model("mnasnet0_5", num_classes=7, fixed_stem=True).eval()
    back.load_state_dict(again.eval().state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), expected.eval()(images), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(back(images), ours(images))
