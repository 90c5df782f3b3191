"""The same networks as torchvision's: weights go both ways, and outputs are equal.

Run by ``scripts/test-peers``, which installs torchvision in an environment of its own.
"""

from __future__ import annotations

import shutil
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from outline import outline
from test_zoo import golden
from torch import nn

import hubstate
from hubstate.zoo.create import create_model

pytestmark = pytest.mark.peer

NAMES = sorted(golden())


@pytest.fixture(scope="session")
def theirs() -> Any:
    """torchvision.models, also where its compiled operators do not fit the installed torch.

    Wheels that were built for a GPU do not load their operators beside a torch for the CPU, and
    then the import fails at those that it registers more for. No model calls them, so it is
    enough that they are declared.
    """
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    try:
        yield import_module("torchvision.models")
    except RuntimeError:
        library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        yield import_module("torchvision.models")


def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def randomise(model: nn.Module) -> None:
    """Statistics that are not those of a fresh model, so that a swap of two would show."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight")):
                tensor.uniform_(0.5, 1.0, generator=generator)
            elif name.endswith(("running_mean", "bias")):
                tensor.normal_(0, 0.1, generator=generator)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to rounding, which is measured against the largest value."""
    scale = max(float(expected.abs().max()), 1e-6)
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_golden_file_is_theirs(theirs: Any, name: str) -> None:
    with torch.device("meta"):
        model = getattr(theirs, name)()
    assert outline(model.state_dict()) == golden()[name]


@pytest.mark.parametrize("name", NAMES)
def test_names_order_and_types_are_theirs(theirs: Any, name: str) -> None:
    with torch.device("meta"):
        ours, expected = create_model(name), getattr(theirs, name)()
    for parts in ("named_parameters", "named_buffers"):
        found, wanted = dict(getattr(ours, parts)()), dict(getattr(expected, parts)())
        assert list(found) == list(wanted)
        assert [t.dtype for t in found.values()] == [t.dtype for t in wanted.values()]
    assert [n for n, _ in ours.named_modules()] == [n for n, _ in expected.named_modules()]


@pytest.mark.parametrize("name", NAMES)
def test_their_weights_give_their_outputs(theirs: Any, name: str) -> None:
    expected, ours = getattr(theirs, name)(), create_model(name)
    randomise(expected)
    ours.load_state_dict(expected.state_dict(), strict=True)
    for mode in (False, True):
        with torch.no_grad():
            assert_close(ours.train(mode)(images()), expected.train(mode)(images()))
    for key, tensor in expected.state_dict().items():  # what training mode has changed
        assert_close(ours.state_dict()[key], tensor)


@pytest.mark.parametrize("name", NAMES)
def test_our_weights_give_our_outputs_there(theirs: Any, name: str) -> None:
    ours, expected = create_model(name, num_classes=7), getattr(theirs, name)(num_classes=7)
    randomise(ours)
    expected.load_state_dict(ours.state_dict(), strict=True)
    with torch.no_grad():
        assert_close(expected.eval()(images()), ours.eval()(images()))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
@pytest.mark.parametrize("zero", [False, True])
def test_a_seed_gives_their_initial_weights(theirs: Any, name: str, zero: bool) -> None:
    torch.manual_seed(0)
    ours = create_model(name, zero_init_residual=zero).state_dict()
    torch.manual_seed(0)
    expected = getattr(theirs, name)(zero_init_residual=zero).state_dict()
    assert [key for key in expected if not torch.equal(ours[key], expected[key])] == []


def test_timm_loads_what_is_published(theirs: Any, tmp_path: Path) -> None:
    """``config.json`` is what timm reads, and the tensors are under the names that it has."""
    timm = pytest.importorskip("timm")
    model = create_model("resnet18", num_classes=10).eval()
    randomise(model)
    labels = [f"class {index}" for index in range(10)]
    hubstate.publish(model, "org/flowers", license="mit", labels=labels)
    for name, path in hubstate.fetch("org/flowers").paths.items():
        shutil.copy(path, tmp_path / name)
    same = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        assert_close(same(images()), model(images()))
    assert same.pretrained_cfg["label_names"] == labels
    assert tuple(same.pretrained_cfg["mean"]) == (0.485, 0.456, 0.406)
