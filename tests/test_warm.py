"""Warm-up: what is there is proven; then no registry and no writable cache is needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hubs import Hub, serving, serving_registry
from quick import publish_quickly, release_of
from toys import Toy, toy

from hubstate import settings, warm
from hubstate.blobs import FileInfo
from hubstate.cache import Cache
from hubstate.digest import Digest
from hubstate.errors import (
    DigestMismatch,
    HubstateError,
    InvalidSetting,
    NotFound,
    Offline,
    Unreachable,
)
from hubstate.fetching import fetch
from hubstate.filters import only, without
from hubstate.lock import LockFile, write_lock
from hubstate.pinning import add_pins
from hubstate.progress import quiet
from hubstate.values import replace

pytestmark = pytest.mark.usefixtures("project")

HERE = Path(__file__).parent
LOAD = """
import os, sys, warnings, hubstate
from toys import toy
warnings.simplefilter("error")
repo = os.environ.get("REPO", "org/name")
model = toy(pretrained=repo)
if "HUBSTATE_CATALOGUE" in os.environ:
    assert toy(pretrained=True).fc.bias.equal(model.fc.bias)
release = hubstate.fetch(repo)
print(sorted(release.paths), float(model.fc.bias.detach().sum()))
"""


@pytest.fixture(scope="module")
def model() -> Toy:
    torch.manual_seed(0)
    made: Toy = toy()
    return made


@pytest.fixture
def hub(model: Toy) -> Iterator[Hub]:
    """A server with one release, which is the configured registry."""
    served = Hub(release_of(model))
    with serving(served) as url:
        os.environ["HUBSTATE_REGISTRY"] = url
        yield served


def lock(*names: str) -> LockFile:
    made, _ = add_pins(LockFile(), names)
    write_lock(Path("hubstate.lock"), made)
    return made


def load(*before: str, **environment: str) -> str:
    """Load in a fresh process, started by another command if one is given; what it printed."""
    answer = subprocess.run(
        [*before, sys.executable, "-c", LOAD],
        env={**os.environ, "PYTHONPATH": str(HERE), **environment},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def expected(model: Toy) -> str:
    names = ["README.md", "hubstate.json", "model.safetensors"]
    return f"{names} {float(model.fc.bias.detach().sum())}\n"


def blob(data: bytes) -> Path:
    path = Cache().find(Digest.of(data)).path
    assert path
    return path


# What is proven


def test_the_proof_names_every_file_with_size_and_digest(hub: Hub, run: Any) -> None:
    code, out, _ = run("warm", "org/name", "--json")
    proof = json.loads(out)
    assert (code, proof["complete"], proof["files"]) == (0, True, 3)
    (release,) = proof["releases"]
    assert release["commit"] == Hub.COMMIT
    assert release["manifest"] == str(Digest.of(hub.files["hubstate.json"]))
    for name, data in hub.files.items():
        found = release["files"][name]
        assert (found["size"], found["digest"]) == (len(data), str(Digest.of(data)))
        assert Path(found["path"]).read_bytes() == data
    assert proof["size"] == sum(map(len, hub.files.values()))


def test_warming_again_fetches_nothing(hub: Hub, run: Any) -> None:
    lock("org/name")
    run("warm")
    asked = len(hub.seen)
    code, out, _ = run("warm", "--json")
    (release,) = json.loads(out)["releases"]
    assert {file["state"] for file in release["files"].values()} == {"present"}
    assert (code, len(hub.seen)) == (0, asked)


def test_what_cannot_be_had_is_told_and_the_rest_is_fetched(hub: Hub, run: Any) -> None:
    hub.corrupt["model.safetensors"] = len(hub.files["model.safetensors"]) - 1
    code, out, _ = run("warm", "org/name", "org/never", "--json")
    good, bad = json.loads(out)["releases"]
    assert code == 5
    assert good["files"]["README.md"]["state"] == "fetched"
    assert good["files"]["model.safetensors"]["state"] == "missing"
    assert "expected" in good["files"]["model.safetensors"]["problem"]
    assert "org/never" in bad["problem"]
    hub.corrupt.clear()
    assert run("warm", "org/name")[0] == 0


def test_many_releases_are_fetched_with_one_account_of_the_bytes(tmp_path: Path) -> None:
    for number in range(5):
        publish_quickly(toy(), f"org/m{number}", seed=number)
    wanted = warm.named([f"org/m{number}" for number in range(5)])
    told: list[int] = []
    proofs = warm.warm(wanted, progress=told.append)
    assert all(proof.complete for proof in proofs)
    assert [str(proof.wanted.reference) for proof in proofs] == [f"org/m{n}@main" for n in range(5)]
    files = [file for proof in proofs for file in proof.files if file.state == "fetched"]
    assert sum(told) == sum({file.digest: file.size or 0 for file in files}.values())


def test_a_lock_file_is_warmed_as_it_says(run: Any) -> None:
    first = publish_quickly(toy(), "org/name", seed=1)
    lock("org/name")
    publish_quickly(toy(), "org/name", seed=2)
    _, out, _ = run("warm", "--json")
    assert [release["commit"] for release in json.loads(out)["releases"]] == [first.id]
    _, out, _ = run("warm", "org/name", "--json")
    assert [release["commit"] for release in json.loads(out)["releases"]] == [first.id]


def test_a_registry_that_is_named_is_asked_for_what_is_locked_too(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror"
    publish_quickly(toy(), "org/toy", seed=1, registry=mirror)
    catalogue = tmp_path / "catalogue.toml"
    entry = 'builder = "toy"\ntag = "t"\nrepository = "org/toy"\nlicense = "mit"\ndefault = true\n'
    catalogue.write_text(f"schema = 1\n[[model]]\n{entry}")
    monkeypatch.setenv("HUBSTATE_CATALOGUE", str(catalogue))
    made, _ = add_pins(LockFile(), ["toy"], registry=str(mirror))
    pins = {name: replace(pin, registry=None) for name, pin in made.releases.items()}
    write_lock(Path("hubstate.lock"), replace(made, releases=pins))
    for number, words in enumerate(([], ["toy"], ["org/toy"])):
        os.environ["HUBSTATE_CACHE"] = str(tmp_path / f"empty-{number}")
        code, out, _ = run("warm", *words, "--registry", str(mirror))
        assert (code, "3/3" in out) == (0, True), words


def test_frozen_allows_the_names_that_the_lock_file_has_which_is_named(
    hub: Hub, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock("org/name")
    Path("hubstate.lock").rename("other.lock")
    monkeypatch.setenv("HUBSTATE_FROZEN", "1")
    assert run("warm", "--lock", "other.lock", "org/name")[0] == 0
    code, _, err = run("warm", "--lock", "other.lock", "org/name@v1")
    assert (code, "org/name@v1 is not pinned" in err) == (3, True)


def test_another_cache_folder_can_be_filled(hub: Hub, run: Any, tmp_path: Path) -> None:
    _, out, _ = run("warm", "org/name", "--cache", str(tmp_path / "node"), "--json")
    assert json.loads(out)["cache"] == [str(tmp_path / "node")]
    assert not settings.cache_folders()[0].exists()
    assert run("warm", "org/name", "--cache", str(tmp_path / "node"), "--check")[0] == 0
    assert run("warm", "org/name", "--check")[0] == 6


def test_with_nothing_to_warm_the_command_says_so(run: Any) -> None:
    code, _, err = run("warm")
    assert (code, "hubstate.lock" in err) == (2, True)


def test_help_shows_an_example(run: Any) -> None:
    code, out, _ = run("warm", "--help")
    assert (code, "Example:" in out) == (0, True)


def test_what_does_not_fit_together_is_refused_before_the_first(
    hub: Hub, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of two releases fits by itself, and the disk is not filled to find out."""
    hub.files.update(release_of(Toy(2000, 64)))
    with serving(other := Hub(release_of(Toy(2000, 65)))):
        wanted = [*warm.named(["org/name"]), *warm.named(["org/name"], registry=other.base)]
        size = len(hub.files["model.safetensors"])
        room = os.statvfs_result((1, 1, *[int(1.5 * size)] * 3, *[0] * 5))
        monkeypatch.setattr(os, "statvfs", lambda _: room)
        with pytest.raises(Unreachable, match=r"4 files: needs \d+ bytes, the cache .* left"):
            warm.warm(wanted)
        assert hub.sent("model.safetensors") == other.sent("model.safetensors") == 0
        assert [proof.complete for proof in warm.warm(wanted[:1])] == [True]


# Filters


def test_a_filter_fetches_only_the_tensors_that_pass(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files.update(release_of(Toy(2000, 64)))
    size = len(hub.files["model.safetensors"])
    (proof,) = warm.warm(warm.named(["org/name"]), filter=without("fc"), progress=quiet)
    assert proof.complete
    states = {file.name: file.state for file in proof.files}
    assert states["model.safetensors"] == "partial"
    path = next(file.path for file in proof.files if file.name == "model.safetensors")
    assert path
    assert hub.sent("model.safetensors") < size * 0.5
    full = os.statvfs_result((1, 1, *[0] * 8))
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: full)
        (proof,) = warm.warm(warm.named(["org/name"]), filter=without("fc"), progress=quiet)
    assert proof.complete, "with nothing to fetch, no room is needed"
    asked = len(hub.seen)
    (proof,) = warm.check(warm.named(["org/name"]), filter=without("fc"))
    assert proof.complete
    (proof,) = warm.check(warm.named(["org/name"]), filter=only("fc"))
    assert isinstance(proof.error, Offline)
    damage_unnoticed(path)
    (proof,) = warm.check(warm.named(["org/name"]), filter=without("fc"))
    assert isinstance(proof.error, DigestMismatch)
    assert len(hub.seen) == asked


def test_a_filter_needs_no_manifest(hub: Hub, run: Any) -> None:
    hub.files.update(release_of(Toy(2000, 64)))
    del hub.files["hubstate.json"]
    words = ("warm", "org/name", "--filter", "!fc", "--json")
    code, out, _ = run(*words)
    (told,) = json.loads(out)["releases"]
    states = {name: file["state"] for name, file in told["files"].items()}
    assert (code, states) == (0, {"README.md": "fetched", "model.safetensors": "partial"})
    assert hub.sent("model.safetensors") < len(hub.files["model.safetensors"]) * 0.5
    asked = len(hub.seen)
    assert run(*words, "--check")[0] == 0
    damage_unnoticed(Path(told["files"]["model.safetensors"]["path"]))
    code, out, _ = run(*words, "--check")
    assert (code, len(hub.seen)) == (DigestMismatch.exit_code, asked)
    assert json.loads(out)["releases"][0]["files"]["model.safetensors"]["state"] == "damaged"


def damage_unnoticed(path: Path) -> None:
    """Turn a byte in the first half of a file, and leave its size, time and inode as they are."""
    times = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(times.st_size // 4)
        byte = file.read(1)[0]
        file.seek(times.st_size // 4)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_filter_that_selects_nothing_is_an_error(hub: Hub, run: Any) -> None:
    """As it is where weights are loaded: most often a name is misspelt."""
    for words in ((), ("--check",)):
        code, out, _ = run("warm", "org/name", "--filter", "fcc", *words)
        assert (code, "the filter selects none of its tensors" in out) == (3, True)
    code, out, _ = run("warm", "org/name", "--filter", "fc")
    assert (code, "complete, as filtered" in out) == (0, True)
    with pytest.raises(NotFound, match=r"only\('fcc'\) selects none of its tensors"):
        fetch("org/name", filter=only("fcc"))


def test_filters_of_both_kinds_at_once_and_empty_ones_are_refused(hub: Hub, run: Any) -> None:
    for patterns in (("--filter", "fc", "--filter", "!bn"), ("--filter", ""), ("--filter", "!")):
        code, _, err = run("warm", "org/name", *patterns)
        assert (code, "--filter: " in err) == (InvalidSetting.exit_code, True)
    assert run("warm", "org/name", "--filter", "!fc")[0] == 0


# Checks


def test_a_check_asks_nobody_and_finds_every_kind_of_damage(hub: Hub, run: Any) -> None:
    hub.files.update(release_of(Toy(2000, 64)))
    lock("org/name")
    code, out, _ = run("warm", "--check")
    assert (code, "is not in the cache" in out) == (6, True)
    run("warm")
    asked = len(hub.seen)
    assert run("warm", "--check")[0] == 0
    path = blob(hub.files["model.safetensors"])
    damage_unnoticed(path)
    (proof,) = warm.check(warm.named(["org/name"]))
    assert {f.name: f.state for f in proof.files}["model.safetensors"] == "damaged"
    assert isinstance(proof.error, DigestMismatch)
    assert run("warm", "--check")[0] == 5
    path.unlink(missing_ok=True)
    code, out, _ = run("warm", "--check", "--json")
    (release,) = json.loads(out)["releases"]
    assert (code, release["files"]["model.safetensors"]["state"]) == (6, "missing")
    assert len(hub.seen) == asked


def test_what_a_check_finds_damaged_the_next_warm_up_fetches_again(hub: Hub) -> None:
    hub.files.update(release_of(Toy(2000, 64)))
    for filter in (without("fc"), None):
        wanted = warm.named(["org/name"])
        (proof,) = warm.warm(wanted, filter=filter)
        path = next(file.path for file in proof.files if file.name == "model.safetensors")
        assert path
        damage_unnoticed(path)
        (proof,) = warm.check(wanted, filter=filter)
        assert "'hubstate warm' fetches it again" in str(proof.error)
        (proof,) = warm.warm(warm.named(["org/name"]), filter=filter)
        assert proof.complete
        (proof,) = warm.check(wanted, filter=filter)
        assert proof.complete


def test_a_check_of_a_part_hashes_its_header_too(hub: Hub) -> None:
    wanted = warm.named(["org/name"])
    (proof,) = warm.warm(wanted, filter=only("conv"))
    (path,) = (file.path for file in proof.files if file.state == "partial")
    assert path
    status, data = path.stat(), bytearray(path.read_bytes())
    data[data.index(b"conv.weight")] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    (proof,) = warm.check(wanted, filter=only("conv"))
    assert isinstance(proof.error, DigestMismatch)
    (proof,) = warm.warm(warm.named(["org/name"]), filter=only("conv"))
    assert proof.complete
    (proof,) = warm.check(wanted, filter=only("conv"))
    assert proof.complete


def test_damage_that_can_be_seen_is_called_damage_too(hub: Hub) -> None:
    warm.warm(warm.named(["org/name"]))
    path = blob(hub.files["model.safetensors"])
    damage_unnoticed(path)
    os.utime(path, (1, 1))
    (proof,) = warm.check(warm.named(["org/name"]))
    assert {f.name: f.state for f in proof.files}["model.safetensors"] == "damaged"
    assert "'hubstate warm' fetches it again" in str(proof.error)


def test_a_release_that_is_not_as_the_lock_file_says_fails_the_check(hub: Hub) -> None:
    lock("org/name")
    warm.warm(warm.named(["org/name"]))
    (wanted,) = warm.named(["org/name"])
    assert wanted.pin
    files = {**wanted.pin.files, "README.md": FileInfo(size=1, digest=Digest.of(b"1"))}
    other = replace(wanted, pin=replace(wanted.pin, files=files))
    (proof,) = warm.check([other])
    assert isinstance(proof.error, DigestMismatch)
    assert "not what the lock file says" in str(proof.error)


def test_a_check_fetches_nothing_from_a_folder_either() -> None:
    publish_quickly(toy(), "org/name", seed=1)
    wanted = warm.named(["org/name"])
    warm.warm(wanted)
    shutil.rmtree(settings.cache_folders()[0] / "blobs")
    (proof,) = warm.check(wanted)
    assert isinstance(proof.error, Offline)
    assert not (settings.cache_folders()[0] / "blobs").exists()


# Afterwards


@pytest.mark.parametrize("with_lock", [True, False])
def test_afterwards_nothing_is_asked_offline(hub: Hub, model: Toy, with_lock: bool) -> None:
    if with_lock:
        lock("org/name")
    warm.warm(warm.named(["org/name"]))
    asked = len(hub.seen)
    assert load(HUBSTATE_OFFLINE="1") == expected(model)
    assert len(hub.seen) == asked


def test_files_whose_names_differ_in_case_only_are_proven_pinned_and_carried(
    hub: Hub, run: Any, tmp_path: Path
) -> None:
    hub.files["readme.md"] = b"another"
    assert run("warm", "org/name")[0] == 0
    assert run("warm", "--check", "org/name")[0] == 0
    os.environ["HUBSTATE_OFFLINE"] = "1"
    assert fetch("org/name").read("readme.md") == b"another"
    os.environ["HUBSTATE_OFFLINE"] = "0"
    assert run("lock", "add", "org/name")[0] == 0
    assert run("lock", "check")[0] == 0
    assert run("bundle", "export", "models.tar")[0] == 0
    assert run("bundle", "import", "models.tar", "--registry", str(tmp_path / "inside"))[0] == 0
    os.environ["HUBSTATE_CACHE"] = str(tmp_path / "empty")
    os.environ["HUBSTATE_REGISTRY"] = str(tmp_path / "inside")
    release = fetch("org/name")
    assert [release.read(name) for name in ("README.md", "readme.md")] == [
        b"# A model\n",
        b"another",
    ]


def test_afterwards_what_is_pinned_needs_no_registry_to_be_named(hub: Hub, model: Toy) -> None:
    """A job's environment may name none, or another one: the content is pinned, and here."""
    hub.files.update(release_of(model))
    lock("org/name")
    warm.warm(warm.named(["org/name"]))
    for place in ("https://mirror.invalid", "nowhere"):
        os.environ |= {"HUBSTATE_REGISTRY": place, "HUBSTATE_OFFLINE": "1", "HUBSTATE_FROZEN": "1"}
        assert toy(pretrained="org/name").fc.bias.equal(model.fc.bias)
        assert [proof.complete for proof in warm.check(warm.named(["org/name"]))] == [True]
        assert fetch("org/name").traffic.downloaded == 0
        blob(hub.files["README.md"]).unlink()
        assert toy(pretrained="org/name").fc.bias.equal(model.fc.bias)
        with pytest.raises(HubstateError, match=r"README\.md"):
            fetch("org/name")
        (proof,) = warm.check(warm.named(["org/name"]))
        assert {f.name for f in proof.files if f.problem} == {"README.md"}
        os.environ |= {"HUBSTATE_REGISTRY": hub.base, "HUBSTATE_OFFLINE": "0"}
        fetch("org/name")


def test_afterwards_the_network_may_be_cut(hub: Hub, model: Toy) -> None:
    """Without the offline setting: what is pinned and cached needs no request."""
    namespace = ("unshare", "-rn")
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("this system permits no network namespaces")
    entry = 'builder = "toy"\ntag = "one"\nrepository = "org/name"\nlicense = "mit"\ndefault = true'
    Path("catalogue.toml").write_text(f"schema = 1\n\n[[model]]\n{entry}\n")
    os.environ["HUBSTATE_CATALOGUE"] = "catalogue.toml"
    lock("org/name", "toy")
    warm.warm(warm.named(["toy"]))
    unreachable = "import socket; socket.create_connection(('127.0.0.1', 80), 1)"
    cut = subprocess.run([*namespace, sys.executable, "-c", unreachable], capture_output=True)
    assert b"unreachable" in cut.stderr
    assert load(*namespace) == expected(model)


def unprivileged() -> tuple[str, ...]:
    """What takes root's power over file modes from a command; nothing for other users."""
    if not hasattr(os, "getuid") or os.getuid() != 0:
        return ()
    powers = "-dac_override,-dac_read_search"
    words = ("setpriv", f"--bounding-set={powers}", f"--inh-caps={powers}")
    if not shutil.which("setpriv") or subprocess.run([*words, "true"], check=False).returncode:
        pytest.skip("root may write everywhere here")
    return words


def mounted_read_only(folder: Path) -> tuple[str, ...]:
    """What mounts a folder read-only for a command."""
    script = f"mount --bind '{folder}' '{folder}' && mount -o remount,ro,bind '{folder}'"
    words = ("unshare", "-rm", "sh", "-c", f'{script} && exec "$@"', "sh")
    if not shutil.which("unshare") or subprocess.run([*words, "true"], check=False).returncode:
        pytest.skip("this system permits no mounts")
    return words


def test_a_check_does_not_call_a_file_damaged_whose_size_is_misstated(hub: Hub) -> None:
    del hub.files["hubstate.json"]
    pins = lock("org/name").releases
    warm.warm(warm.named(["org/name"]))
    (name, pin), weights = next(iter(pins.items())), "model.safetensors"
    size = len(hub.files[weights])
    wrong = replace(pin.files[weights], size=size + 1)
    liar = LockFile(releases={name: replace(pin, files={**pin.files, weights: wrong})})
    (proof,) = warm.check(warm.locked(liar))
    assert f"expected {size + 1} bytes" in str(proof.error)
    assert blob(hub.files[weights]).stat().st_size == size


def test_what_a_name_means_is_part_of_what_must_be_there(hub: Hub) -> None:
    warm.warm(warm.named(["org/name"]))
    (cache,) = settings.cache_folders()
    (record,) = cache.glob("endpoints/*/org/name/revision-main.json")
    record.with_name("revision-v1.json").mkdir()  # nothing can be written there
    wanted = warm.named(["org/name@v1"])
    (proof,) = warm.warm(wanted)
    assert isinstance(proof.error, Unreachable)
    assert str(cache) in str(proof.error)
    assert not any(file.problem for file in proof.files)
    record.with_name("revision-v1.json").rmdir()
    assert [proof.complete for proof in warm.warm(wanted)] == [True]
    assert [proof.complete for proof in warm.check(wanted)] == [True]


@pytest.mark.parametrize("way", ["mode", "mount"])
def test_afterwards_the_cache_may_be_read_only(hub: Hub, model: Toy, way: str) -> None:
    lock("org/name")
    warm.warm(warm.named(["org/name"]))
    (cache,) = settings.cache_folders()
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    folders = [cache, *(path for path in before if path.is_dir())]
    for folder in folders if way == "mode" else ():
        folder.chmod(0o555)
    try:
        command = unprivileged() if way == "mode" else mounted_read_only(cache)
        write = "import sys; open(sys.argv[1] + '/x', 'w')"
        refused = [*command, sys.executable, "-c", write, str(cache)]
        assert subprocess.run(refused, capture_output=True).returncode == 1, "this test can fail"
        assert load(*command) == expected(model)
        assert {path: path.stat().st_mtime_ns for path in before} == before
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_a_check_needs_neither_a_network_nor_a_cache_to_write_to(hub: Hub) -> None:
    lock("org/name")
    warm.warm(warm.named(["org/name"]))
    (cache,) = settings.cache_folders()
    cut = ("unshare", "-rn", *mounted_read_only(cache))
    if subprocess.run([*cut, "true"], check=False).returncode:
        pytest.skip("this system permits no network namespaces")
    check = [*cut, sys.executable, "-m", "hubstate", "warm", "--check", "--json"]
    done = subprocess.run(check, capture_output=True)
    assert (done.returncode, json.loads(done.stdout)["complete"]) == (0, True), done.stderr
    damage_unnoticed(blob(hub.files["model.safetensors"]))
    assert subprocess.run(check, capture_output=True).returncode == 5


@pytest.mark.parametrize("bare", [False, True], ids=["manifest", "no manifest"])
def test_afterwards_the_cache_may_be_copied_also_with_parts(
    hub: Hub, tmp_path: Path, bare: bool
) -> None:
    if bare:
        del hub.files["hubstate.json"]
    wanted = warm.named(["org/name"])
    warm.warm(wanted, filter=only("conv"))
    copy = tmp_path / "copy"
    shutil.copytree(settings.cache_folders()[0], copy, copy_function=shutil.copy)
    asked = len(hub.seen)
    (proof,) = warm.check(wanted, cache=Cache([copy]), filter=only("conv"))
    assert proof.complete
    damaged = next(file.path for file in proof.files if file.state == "partial")
    assert damaged
    data = damaged.read_bytes()
    damaged.write_bytes(data.replace(b"conv.weight", b"conv.Weight"))
    (proof,) = warm.check(wanted, cache=Cache([copy]), filter=only("conv"))
    assert not proof.complete
    assert len(hub.seen) == asked


def test_afterwards_a_part_is_enough_for_whoever_wants_that_part(hub: Hub, model: Toy) -> None:
    warm.warm(warm.named(["org/name"]), filter=without("fc"))
    os.environ["HUBSTATE_OFFLINE"] = "1"
    other = toy(pretrained="org/name", num_classes=9, filter=without("fc"))
    assert torch.equal(other.conv.weight, model.conv.weight)
    with pytest.raises(Offline):
        toy(pretrained="org/name")


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_the_whole_way_from_the_real_registry(tmp_path: Path, model: Toy, run: Any) -> None:
    with serving_registry(tmp_path / "server") as (url, token):
        os.environ["HUBSTATE_REGISTRY"], os.environ["HUBSTATE_TOKEN"] = url, token
        publish_quickly(model, "admin/name")
        assert run("lock", "add", "admin/name", "--json")[0] == 0
        publish_quickly(toy(), "admin/name", seed=3)
        code, out, _ = run("lock", "check", "--json")
        (verdict,) = json.loads(out)["releases"]
        assert (code, verdict["problem"], len(verdict["moved"])) == (0, None, 40)
        assert run("warm")[0] == 0
        assert run("bundle", "export", str(tmp_path / "b.tar"))[0] == 0
    assert run("warm", "--check")[0] == 0
    assert load(HUBSTATE_OFFLINE="1", HUBSTATE_FROZEN="1", REPO="admin/name") == expected(model)
    folder = str(tmp_path / "inside")
    assert run("bundle", "import", str(tmp_path / "b.tar"), "--registry", folder)[0] == 0
    inside = {
        "REPO": "admin/name",
        "HUBSTATE_REGISTRY": folder,
        "HUBSTATE_CACHE": str(tmp_path / "another"),
    }
    assert load(**inside) == expected(model)
