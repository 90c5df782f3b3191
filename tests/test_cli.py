"""The command line: text for people, JSON for programs, and an exit code for each kind of end."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from hypothesis import given
from hypothesis.strategies import text
from safetensors.torch import load_file, save_file
from toys import toy

import hubstate
from hubstate.cli.output import printable
from hubstate.hub import publish_files
from hubstate.manifest import NAME as NAME_OF_MANIFEST
from hubstate.manifest import BuilderRecord, Manifest, dump, hash_weights
from hubstate.probe import make_probe
from hubstate.weights import save_weights

NAME = "org/toy"


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A safetensors file for the toy model."""
    torch.manual_seed(0)
    path = tmp_path / "toy.safetensors"
    save_file(toy().state_dict(), path)
    return str(path)


def words(weights: str, *more: str) -> list[str]:
    required = ["--builder", "toys:toy", "--weights", weights, "--license", "mit"]
    return ["publish", NAME, *required, "--probe", "1,3,8,8", *more]


@pytest.mark.parametrize(
    "command",
    [[], ["publish"], ["fetch"], ["models"], ["cache"]]
    + [["cache", name] for name in ("ls", "verify", "rm", "prune", "path")],
)
def test_every_help_shows_an_example(run: Any, command: list[str]) -> None:
    code, out, _ = run(*command, "--help")
    assert code == 0
    assert "Example:" in out
    assert "hubstate " + " ".join(command) in out


def test_help_brings_no_torch() -> None:
    code = (
        "import sys\n"
        "from hubstate.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    print('torch' in sys.modules)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.splitlines()[-1] == "False", answer.stderr


def test_models_are_listed_with_their_weights(run: Any) -> None:
    code, out, _ = run("models", "resnet18*")
    assert code == 0
    assert "resnet18_small" in out
    assert "digits (default)" in out
    code, out, _ = run("models", "--json")
    assert json.loads(out)["resnet18_small"][0]["license"] == "apache-2.0"
    code, out, _ = run("models", "nothing*")
    assert code == 0
    assert "no builder matches" in out


def test_publish_takes_an_index_and_a_limit(run: Any, weights: str, tmp_path: Path) -> None:
    save_torch_state_dict(load_file(weights), tmp_path, max_shard_size=500)
    index = str(tmp_path / "model.safetensors.index.json")
    code, _, err = run(*words(index, "--max-shard-size", "many"))
    assert (code, "max_shard_size: expected bytes" in err) == (2, True)
    code, out, err = run(*words(index, "--max-shard-size", "0.9kB", "--json"))
    assert code == 0, err
    assert json.loads(out)["difference"]["added"] == sorted(load_file(weights))
    code, out, _ = run("fetch", NAME, "--probe", "--builder", "toys:toy", "--json")
    shards = [name for name in json.loads(out)["files"] if name.endswith(".safetensors")]
    assert (code, len(shards)) == (0, 2)


def test_publish_and_fetch(run: Any, weights: str, tmp_path: Path) -> None:
    code, out, err = run(*words(weights, "--tag", "v1", "--metric", "accuracy=0.5", "--json"))
    assert code == 0, err
    published = json.loads(out)
    assert published["action"] == "published"

    code, out, err = run("fetch", f"{NAME}@v1", "--to", str(tmp_path / "here"), "--json")
    assert code == 0, err
    fetched = json.loads(out)
    assert fetched["commit"] == published["commit"]
    assert (tmp_path / "here" / "model.safetensors").exists()
    assert Path(fetched["files"]["hubstate.json"]["path"]).exists()


def test_the_same_publish_again_exits_with_0(run: Any, weights: str) -> None:
    assert run(*words(weights))[0] == 0
    code, out, _ = run(*words(weights))
    assert code == 0
    assert "nothing to publish" in out


def test_a_dry_run_publishes_nothing(run: Any, weights: str) -> None:
    code, out, _ = run(*words(weights, "--dry-run"))
    assert code == 0
    assert out.startswith("would publish")
    assert "the first release, 9 tensors" in out
    assert run("fetch", NAME)[0] == 3


def test_the_probe_is_run_on_what_was_fetched(run: Any, weights: str) -> None:
    run(*words(weights))
    code, _, err = run("fetch", NAME, "--probe", "--builder", "toys:toy")
    assert code == 0, err
    assert "computes what was published" in err


def test_nothing_is_imported_or_called_on_the_word_of_a_release(run: Any, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    evil = BuilderRecord(name="os:system", arguments={"command": f"touch {trace}"})
    model = torch.nn.Linear(3, 2)
    weights = tmp_path / "model.safetensors"
    save_weights(weights, model.state_dict())
    manifest = Manifest(
        structure=hubstate.describe(model),
        files=(hash_weights(weights),),
        license="mit",
        builder=evil,
        probe=make_probe(model, (2, 3)),
    )
    files: dict[str, Path | bytes] = {NAME_OF_MANIFEST: dump(manifest), weights.name: weights}
    publish_files("org/evil", files, message="A trap")
    code, _, err = run("fetch", "org/evil", "--probe")
    assert code == 3
    assert "os:system" in err
    assert "--builder" in err
    assert not trace.exists()


def test_what_a_builder_raises_is_one_line(run: Any, weights: str) -> None:
    code, out, err = run(*words(weights, "--arg", "nope=1"))
    assert code == 2
    assert err.startswith("error: builder toys:toy(nope=1): TypeError: ")
    assert err.count("\n") == 1
    code, out, _ = run(*words(weights, "--arg", "width=wide", "--json"))
    assert code == 2
    assert "width='wide'" in json.loads(out)["error"]["message"]


def test_a_misfit_names_the_weights_file(run: Any, weights: str) -> None:
    assert weights in run(*words(weights, "--arg", "width=9"))[2]


def test_a_copy_that_fails_leaves_nothing_half_written(
    run: Any, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(*words(weights))

    def full(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copyfile", full)
    folder = tmp_path / "here"
    code, _, err = run("fetch", NAME, "--to", str(folder))
    assert code == 6
    assert str(folder) in err
    assert list(folder.iterdir()) == []


def test_a_release_without_builder_has_nothing_to_probe(run: Any) -> None:
    hubstate.publish(toy(), NAME, license="mit", weights_only=True)
    assert run("fetch", NAME, "--probe")[0] == 5


def test_a_dry_run_tells_what_is_here_and_fetches_nothing(run: Any) -> None:
    hubstate.publish(toy(), NAME, license="mit", weights_only=True)

    def here() -> set[str]:
        _, out, _ = run("fetch", NAME, "--dry-run", "--json")
        return {name for name, file in json.loads(out)["files"].items() if file["path"]}

    assert here() == {"hubstate.json"}
    assert run("fetch", NAME, "--file", "config.json")[0] == 0
    assert here() == {"hubstate.json", "config.json"}


def test_a_fetch_overwrites_nothing(run: Any, weights: str, tmp_path: Path) -> None:
    run(*words(weights))
    (tmp_path / "README.md").write_text("mine")
    code, _, err = run("fetch", NAME, "--to", str(tmp_path))
    assert code == 1
    assert "exists and is another file" in err
    assert (tmp_path / "README.md").read_text() == "mine"


def test_exit_codes_tell_what_is_wrong(run: Any, weights: str, tmp_path: Path) -> None:
    assert run("fetch", "a/b/c")[0] == 2
    assert run("fetch", "org/none")[0] == 3
    assert run("frobnicate")[0] == 2
    assert run(*words(weights, "--arg", "width=9"))[0] == 4
    assert run(*words(weights, "--arg", "width"))[0] == 2
    assert run(*words(weights, "--probe", "x"))[0] == 2
    assert run(*words(weights, "--license", "not a licence!"))[0] == 8
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(Path(weights).read_bytes()[:-1])
    assert run(*words(str(torn)))[0] == 5


@pytest.mark.parametrize("number", ["NaN", "1e999", str(2**63), str(-(2**63)), "9" * 5000])
@pytest.mark.parametrize("form", ["{}", "[1, {}]", '{{"a": {}}}'])
def test_a_number_that_no_manifest_holds_is_a_call_that_is_off(
    run: Any, weights: str, number: str, form: str
) -> None:
    code, _, err = run(*words(weights, "--metric", f"accuracy={form.format(number)}"))
    assert code == 2
    assert err.startswith("error: --metric expects ") and "found 'accuracy=" in err
    assert len(err) < 200


def test_a_capped_list_says_how_to_see_the_whole(run: Any, weights: str, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_weights(other, {f"layer{i}.weight": torch.zeros(1) for i in range(50)})
    code, _, err = run(*words(str(other)))
    assert code == 4
    assert "more (--json lists all of them)" in err
    code, out, _ = run(*words(str(other), "--json"))
    assert len(json.loads(out)["error"]["issues"]) > 50


@pytest.mark.parametrize(
    "call",
    [
        ["fetch", "org/a", "--to", ""],
        ["warm", "org/a", "--cache", ""],
        ["warm", "--lock", ""],
        ["lock", "check", "--lock", ""],
        ["bundle", "export", ""],
        ["export", "org/a", ""],
    ],
)
def test_an_empty_path_is_refused_and_is_not_the_working_folder(run: Any, call: list[str]) -> None:
    code, _, err = run(*call)
    assert (code, "expected a path, found nothing" in err) == (2, True)


def test_offline_is_an_exit_code_of_its_own(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBSTATE_OFFLINE", "1")
    code, _, err = run("fetch", "org/none", "--registry", "http://127.0.0.1:9")
    assert code == 6
    assert "org/none" in err


def test_errors_are_json_where_json_is_asked_for(run: Any, weights: str) -> None:
    code, out, _ = run(*words(weights, "--arg", "num_classes=9", "--json"))
    assert code == 4
    error = json.loads(out)["error"]
    assert error["kind"] == "StructureMismatch"
    assert {issue["path"] for issue in error["issues"]} == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("call", [["fetch"], ["nonsense"], ["models", "--nope"]])
def test_a_call_that_is_off_is_json_too(run: Any, call: list[str]) -> None:
    code, out, err = run(*call, "--json")
    assert code == 2
    assert json.loads(out)["error"]["message"]
    assert err == ""


def test_what_the_gate_refused_is_json(run: Any, weights: str) -> None:
    code, out, _ = run(*words(weights, "--license", "not a licence!", "--json"))
    assert code == 8
    (problem,) = json.loads(out)["error"]["problems"]
    assert problem.startswith("license: ")


@given(text=text())
def test_no_text_steers_a_terminal(text: str) -> None:
    shown = printable(text)
    assert shown.replace("\n", "").isprintable()
    assert shown == text or not text.replace("\n", "").isprintable()


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals of our own")
def test_what_a_release_calls_its_tensors_cannot_steer_a_terminal() -> None:
    model = torch.nn.Linear(3, 2)
    model.register_buffer("a\x1b[31m", torch.ones(1))
    hubstate.publish(model, NAME, license="mit", labels=["\x1b]0;title\x07"], weights_only=True)
    mine, theirs = os.openpty()
    subprocess.run([sys.executable, "-m", "hubstate", "show", NAME], stdout=theirs, check=True)
    os.close(theirs)
    seen = os.read(mine, 100_000)
    os.close(mine)
    assert b"\\x1b[31m" in seen
    assert b"\x1b" not in seen


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_behind_a_pipe_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        answer = subprocess.run(
            [sys.executable, "-m", "hubstate", "models"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[0].startswith("error: No space left")
    assert "Traceback" not in answer.stderr


def test_the_cache_is_listed_verified_removed_and_pruned(run: Any, weights: str) -> None:
    run(*words(weights))
    run("fetch", NAME)
    code, out, _ = run("cache", "ls", "--json")
    (entry,) = json.loads(out)["releases"]
    assert entry["reference"] == f"{NAME}@main"
    assert entry["missing"] == []
    assert NAME in run("cache", "ls")[1]
    assert run("cache", "path")[1].strip() == os.environ["HUBSTATE_CACHE"]
    assert run("cache", "verify")[0] == 0

    blob = Path(hubstate.fetch(NAME).path("model.safetensors"))
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    code, out, _ = run("cache", "verify", "--repair", "--json")
    assert code == 5
    assert list(json.loads(out)["damaged"].values()) == [[f"{NAME}@main: model.safetensors"]]
    assert run("cache", "verify")[0] == 0

    assert run("cache", "rm", NAME)[0] == 0
    assert run("cache", "rm", NAME)[0] == 3
    assert json.loads(run("cache", "prune", "--json")[1])["size"] == 0
    assert run("cache", "prune", "--unused", "30", "--dry-run")[0] == 0
    assert run("cache", "prune", "--unused", "-1")[0] == 2


def test_an_interrupt_exits_with_130(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hubstate.hub.open_release", interrupt)
    code, _, err = run("fetch", NAME)
    assert code == 130
    assert "half-written" in err


def test_an_interrupt_of_a_class_body_exits_with_130(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupting:
        def __set_name__(self, owner: type, name: str) -> None:
            raise KeyboardInterrupt

    def interrupt(*_: object, **__: object) -> None:
        type("Body", (), {"field": Interrupting()})

    monkeypatch.setattr("hubstate.hub.open_release", interrupt)
    assert run("fetch", NAME)[0] == 130


def test_it_also_runs_as_a_module() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "hubstate", "--version"], capture_output=True, text=True
    )
    assert answer.returncode == 0
    assert hubstate.__version__ in answer.stdout
