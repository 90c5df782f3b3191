"""Loading by reference: checked before a byte of weights moves, then mapped, copied or refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from toys import Tied, Toy, toy

import hubstate
from hubstate.errors import (
    DigestMismatch,
    InvalidManifest,
    NotFound,
    RepositoryNotFound,
    StructureMismatch,
    UnknownModel,
)
from hubstate.hub import publish_files

NAME = "org/toy"


def trained() -> nn.Module:
    torch.manual_seed(0)
    return toy()


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder registry with one release in it, made once, since the gate takes seconds."""
    folder = tmp_path_factory.mktemp("stocked")
    hubstate.publish(trained(), NAME, license="mit", tag="v1", registry=str(folder))
    return folder


@pytest.fixture
def published(stocked: Path) -> nn.Module:
    """The model that is in this test's own copy of that registry."""
    shutil.copytree(stocked, os.environ["HUBSTATE_REGISTRY"])
    return trained()


def blobs() -> list[Path]:
    return [p for p in Path(os.environ["HUBSTATE_CACHE"]).rglob("blobs/sha256/*/*") if p.is_file()]


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize("options", [{}, {"prefault": True}, {"copy": True}])
def test_a_builder_brings_the_weights_of_a_release(
    published: nn.Module, options: dict[str, bool]
) -> None:
    assert same(toy(pretrained=f"{NAME}@v1", **options), published)


@pytest.mark.parametrize("kind", ["main", "v1", "commit", "manifest"])
def test_every_kind_of_revision_means_the_release(published: nn.Module, kind: str) -> None:
    release = hubstate.open_release(NAME)
    revision = {"commit": release.commit.id, "manifest": str(release.manifest_digest)}
    assert same(toy(pretrained=f"{NAME}@{revision.get(kind, kind)}"), published)


def test_a_mismatch_shows_every_difference_before_weights_move(published: nn.Module) -> None:
    with pytest.raises(StructureMismatch) as caught:
        toy(pretrained=NAME, width=4, num_classes=3)
    paths = [issue.path for issue in caught.value.issues]
    assert paths == [
        "conv.weight",
        "conv.bias",
        "bn.weight",
        "bn.bias",
        "bn.running_mean",
        "bn.running_var",
        "fc.weight",
        "fc.bias",
    ]
    assert NAME in str(caught.value)
    assert [path.stat().st_size < 20_000 for path in blobs()] == [True], "only the manifest came"


def test_a_misfit_changes_nothing(published: nn.Module) -> None:
    model = Toy(8, 3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(StructureMismatch):
        hubstate.load_pretrained(model, NAME)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_filter_leaves_the_head_random_and_says_so(published: nn.Module) -> None:
    torch.manual_seed(5)
    model = toy(pretrained=NAME, num_classes=9, filter=hubstate.without("fc"))
    report = hubstate.load_report(model)
    assert report is not None
    assert report.skipped == ("fc.weight", "fc.bias")
    assert torch.equal(model.conv.weight, published.get_parameter("conv.weight"))
    assert 0 < float(model.fc.weight.detach().std()) < 1
    assert torch.isfinite(model.fc.bias).all()


def test_not_strict_reports_instead(published: nn.Module) -> None:
    class More(Toy):
        def __init__(self) -> None:
            super().__init__(8, 4)
            self.extra = nn.Linear(2, 2)

    report = hubstate.load_pretrained(More(), NAME, strict=False)
    assert report.missing == ("extra.weight", "extra.bias")


def test_names_are_translated_by_rules(published: nn.Module) -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.bn = nn.BatchNorm2d(8)
            self.fc = nn.Linear(8, 4)

    other = Other()
    hubstate.load_pretrained(other, NAME, rename={r"^conv\.": "stem.", r"^conv$": "stem"})
    assert torch.equal(other.stem.weight, published.get_parameter("conv.weight"))


def test_mapped_weights_can_be_trained_and_the_file_stays_as_it_is(published: nn.Module) -> None:
    model = toy(pretrained=NAME)
    assert all(parameter.requires_grad for parameter in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.train()(torch.rand(4, 3, 8, 8)).sum().backward()
    optimizer.step()
    assert not same(model, published)
    assert same(toy(pretrained=NAME), published)


def test_two_loads_share_no_memory(published: nn.Module) -> None:
    first, second = toy(pretrained=NAME), toy(pretrained=NAME)
    with torch.no_grad():
        first.conv.weight.zero_()
    assert same(second, published)


def test_ties_stay_tied() -> None:
    hubstate.publish(Tied(), NAME, license="mit", builder="toys:tied")
    model = Tied()
    report = hubstate.load_pretrained(model, NAME)
    assert model.out.weight is model.embed.weight
    assert set(report.loaded) == {"embed.weight", "out.weight"}


def test_another_precision_is_cast_and_reported(published: nn.Module) -> None:
    model = Toy(8, 4).to(torch.bfloat16)
    report = hubstate.load_pretrained(model, NAME)
    assert model.conv.weight.dtype == torch.bfloat16
    assert report.cast["conv.weight"] == ("float32", "bfloat16")
    expected = published.get_parameter("conv.weight").to(torch.bfloat16)
    assert torch.equal(model.conv.weight, expected)


def test_a_repository_without_manifest_is_a_source_too(tmp_path: Path) -> None:
    model = Toy(8, 4)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    publish_files(NAME, {"model.safetensors": tmp_path / "model.safetensors"}, message="plain")
    fresh = Toy(8, 4)
    hubstate.load_pretrained(fresh, NAME)
    assert same(fresh, model)
    with pytest.raises(StructureMismatch, match=r"fc\.weight: shape"):
        hubstate.load_pretrained(Toy(8, 5), NAME)


def test_what_is_cached_loads_when_the_registry_is_gone(published: nn.Module) -> None:
    toy(pretrained=f"{NAME}@v1")
    commit = hubstate.open_release(f"{NAME}@v1").commit.id
    shutil.rmtree(os.environ["HUBSTATE_REGISTRY"])
    assert same(toy(pretrained=f"{NAME}@{commit}"), published)


def test_a_damaged_blob_is_fetched_again(published: nn.Module) -> None:
    path = hubstate.fetch(NAME).path("model.safetensors")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    assert same(toy(pretrained=NAME), published)


def test_a_damaged_registry_is_an_error_and_nothing_is_cached(published: nn.Module) -> None:
    release = hubstate.open_release(NAME)
    info = release.commit.files["model.safetensors"]
    assert info.digest is not None
    registry = Path(os.environ["HUBSTATE_REGISTRY"])
    (blob,) = [path for path in registry.rglob(info.digest.hex) if path.is_file()]
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-4] + b"\1\1\1\1")
    with pytest.raises(DigestMismatch):
        toy(pretrained=NAME)
    assert info.digest.hex not in {path.name for path in blobs()}


def test_a_name_that_is_not_there_is_an_error_that_names_it(published: nn.Module) -> None:
    with pytest.raises(RepositoryNotFound, match="org/none"):
        toy(pretrained="org/none")
    with pytest.raises(UnknownModel, match="toy"):
        toy(pretrained="no-such-tag")
    with pytest.raises(NotFound):
        toy(pretrained=True)


def test_a_release_that_has_no_weights_is_an_error() -> None:
    publish_files(NAME, {"README.md": b"nothing here"}, message="empty")
    with pytest.raises(NotFound, match="safetensors"):
        hubstate.load_pretrained(Toy(8, 4), NAME)


def test_a_hostile_manifest_is_an_error() -> None:
    publish_files(NAME, {"hubstate.json": b"[" * 5000}, message="hostile")
    with pytest.raises(InvalidManifest):
        hubstate.load_pretrained(Toy(8, 4), NAME)


COLD = """
import sys, torch
from toys import toy
before = set(sys.modules)
toy(pretrained="org/toy")
print(*sorted(set(sys.modules) - before))
assert not {"hubstate.adapting", "hubstate.rules", "hubstate.transforms"} & set(sys.modules)
"""


def test_a_warm_load_imports_nothing_beyond_torch(published: nn.Module) -> None:
    toy(pretrained=NAME)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    answer = subprocess.run(
        [sys.executable, "-c", COLD], env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    names = set(answer.stdout.split())
    unused = {"transport", "cache.fetching", "endpoints.writing", "weights.saving", "rules"}
    assert not names & {f"hubstate.{name}" for name in unused}
    foreign = {name.split(".")[0] for name in names}
    assert not foreign & {"requests", "huggingface_hub", "tqdm", "click", "platformdirs"}


def test_a_builder_may_have_an_argument_called_name() -> None:
    @hubstate.register_model(name="named-toy")
    def named(*, name: str = "x") -> nn.Module:
        model = nn.Linear(3, 2)
        model.called = name
        return model

    assert hubstate.create_model("named-toy", name="y").called == "y"
