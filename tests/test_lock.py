"""The lock file: what it says, who obeys it, how pins are made and moved, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hubs import Hub, serving
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from quick import publish_quickly
from toys import toy

from hubstate import settings
from hubstate.blobs import FileInfo
from hubstate.digest import Digest
from hubstate.errors import (
    Damaged,
    DigestMismatch,
    InvalidSetting,
    NotPinned,
    RevisionNotFound,
    Unreachable,
)
from hubstate.fetching import fetch
from hubstate.hub import open_release, publish_files
from hubstate.lock import (
    LockFile,
    ModelPin,
    Pin,
    dump_lock,
    find_lock,
    nearest_lock,
    parse_lock,
    read_lock,
    write_lock,
)
from hubstate.pinning import add_pins, check_pins, remove_pins, update_pins
from hubstate.reference import Reference

pytestmark = pytest.mark.usefixtures("project")

REPO = "org/name"


def publish(text: str, **options: Any) -> str:
    return publish_files(REPO, {"a.txt": text.encode()}, message="m", **options).id


def content(reference: str) -> str:
    return fetch(reference).path("a.txt").read_text()


def pinned(*names: str) -> LockFile:
    """Pin names in the project's lock file."""
    lock, _ = add_pins(nearest_lock(), names)
    write_lock(Path("hubstate.lock"), lock)
    return lock


# The file

names = st.from_regex(r"[a-z0-9]{1,8}/[A-Za-z0-9]{1,8}", fullmatch=True)
infos = st.builds(FileInfo, size=st.integers(0, 2**50), digest=st.binary(max_size=4).map(Digest.of))
paths = st.text(st.characters(codec="utf-8", exclude_characters="/\\"), min_size=1, max_size=12)


def is_path(text: str) -> bool:
    return text not in (".", "..", ".git") and all(c >= " " and c != "\x7f" for c in text)


@st.composite
def pins(draw: st.DrawFn) -> Pin:
    files = draw(st.dictionaries(paths.filter(is_path), infos, max_size=4))
    folded = {path.casefold(): path for path in files}
    return Pin(
        reference=Reference(
            repo=draw(names), revision=draw(st.sampled_from(["main", "v1", "a/b"]))
        ),
        commit=draw(st.from_regex(r"[0-9a-f]{40}", fullmatch=True)),
        files={path: files[path] for path in folded.values()},
        registry=draw(st.sampled_from([None, "https://hub.example", 'file:///a "b"\n\x7f\\é'])),
    )


@st.composite
def locks(draw: st.DrawFn) -> LockFile:
    found = {str(pin.reference): pin for pin in draw(st.lists(pins(), max_size=4))}
    models = {
        name: ModelPin(reference=pin.reference, tag=draw(st.sampled_from(["t", "IMAGENET1K_V1"])))
        for name, pin in zip(["resnet18", "resnet18:t", "a.b"], found.values(), strict=False)
    }
    return LockFile(models=models, releases=found)


@hypothesis_settings(deadline=None, max_examples=50)
@given(locks())
def test_a_lock_file_reads_back_as_it_was_and_is_the_same_bytes(lock: LockFile) -> None:
    data = dump_lock(lock)
    assert parse_lock(data, where="x") == lock
    assert dump_lock(parse_lock(data, where="x")) == data
    assert tomllib.loads(data.decode())["schema"] == 1


@hypothesis_settings(deadline=None, max_examples=50)
@given(locks(), st.data())
def test_a_damaged_lock_file_is_refused_or_means_the_same_kind_of_thing(
    lock: LockFile, data: st.DataObject
) -> None:
    text = bytearray(dump_lock(lock))
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        again = parse_lock(bytes(text), where="x")
    except Damaged:
        return
    assert parse_lock(dump_lock(again), where="x") == again


def test_pins_are_sorted_with_a_line_for_each_file() -> None:
    publish("1", tag="v1")
    publish("2")
    lock = pinned(f"{REPO}@v1", REPO)
    text = Path("hubstate.lock").read_text()
    assert text.index('"org/name@main"') < text.index('"org/name@v1"')
    assert f'"a.txt" = {{ sha256 = "{Digest.of(b"1").hex}", size = 1 }}\n' in text
    assert text == dump_lock(lock).decode()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("schema = 1", "schema = 2"), "schema: expected 1, found 2"),
        (("schema = 1", "schema = 1\nmore = 1"), "more: expected nothing"),
        (('commit = "', 'commit = "x'), "commit: found"),
        (("size = 1\n", "size = 2\n"), "size: expected 1, found 2"),
        (("size = 1 }", "size = -1 }"), "a.txt: size: found -1"),
        (('"a.txt"', '"../a.txt"'), "no '..'"),
        (("commit =", "comit ="), "unknown: comit"),
        (("@main", ""), "expected it in full: org/name@main"),
        (("size = 1\n", 'registry = "/a\\u0000"\nsize = 1\n'), "registry: no text"),
        (("size = 1\n", 'size = 1\nmanifest = "sha256:0"\n'), "manifest: not its file's"),
        (("schema", "<<<<<<< ours\nschema"), "merge conflict"),
    ],
)
def test_what_is_wrong_in_a_lock_file_is_named(change: tuple[str, str], said: str) -> None:
    publish("1")
    text = dump_lock(pinned(REPO)).decode()
    assert change[0] in text
    with pytest.raises(Damaged) as caught:
        parse_lock(text.replace(*change).encode(), where="here.lock")
    assert said in str(caught.value)
    assert "here.lock" in str(caught.value)


# Which one is in force


def test_the_nearest_lock_file_above_is_in_force(project: Path, monkeypatch: Any) -> None:
    (project / "a/b").mkdir(parents=True)
    monkeypatch.chdir(project / "a/b")
    assert find_lock() is None
    write_lock(project / "hubstate.lock", LockFile())
    assert find_lock() == project / "hubstate.lock"
    write_lock(project / "a/hubstate.lock", LockFile())
    assert find_lock() == project / "a/hubstate.lock"
    monkeypatch.setenv("HUBSTATE_LOCK", str(project / "other.lock"))
    assert find_lock() == project / "other.lock"
    with pytest.raises(InvalidSetting, match=r"other\.lock cannot be read"):
        nearest_lock()


def test_a_working_folder_that_is_gone_has_no_lock_file(project: Path) -> None:
    project.rmdir()
    assert find_lock() is None


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="needs to give files away"
)
def test_a_stranger_cannot_leave_a_lock_file_for_everybody(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_lock(project / "hubstate.lock", LockFile())
    os.chown(project / "hubstate.lock", 1234, 1234)
    assert find_lock() == project / "hubstate.lock", "a colleague's project"
    assert not caplog.messages
    project.chmod(0o1777)
    assert find_lock() is None
    (said,) = caplog.messages
    assert "name it in HUBSTATE_LOCK" in said


def test_a_lock_file_that_changed_is_read_again() -> None:
    publish("1")
    pinned(REPO)
    assert content(REPO) == "1"
    publish("2")
    assert content(REPO) == "1"
    pinned(REPO)
    assert content(REPO) == "2"


def test_looking_for_no_lock_file_costs_next_to_nothing() -> None:
    code = (
        "import sys, hubstate.hub; from hubstate.lock import find_lock; assert not find_lock()\n"
        "assert not {'torch', 'tomllib', 'requests'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    start = time.perf_counter()
    for _ in range(100):
        find_lock()
    assert (time.perf_counter() - start) / 100 < 0.001


# Obeying


def test_a_pinned_reference_means_what_it_meant() -> None:
    first = publish("1")
    pinned(REPO)
    publish("2")
    release = open_release(REPO)
    assert (release.commit.id, str(release.reference)) == (first, "org/name@main")
    assert content(REPO) == "1"
    assert open_release(REPO, refresh=True).commit.id != first
    Path("hubstate.lock").unlink()
    assert content(REPO) == "2"


def test_a_pin_holds_where_another_registry_has_the_files_in_another_commit(tmp_path: Path) -> None:
    publish_quickly(toy(), REPO)
    lock = pinned(REPO)
    other = tmp_path / "mirror"
    release = fetch(REPO)
    files: dict[str, Path | bytes] = dict(release.paths)
    commit = publish_files(REPO, files, message="a mirror", registry=str(other))
    publish_files(REPO, {"a.txt": b"later"}, message="more", registry=str(other))
    assert commit.id != lock.releases["org/name@main"].commit
    os.environ["HUBSTATE_REGISTRY"] = str(other)
    os.environ["HUBSTATE_CACHE"] = str(tmp_path / "empty")
    assert open_release(REPO).commit.id == commit.id


def test_no_server_is_waited_for_where_a_folder_has_what_is_pinned() -> None:
    publish("1")
    lock = pinned(REPO)
    with serving(Hub({"a.txt": b"1"})) as url:
        pins = {name: replace(pin, registry=url) for name, pin in lock.releases.items()}
        write_lock(Path("hubstate.lock"), LockFile(releases=pins))
    os.environ["HUBSTATE_CACHE"] += "-elsewhere"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hubstate.endpoints.http.HttpEndpoint.resolve", None)
        assert content(REPO) == "1"
    shutil.rmtree(os.environ["HUBSTATE_REGISTRY"])
    os.environ["HUBSTATE_CACHE"] += "-and-elsewhere"
    with pytest.raises(Unreachable, match=url):
        open_release(REPO)


def test_files_that_are_not_the_pinned_ones_are_refused() -> None:
    publish("1")
    lock = pinned(REPO)
    pin = lock.releases["org/name@main"]
    other = {"a.txt": FileInfo(size=1, digest=Digest.of(b"9")), "b.txt": FileInfo(size=0)}
    other["b.txt"] = FileInfo(size=0, digest=Digest.of(b""))
    changed = Pin(reference=pin.reference, commit=pin.commit, files=other)
    write_lock(Path("hubstate.lock"), lock.having(releases={"org/name@main": changed}))
    with pytest.raises(DigestMismatch, match=r"a\.txt: expected.*b\.txt is missing"):
        open_release(REPO)


def test_a_lock_file_takes_the_place_of_a_link_to_itself(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    write_lock(loop, LockFile())
    assert read_lock(loop) == LockFile()


def test_a_pin_that_is_gone_says_so(tmp_path: Path) -> None:
    publish("1")
    pinned(REPO)
    os.environ["HUBSTATE_REGISTRY"] = str(tmp_path / "another")
    os.environ["HUBSTATE_CACHE"] = str(tmp_path / "empty")
    publish("2")
    with pytest.raises(RevisionNotFound, match="org/name"):
        open_release(REPO)


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """A catalogue that knows weights for the toy model, which are published."""
    publish_quickly(toy(), "org/toy", seed=0)
    path = tmp_path / "catalogue.toml"
    entry = '\n[[model]]\nbuilder = "toy"\ntag = "{}"\nrepository = "org/{}"\nlicense = "mit"\n'
    first = entry.format("one", "toy") + "default = true\n"
    narrow = entry.format("two", "other") + "arguments = { width = 4 }\n"
    path.write_text("schema = 1\n" + first + narrow)
    os.environ["HUBSTATE_CATALOGUE"] = str(path)
    return path


def test_pretrained_obeys_the_lock_file_also_when_the_default_changes(catalogue: Path) -> None:
    before = toy(pretrained=True).state_dict()
    lock = pinned("toy", "toy:one")
    assert lock.models.keys() == {"toy", "toy:one"}
    publish_quickly(toy(), "org/toy", seed=1)
    publish_quickly(toy(width=4), "org/other", seed=1)
    text = catalogue.read_text().replace("default = true\n", "") + "default = true\n"
    catalogue.write_text(text)
    for pretrained in (True, "one", "org/toy"):
        after = toy(pretrained=pretrained).state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before), pretrained
    assert toy(pretrained="two").fc.in_features == 4, "which is not pinned"


def test_frozen_refuses_what_is_not_pinned_and_says_how_to_pin_it(catalogue: Path) -> None:
    commit = publish("1")
    os.environ["HUBSTATE_FROZEN"] = "1"
    for load in (lambda: fetch(REPO), lambda: toy(pretrained=f"{REPO}@main")):
        with pytest.raises(NotPinned, match="hubstate lock add org/name@main"):
            load()
    with pytest.raises(NotPinned, match="hubstate lock add org/toy@main"):
        toy(pretrained=True)
    assert content(f"{REPO}@{commit}") == "1", "which is pinned by itself"
    pinned(REPO, "toy")
    assert content(REPO) == "1"
    assert toy(pretrained=True)


# Making and moving pins


def test_an_update_shows_what_moves(run: Any) -> None:
    first = publish("1", tag="v1")
    code, out, _ = run("lock", "add", REPO, f"{REPO}@v1")
    assert (code, "2 pins changed" in out) == (0, True)
    second = publish("22")
    code, out, _ = run("lock", "check", "--json")
    told = {row["name"]: row["moved"] for row in json.loads(out)["releases"]}
    assert told == {"org/name@main": second, "org/name@v1": None}
    before = Path("hubstate.lock").read_bytes()
    code, out, _ = run("lock", "update", "--dry-run")
    assert "would change" in out
    assert Path("hubstate.lock").read_bytes() == before
    code, out, _ = run("lock", "update", "--json")
    (change,) = json.loads(out)["changes"]
    assert (change["before"]["commit"], change["after"]["commit"]) == (first, second)
    assert content(REPO) == "22"
    code, out, _ = run("lock", "update")
    assert "0 pins" in out


def test_what_somebody_else_pins_meanwhile_is_not_lost(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("1", tag="v1")

    def slowly(lock: LockFile, names: list[str], **options: Any) -> Any:
        found = add_pins(lock, names, **options)
        monkeypatch.setattr("hubstate.pinning.add_pins", add_pins)
        assert run("lock", "add", f"{REPO}@v1")[0] == 0
        return found

    for there in (False, True):
        monkeypatch.setattr("hubstate.pinning.add_pins", slowly)
        code, _, err = run("lock", "add", REPO)
        assert (code, "run this again" in err) == (7, True), there
        assert nearest_lock().releases.keys() == {"org/name@v1"}
        publish("2")
        run("lock", "remove", f"{REPO}@v1")
    assert run("lock", "add", REPO)[0] == 0


def test_an_update_can_be_of_one_name(run: Any) -> None:
    publish("1")
    publish("1", branch="dev")
    run("lock", "add", REPO, f"{REPO}@dev")
    publish("2")
    publish("2", branch="dev")
    code, out, _ = run("lock", "update", f"{REPO}@dev")
    assert "a.txt" in out
    assert (content(REPO), content(f"{REPO}@dev")) == ("1", "2")
    code, _, err = run("lock", "update", "org/never")
    assert (code, "org/never@main is not in the lock file" in err) == (3, True)


def test_a_model_that_moves_takes_its_reference_along(catalogue: Path) -> None:
    lock, _ = add_pins(LockFile(), ["toy"])
    text = catalogue.read_text()
    catalogue.write_text(text.replace("default = true\n", "") + "default = true\n")
    publish_quickly(toy(), "org/other")
    after, changes = update_pins(lock)
    assert next(str(change).split(" → ")[1][:10] for change in changes) == "org/other@"
    assert after.releases.keys() == {"org/other@main"}
    assert after.models["toy"].tag == "two"


def test_removing_a_model_removes_what_only_it_means(catalogue: Path) -> None:
    publish("1")
    lock, _ = add_pins(LockFile(), ["toy", "toy:one", REPO])
    assert remove_pins(lock, ["toy"])[0].releases.keys() == {"org/toy@main", "org/name@main"}
    assert remove_pins(lock, ["toy", "toy:one"])[0].releases.keys() == {"org/name@main"}
    with pytest.raises(InvalidSetting, match="a model in the lock file means it"):
        remove_pins(lock, ["org/toy@main"])


def test_a_check_names_what_is_gone(run: Any, tmp_path: Path) -> None:
    publish("1")
    run("lock", "add", REPO)
    assert run("lock", "check")[0] == 0
    os.environ["HUBSTATE_REGISTRY"] = str(tmp_path / "another")
    os.environ["HUBSTATE_CACHE"] = str(tmp_path / "empty")
    publish("2")
    code, out, _ = run("lock", "check")
    assert code == 3
    assert "0 of 1 can be had, unchanged" in out
    (verdict,) = check_pins(nearest_lock())
    assert isinstance(verdict.problem, RevisionNotFound)


def test_a_check_asks_the_registry_and_does_not_take_the_word_of_the_cache(run: Any) -> None:
    publish("1")
    run("lock", "add", REPO)
    registry = Path(os.environ["HUBSTATE_REGISTRY"])
    registry.rename(registry.with_name("elsewhere"))
    assert run("lock", "check")[0] == 3, "of which nothing is in the cache but what it was"
    registry.with_name("elsewhere").rename(registry)
    assert content(REPO) == "1"
    assert run("lock", "check")[0] == 0
    (registry / "repos/org/name").rename(registry / "gone")
    assert run("lock", "check")[0] == 3, "though the cache has all of it"


def test_where_no_registry_answers_a_check_is_content_with_what_the_cache_has(run: Any) -> None:
    with serving(Hub({"a.txt": b"1", "b.txt": b"2"})) as url:
        os.environ["HUBSTATE_REGISTRY"] = url
        run("lock", "add", REPO)
        assert run("lock", "check")[0] == 0
    assert run("lock", "check")[0] == 0, "since adding has measured, and so fetched, each file"
    shutil.rmtree(settings.cache_folders()[0] / "blobs")
    for offline in ("0", "1"):
        os.environ["HUBSTATE_OFFLINE"] = offline
        assert run("lock", "check")[0] == 6


def test_a_release_from_another_registry_is_pinned_with_it(run: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    publish("1", registry=str(other))
    run("lock", "add", REPO, "--registry", str(other))
    assert nearest_lock().releases["org/name@main"].registry == other.as_uri()
    assert content(REPO) == "1"
    publish("2", registry=str(other))
    run("lock", "update")
    assert content(REPO) == "2"


def test_the_frozen_option_is_there_before_and_after_the_command(run: Any) -> None:
    publish("1")
    assert run("fetch", REPO)[0] == 0
    code, _, err = run("fetch", REPO, "--frozen")
    assert (code, "hubstate lock add" in err) == (3, True)
    del os.environ["HUBSTATE_FROZEN"]
    assert run("--frozen", "fetch", REPO)[0] == 3


def test_without_a_lock_file_the_commands_say_how_to_make_one(run: Any) -> None:
    for words in (["update"], ["check"], ["remove", REPO]):
        code, _, err = run("lock", *words)
        assert (code, "'hubstate lock add' makes one" in err) == (2, True)


@pytest.mark.parametrize("command", [[], ["add"], ["update"], ["remove"], ["check"]])
def test_every_help_shows_an_example(run: Any, command: list[str]) -> None:
    code, out, _ = run("lock", *command, "--help")
    assert (code, "Example:" in out) == (0, True)
    assert "hubstate " + " ".join(["lock", *command]) in out
