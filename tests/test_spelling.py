"""``weights=`` as torchvision spells it, and architectures of other libraries by name."""

from __future__ import annotations

import enum
import sys
from typing import Any

import pytest
from torch import nn

import hubstate
from hubstate.errors import InvalidManifest, UnknownModel
from hubstate.manifest import BuilderRecord
from hubstate.zoo import resnet18_small
from hubstate.zoo.builders import builder_record, register_model, registered
from hubstate.zoo.create import build, create_model


class ResNet18_Small_Weights(enum.Enum):
    IMAGENET1K_V1 = "a url"
    DEFAULT = IMAGENET1K_V1


def wanted(weights: object) -> str:
    """What is asked of the catalogue, which has no such weights."""
    with pytest.raises(UnknownModel) as caught:
        resnet18_small(weights=weights)
    return str(caught.value).split(":")[0]


@pytest.mark.parametrize(
    "weights",
    [
        *("ZZ_V1", "ResNet18_Small_Weights.ZZ_V1", "zz_v1"),
        enum.Enum("ResNet18_Small_Weights", {"ZZ_V1": 1}).ZZ_V1,  # type: ignore[attr-defined]
    ],
)
def test_a_name_is_a_tag_in_lower_case(weights: object) -> None:
    assert wanted(weights) == "resnet18_small has no weights tagged 'zz_v1'"


def test_an_alias_is_what_it_stands_for() -> None:
    assert wanted(ResNet18_Small_Weights.DEFAULT).endswith("'imagenet1k_v1'")


def test_none_means_random_weights_and_default_the_default() -> None:
    assert hubstate.load_report(resnet18_small(weights=None, width=4)) is None
    model = resnet18_small(num_classes=7, width=4)
    hubstate.publish(model, "hubstate/resnet18-digits", license="mit")
    again = resnet18_small(weights="DEFAULT", num_classes=7, in_chans=3, width=4)
    assert hubstate.load_report(again)
    assert hubstate.load_report(
        resnet18_small(weights="hubstate/resnet18-digits", num_classes=7, width=4)
    )


def test_both_spellings_at_once_are_refused() -> None:
    with pytest.raises(TypeError, match=r"resnet18_small\(\): pretrained=True and weights='V1'"):
        resnet18_small(pretrained=True, weights="V1")


@pytest.mark.parametrize("weights", [True, 1, object()])
def test_anything_else_is_refused(weights: object) -> None:
    with pytest.raises(TypeError, match="weights is None, a name"):
        resnet18_small(weights=weights)


@pytest.mark.parametrize(
    "weights",
    [
        "ResNet50_Weights.IMAGENET1K_V1",
        enum.Enum("ResNet50_Weights", {"DEFAULT": 1}).DEFAULT,  # type: ignore[attr-defined]
    ],
)
def test_weights_of_another_network_are_refused(weights: object) -> None:
    with pytest.raises(
        TypeError, match=r"resnet18_small\(\): weights='ResNet50_.* another network"
    ):
        resnet18_small(weights=weights)


def test_a_builder_s_own_argument_of_that_name_stays_its_own() -> None:
    @register_model(name="zz_weighted")
    def weighted(*, weights: int = 2) -> nn.Linear:
        return nn.Linear(weights, 1)

    try:
        model = create_model("zz_weighted", weights=3)
        assert model.in_features == 3
        record = builder_record(model)
        assert record is not None
        assert build(record).in_features == 3
    finally:
        del registered()["zz_weighted"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["resnet18_small", "torchvision:resnet18", "timm:resnet18"])
def test_a_record_cannot_ask_for_weights_in_any_spelling(name: str, libraries: Any) -> None:
    for word in ("pretrained", "weights"):
        with pytest.raises(InvalidManifest, match=word):
            build(BuilderRecord(name=name, arguments={word: "org/name"}, source=name))


# other libraries


class Config:
    def to_dict(self) -> dict[str, Any]:
        return {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": (3, 8, 8), "classifier": "fc"}


class Timm:
    """As much of timm's interface as is used."""

    def is_model(self, name: str) -> bool:
        return name.partition(".")[0] == "resnet18"

    def list_models(self) -> list[str]:
        return ["resnet18"]

    def get_pretrained_cfg(self, name: str) -> Config:
        return Config()

    def create_model(self, name: str, *, pretrained: bool, **arguments: Any) -> nn.Module:
        assert pretrained is False
        return resnet18_small(width=4, **arguments)


class Torchvision:
    """As much of torchvision's interface as is used."""

    def list_models(self) -> list[str]:
        return ["resnet18"]

    def get_model_builder(self, name: str) -> Any:
        def resnet18(
            *, weights: object = "V1", weights_backbone: object = "V1", **arguments: Any
        ) -> nn.Module:
            assert weights is None
            assert weights_backbone is None
            return resnet18_small(width=4, **arguments)

        return resnet18

    def get_model_weights(self, name: str) -> list[Any]:
        return []


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins; the real ones are tried beside the peers."""
    monkeypatch.setitem(sys.modules, "timm", Timm())
    monkeypatch.setitem(sys.modules, "torchvision", object())
    monkeypatch.setitem(sys.modules, "torchvision.models", Torchvision())


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18", "timm:resnet18.a1_in1k"])
def test_their_architectures_take_weights_of_releases(name: str) -> None:
    model = create_model(name, num_classes=3)
    hubstate.publish(model, "org/theirs", license="mit", weights_only=True)
    again = create_model(name, num_classes=3, pretrained="org/theirs")
    report = hubstate.load_report(again)
    assert report is not None and len(report.loaded) == len(model.state_dict())
    record = builder_record(again)
    assert record == BuilderRecord(name=name, arguments={"num_classes": 3}, source=name)
    assert list(build(record).state_dict()) == list(model.state_dict())
    with pytest.raises(UnknownModel, match="no default weights"):
        create_model(name, weights="DEFAULT")


@pytest.mark.usefixtures("libraries")
def test_their_names_have_suggestions() -> None:
    for library in ("timm", "torchvision"):
        with pytest.raises(UnknownModel, match=f"did you mean {library}:resnet18"):
            create_model(f"{library}:resnet19")


@pytest.mark.usefixtures("libraries")
def test_timm_s_configuration_tells_the_head_and_the_preprocessing() -> None:
    model = create_model("timm:resnet18", num_classes=3)
    assert hubstate.classifier(model) is model.fc
    assert hubstate.preprocess(model).input_size == (3, 8, 8)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_library_that_is_not_installed_is_named(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UnknownModel, match=f"of {library}, which is not installed: pip install"):
        create_model(f"{library}:resnet18")
