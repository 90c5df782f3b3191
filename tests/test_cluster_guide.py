"""The cluster guide: its scripts are run, in their order, and its job is what Kubernetes takes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from quick import publish_quickly

from hubstate.hub import tag_commit
from hubstate.zoo.resnet import resnet18_small

GUIDE = (Path(__file__).parents[1] / "docs/guides/cluster.md").read_text()
BLOCKS = re.findall(r"```(bash|yaml|python)\n(.*?)```", GUIDE, re.DOTALL)
NAMED = {n: text for _, text in BLOCKS for n in re.findall(r"^# (\w+\.(?:sh|py))", text, re.M)}
JOB = next(text for kind, text in BLOCKS if kind == "yaml")
EVALUATE = NAMED.pop("evaluate.py")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with the release that the guide is about."""
    folder = tmp_path_factory.mktemp("guide") / "registry"
    model = resnet18_small(num_classes=10, in_chans=1)
    commit = publish_quickly(model, "org/digits", seed=0, registry=folder)
    tag_commit("org/digits", "v1", commit=commit.id, registry=folder)
    return folder


@pytest.fixture
def project(tmp_path: Path, registry: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with its registry and its shared file system, and nothing pinned yet."""
    folder, scratch = tmp_path / "project", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    (folder / "evaluate.py").write_text(EVALUATE)
    shutil.copytree(registry, os.environ["HUBSTATE_REGISTRY"])
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SCRATCH", str(scratch))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return folder


def run(*words: str, **environment: str) -> str:
    """Run a script of the guide, or a command; what it printed."""
    command = ["bash", "-c", NAMED[words[0]]] if words[0] in NAMED else list(words)
    answer = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_every_script_of_the_guide_is_run_here() -> None:
    tested = Path(__file__).read_text()
    assert len(NAMED) == sum(kind == "bash" for kind, _ in BLOCKS)
    assert all(f'run("{name}"' in tested for name in NAMED)


def test_pin_warm_and_run_an_array(project: Path) -> None:
    run("pin.sh")
    run("login.sh")
    assert '"complete": true' in (project / "proof.json").read_text()
    shutil.rmtree(os.environ["HUBSTATE_REGISTRY"])
    assert run("array.sh", SLURM_ARRAY_TASK_ID="7") == "done 7\n"
    folders = run("node.sh", TMPDIR=str(project)).split()
    assert folders == [f"{project}/hubstate", f"{os.environ['SCRATCH']}/hubstate"]


def test_across_an_air_gap(project: Path) -> None:
    run("pin.sh")
    run("outside.sh")
    shutil.rmtree(os.environ["HUBSTATE_REGISTRY"])
    assert "complete" in run("inside.sh")


@pytest.mark.slow
def test_under_torchrun(project: Path) -> None:
    run("pin.sh")
    assert run("train.sh").count("done 0") == 2


def containers(job: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = job["spec"]["template"]["spec"][kind]
    return found


def test_the_commands_of_the_job_do_what_it_says(project: Path) -> None:
    run("pin.sh")
    job = pytest.importorskip("yaml").safe_load(JOB)
    registry = os.environ.pop("HUBSTATE_REGISTRY")
    for kind in ("initContainers", "containers"):
        for container in containers(job, kind):
            values = {one["name"]: one.get("value", "secret") for one in container["env"]}
            values = {k: v.replace("/models", os.environ["SCRATCH"]) for k, v in values.items()}
            if "HUBSTATE_REGISTRY" in values:
                values["HUBSTATE_REGISTRY"] = registry
            out = run(*container["command"], JOB_COMPLETION_INDEX="3", **values)
        shutil.rmtree(registry, ignore_errors=True)
    assert out == "done 3\n"
    volumes = {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}
    mounts = [
        m
        for k in ("initContainers", "containers")
        for c in containers(job, k)
        for m in c["volumeMounts"]
    ]
    assert {mount["name"] for mount in mounts} == volumes
