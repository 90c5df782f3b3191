"""Releases of several weights files: published, read, and held to what they say of each other."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from commands import Run, runner
from hubs import Hub, serving, serving_registry
from huggingface_hub import load_torch_model, save_torch_state_dict
from quick import described
from torch import nn

import hubstate
import hubstate.fitness
from hubstate.blobs import Blobs
from hubstate.bundle import export_bundle, import_bundle
from hubstate.cache import Cache, entries, prune, remove, verify
from hubstate.endpoints.folder import FolderEndpoint
from hubstate.endpoints.sweeping import sweep
from hubstate.errors import GateRefused, InvalidWeights, StructureMismatch, Unreachable
from hubstate.gate import inspect
from hubstate.hub import open_release, publish_files
from hubstate.lock import LockFile
from hubstate.manifest import NAME, Manifest, dump, hash_plain, hash_weights, parse
from hubstate.pinning import add_pins
from hubstate.scratch import scratch_folder
from hubstate.staging import stage
from hubstate.walk import tensors_of
from hubstate.warm import check, named, warm
from hubstate.weights import save_sharded

INDEX = "model.safetensors.index.json"
SHARDS = tuple(f"model-0000{k}-of-00004.safetensors" for k in (1, 2, 3, 4))


class Net(nn.Module):
    """Three layers of some size, each in a shard, and an embedding that is the head's as well."""

    def __init__(self, seed: int = 0, head: int = 300) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.embed = nn.Embedding(head, 300)
        self.first = nn.Linear(300, 300)
        self.second = nn.Linear(300, 300)
        self.third = nn.Linear(300, 320)
        self.head = nn.Linear(300, head, bias=False)
        self.head.weight = self.embed.weight


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a release, each layer with its bias in a shard of its own."""
    folder = tmp_path_factory.mktemp("staged")
    meaning = described(weights_only=True)
    stage(Net(), folder, meaning, repository="org/name", limit=386_000)
    return folder


@pytest.fixture
def files(staged: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in staged.iterdir()}


@pytest.fixture
def hub(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub(files)
    with serving(hub) as url:
        monkeypatch.setenv("HUBSTATE_REGISTRY", url)
        yield hub


@pytest.fixture
def bare(hub: Hub, tmp_path: Path) -> Hub:
    """A repository without manifest, as huggingface_hub saves a model."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    save_torch_state_dict(Net().state_dict(), folder, max_shard_size="386kB")
    hub.files.clear()
    hub.files.update({path.name: path.read_bytes() for path in folder.iterdir()})
    hub.lfs = {name for name in hub.files if name != INDEX}
    return hub


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


def shards_of(files: dict[str, bytes]) -> list[str]:
    return sorted(name for name in files if name.endswith(".safetensors"))


def test_a_release_lists_every_shard_and_the_index(staged: Path) -> None:
    manifest = parse((staged / NAME).read_bytes())
    assert [file.path for file in manifest.files] == [*SHARDS, INDEX]
    assert [len(file.tensors) for file in manifest.files] == [1, 2, 2, 2, 0]
    assert inspect(staged) == []


def test_stock_clients_read_a_release(staged: Path) -> None:
    model = Net(seed=1)
    missing, unexpected = load_torch_model(model, staged)
    assert (missing, unexpected) == (["head.weight"], []), "it is tied to what was loaded"
    assert same(model, Net())


def test_the_gate_reads_the_index(staged: Path, tmp_path: Path) -> None:
    for path in staged.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weight_map = json.loads((tmp_path / INDEX).read_bytes())["weight_map"]
    weight_map["first.bias"] = SHARDS[0]
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    manifest = parse((tmp_path / NAME).read_bytes())
    files = (*manifest.files[:-1], hash_plain(tmp_path / INDEX))
    changed = Manifest(structure=manifest.structure, files=files, license="mit")
    (tmp_path / NAME).write_bytes(dump(changed))
    (problem,) = inspect(tmp_path)
    assert f"first.bias: expected in {SHARDS[0]}, found no such tensor there" in problem


# From a server, with a manifest


def test_shards_are_loaded_as_one_file_is(hub: Hub) -> None:
    model = Net(seed=1)
    report = hubstate.load_pretrained(model, "org/name")
    assert len(report.loaded) == len(model.state_dict())
    assert same(model, Net())
    assert model.head.weight is model.embed.weight
    sent = len(hub.seen)
    hubstate.load_pretrained(Net(seed=1), "org/name@" + Hub.COMMIT)
    assert len(hub.seen) == sent, "all of it was in the cache"


def test_a_filter_touches_no_shard_in_which_it_wants_nothing(hub: Hub) -> None:
    model = Net(seed=1, head=7)
    hubstate.load_pretrained(model, "org/name", filter=hubstate.only("second"))
    assert torch.equal(model.second.weight, Net().second.weight)
    assert {name for name in hub.files if hub.sent(name)} == {NAME, SHARDS[2]}
    before = hub.sent(SHARDS[2])
    assert before <= 1.01 * len(hub.files[SHARDS[2]])
    hubstate.load_pretrained(Net(seed=1), "org/name")
    assert hub.sent(SHARDS[2]) == before
    assert all(hub.sent(name) == len(hub.files[name]) for name in SHARDS)


def test_a_misfit_moves_no_byte_of_any_shard(hub: Hub) -> None:
    with pytest.raises(StructureMismatch, match=r"embed\.weight"):
        hubstate.load_pretrained(Net(head=7), "org/name")
    assert not any(hub.sent(name) for name in SHARDS)


def test_a_shard_that_lies_is_refused(hub: Hub) -> None:
    hub.corrupt[SHARDS[3]] = len(hub.files[SHARDS[3]]) - 1
    model = Net(seed=1)
    with pytest.raises(hubstate.HubstateError, match=SHARDS[3]):
        hubstate.load_pretrained(model, "org/name")
    assert same(model, Net(seed=1))


def test_warm_proves_every_shard_and_passes_by_the_unwanted(hub: Hub) -> None:
    wanted = named(["org/name"])
    for work in (warm, check):
        (proof,) = work(wanted, filter=hubstate.only("second", "third.bias"))
        states = {file.name: file.state for file in proof.files if file.name in SHARDS}
        assert states == {
            SHARDS[0]: "unwanted",
            SHARDS[1]: "unwanted",
            SHARDS[2]: "fetched" if work is warm else "present",
            SHARDS[3]: "partial",
        }
        assert proof.complete, [str(f.problem) for f in proof.files]
    assert not hub.sent(SHARDS[0])
    (proof,) = warm(wanted)
    assert proof.complete
    hub.files.clear()
    (proof,) = check(wanted)
    assert {file.state for file in proof.files} == {"present"}
    os.environ["HUBSTATE_OFFLINE"] = "1"
    model = Net(seed=1)
    hubstate.load_pretrained(model, "org/name")
    assert same(model, Net())


# From a server, without a manifest


def test_afterwards_a_part_of_what_a_folder_had_needs_the_folder_no_more(
    bare: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = tmp_path / "registry"
    commit = publish_files("org/name", dict(bare.files), message="m", registry=registry)
    reference = f"org/name@{commit.id}"
    monkeypatch.setenv("HUBSTATE_REGISTRY", str(registry))
    (proof,) = warm(named([reference]), filter=hubstate.only("first"))
    assert proof.complete
    registry.rename(tmp_path / "gone")
    (proof,) = check(named([reference]), filter=hubstate.only("first"))
    assert proof.complete
    assert [file.state for file in proof.files].count("unwanted") >= 2
    blobs = [path for _, path in Blobs(Cache().folders[0])]
    assert sum(path.stat().st_size for path in blobs) < 500_000, "of no other shard but its header"
    model = Net(seed=1)
    hubstate.load_pretrained(model, reference, filter=hubstate.only("first"))
    assert torch.equal(model.first.weight, Net().first.weight)


def test_what_huggingface_hub_saves_is_loaded(bare: Hub) -> None:
    model = Net(seed=1)
    hubstate.load_pretrained(model, "org/name")
    assert same(model, Net())
    os.environ["HUBSTATE_OFFLINE"] = "1"
    again = Net(seed=1)
    hubstate.load_pretrained(again, "org/name")
    assert same(again, Net())


def test_an_index_may_have_another_name_if_it_is_the_only_one(bare: Hub) -> None:
    bare.files["model.fp16.safetensors.index.json"] = bare.files.pop(INDEX)
    hubstate.load_pretrained(model := Net(seed=1), "org/name")
    assert same(model, Net())


def test_without_a_manifest_a_filter_moves_its_own_bytes(bare: Hub) -> None:
    model = Net(seed=1, head=7)
    hubstate.load_pretrained(model, "org/name", filter=hubstate.only("second.bias"))
    assert torch.equal(model.second.bias, Net().second.bias)
    assert all(bare.sent(name) < (64 << 10) + 2000 for name in shards_of(bare.files)), "headers"
    (proof,) = warm(named(["org/name"]), filter=hubstate.only("second"))
    states = [file.state for file in proof.files if file.name.endswith(".safetensors")]
    assert sorted(states) == ["fetched", "unwanted", "unwanted", "unwanted"]
    assert [bare.sent(name) > 300_000 for name in shards_of(bare.files)].count(True) == 1
    os.environ["HUBSTATE_OFFLINE"] = "1"
    assert all(
        proof.complete for proof in check(named(["org/name"]), filter=hubstate.only("second"))
    )
    hubstate.load_pretrained(model, "org/name", filter=hubstate.only("second"))
    assert torch.equal(model.second.weight, Net().second.weight)


def _drop(hub: Hub, name: str) -> None:
    del hub.files[name]


def _index(hub: Hub, change: Callable[[dict[str, str]], object]) -> None:
    index = json.loads(hub.files[INDEX])
    change(index["weight_map"])
    hub.files[INDEX] = json.dumps(index).encode()


def _twice(hub: Hub) -> None:
    first, second = shards_of(hub.files)[:2]
    hub.files[second] = hub.files[first]


BREAKS: dict[str, tuple[Callable[[Hub], object], str]] = {
    "a shard is missing": (
        lambda hub: _drop(hub, SHARDS[1]),
        f"expected the file {SHARDS[1]}, found none",
    ),
    "a path climbs": (
        lambda hub: _index(hub, lambda m: m.update({"first.bias": "../a.safetensors"})),
        r"first\.bias: expected the name of a \.safetensors file beside it, found '\.\./a",
    ),
    "a name is missing from its shard": (
        lambda hub: _index(hub, lambda m: m.update({"more": SHARDS[0]})),
        f"more: expected in {SHARDS[0]}, found no such tensor there",
    ),
    "a name is not in the index": (
        lambda hub: _index(hub, lambda m: m.pop("first.bias")),
        r"first\.bias: expected nowhere, found in model-0000",
    ),
    "a name is in two shards": (_twice, rf"expected in {SHARDS[0]}, found in {SHARDS[1]}"),
    "a shard is no safetensors file": (
        lambda hub: hub.files.update({SHARDS[2]: b"\x80\x04" * 50}),
        f"{SHARDS[2]} of org/name@c+: bytes 0–8",
    ),
    "it is no JSON": (lambda hub: hub.files.update({INDEX: b"no"}), f"{INDEX} of org/name@c+: "),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_an_index_that_disagrees_with_its_files_loads_nothing(bare: Hub, kind: str) -> None:
    damage, message = BREAKS[kind]
    damage(bare)
    model = Net(seed=1)
    with pytest.raises(InvalidWeights, match=message):
        hubstate.load_pretrained(model, "org/name")
    assert same(model, Net(seed=1))


# Published


def test_under_another_limit_a_release_has_other_files_and_no_old_ones(
    files: dict[str, bytes],
) -> None:
    first = publish_files("org/name", files, message="In shards")
    publish = functools.partial(
        hubstate.publish, Net(), "org/name", license="mit", weights_only=True
    )
    os.environ["HUBSTATE_MAX_SHARD_SIZE"] = "386kB"
    assert publish().action == "unchanged"
    with pytest.raises(GateRefused, match="only files differ"):
        publish(max_shard_size="2MB")
    one = publish(max_shard_size="2MB", allow_equal=True)
    assert (one.difference.meaning, one.parent) == (("files",), first.id)
    names = set(open_release("org/name").commit.files)
    assert names == {NAME, "model.safetensors", "config.json", "README.md"}


def test_shards_go_to_a_server_and_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, staged: Path
) -> None:
    monkeypatch.setattr("hubstate.endpoints.outgoing._TOGETHER", 0)  # shard after shard
    with serving_registry(tmp_path / "server") as (url, token):
        monkeypatch.setenv("HUBSTATE_REGISTRY", url)
        monkeypatch.setenv("HUBSTATE_TOKEN", token)
        files: dict[str, Path | bytes] = {path.name: path for path in staged.iterdir()}
        send, calls = huggingface_hub.HfApi.preupload_lfs_files, iter(range(9))

        def cut_off(*arguments: Any, **options: Any) -> None:
            if next(calls) == 2:
                raise ConnectionError("cut off")
            send(*arguments, **options)

        with monkeypatch.context() as patch, pytest.raises(Unreachable, match="cut off"):
            patch.setattr(huggingface_hub.HfApi, "preupload_lfs_files", cut_off)
            publish_files("admin/name", files, message="Cut off")
        assert not set(open_release("admin/name").commit.files) & set(files)
        commit = publish_files("admin/name", files, message="All of it")
        assert set(commit.files) - {".gitattributes"} == set(files)
        model = Net(seed=1)
        hubstate.load_pretrained(model, "admin/name")
        assert same(model, Net())
        one = {name: data for name, data in files.items() if name not in {*SHARDS, INDEX}}
        after = publish_files("admin/name", one, message="Without shards")
        assert set(after.files) - {".gitattributes"} == set(one)


def test_a_publish_that_breaks_off_is_completed_by_running_it_again(
    staged: Path, files: dict[str, bytes]
) -> None:
    old = publish_files("org/name", {"a.txt": b"1"}, message="Old")
    cut: dict[str, Path | bytes] = {**files, SHARDS[2]: staged / "gone"}
    with pytest.raises(Unreachable, match="gone"):
        publish_files("org/name", cut, message="Cut off")
    assert open_release("org/name").commit.id == old.id
    publish_files("org/name", files, message="All of it")
    model = Net(seed=1)
    hubstate.load_pretrained(model, "org/name")
    assert same(model, Net())


def test_what_is_staged_beside_a_registry_is_moved_and_what_is_not_is_copied(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    registry = FolderEndpoint(tmp_path / "registry")
    assert registry.scratch is None, "there is nothing yet, and looking must not make it"
    publish_files("org/name", {"a": b"1"}, message="First", registry=str(registry.root))
    own = tmp_path / "own"
    own.write_bytes(b"of the user")
    assert registry.scratch is not None
    with scratch_folder(registry.scratch) as folder:
        (staged := folder / "weights").write_bytes(b"of ours")
        inode = staged.stat().st_ino
        commit = publish_files(
            "org/name", {"o": own, "w": staged}, message="Both", registry=str(registry.root)
        )
        assert not staged.exists()
    blobs = Blobs(registry.root)
    moved, copied = (blobs.path(commit.files[name].digest) for name in "wo")  # type: ignore[arg-type]
    assert moved.stat().st_ino == inode
    assert moved.stat().st_mode & 0o777 == copied.stat().st_mode & 0o777
    assert own.read_bytes() == b"of the user"
    assert copied.stat().st_ino != own.stat().st_ino
    assert list(registry.scratch.iterdir()) == []


def test_a_registry_without_a_folder_to_write_to_has_nothing_staged_in_it(tmp_path: Path) -> None:
    root = tmp_path / "registry"
    publish_files("org/name", {"a": b"1"}, message="First", registry=str(root))
    assert FolderEndpoint(root).scratch == root / "tmp"
    (root / "tmp").rmdir()
    (root / "tmp").touch()
    assert FolderEndpoint(root).scratch is None


def test_a_sweep_removes_what_a_killed_publisher_staged_a_day_later(tmp_path: Path) -> None:
    root = tmp_path / "registry"
    publish_files("org/name", {"a": b"1"}, message="First", registry=str(root))
    folder = root / "tmp" / "hubstate-01234567-1-x"
    folder.mkdir()
    (folder / "weights").write_bytes(b"1")
    long_ago = time.time() - 90_000
    os.utime(folder, (long_ago, long_ago))
    sweep(root)
    assert folder.exists(), "something in it is young"
    os.utime(folder / "weights", (long_ago, long_ago))
    assert sweep(root).paths == (folder,)
    assert not folder.exists()


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux only")
def test_staging_takes_less_memory_than_a_shard(tmp_path: Path) -> None:
    model = nn.ModuleList(nn.Linear(2048, 2048) for _ in range(6))  # 16 MiB each
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak starts anew
    before = _memory("VmHWM")
    problems = hubstate.fitness._nonfinite(dict(model.state_dict()))
    paths = save_sharded(tmp_path / "model.safetensors", tensors_of(model), limit=33 << 20)
    assert len(paths) == 4
    for path in paths[:-1]:
        hash_weights(path)
    assert list(problems) == []
    assert _memory("VmHWM") - before < 24 << 20


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


@pytest.mark.parametrize("turned", [False, True])
def test_every_bad_value_is_counted_block_by_block(
    monkeypatch: pytest.MonkeyPatch, turned: bool
) -> None:
    monkeypatch.setattr(hubstate.fitness, "_BLOCK", 7)
    tensor = torch.zeros(5, 3, 4)
    tensor.flatten()[::9] = float("nan")
    tensor.flatten()[1::9] = float("inf")
    tensor = tensor.permute(2, 0, 1) if turned else tensor
    (problem,) = hubstate.fitness._nonfinite({"t": tensor})
    assert "14 of 60 values" in problem
    assert all(block.numel() <= 15 for block in hubstate.fitness._blocks(tensor))


# Everything else that reads releases


def test_locked_bundled_and_looked_after_like_any_other(
    staged: Path, tmp_path: Path, files: dict[str, bytes]
) -> None:
    publish_files("org/name", files, message="First")
    lock, _ = add_pins(LockFile(), ["org/name"])
    (pin,) = lock.releases.values()
    assert set(pin.files) == set(files)
    export_bundle(lock, tmp_path / "b.tar")
    import_bundle(tmp_path / "b.tar", tmp_path / "far")
    model = Net(seed=1)
    hubstate.load_pretrained(model, "org/name", registry=str(tmp_path / "far"))
    assert same(model, Net())
    cache = Cache()
    entry = next(entry for entry in entries(cache) if entry.endpoint.endswith("registry"))
    assert entry.present == set(files)
    assert not verify(cache).damaged
    remove(cache, pin.reference, every=True)
    prune(cache, age=0)
    assert [path for _, path in Blobs(cache.folders[0])] == []


def test_the_commands_take_a_release_and_an_index(
    run: Run, staged: Path, tmp_path: Path, files: dict[str, bytes]
) -> None:
    publish_files("org/name", files, message="First")
    index = str(staged / INDEX)
    code, out, _ = run("show", "org/name", "--json")
    assert (code, json.loads(out)["totals"]["ties"]) == (0, 1)
    code, out, _ = run("show", index, "--json")
    assert (code, json.loads(out)["totals"]["tensors"]) == (0, 8)
    assert run("diff", "org/name", index)[0] == 0
    target = tmp_path / "one.safetensors"
    assert run("export", "org/name", str(target), "--to", "safetensors")[0] == 0
    assert run("diff", "org/name", str(target), "--values")[0] == 0
    for number, source in enumerate(("org/name", index)):
        output = tmp_path / f"{number}.safetensors"
        assert run("import", source, "--output", str(output))[0] == 0
        assert run("diff", str(target), str(output))[0] == 0
