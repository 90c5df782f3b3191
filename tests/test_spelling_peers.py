"""Architectures of timm and torchvision by name, and torchvision's weights, with the real ones.

Run by ``scripts/test-peers``.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from test_peers import theirs  # noqa: F401 (a fixture)

import hubstate
from hubstate.errors import UnknownModel
from hubstate.zoo import resnet18
from hubstate.zoo.builders import builder_record
from hubstate.zoo.create import create_model

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
