"""Publishing: what gets out is complete, finite, rebuildable and there once, or nothing does."""

from __future__ import annotations

import errno
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import nn
from toys import Tied, Toy, drifting, fickle, tied, toy

import hubstate
from hubstate.errors import (
    Conflict,
    GateRefused,
    InvalidReference,
    InvalidSetting,
    InvalidWeights,
    Offline,
    RepositoryNotFound,
    Unreachable,
)
from hubstate.publishing import Publication, publish
from hubstate.staging import provenance

NAME = "org/toy"


def trained(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = toy()
    assert isinstance(model, nn.Module)
    return model


def push(model: nn.Module, **options: object) -> Publication:
    return publish(model, NAME, license="apache-2.0", **options)  # type: ignore[arg-type]


def test_what_is_published_is_what_is_loaded() -> None:
    model = trained()
    publication = push(model, metrics={"accuracy": 0.5}, tag="v1")
    assert publication.action == "published"
    fresh = trained(seed=1)
    report = hubstate.load_pretrained(fresh, publication.reference)
    for name, tensor in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor)
    assert len(report.loaded) == len(model.state_dict())


def test_a_release_holds_weights_manifest_config_and_card() -> None:
    push(trained(), metrics={"accuracy": 0.5}, labels=("a", "b", "c", "d"))
    release = hubstate.fetch(NAME)
    assert set(release.commit.files) == {
        "model.safetensors",
        "hubstate.json",
        "config.json",
        "README.md",
    }
    manifest = release.manifest
    assert manifest is not None
    assert manifest.builder is not None
    assert manifest.builder.name == "toy"
    assert manifest.probe is not None
    assert manifest.labels == ("a", "b", "c", "d")
    assert manifest.provenance["torch"] == torch.__version__
    config = json.loads(release.path("config.json").read_text())
    assert config["architecture"] == "toy"
    assert config["pretrained_cfg"]["num_classes"] == 4


def test_a_release_names_the_commit_that_it_was_published_from(project: Path) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(project)]
    assert "git_commit" not in provenance(), "no commit yet, and not that of another folder"
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "First"], check=True)
    clean = provenance()
    (project / "new.py").write_text("")
    dirty = provenance()
    assert len(str(clean["git_commit"])) == 40
    assert (clean["git_dirty"], dirty["git_dirty"]) == (False, True)


def test_the_cards_front_matter_is_yaml_with_licence_and_metrics() -> None:
    push(trained(), metrics={"accuracy": 0.5}, description='A toy: "quoted"\n---\nnot: yaml')
    card = ModelCard(hubstate.fetch(NAME).path("README.md").read_text())
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "hubstate"
    assert card.data.model_name == NAME
    assert card.data.eval_results is not None
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.5)


def test_the_very_same_publish_again_does_nothing() -> None:
    first = push(trained(), tag="v1")
    again = push(trained(), tag="v1")
    assert again.action == "unchanged"
    assert again.commit == first.commit
    assert "nothing to publish" in str(again)


def test_a_tag_that_was_not_reached_is_set_by_running_again() -> None:
    first = push(trained())
    push(trained(), tag="v1")
    assert hubstate.open_release(f"{NAME}@v1").commit.id == first.commit


def test_a_tag_names_one_release_for_ever() -> None:
    push(trained(), tag="v1")
    with pytest.raises(Conflict, match="v1"):
        push(trained(seed=1), tag="v1")
    assert len(hubstate.open_release(f"{NAME}@v1").commit.id) == 40
    assert push(trained()).action == "unchanged", "nothing of the refused publish is visible"


def test_equal_tensors_with_other_metadata_need_a_word() -> None:
    push(trained(), metrics={"accuracy": 0.5})
    with pytest.raises(GateRefused, match="allow_equal"):
        push(trained(), metrics={"accuracy": 0.6})
    again = push(trained(), metrics={"accuracy": 0.6}, allow_equal=True)
    assert again.action == "published"
    assert again.difference.meaning == ("metrics",)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_name(value: float) -> None:
    model = trained()
    with torch.no_grad():
        model.get_parameter("fc.weight")[0, :3] = value
    with pytest.raises(GateRefused, match=r"fc\.weight: 3 of 32 values"):
        push(model)
    with pytest.raises(RepositoryNotFound):
        hubstate.fetch(NAME)


def test_values_that_are_not_finite_are_published_if_told() -> None:
    model = trained()
    model.register_buffer("mask", torch.tensor([float("-inf"), 0.0]))
    answer = publish(
        model, NAME, license="mit", weights_only=True, allow_nonfinite=True, preprocessing={}
    )
    assert answer.action == "published"


def test_a_model_without_values_is_refused() -> None:
    with pytest.raises(GateRefused, match="no tensor with a value"):
        publish(nn.ReLU(), NAME, license="mit", weights_only=True)


def test_names_with_a_wrappers_prefix_are_refused() -> None:
    wrapped = nn.Module()
    wrapped.module = trained()
    with pytest.raises(GateRefused, match="prefix of a wrapper"):
        publish(wrapped, NAME, license="mit", weights_only=True)


def test_a_wrapped_model_is_published_under_its_own_names() -> None:
    publication = push(torch.nn.DataParallel(trained()), builder="toys:toy")
    assert "conv.weight" in publication.difference.added


@pytest.mark.parametrize("license_id", ["", "all rights reserved!", "\nmit"])
def test_a_licence_is_required(license_id: str) -> None:
    with pytest.raises(GateRefused, match="SPDX"):
        publish(trained(), NAME, license=license_id)


def test_a_model_that_nobody_can_rebuild_is_refused() -> None:
    with pytest.raises(GateRefused, match="builder"):
        publish(nn.Linear(2, 2), NAME, license="mit")
    answer = publish(nn.Linear(2, 2), NAME, license="mit", weights_only=True)
    assert answer.manifest.builder is None


def test_all_problems_are_named_at_once() -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    with pytest.raises(GateRefused) as caught:
        publish(model, NAME, license="")
    assert len(caught.value.problems) == 3


def test_a_builder_that_cannot_be_imported_elsewhere_is_refused() -> None:
    with pytest.raises(GateRefused, match="no_such_module"):
        publish(trained(), NAME, license="mit", builder="no_such_module:make")
    with pytest.raises(GateRefused, match="nobody else can import"):
        publish(trained(), NAME, license="mit", builder="__main__:make")


def test_a_builder_that_makes_something_else_in_a_fresh_process_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = fickle()
    monkeypatch.setenv("FICKLE_WIDTH", "16")
    with pytest.raises(GateRefused, match=r"conv\.weight: shape"):
        push(model)


def test_a_model_that_computes_something_else_in_a_fresh_process_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = drifting()
    monkeypatch.setenv("GATE_DRIFT", "1")
    with pytest.raises(GateRefused, match="probe output"):
        push(model)
    with pytest.raises(RepositoryNotFound):
        hubstate.fetch(NAME)


def test_ties_are_stored_once_and_stay_tied() -> None:
    model = Tied()
    publication = publish(
        model, NAME, license="mit", builder="toys:tied", probe=(2, 5), probe_dtype="int64"
    )
    assert publication.difference.added == ("embed.weight",)
    fresh = Tied()
    hubstate.load_pretrained(fresh, NAME)
    assert fresh.out.weight is fresh.embed.weight
    assert torch.equal(fresh.embed.weight, model.embed.weight)


class Keeping(nn.Module):
    """A module with whatever extra state it is given."""

    def __init__(self, extra: object) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self._extra = extra

    def get_extra_state(self) -> object:
        return self._extra

    def set_extra_state(self, state: object) -> None:
        self._extra = state


def test_extra_state_that_would_come_back_as_nothing_is_refused() -> None:
    with pytest.raises(GateRefused) as refused:
        push(nn.Sequential(Keeping({"a": {1, 2}, "b": [torch.ones(2)]})), weights_only=True)
    assert [problem.partition(":")[0] for problem in refused.value.problems] == [
        "0._extra_state.a",
        "0._extra_state.b.0",
    ]


@pytest.mark.parametrize("extra", [torch.ones(2), {"a": (1, 2.5, None)}, "text"])
def test_extra_state_that_is_published_comes_back(extra: object) -> None:
    push(Keeping(extra), weights_only=True)
    fresh = Keeping(None)
    hubstate.load_pretrained(fresh, NAME)
    assert str(fresh._extra) == str(extra)


def test_what_a_manifest_cannot_hold_is_named_at_once() -> None:
    with pytest.raises(GateRefused) as refused:
        push(
            trained(),
            metrics={
                "loss": float("nan"),
                "accuracy": torch.tensor(0.5),
                "f1": 0.5,
                "count": 2**63,
                "name": ["\ud800"],
            },
            provenance=["here"],
        )
    assert [problem.partition(":")[0] for problem in refused.value.problems] == [
        "metrics.loss",
        "metrics.accuracy",
        "metrics.count",
        "metrics.name",
        "provenance",
    ]


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (-1, 3, 8, 8), (1.5, 3, 8, 8)])
def test_a_probe_that_would_prove_nothing_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(GateRefused, match="positive integers"):
        push(trained(), probe=shape)


def test_arguments_that_mean_nothing_are_refused() -> None:
    with pytest.raises(InvalidSetting, match="labels"):
        push(trained(), labels="abcd")
    with pytest.raises(InvalidSetting, match="arguments"):
        push(trained(), arguments={"width": 9})
    with pytest.raises(TypeError, match="not a function"):
        push(trained(), builder=toy)
    with pytest.raises(TypeError, match="not a dict"):
        publish({}, NAME, license="mit")  # type: ignore[arg-type]
    with pytest.raises(GateRefused, match="license"):
        publish(trained(), NAME, license=None)  # type: ignore[arg-type]


def test_a_revision_is_no_part_of_what_is_published_to() -> None:
    with pytest.raises(InvalidReference, match="branch"):
        publish(trained(), f"{NAME}@dev", license="mit")
    with pytest.raises(RepositoryNotFound):
        hubstate.fetch(NAME)


def test_a_builder_inside_a_function_is_refused_for_what_it_is() -> None:
    @hubstate.register_model(name="inner-toy")
    def inner() -> nn.Module:
        return nn.Linear(3, 2)

    with pytest.raises(GateRefused, match="inside a function"):
        push(inner())


def test_a_registered_builder_of_another_module_is_named_by_its_name() -> None:
    assert push(trained(), builder="toy").action == "published"


def test_a_tensor_that_cannot_be_stored_is_named() -> None:
    model = nn.ParameterDict({"a": nn.Parameter(torch.eye(3).to_sparse())})
    with pytest.raises(InvalidWeights, match="a: "):
        push(model, weights_only=True)


def test_a_full_temporary_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("hubstate.staging.save_sharded", full)
    with pytest.raises(Unreachable, match=r"(?s)TMPDIR.*No space left"):
        push(trained())


def test_no_server_is_asked_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBSTATE_OFFLINE", "1")
    with pytest.raises(Offline, match="forbids every request"):
        push(trained(), registry="http://127.0.0.1:9")


@pytest.mark.parametrize(("make", "builder"), [(toy, None), (tied, "toys:tied")])
def test_the_code_of_a_card_runs(
    make: Callable[[], nn.Module], builder: str | None, tmp_path: Path
) -> None:
    model = make()
    push(model, builder=builder, preprocessing={})
    card = hubstate.fetch(NAME).path("README.md").read_text()
    code = tmp_path / "use.py"
    code.write_text(card.partition("```python\n")[2].partition("```")[0])
    again = runpy.run_path(str(code))["model"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_a_dry_run_shows_the_difference_and_publishes_nothing() -> None:
    first = push(trained())
    changed = trained()
    with torch.no_grad():
        changed.get_parameter("fc.bias").add_(1)
    plan = push(changed, dry_run=True)
    assert plan.action == "planned"
    assert plan.difference.changed == ("fc.bias",)
    assert "~ fc.bias" in str(plan)
    assert hubstate.open_release(NAME).commit.id == first.commit


@pytest.mark.parametrize("name", ["", "a/b/c", "../x", "org/na me", "org/"])
def test_a_name_that_cannot_be_read_is_refused(name: str) -> None:
    with pytest.raises(InvalidReference):
        publish(trained(), name, license="mit")


def test_the_model_is_left_as_it_was() -> None:
    model = trained().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    push(model)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_non_contiguous_tensors_are_published() -> None:
    model = trained().to(memory_format=torch.channels_last)
    push(model)
    fresh = trained(seed=1)
    hubstate.load_pretrained(fresh, NAME)
    assert torch.equal(fresh.get_parameter("conv.weight"), model.get_parameter("conv.weight"))


SCRIPT = """
import sys, torch
from toys import toy
from hubstate import publish
torch.manual_seed(int(sys.argv[1]))
print("ready", flush=True)
print(publish(toy(), "org/toy", license="mit", tag=f"v{sys.argv[1]}").commit, flush=True)
"""


def test_a_publish_that_is_killed_is_completed_by_running_it_again() -> None:
    first = push(trained(seed=9))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), "3"]
    for delay in (0.05, 0.6, 1.4):
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        release = hubstate.fetch(NAME)
        assert release.path("model.safetensors").stat().st_size > 0
        assert release.commit.id == first.commit or release.commit.parent == first.commit
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert hubstate.open_release(f"{NAME}@v3").commit.id == done.stdout.split()[-1]


def test_the_hub_mixin_loads_what_is_published(tmp_path: Path) -> None:
    class Mixed(Toy, PyTorchModelHubMixin):
        """A class of somebody who knows nothing of hubstate."""

        def __init__(self, width: int = 2, num_classes: int = 2) -> None:
            super().__init__(width, num_classes)

    model = trained()
    push(model)
    for name, path in hubstate.fetch(NAME).paths.items():
        shutil.copy(path, tmp_path / name)
    same = Mixed.from_pretrained(str(tmp_path))
    assert torch.equal(same.conv.weight, model.get_parameter("conv.weight"))


def test_a_model_whose_values_cannot_be_told_is_refused_by_name() -> None:
    with pytest.raises(GateRefused, match="lazy"):
        publish(nn.Sequential(nn.LazyLinear(3)), NAME, license="mit", weights_only=True)


def test_a_shape_is_several_numbers() -> None:
    with pytest.raises(TypeError, match="shape of an input"):
        push(trained(), probe=2)


@pytest.mark.parametrize(
    "license_id", ["(MIT OR Apache-2.0)", "GPL-2.0-only WITH Classpath-exception-2.0"]
)
def test_a_licence_may_be_an_expression(license_id: str) -> None:
    assert publish(trained(), NAME, license=license_id, dry_run=True).action == "planned"
