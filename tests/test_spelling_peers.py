"""Architectures of timm and torchvision by name, and torchvision's weights, with the real ones.

Run by ``scripts/test-peers``.
"""

from __future__ import annotations

from importlib.util import find_spec
from inspect import signature
from typing import Any

import pytest
import torch
from test_peers import theirs  # noqa: F401 (a fixture)

import hubstate
from hubstate.errors import InvalidManifest, UnknownModel
from hubstate.zoo import resnet18
from hubstate.zoo.builders import builder_record
from hubstate.zoo.create import create_model, list_models
from hubstate.zoo.spelling import spelled

pytestmark = pytest.mark.peer


@pytest.mark.parametrize("name", ["timm:resnet18", "timm:resnet18.a1_in1k", "torchvision:resnet18"])
def test_their_architectures_take_weights_of_releases(name: str, theirs: Any) -> None:  # noqa: F811
    if name.startswith("timm") and find_spec("timm") is None:
        pytest.skip("timm is not installed")
    ours = resnet18(num_classes=3).eval()
    same = create_model(name, num_classes=3)
    same.load_state_dict(ours.state_dict(), strict=True)
    hubstate.publish(same, "org/theirs", license="mit", weights_only=True)
    model = create_model(name, num_classes=3, pretrained="org/theirs").eval()
    record = builder_record(model)
    assert record is not None and (record.name, record.source) == (name, name)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), ours(images), rtol=1e-4, atol=1e-5)


def test_nothing_of_a_segmentation_network_is_fetched(theirs: Any) -> None:  # noqa: F811
    assert "backbone.conv1.weight" in create_model("torchvision:fcn_resnet50").state_dict()


def test_timm_s_own_head_is_known(theirs: Any) -> None:  # noqa: F811
    pytest.importorskip("timm")
    model = create_model("timm:resnet18", num_classes=3)
    assert hubstate.classifier(model) is model.fc
    assert hubstate.preprocess(model).input_size == (3, 224, 224)


def test_torchvision_s_weights_are_tags(theirs: Any) -> None:  # noqa: F811
    with pytest.raises(UnknownModel, match="no weights tagged 'imagenet1k_features'"):
        create_model("vgg16", weights=theirs.VGG16_Weights.IMAGENET1K_FEATURES)


def test_torchvision_s_classes_of_weights_are_called_like_the_builders(theirs: Any) -> None:  # noqa: F811
    """So that those of another network can be told."""
    for name in set(theirs.list_models(module=theirs)) & set(list_models()):
        for member in theirs.get_model_weights(name):
            meant = spelled(name, False, {"weights": member}, signature=signature(create_model))
            assert meant == member.name.lower()
    with pytest.raises(TypeError, match="those of another network"):
        resnet18(weights=theirs.ResNet50_Weights.DEFAULT)


def test_torchvision_s_networks_tell_their_head_and_their_images(theirs: Any) -> None:  # noqa: F811
    model = create_model("torchvision:mobilenet_v3_small", num_classes=7)
    assert hubstate.classifier(model) is model.classifier[3]
    assert hubstate.preprocess(model) == hubstate.preprocess("mobilenet_v3_small")
    with pytest.raises(InvalidManifest, match="nothing states"):
        hubstate.preprocess("torchvision:fcn_resnet50")
    assert hubstate.preprocess("torchvision:vit_h_14").input_size == (3, 224, 224)


def test_a_builder_s_images_are_those_of_torchvision_s_first_weights(theirs: Any) -> None:  # noqa: F811
    # There the first weights are for larger images, and those with a retrained head for smaller.
    others = set(theirs.list_models(module=theirs)) & set(list_models()) - {"regnet_y_128gf"}
    for name in sorted(others):
        assert hubstate.preprocess(name) == hubstate.preprocess(f"torchvision:{name}")


def test_timm_s_image_size_is_adapted_to(theirs: Any) -> None:  # noqa: F811
    pytest.importorskip("timm")
    name, small = "timm:vit_tiny_patch16_224", {"depth": 1, "num_classes": 3}
    made = create_model(name, img_size=64, **small)
    hubstate.publish(made, "org/tiny", license="mit", weights_only=True)
    model = create_model(name, img_size=96, **small, pretrained="org/tiny", adapt=True).eval()
    report = hubstate.load_report(model)
    how = "4 × 4 positions interpolated to 6 × 6, bicubic, 1 before them kept"
    assert report is not None and report.adapted == {"pos_embed": how}
    assert model(torch.zeros(1, 3, 96, 96)).shape == (1, 3)
    assert hubstate.preprocess(model).input_size == (3, 96, 96)
    with pytest.raises(TypeError, match="image_size is img_size in timm"):
        create_model(name, image_size=96)
