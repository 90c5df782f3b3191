"""Older stock clients, and another web server, each in a virtual environment of its own.

The environments, ``.venv-<name>`` beside the sources, are made once from the package index.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from registry_serving import Serving, serving
from test_registry_cli import process

from hubstate_registry.xet.routes import XetExtension

ROOT = Path(__file__).parents[2]
SCRIPT = """
import hashlib, os, sys
from pathlib import Path
from huggingface_hub import HfApi, HfFileSystem, __version__
api = HfApi()
repo = "ada/model"
weights = hashlib.shake_128(__version__.encode()).digest(3 << 20)
folder = Path("folder")
(folder / "sub").mkdir(parents=True)
(folder / "model.safetensors").write_bytes(weights)
(folder / "sub" / "config.json").write_text("{}")
assert api.whoami()["name"] == "ada"
api.create_repo(repo, exist_ok=True, private=True)
api.upload_folder(repo_id=repo, folder_path=folder)
api.upload_file(repo_id=repo, path_in_repo="notes.txt", path_or_fileobj=b"notes")
api.create_tag(repo, tag="v1")
got = Path(api.snapshot_download(repo, revision="v1"))
assert (got / "model.safetensors").read_bytes() == weights
assert (got / "sub" / "config.json").read_text() == "{}"
assert Path(api.hf_hub_download(repo, "notes.txt")).read_bytes() == b"notes"
assert HfFileSystem().cat_file(f"{repo}/model.safetensors", start=5, end=9) == weights[5:9]
assert sorted(api.list_repo_files(repo)) == ["model.safetensors", "notes.txt", "sub/config.json"]
assert [m.id for m in api.list_models(author="ada")] == [repo]
assert len(api.list_repo_commits(repo)) == 3
api.delete_file("notes.txt", repo)
assert not api.file_exists(repo, "notes.txt")
api.delete_repo(repo)
print("fine", __version__)
"""


def environment(name: str, *requirements: str) -> Path:
    """The interpreter of an environment with this and nothing else."""
    folder = ROOT / f".venv-{name}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *requirements], check=True)
        (folder / "complete").touch()
    return python


@pytest.mark.peer
@pytest.mark.parametrize("xet", [True, False], ids=["xet", "lfs"])
@pytest.mark.parametrize("version", ["0.36.2", "1.5.0", "1.31.0"])
def test_an_older_client_publishes_and_fetches(version: str, xet: bool, tmp_path: Path) -> None:
    python = environment(f"hub-{version}", f"huggingface_hub=={version}")
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    with serving(tmp_path / "registry", extensions=[XetExtension]) as served:
        assert f"fine {version}" in run(served, python, home, xet=xet)


def run(served: Serving, python: Path, home: Path, *, xet: bool) -> str:
    settings = served.environment(home)
    if xet:
        del settings["HF_HUB_DISABLE_XET"]
    done = subprocess.run(
        [str(python), "-c", SCRIPT],
        env={**settings, "PATH": os.environ["PATH"]},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.peer
def test_granian_serves_the_same(tmp_path: Path) -> None:
    python = environment("granian", "--editable", f"{ROOT / 'registry'}[granian]")
    client = environment("hub-1.31.0", "huggingface_hub==1.31.0")
    folder, home = tmp_path / "registry", tmp_path / "home"
    home.mkdir(exist_ok=True)
    with process(folder, "--server", "granian", python=str(python)) as (running, url):
        assert running.stdout is not None
        token = running.stdout.readline().rpartition(" ")[2].strip()
        settings = {"PATH": os.environ["PATH"], "HOME": str(home), "HF_ENDPOINT": url}
        script = SCRIPT.replace("ada", "admin")
        done = subprocess.run(
            [str(client), "-c", script],
            env={**settings, "HF_TOKEN": token},
            cwd=home,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=20) == 0
