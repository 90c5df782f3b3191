"""The library against the real server: publish, fetch, a builder's ``pretrained``, conflicts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import torch
from click.testing import CliRunner
from test_registry_cli import process

import hubstate
from hubstate.errors import Conflict, RepositoryNotFound
from hubstate.hub import publish_files
from hubstate.zoo import resnet18_small
from hubstate_registry.cli import main

NAME = "admin/small"
# As a user has it: nothing is set but the registry and the token, so large files go by Xet.
PUBLISH = """
import sys, torch, hubstate
from hubstate.zoo import resnet18_small
torch.manual_seed(int(sys.argv[2]))
model = resnet18_small(width=8, num_classes=int(sys.argv[3]))
print(hubstate.publish(model, sys.argv[1], license="mit", tag=sys.argv[4]).commit)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A registry with one release that the library published; its address and a token."""
    root = tmp_path_factory.mktemp("server")
    with process(root / "registry", "--rate-limit", "0") as (running, url):
        assert running.stdout is not None
        token = running.stdout.readline().rpartition(" ")[2].strip()
        publish(root, url, token, NAME, 1, 10, "v1")
        yield url, token


@pytest.fixture
def user(server: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Someone who has set nothing but the two variables; the server's address."""
    monkeypatch.setenv("HUBSTATE_REGISTRY", server[0])
    monkeypatch.setenv("HUBSTATE_TOKEN", server[1])
    return server[0]


def publish(home: Path, registry: str, token: str, *arguments: object) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "HUBSTATE_CACHE": str(home / "cache"),
        "HUBSTATE_REGISTRY": registry,
        "HUBSTATE_TOKEN": token,
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", PUBLISH, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def expected(seed: int = 1, classes: int = 10) -> torch.nn.Module:
    torch.manual_seed(seed)
    return resnet18_small(width=8, num_classes=classes)


def same(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def commits(url: str, token: str, repo: str) -> list[str]:
    answer = requests.get(
        f"{url}/api/models/{repo}/commits/main",
        headers={"Authorization": f"Bearer {token}"},
        timeout=9,
    )
    return [row["id"] for row in answer.json()]


def test_what_publish_sends_to_a_server_a_builder_loads(user: str) -> None:
    model = resnet18_small(width=8, pretrained=f"{NAME}@v1")
    assert same(model, expected())
    release = hubstate.fetch(NAME)
    assert same(resnet18_small(width=8, pretrained=f"{NAME}@{release.commit.id}"), model)


def test_a_release_is_one_commit(user: str, server: tuple[str, str], tmp_path: Path) -> None:
    before = commits(*server, NAME)
    published = publish(tmp_path, *server, NAME, 2, 10, "v2")
    assert commits(*server, NAME) == [published, *before]
    assert same(resnet18_small(width=8, pretrained=f"{NAME}@v2"), expected(seed=2))
    assert same(resnet18_small(width=8, pretrained=f"{NAME}@v1"), expected())


def test_a_stale_parent_is_a_conflict_and_changes_nothing(
    user: str, server: tuple[str, str]
) -> None:
    first = publish_files("admin/race", {"a.txt": b"1"}, message="First")
    publish_files("admin/race", {"a.txt": b"2"}, message="Between")
    before = commits(*server, "admin/race")
    with pytest.raises(Conflict):
        publish_files("admin/race", {"a.txt": b"3"}, message="Late", parent=first.id)
    assert commits(*server, "admin/race") == before
    assert hubstate.fetch("admin/race").read("a.txt") == b"2"


def test_a_private_release_is_for_those_who_may_read_it(
    user: str, server: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_files("admin/hidden", {"a.txt": b"secret"}, message="First")
    requests.put(
        f"{user}/api/models/admin/hidden/settings",
        json={"visibility": "private"},
        headers={"Authorization": f"Bearer {server[1]}"},
        timeout=9,
    ).raise_for_status()
    assert hubstate.fetch("admin/hidden").read("a.txt") == b"secret"
    monkeypatch.delenv("HUBSTATE_TOKEN")
    with pytest.raises(RepositoryNotFound):
        hubstate.fetch("admin/hidden")


def test_a_folder_that_publish_filled_is_served_after_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, target = tmp_path / "shelf", tmp_path / "served"
    published = publish(tmp_path, str(folder), "", "lab/net", 3, 5, "v1")
    done = CliRunner().invoke(main, ["import-folder", str(target), str(folder)])
    token, imported = done.output.splitlines()
    assert (done.exit_code, imported) == (0, "lab/net: 1 new commits")
    again = CliRunner().invoke(main, ["import-folder", str(target), str(folder)])
    assert (again.exit_code, again.output) == (0, "lab/net: 0 new commits\n")
    with process(target, "--quiet") as (_, url):
        monkeypatch.setenv("HUBSTATE_REGISTRY", url)
        assert hubstate.fetch("lab/net@v1").commit.id == published
        admin = {"Authorization": f"Bearer {token.rpartition(' ')[2]}"}
        assert requests.get(f"{url}/metrics", headers=admin, timeout=9).status_code == 200
        model = resnet18_small(width=8, num_classes=5, pretrained="lab/net")
    assert same(model, expected(seed=3, classes=5))
