"""The stock command line, ``hf``, as its users have it: large files go by Xet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from registry_serving import Serving, hf, serving

from hubstate_registry.auth import Role
from hubstate_registry.storage import accounts
from hubstate_registry.xet.routes import XetExtension

# The very function that the command ``hf`` is, many times in one process: each start takes long.
COMMANDS = """
import contextlib, io, json, sys
from huggingface_hub.cli.hf import main
results = []
for command in json.load(sys.stdin):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        sys.argv, code = ["hf", *command], 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    results.append([code, out.getvalue()])
json.dump(results, sys.stdout)
"""


@dataclass(frozen=True)
class Home:
    """A user's home, in which commands are run."""

    served: Serving
    folder: Path

    def hf(self, *command: str) -> str:
        """One command, as a process of its own; its output."""
        done = self._process([hf(), *command])
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, *commands: Sequence[str]) -> list[str]:
        """Commands that succeed; what each printed."""
        results = self.attempt(*commands)
        assert [code for code, _ in results] == [0] * len(commands), results
        return [text for _, text in results]

    def attempt(self, *commands: Sequence[str]) -> list[tuple[object, str]]:
        """Commands that may fail; their exit codes and what they printed."""
        done = self._process([sys.executable, "-c", COMMANDS], input=json.dumps(commands))
        assert done.returncode == 0, done.stdout + done.stderr
        return [(code, text) for code, text in json.loads(done.stdout)]

    def _process(
        self, command: Sequence[str], *, input: str = ""
    ) -> subprocess.CompletedProcess[str]:
        environment = self.served.environment(self.folder, user=None)
        del environment["HF_HUB_DISABLE_XET"]
        return subprocess.run(
            command,
            input=input,
            env=environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path / "registry", extensions=[XetExtension]) as running:
        yield running


@pytest.fixture
def home(served: Serving, tmp_path: Path) -> Home:
    """Ada's home, where she is logged in and has a folder of three files."""
    folder = tmp_path / "home" / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "README.md").write_text("---\nlicense: mit\n---\n# Card\n")
    (folder / "model.safetensors").write_bytes(os.urandom(100_000))
    token = folder.parent / "hf" / "token"
    token.parent.mkdir()
    token.write_text(served.tokens["ada"])
    return Home(served, folder.parent)


def test_login_upload_download_and_verify(served: Serving, home: Home) -> None:
    (home.folder / "hf" / "token").unlink()
    home.hf("auth", "login", "--token", served.tokens["ada"])
    assert "ada" in home.hf("auth", "whoami")
    home.hf("upload", "ada/model", "folder", "--private")
    home.hf("download", "ada/model")
    verified = home.hf("cache", "verify", "ada/model", "--json")
    assert json.loads(verified.partition("\n")[0])["checked"] == 3


def test_verify_finds_what_is_damaged_missing_or_too_much(home: Home) -> None:
    verify = ["cache", "verify", "ada/model", "--local-dir", "here"]
    home.run(
        ["upload", "ada/model", "folder"],
        ["download", "ada/model", "--local-dir", "here"],
        [*verify, "--fail-on-missing-files", "--fail-on-extra-files"],
    )
    place = home.folder / "here" / "model.safetensors"
    for path, told in ((place, "sha256"), (place.with_name("config.json"), "git-sha1")):
        before = path.read_bytes()
        path.write_bytes(b"damaged")
        ((code, text),) = home.attempt(verify)
        assert code == 1 and f"{path.name}: expected" in text and told in text
        path.write_bytes(before)
    place.rename(place.with_name("other"))
    ((_, text),) = missing = home.attempt([*verify, "--fail-on-missing-files"])
    assert missing[0][0] == 1 and "model.safetensors" in text


def test_the_commands_for_repositories(served: Serving, home: Home) -> None:
    created, _, listed, *_ = home.run(
        ["repos", "create", "ada/model"],
        ["upload", "ada/model", "folder", "--commit-message", "All"],
        ["models", "ls", "--author", "ada", "--json"],
        ["repos", "settings", "ada/model", "--private"],
        ["repos", "branch", "create", "ada/model", "dev"],
        ["repos", "tag", "create", "ada/model", "v1", "--message", "First"],
        ["repos", "duplicate", "ada/model", "ada/twin"],
        ["repos", "delete-files", "ada/model", "sub/*"],
        ["cp", "folder/config.json", "hf://ada/model/again.json"],
        ["repos", "cp", "hf://ada/model/again.json", "back.json"],
    )
    assert f"{served.url}/ada/model" in created
    assert [row["id"] for row in json.loads(listed)] == ["ada/model"]
    assert (home.folder / "back.json").read_text() == "{}"
    api = served.api()
    assert api.list_repo_files("ada/model") == ["again.json", "config.json", "model.safetensors"]
    assert api.list_repo_files("ada/twin", revision="v1")[-1] == "sub/README.md"
    assert [b.name for b in api.list_repo_refs("ada/model").branches] == ["main", "dev"]
    assert api.model_info("ada/model").private
    tags, rows, info, *_ = home.run(
        ["repos", "tag", "list", "ada/model", "--quiet"],
        ["repos", "ls", "--json"],
        ["models", "info", "ada/model"],
        ["repos", "tag", "delete", "ada/model", "v1", "--yes"],
        ["repos", "branch", "delete", "ada/model", "dev"],
        ["cp", "hf://ada/model/", "hf://ada/twin/copy/"],
        ["repos", "move", "ada/twin", "ada/other"],
        ["repos", "delete", "ada/model", "--yes"],
    )
    assert tags.split() == ["v1"] and json.loads(info)["private"]
    assert {row["id"] for row in json.loads(rows)} == {"ada/model", "ada/twin"}
    assert "copy/model.safetensors" in api.list_repo_files("ada/other")
    assert served.request("GET", "/api/models/ada/model").status_code == 404


def test_what_each_repository_takes_is_for_its_members(served: Serving, home: Home) -> None:
    with served.storage.database.write() as connection:
        accounts.add_namespace(connection, "lab", kind="organisation")
        accounts.set_member(connection, "ada", organisation="lab", role=Role.WRITE)
    api = served.api()
    for name, size in (("lab/large", 3000), ("lab/small", 1000)):
        api.create_repo(name, private=name == "lab/small")
        api.upload_file(path_or_fileobj=b"w" * size, path_in_repo="a.txt", repo_id=name)
    found = [(r.id, r.visibility, r.storage_percent) for r in api.list_user_repos("lab")]
    assert found == [("lab/large", "public", 75.0), ("lab/small", "private", 25.0)]
    assert list(api.list_user_repos()) == []
    path = "/api/organizations/{}/settings/repositories"
    for name in ("lab", "nobody"):
        answer = served.request("GET", path.format(name), user="bob")
        assert (answer.status_code, name in answer.text) == (403, True)
    assert served.request("GET", path.format("lab"), user=None).status_code == 401
