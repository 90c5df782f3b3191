"""Images as a model wants them: against the definition, and against what torchvision computes."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toys import toy

import hubstate
from hubstate import Preprocessing, create_model, model_info, preprocess
from hubstate.errors import InvalidManifest, UnknownModel
from hubstate.hub import publish_files
from hubstate.weights import save_weights

PLAIN = Preprocessing(input_size=(3, 8, 8))


def picture(height: int, width: int, channels: int = 3) -> torch.Tensor:
    """Every pixel different, uint8 (H, W, C)."""
    torch.manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (height, width, channels), dtype=torch.uint8)


def test_an_image_of_the_right_size_is_only_scaled() -> None:
    image = picture(8, 8)
    assert torch.equal(PLAIN(image), image.permute(2, 0, 1) / 255)


def test_the_mean_is_subtracted_before_the_division() -> None:
    ready = preprocess({"input_size": [2, 1, 1], "mean": [0.5, 0.25], "std": [0.5, 0.25]})
    image = torch.tensor([[[0.75]], [[1.0]]])
    assert torch.equal(ready(image, layout="CHW"), torch.tensor([[[0.5]], [[3.0]]]))


def test_layouts_and_containers_give_one_answer() -> None:
    image = picture(12, 20)
    expected = PLAIN(image)
    assert torch.equal(PLAIN(image.permute(2, 0, 1)), expected)
    assert torch.equal(PLAIN(image.numpy()), expected)
    assert torch.equal(PLAIN(torch.stack([image, image]))[1], expected)
    assert torch.equal(PLAIN(image.permute(2, 0, 1).numpy()), expected)
    assert torch.allclose(PLAIN(image / 255), expected, atol=1.01 / 255)


def test_a_grey_image_needs_no_channel() -> None:
    grey = Preprocessing(input_size=(1, 8, 8))
    image = picture(9, 10, 1)
    assert torch.equal(grey(image[..., 0]), grey(image))
    assert torch.equal(grey(image.permute(2, 0, 1)), grey(image))
    assert grey(image[..., 0].unsqueeze(0).unsqueeze(0)).shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("shape", "said"),
    [((3, 9, 3), "either"), ((9, 9, 4), "neither"), ((9, 9), "dimensions"), ((1,) * 5, "dimen")],
)
def test_a_shape_that_could_be_anything_is_refused(shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PLAIN(torch.zeros(shape))


def test_integers_that_are_no_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        PLAIN(torch.zeros(8, 8, 3, dtype=torch.int64))


@pytest.mark.parametrize("image", ["a.jpg", Path("a.jpg"), None])
def test_what_is_no_image_is_refused(image: Any) -> None:
    with pytest.raises(TypeError, match=f"or a PIL image, found a {type(image).__name__}"):
        PLAIN(image)


def test_an_unknown_layout_and_an_image_without_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="layout: expected HWC or CHW, found 'NCHW'"):
        PLAIN(picture(9, 9), layout="NCHW")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"with pixels, found \(0, 3, 9, 9\)"):
        PLAIN(torch.zeros(0, 3, 9, 9))


def test_an_ambiguous_image_is_read_as_it_is_told() -> None:
    image = picture(3, 9)
    assert torch.equal(
        PLAIN(image, layout="HWC"), PLAIN(image.permute(2, 0, 1).contiguous(), layout="CHW")
    )


@settings(deadline=None)
@given(
    st.integers(1, 60), st.integers(1, 60), st.integers(1, 12), st.integers(1, 12),
    st.floats(0.3, 1.0), st.sampled_from(["bilinear", "bicubic", "nearest"]),
)  # fmt: skip
def test_any_image_becomes_the_input_size_and_stays_between_0_and_1(
    height: int, width: int, tall: int, wide: int, crop: float, mode: str
) -> None:
    ready = Preprocessing(input_size=(3, tall, wide), crop_pct=crop, interpolation=mode)
    found = ready(picture(height, width), layout="HWC")
    assert found.shape == (3, tall, wide)
    assert found.dtype == torch.float32
    assert 0 <= found.min() <= found.max() <= 1


def test_the_resize_is_antialiased() -> None:
    """Averaging a fine checkerboard gives grey; picking pixels would give black or white."""
    board = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255
    image = board.to(torch.uint8).unsqueeze(-1).expand(-1, -1, 3)
    found = PLAIN(image)
    assert (found - 0.5).abs().max() < 0.02


def test_the_crop_is_the_middle() -> None:
    ready = Preprocessing(input_size=(3, 8, 8), crop_pct=0.5)
    image = torch.zeros(3, 16, 16)
    image[:, 4:12, 4:12] = 1
    assert ready(image).min() == 1
    wide = torch.zeros(3, 16, 48)
    wide[:, :, 16:32] = 1
    assert ready(wide).min() == 1


@pytest.mark.parametrize("resize", range(224, 300))
def test_the_shorter_side_becomes_exactly_what_the_builder_says(resize: int) -> None:
    ready = Preprocessing(input_size=(3, 224, 224), crop_pct=224 / resize)
    assert ready._size(torch.zeros(3, 300, 500)) == (resize, resize * 500 // 300)
    assert ready._size(torch.zeros(3, 500, 300)) == (resize * 500 // 300, resize)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "nothing states"),
        ({"mean": [0.5]}, "input_size"),
        ({"input_size": [3, 8]}, "input_size"),
        ({"input_size": [3, 0, 8]}, "sizes from 1"),
        ({"input_size": [3, "x", 8]}, "preprocessing"),
        ({"input_size": [3, 8, 8], "mean": [0.5]}, "mean: expected 3 numbers, found 1"),
        ({"input_size": [3, 8, 8], "mean": 0.5}, "mean: expected a number for each channel"),
        ({"input_size": [1, 8, 8], "std": [0.0]}, "std"),
        ({"input_size": [3, 8, 8], "interpolation": "magic"}, "magic"),
        ({"input_size": [3, 8, 8], "crop_pct": 1.5}, "crop_pct"),
    ],
)
def test_what_means_nothing_is_refused(data: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidManifest, match=said):
        preprocess(data)


def test_a_builder_states_its_input() -> None:
    info = model_info("resnet18")
    assert info.preprocessing == preprocess("resnet18")
    assert info.arguments["num_classes"] == 1000
    assert info.builder == "resnet18"
    assert model_info("resnet18_small").weights == ("digits",)
    assert preprocess("resnet18", input_size=(3, 64, 64)).input_size == (3, 64, 64)


def test_a_model_knows_its_own_input() -> None:
    model = toy()
    assert preprocess(model).input_size == (3, 8, 8)
    assert model(preprocess(model)(picture(30, 20)).unsqueeze(0)).shape == (1, 4)


def test_a_release_states_its_input_labels_and_metrics() -> None:
    hubstate.publish(
        toy(num_classes=2), "org/toy", license="mit", labels=["cat", "dog"],
        metrics={"accuracy": 0.5}, preprocessing={"input_size": [3, 16, 16], "crop_pct": 0.5},
    )  # fmt: skip
    info = model_info("org/toy")
    assert info.labels == ("cat", "dog")
    assert info.license == "mit"
    assert info.metrics == {"accuracy": 0.5}
    assert info.arguments["num_classes"] == 2
    assert info.preprocessing == preprocess("org/toy")
    assert preprocess("org/toy").input_size == (3, 16, 16)
    assert preprocess(toy(num_classes=2)).input_size == (3, 8, 8)
    assert preprocess(toy(pretrained="org/toy", num_classes=2)) == preprocess("org/toy")


def test_weights_of_the_catalogue_state_what_is_other_than_the_builder_says() -> None:
    assert preprocess("resnet50")._size(torch.zeros(600, 600)) == (256, 256)
    assert preprocess("resnet50", tag="imagenet1k_v1") == preprocess("resnet50")
    newer = preprocess("resnet50", tag=True)
    assert newer._size(torch.zeros(600, 600)) == (232, 232)
    assert newer == preprocess("resnet50", tag="imagenet1k_v2")
    assert preprocess("seresnet50", tag="ra2_in1k").input_size == (3, 288, 288)
    info = model_info("resnet50", tag=True)
    assert (info.preprocessing, info.license) == (newer, "bsd-3-clause")
    assert model_info("inception_v3", tag=True).arguments["transform_input"] is True
    assert model_info("resnet50").license is None


def test_a_tag_goes_with_a_builder() -> None:
    with pytest.raises(UnknownModel, match="imagenet1k_v2"):
        preprocess("resnet50", tag="v9")
    for what in ("org/toy", toy(), {"input_size": [3, 8, 8]}):
        with pytest.raises(TypeError, match="tag: it goes with a builder's name"):
            preprocess(what, tag=True)
    with pytest.raises(TypeError, match="tag: it goes with a builder's name"):
        model_info("org/toy", tag=True)


def test_a_model_with_weights_of_the_catalogue_knows_their_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "bare.safetensors"
    save_weights(weights, toy().state_dict())
    publish_files("org/bare", {"model.safetensors": weights}, message="Without a manifest")
    hubstate.publish(toy(), "org/stated", license="mit", preprocessing={"input_size": [3, 16, 16]})
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text("schema = 1\n" + "".join(
        f"[[model]]\nbuilder = 'toy'\ntag = '{name}'\nrepository = 'org/{name}'\nlicense = 'mit'\n"
        "preprocessing = { crop_pct = 0.5 }\n"
        for name in ("bare", "stated")
    ))  # fmt: skip
    monkeypatch.setenv("HUBSTATE_CATALOGUE", str(catalogue))
    assert preprocess(toy(pretrained="bare")) == preprocess("toy", tag="bare")
    assert preprocess("toy", tag="bare") == preprocess("toy", crop_pct=0.5)
    assert preprocess(toy(pretrained="stated")) == preprocess("org/stated"), "the release knows"


def test_where_nothing_is_stated_the_error_says_how_to_state_it() -> None:
    with pytest.raises(InvalidManifest, match=r"this Linear: nothing states .* input_size=\(3, 32"):
        preprocess(torch.nn.Linear(1, 1))
    with pytest.raises(InvalidManifest, match="'resnet18_small': nothing states"):
        preprocess("resnet18_small")
    assert model_info("resnet18_small").preprocessing is None
    ready = preprocess("resnet18_small", input_size=(1, 28, 28))
    assert ready(torch.full((56, 56), 255, dtype=torch.uint8)).unique().tolist() == [1.0]
    digits = preprocess("resnet18_small", tag=True)
    assert (digits.input_size, digits.interpolation) == ((1, 8, 8), "nearest")


def test_a_change_of_what_there_is_not_is_refused() -> None:
    with pytest.raises(TypeError, match=r"has input_size, .*, crop_pct, and no inputsize, resize"):
        preprocess("resnet18", inputsize=(3, 64, 64), resize=64)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_are_normalised_by_the_average_of_those_that_are_stated(
    channels: int,
) -> None:
    with torch.device("meta"):
        model = create_model("squeezenet1_1", in_chans=channels)
    ready = preprocess(model)
    assert ready.input_size == (channels, 224, 224)
    assert ready.mean == pytest.approx((0.449,) * channels)
    assert ready.std == pytest.approx((0.226,) * channels)
    assert preprocess(nn.DataParallel(model)) == ready, "a wrapper is asked what it wraps"


def test_a_name_that_no_builder_has_is_unknown() -> None:
    with pytest.raises(UnknownModel):
        preprocess("resnet1")


def test_an_array_that_cannot_be_written_to_is_read() -> None:
    image = picture(8, 8).numpy()
    image.flags.writeable = False
    assert PLAIN(image).shape == (3, 8, 8)
    assert PLAIN(np.asarray(image)[::-1]).shape == (3, 8, 8)


def vision() -> Any:
    """torchvision's transforms, also where its compiled operators do not fit the torch that is
    installed; none of them is called here, so it is enough that they are declared."""
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    try:
        return import_module("torchvision.transforms.v2")
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{name}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor"
            )
        return import_module("torchvision.transforms.v2")


@pytest.mark.peer
@pytest.mark.parametrize("shape", [(480, 640), (300, 200), (224, 224), (100, 90)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_it_computes_what_torchvision_computes(shape: tuple[int, int], mode: str) -> None:
    transforms = vision()
    functional = transforms.functional
    kind = functional.InterpolationMode(mode)
    theirs = transforms.Compose(
        [
            transforms.Resize(256, interpolation=kind, antialias=True),
            transforms.CenterCrop(224),
            transforms.ToDtype(torch.float32, scale=True),
        ]
    )
    ready = Preprocessing(input_size=(3, 224, 224), crop_pct=0.875, interpolation=mode)
    image = picture(*shape)
    found, expected = ready(image), theirs(image.permute(2, 0, 1))
    assert (found - expected).abs().max() <= 1.01 / 255
    assert torch.allclose(ready(image / 255), theirs((image / 255).permute(2, 0, 1)), atol=1e-5)
    pillow = import_module("PIL.Image").fromarray(image.numpy())
    expected = transforms.functional.pil_to_tensor(
        theirs.transforms[1](theirs.transforms[0](pillow))
    )
    assert (ready(pillow) - expected / 255).abs().max() <= 1.01 / 255
