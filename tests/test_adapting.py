"""Weights for another number of classes or channels: by a rule, with an account, or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toys import Toy, toy

import hubstate
from hubstate.errors import InvalidSetting, StructureMismatch
from hubstate.zoo import resnet18_small
from hubstate.zoo.builders import register_model
from hubstate.zoo.catalogue import parse_catalogue

NAME = "org/small"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    folder = tmp_path_factory.mktemp("registry")
    torch.manual_seed(0)
    model = resnet18_small(num_classes=7, in_chans=3, width=8).eval()
    options: dict[str, Any] = {"license": "mit", "registry": str(folder)}
    hubstate.publish(model, NAME, probe=(1, 3, 8, 8), **options)
    grey = resnet18_small(num_classes=7, in_chans=1, width=8).eval()
    hubstate.publish(grey, NAME, branch="grey", probe=(1, 1, 8, 8), **options)
    hubstate.publish(toy(), "org/toy", **options)
    return folder, model


@pytest.fixture
def model(shelf: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.setenv("HUBSTATE_REGISTRY", str(shelf[0]))
    return shelf[1]


def adapted(revision: str = "main", **arguments: Any) -> tuple[nn.Module, hubstate.LoadReport]:
    torch.manual_seed(1)
    made = resnet18_small(pretrained=f"{NAME}@{revision}", adapt=True, width=8, **arguments)
    report = hubstate.load_report(made)
    assert report is not None
    return made.eval(), report


def test_another_number_of_classes_keeps_the_fresh_head_and_nothing_else(model: nn.Module) -> None:
    made, report = adapted(num_classes=2)
    assert report.adapted == {
        "fc.weight": "re-initialised: 7 classes there, 2 here",
        "fc.bias": "re-initialised: 7 classes there, 2 here",
    }
    assert report.skipped == report.missing == report.unexpected == ()
    assert len(report.loaded) == len(model.state_dict()) - 2
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(made.forward_features(images), model.forward_features(images))  # type: ignore[operator]
    assert made.fc.weight.std() > 0  # type: ignore[union-attr,operator]


def test_without_being_asked_nothing_is_adapted(model: nn.Module) -> None:
    with pytest.raises(StructureMismatch, match=r"fc\.weight: shape"):
        resnet18_small(pretrained=NAME, num_classes=2, width=8)


def test_a_grey_image_answers_as_its_rgb_copy_did(model: nn.Module) -> None:
    made, report = adapted(num_classes=7, in_chans=1)
    assert report.adapted == {"conv1.weight": "3 channels summed to 1"}
    grey = torch.randn(2, 1, 8, 8)
    assert torch.allclose(made(grey), model(grey.expand(-1, 3, -1, -1)), atol=1e-5)


@pytest.mark.parametrize("channels", [3, 5])
def test_equal_channels_answer_as_the_one_did(model: nn.Module, channels: int) -> None:
    made, report = adapted("grey", num_classes=7, in_chans=channels)
    assert report.adapted == {
        "conv1.weight": f"1 channels repeated to {channels}, times 1/{channels}"
    }
    alone, _ = adapted("grey", num_classes=7, in_chans=1)
    grey = torch.randn(2, 1, 8, 8)
    same = made(grey.expand(-1, channels, -1, -1))
    assert torch.allclose(same, alone(grey), atol=1e-5)


def test_channels_are_repeated_in_turn(model: nn.Module) -> None:
    made, _ = adapted(num_classes=7, in_chans=4)
    there, here = model.state_dict()["conv1.weight"], made.state_dict()["conv1.weight"]
    assert torch.allclose(here[:, 3], there[:, 0] * 3 / 4)
    assert torch.allclose(here[:, :3], there * 3 / 4)


def test_classes_and_channels_adapt_together(model: nn.Module) -> None:
    _, report = adapted(num_classes=2, in_chans=1)
    assert list(report.adapted) == ["fc.weight", "fc.bias", "conv1.weight"]


def test_where_all_agrees_nothing_is_adapted(model: nn.Module) -> None:
    made, report = adapted(num_classes=7)
    assert report.adapted == {}
    assert torch.equal(made.state_dict()["fc.weight"], model.state_dict()["fc.weight"])


def test_the_arguments_say_to_what_is_adapted() -> None:
    with pytest.raises(TypeError, match="adapt is a bool, not dict"):
        resnet18_small(pretrained=NAME, adapt={"num_classes": 2})  # type: ignore[arg-type]


@pytest.mark.parametrize("adapt", [True, {"classes": 2}, {"num_classes": "2"}])
def test_what_is_said_to_be_adapted_to_is_checked(model: nn.Module, adapt: Any) -> None:
    with pytest.raises(TypeError, match="adapt: expected a mapping of num_classes, in_chans, imag"):
        hubstate.load_pretrained(resnet18_small(num_classes=2, width=8), NAME, adapt=adapt)


def test_whatever_else_differs_stays_an_error(model: nn.Module) -> None:
    torch.manual_seed(0)
    with pytest.raises(StructureMismatch) as caught:
        resnet18_small(pretrained=NAME, adapt=True, num_classes=2, width=16)
    paths = {issue.path for issue in caught.value.issues}
    assert {"conv1.weight", "bn1.weight", "layer4.1.bn2.bias", "fc.weight"} <= paths


def test_what_a_filter_leaves_out_is_skipped_and_not_adapted(model: nn.Module) -> None:
    _, report = adapted(num_classes=2, in_chans=1, filter=hubstate.without("conv1", "fc.bias"))
    assert report.skipped == ("conv1.weight", "fc.bias")
    assert list(report.adapted) == ["fc.weight"]


def test_a_width_that_looks_like_classes_is_not_taken_for_them(model: nn.Module) -> None:
    """The release says how many classes it has; a layer of another size is not its head."""
    with pytest.raises(StructureMismatch, match=r"conv\.bias: shape"):
        toy(pretrained="org/toy", adapt=True, width=4, num_classes=4)


def renamed(*, num_classes: int = 4) -> nn.Module:
    """The toy after a refactor: its layers have other names, and its head is two."""

    class After(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8)
            self.low, self.high = nn.Linear(8, 2), nn.Linear(8, num_classes - 2)

    return After()


RULES = [
    {"rename": r"conv\.(.*)", "to": r"stem.\1"},
    {"rename": r"bn\.(.*)", "to": r"norm.\1"},
    {"split": r"fc\.(.*)", "to": [r"low.\1", r"high.\1"]},
]


def test_a_migration_keeps_old_releases_loading(model: nn.Module) -> None:
    manifest = hubstate.open_release("org/toy").manifest
    assert manifest is not None
    digest = str(manifest.structure_hash)
    build = register_model(name="yy-migrated", migrations={digest: RULES})(renamed)
    new = build(pretrained="org/toy")
    old: Toy = toy(pretrained="org/toy")
    heads = [new.state_dict()[f"{name}.weight"] for name in ("low", "high")]
    assert torch.equal(torch.cat(heads), old.fc.weight)
    assert torch.equal(new.state_dict()["stem.bias"], old.conv.bias)


def test_a_migration_for_another_structure_is_not_applied(model: nn.Module) -> None:
    digest = "sha256:" + "0" * 64
    build = register_model(name="yy-unmigrated", migrations={digest: RULES})(renamed)
    with pytest.raises(StructureMismatch, match=r"stem\.weight: missing"):
        build(pretrained="org/toy")


@pytest.mark.parametrize("migrations", [{"v1": RULES}, {"sha256:" + "0" * 64: [{"no": 1}]}])
def test_a_migration_that_means_nothing_is_refused(migrations: Any) -> None:
    with pytest.raises(ValueError, match=r"migrations|transforms"):
        register_model(name="yy-wrong", migrations=migrations)(renamed)


def test_a_catalogue_entry_brings_the_rules_for_its_names(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = tmp_path / "mine.toml"
    catalogue.write_text(
        'schema = 1\n[[model]]\nbuilder = "yy-catalogued"\ntag = "v1"\nrepository = "org/toy"\n'
        'license = "mit"\ndefault = true\ntransforms = [\n'
        "  { rename = 'conv\\.(.*)', to = 'stem.\\1' },\n"
        "  { rename = 'bn\\.(.*)', to = 'norm.\\1' },\n"
        "  { split = 'fc\\.(.*)', to = ['low.\\1', 'high.\\1'] },\n]\n"
    )
    monkeypatch.setenv("HUBSTATE_CATALOGUE", str(catalogue))
    build = register_model(name="yy-catalogued")(renamed)
    old: Toy = toy(pretrained="org/toy")
    assert torch.equal(build(pretrained=True).state_dict()["stem.bias"], old.conv.bias)


def test_a_catalogue_s_rule_that_means_nothing_is_refused() -> None:
    text = (
        'schema = 1\n[[model]]\nbuilder = "b"\ntag = "v1"\nrepository = "org/toy"\n'
        'license = "mit"\ntransforms = [{ drop = "(" }]\n'
    )
    with pytest.raises(InvalidSetting, match=r"transforms.*no regular expression"):
        parse_catalogue(text, where="here")


def test_a_catalogue_with_rules_is_read_without_torch(tmp_path: Path) -> None:
    catalogue = tmp_path / "mine.toml"
    catalogue.write_text(
        'schema = 1\n[[model]]\nbuilder = "b"\ntag = "v1"\nrepository = "org/toy"\n'
        'license = "mit"\ntransforms = [{ drop = "x" }]\n'
    )
    code = (
        "import sys; from pathlib import Path; from hubstate.zoo.catalogue import read_catalogue\n"
        f"print(read_catalogue(Path({str(catalogue)!r}))[0].transforms, 'torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "({'drop': 'x'},) False", answer.stderr
