"""Images of another size than a release's: embeddings of positions are interpolated, no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from quick import publish_quickly
from test_peers import theirs  # noqa: F401 (a fixture)
from torch import Tensor, nn

import hubstate
from hubstate.adapting import find_adaptation
from hubstate.errors import StructureMismatch
from hubstate.transforms import resolve
from hubstate.zoo.builders import builder_record, register_model
from hubstate.zoo.gmlp import GatedMlp
from hubstate.zoo.gmlp import Plan as GmlpPlan
from hubstate.zoo.mlp_mixer import MlpMixer
from hubstate.zoo.mlp_mixer import Plan as MixerPlan
from hubstate.zoo.resmlp import Plan as ResmlpPlan
from hubstate.zoo.resmlp import ResMlp
from hubstate.zoo.vision_transformer import Plan, VisionTransformer

NAME = "org/vit"
POSITIONS = "encoder.pos_embedding"
PREPROCESSING = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}


@register_model(name="yy-vit", preprocessing=PREPROCESSING)
def vit(*, num_classes: int = 3, in_chans: int = 3, image_size: int = 32) -> VisionTransformer:
    """A vision transformer of a single layer."""
    plan = Plan(patch=8, layers=1, heads=2, width=16, hidden=32)
    return VisionTransformer(
        plan, num_classes=num_classes, in_chans=in_chans, image_size=image_size
    )


@register_model(name="yy-mixer")
def mixer(*, num_classes: int = 3, image_size: int = 32) -> MlpMixer:
    """A mixer of a single block."""
    return MlpMixer(
        MixerPlan(patch=8, blocks=1, width=32), num_classes=num_classes, image_size=image_size
    )


@register_model(name="yy-gmlp")
def gmlp(*, image_size: int = 32) -> GatedMlp:
    """As few channels as there can be; the number of blocks is fixed."""
    return GatedMlp(GmlpPlan(width=4), num_classes=3, image_size=image_size)


@register_model(name="yy-resmlp")
def resmlp(*, image_size: int = 32) -> ResMlp:
    """A single block."""
    plan = ResmlpPlan(blocks=1, scale=0.1, width=8, patch=8)
    return ResMlp(plan, num_classes=3, image_size=image_size)


@register_model(name="yy-timm", preprocessing=PREPROCESSING)
def spelled(*, img_size: int | tuple[int, int] = 32) -> VisionTransformer:
    """The size as timm spells it."""
    return vit(image_size=img_size if isinstance(img_size, int) else img_size[0])


# A release of each, its patches, and the tensors that mix them.
MIXING: dict[Any, tuple[str, int, list[str]]] = {
    mixer: (
        "org/mixer",
        16,
        [f"blocks.0.mlp_tokens.{name}" for name in ("fc1.weight", "fc2.weight", "fc2.bias")],
    ),
    gmlp: (
        "org/gmlp",
        4,
        [f"blocks.{i}.mlp_channels.gate.proj.{n}" for i in range(30) for n in ("weight", "bias")],
    ),
    resmlp: ("org/resmlp", 16, [f"blocks.0.linear_tokens.{name}" for name in ("weight", "bias")]),
}


class More(nn.Module):
    """A vision transformer with a layer that no release has."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        for name, part in model.named_children():
            self.add_module(name, part)
        self.class_token = model.class_token
        self.more = nn.Linear(2, 2)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, VisionTransformer]:
    folder = tmp_path_factory.mktemp("registry")
    torch.manual_seed(0)
    model = vit().eval()
    publish_quickly(model, NAME, registry=folder, builder=builder_record(model))
    publish_quickly(model, "org/silent", registry=folder)
    for build, (name, _, _) in MIXING.items():
        mixing = build()
        publish_quickly(mixing, name, registry=folder, builder=builder_record(mixing))
    return folder, model


@pytest.fixture
def model(
    shelf: tuple[Path, VisionTransformer], monkeypatch: pytest.MonkeyPatch
) -> VisionTransformer:
    monkeypatch.setenv("HUBSTATE_REGISTRY", str(shelf[0]))
    return shelf[1]


def adapted(name: str = NAME, **arguments: Any) -> tuple[VisionTransformer, hubstate.LoadReport]:
    made = vit(pretrained=name, adapt=True, **arguments)
    report = hubstate.load_report(made)
    assert report is not None
    return made.eval(), report


@pytest.mark.parametrize("name", [NAME, "org/silent"])
@pytest.mark.parametrize(("size", "side"), [(48, 6), (16, 2), (8, 1)])
def test_positions_are_interpolated_and_the_report_says_so(
    model: VisionTransformer, name: str, size: int, side: int
) -> None:
    made, report = adapted(name, image_size=size)
    how = f"4 × 4 positions interpolated to {side} × {side}, bicubic, 1 before them kept"
    assert report.adapted == {POSITIONS: how}
    assert len(report.loaded) == len(model.state_dict())
    assert report.drift == {"image_size": (size, 32)}
    assert report.skipped == report.missing == report.unexpected == ()
    assert made(torch.zeros(1, 3, size, size)).shape == (1, 3)
    others = {name: t for name, t in made.state_dict().items() if name != POSITIONS}
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in others.items())


def test_corners_stay_on_corners_and_the_class_token_where_it_is(model: VisionTransformer) -> None:
    there = model.encoder.pos_embedding
    here = adapted(image_size=48)[0].encoder.pos_embedding
    assert here.shape == (1, 37, 16)
    assert torch.equal(here[:, 0], there[:, 0])
    old, new = there[0, 1:].view(4, 4, 16), here[0, 1:].view(6, 6, 16)
    for row in (0, -1):
        for column in (0, -1):
            assert torch.allclose(new[row, column], old[row, column], atol=1e-6)


def test_an_unchanged_size_gives_the_same_bits_as_no_adaptation(model: VisionTransformer) -> None:
    made, report = adapted(image_size=32)
    plain = vit(pretrained=NAME).eval()
    assert report.adapted == {}
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(made(images), plain(images)) and torch.equal(made(images), model(images))
    positions = {"p": torch.randn(1, 17, 8)}
    same = resolve([{"interpolate": "p", "grid": [4, 4], "prefix": 1}], positions)
    assert torch.equal(same.apply(positions)["p"], positions["p"])


def test_size_classes_and_channels_adapt_together(model: VisionTransformer) -> None:
    _, report = adapted(image_size=48, num_classes=5, in_chans=1)
    heads = ["heads.head.weight", "heads.head.bias"]
    assert list(report.adapted) == [*heads, "conv_proj.weight", POSITIONS]


def test_what_a_filter_leaves_out_is_not_adapted(model: VisionTransformer) -> None:
    _, report = adapted(image_size=48, filter=hubstate.without(POSITIONS))
    assert report.adapted == {} and report.skipped == (POSITIONS,)
    _, report = adapted(image_size=48, filter=hubstate.only("encoder"))
    assert list(report.adapted) == [POSITIONS]


def test_what_is_not_strict_is_adapted_too_and_else_reported(model: VisionTransformer) -> None:
    more = register_model(name="yy-more")(lambda *, image_size=32: More(vit(image_size=image_size)))
    report = hubstate.load_report(more(pretrained=NAME, image_size=48, adapt=True, strict=False))
    assert report is not None
    assert list(report.adapted) == [POSITIONS] and report.missing == ("more.weight", "more.bias")


def test_unasked_nothing_is_adapted_and_the_error_says_what_would_be(
    model: VisionTransformer,
) -> None:
    with pytest.raises(StructureMismatch, match=r"pos_embedding: shape") as caught:
        vit(pretrained=NAME, image_size=48)
    assert [issue.path for issue in caught.value.issues] == [POSITIONS]
    assert caught.value.advice == f"adapt=True adapts {POSITIONS}, and its report says how"


def test_nothing_else_is_adapted_with_it(model: VisionTransformer) -> None:
    plan = Plan(patch=8, layers=1, heads=2, width=24, hidden=32)
    wide = register_model(name="yy-wide")(
        lambda *, image_size=32: VisionTransformer(plan, num_classes=3, image_size=image_size)
    )
    with pytest.raises(StructureMismatch) as caught:
        wide(pretrained=NAME, image_size=48, adapt=True)
    paths = {issue.path for issue in caught.value.issues}
    assert {POSITIONS, "class_token", "conv_proj.weight", "encoder.ln.bias"} <= paths


def test_a_child_without_tensors_is_still_missed(model: VisionTransformer) -> None:
    def build(*, image_size: int = 32) -> VisionTransformer:
        made = vit(image_size=image_size)
        made.encoder.add_module("extra", nn.ReLU())
        return made

    changed = register_model(name="yy-child")(build)
    with pytest.raises(StructureMismatch, match=r"encoder\.extra: structure"):
        changed(pretrained=NAME, image_size=48, adapt=True)


@pytest.mark.parametrize("adapt", [True, False])
@pytest.mark.parametrize("build", MIXING, ids=lambda build: str(build.__name__))
def test_weights_that_mix_patches_are_refused_and_the_error_says_why(
    model: VisionTransformer, build: Any, adapt: bool
) -> None:
    name, patches, paths = MIXING[build]
    with pytest.raises(StructureMismatch) as caught:
        build(pretrained=name, image_size=48, adapt=adapt)
    why = f"weights that mix {patches} patches fit no others: images of 32 × 32 are theirs"
    assert [issue.path for issue in caught.value.issues] == paths
    said = [issue.detail for issue in caught.value.issues] if adapt else [caught.value.advice]
    assert all(text.endswith(why) for text in said)


@pytest.mark.parametrize("size", [48, (48, 48), [48, 48]])
def test_the_size_is_understood_as_timm_spells_it(model: VisionTransformer, size: Any) -> None:
    made = spelled(pretrained=NAME, img_size=size, adapt=True)
    report = hubstate.load_report(made)
    assert report is not None and list(report.adapted) == [POSITIONS]
    assert hubstate.preprocess(made).input_size == (3, 48, 48)
    assert made(torch.zeros(1, 3, 48, 48)).shape == (1, 3)
    with pytest.raises(StructureMismatch) as caught:
        spelled(pretrained=NAME, img_size=size)
    assert caught.value.advice == f"adapt=True adapts {POSITIONS}, and its report says how"


@pytest.mark.parametrize(
    ("name", "wrong", "hint"),
    [
        ("vit_b_16", "img_size", "did you mean image_size?"),
        ("resnet18", "num_class", "did you mean num_classes?"),
        ("swin_t", "img_size", "it has num_classes, in_chans"),
    ],
)
def test_an_argument_that_a_builder_lacks_names_the_right_one(
    name: str, wrong: str, hint: str
) -> None:
    with pytest.raises(TypeError) as caught:
        hubstate.create_model(name, **{wrong: 384})
    said = f"{name}(): got an unexpected keyword argument '{wrong}': {hint}"
    assert str(caught.value).startswith(said)


def test_the_preprocessing_has_the_size_that_the_model_was_made_for(
    model: VisionTransformer,
) -> None:
    made, _ = adapted(image_size=48)
    assert hubstate.preprocess(made).input_size == (3, 48, 48)
    assert hubstate.preprocess(vit(image_size=16)).input_size == (3, 16, 16)
    assert hubstate.preprocess(vit(pretrained=NAME)).input_size == (3, 32, 32)


class Bare(nn.Module):
    """Nothing but embeddings of positions."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.pos = nn.Parameter(torch.zeros(1, tokens, 2))


@pytest.mark.parametrize(
    ("tokens", "here", "size", "stated", "expected"),
    [
        (16, 36, 48, 32, (6, 6, 0)),
        (18, 38, 48, 32, (6, 6, 2)),
        (17, 37, 48, 40, None),  # patches of another size
        (17, 37, 48, None, (6, 6, 1)),
        (17, 38, 48, 32, None),  # another number of tokens before the grid
        (17, 37, 50, None, None),  # no whole patches
        (2, 5, 16, None, (2, 2, 1)),
        (9, 24, 32, None, (4, 4, 8)),
        (13, 28, 32, None, None),  # twelve tokens before it: no network has as many
    ],
)
def test_a_grid_is_taken_for_one_only_where_it_can_be_nothing_else(
    tokens: int, here: int, size: int, stated: int | None, expected: tuple[int, int, int] | None
) -> None:
    entries = hubstate.describe(Bare(tokens))
    stating = {} if stated is None else {"image_size": stated}
    found = find_adaptation(Bare(here), entries, {"image_size": size}, stated=stating)
    rules: list[Any] = list(found.rules)
    grids = [(*rule.grid, rule.prefix) for rule in rules]
    assert grids == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"grid": [4]}, "expected height and width"),
        ({"grid": [0, 4]}, "expected height and width"),
        ({"grid": [4, 1 << 40]}, "expected height and width"),
        ({"grid": [4, 4]}, "10 positions after 0 are no square grid"),
        ({"grid": [4, 4], "prefix": -6}, "are no square grid"),
        ({"grid": [4, 4], "prefix": 99}, "are no square grid"),
    ],
)
def test_a_grid_that_is_none_is_an_error(rule: dict[str, Any], said: str) -> None:
    with pytest.raises(StructureMismatch) as caught:
        resolve([{"interpolate": "p", **rule}], {"p": torch.zeros(1, 10, 2)})
    assert said in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_dtype_is_interpolated_as_itself(dtype: torch.dtype) -> None:
    positions = {"p": torch.randn(1, 5, 3, dtype=torch.float64).to(dtype)}
    there = resolve([{"interpolate": "p", "grid": [3, 5], "prefix": 1}], positions)
    made = there.apply(positions)["p"]
    assert made.dtype is dtype and made.shape == (1, 16, 3) == there.forms["p"].shape
    assert torch.allclose(made[0, [1, 5, 11, 15]].double(), positions["p"][0, 1:].double())


@pytest.mark.peer
@pytest.mark.parametrize(("there", "here"), [(14, 24), (16, 7), (7, 12)])
def test_values_are_those_of_torchvision_s_interpolate_embeddings(
    theirs: Any,  # noqa: F811
    there: int,
    here: int,
) -> None:
    peer = theirs.vision_transformer
    positions: Tensor = torch.randn(1, 1 + there**2, 24)
    expected = peer.interpolate_embeddings(here * 16, 16, {POSITIONS: positions.clone()})
    rule = {"interpolate": ".*pos_embedding", "grid": [here, here], "prefix": 1}
    found = resolve([rule], {POSITIONS: positions}).apply({POSITIONS: positions})
    assert torch.equal(found[POSITIONS], expected[POSITIONS])
