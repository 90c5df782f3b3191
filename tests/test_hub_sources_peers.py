"""The catalogue's weights on the public hub are timm's models: names, shapes, images, outputs.

Run by ``scripts/test-peers``. No weights are fetched: what timm would store is what its model has.
"""

from __future__ import annotations

import math
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from test_families_peers import randomised
from test_hub_sources import SOURCES, golden, label, line
from test_peers import theirs  # noqa: F401 (a fixture)
from torch import nn

from hubstate import Preprocessing, StructureMismatch, describe, loadmodel, preprocess
from hubstate.loading import plan_entries
from hubstate.zoo.catalogue import CatalogueEntry
from hubstate.zoo.create import create_model
from hubstate.zoo.index import BUILTIN

pytestmark = pytest.mark.peer


@pytest.fixture
def timm(theirs: Any) -> Any:  # noqa: F811
    if find_spec("timm") is None:
        pytest.skip("timm is not installed")
    return import_module("timm")


def config(timm: Any, entry: CatalogueEntry) -> Any:
    return timm.models.get_pretrained_cfg(entry.reference.repo.split("/")[1])


def made(timm: Any, entry: CatalogueEntry) -> nn.Module:
    """The model that timm loads the repository into."""
    name = entry.reference.repo.split("/")[1]
    heads = {"aux_logits": True} if name == "inception_v3.tv_in1k" else {}
    model: nn.Module = timm.create_model(name, num_classes=config(timm, entry).num_classes, **heads)
    return model


def figures(ready: Preprocessing) -> tuple[object, ...]:
    size = ready.input_size[1]
    resized = math.floor(size / ready.crop_pct + 1e-6)
    return (size, resized, ready.interpolation, ready.mean, ready.std)


def torchvision_figures(weights: Any) -> tuple[object, ...]:
    stated = weights.transforms()
    sizes = stated.crop_size[0], stated.resize_size[0]
    return (*sizes, stated.interpolation.value, tuple(stated.mean), tuple(stated.std))


@pytest.mark.parametrize("entry", SOURCES, ids=label)
def test_timm_has_these_names_and_shapes_and_this_licence(entry: CatalogueEntry, timm: Any) -> None:
    stated = config(timm, entry)
    assert (stated.hf_hub_id, stated.license) == (entry.reference.repo, entry.license)
    with torch.device("meta"):
        model = made(timm, entry)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert line(entry, shapes) == golden(entry)


@pytest.mark.parametrize("entry", SOURCES, ids=label)
def test_images_are_made_as_for_the_evaluation(
    entry: CatalogueEntry,
    timm: Any,
    theirs: Any,  # noqa: F811
) -> None:
    found = figures(preprocess(entry.builder, tag=entry.tag))
    if entry.tag.startswith("imagenet1k"):
        weights = theirs.get_model_weights(entry.builder)[entry.tag.upper()]
        assert found == torchvision_figures(weights)
        assert entry.default == (weights is theirs.get_model_weights(entry.builder).DEFAULT)
        return
    stated = config(timm, entry)
    crop = (stated.test_input_size or stated.input_size)[1]
    resize = int(crop / (stated.test_crop_pct or stated.crop_pct))
    assert found == (crop, resize, stated.interpolation, tuple(stated.mean), tuple(stated.std))


def test_a_builder_states_the_images_of_weights_that_torchvision_has(theirs: Any) -> None:  # noqa: F811
    for name in sorted(BUILTIN.keys() & set(theirs.list_models(module=theirs))):
        weights = theirs.get_model_weights(name)
        assert figures(preprocess(name)) in [torchvision_figures(each) for each in weights], name


@pytest.mark.parametrize("builder", ["densenet121", "inception_v3", "resnet50", "seresnet50"])
def test_timm_s_model_takes_our_release_where_tensors_alone_are_compared(
    builder: str, timm: Any
) -> None:
    (entry, *_) = (entry for entry in SOURCES if entry.builder == builder)
    with torch.device("meta"):
        model, ours = made(timm, entry), create_model(builder)
    with pytest.raises(StructureMismatch, match="every tensor fits; strict='tensors'"):
        plan_entries(model, describe(ours), fresh=True)
    plan = plan_entries(model, describe(ours), fresh=True, strict="tensors")
    assert set(plan.wanted) == model.state_dict().keys()


@pytest.mark.parametrize("builder", ["vgg11_bn", "regnet_x_400mf", "regnet_y_400mf"])
def test_what_rules_make_of_it_computes_the_same(builder: str, timm: Any) -> None:
    (entry,) = (entry for entry in SOURCES if entry.builder == builder)
    expected, ours = randomised(made(timm, entry)), create_model(builder).eval()
    loadmodel(ours, expected.state_dict(), transforms=entry.transforms)
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        wanted = expected(images)
        torch.testing.assert_close(ours(images), wanted, rtol=1e-4, atol=1e-4 * float(wanted.std()))
