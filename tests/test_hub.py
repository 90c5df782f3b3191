"""Fetching and publishing by reference: online, offline, pinned, and with lying registries."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hubstate import hub
from hubstate.cache import Cache, entries
from hubstate.digest import Digest
from hubstate.endpoints import Commit, FileInfo, Refs, Stream
from hubstate.endpoints.folder import FolderEndpoint
from hubstate.errors import (
    Conflict,
    DigestMismatch,
    FileNotInRelease,
    InvalidManifest,
    InvalidReference,
    InvalidWeights,
    Offline,
    RepositoryNotFound,
    RevisionNotFound,
    Unreachable,
)
from hubstate.fetching import fetch
from hubstate.header import dump_header
from hubstate.manifest import Entry, FileRecord, Manifest, dump, hash_weights
from hubstate.reference import Reference

WEIGHTS = dump_header({"a": ("float32", (2, 3))}, {}) + bytes(range(24))


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBSTATE_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("HUBSTATE_CACHE", str(tmp_path / "cache"))
    for name in ("HUBSTATE_OFFLINE", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """A release with its manifest."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(WEIGHTS)
    entries = (
        Entry(path="", kind="module", class_name="Model"),
        Entry(path="a", kind="param", shape=(2, 3), dtype="float32", trainable=True),
    )
    manifest = dump(Manifest(structure=entries, files=(hash_weights(path),), license="mit"))
    return {"model.safetensors": WEIGHTS, "hubstate.json": manifest, "README.md": b"# a model"}


class Server:
    """A registry behind a network that can be cut, or lie; a folder does the work."""

    remote = True

    def __init__(self, root: Path) -> None:
        self.folder = FolderEndpoint(root)
        self.name = "http://127.0.0.1:1"
        self.asked: list[str] = []
        self.up = True
        self.states_digests = True
        self.lies: dict[str, bytes] = {}

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if not self.up:
            raise Unreachable(f"{self.name}: connection refused")

    def ask_ahead(self, references: Sequence[Reference]) -> int:
        return 0

    def holds(self, commit: Commit, path: str) -> bool:
        return False

    def resolve(self, reference: Reference) -> Commit:
        self._ask(f"resolve {reference.revision}")
        commit = self.folder.resolve(reference)
        if self.states_digests:
            return commit
        files = {path: FileInfo(size=info.size) for path, info in commit.files.items()}
        return replace(commit, files=files)

    @contextmanager
    def read(
        self, commit: Commit, path: str, *, start: int = 0, stop: int | None = None
    ) -> Iterator[Stream]:
        self._ask(f"read {path} {start}-{stop}" if stop else f"read {path}")
        if path in self.lies:
            yield io.BytesIO(self.lies[path][start:stop])
            return
        true = self.folder.resolve(Reference(repo=commit.repo, revision=commit.id))
        with self.folder.read(true, path, start=start, stop=stop) as stream:
            yield stream

    def repositories(self, pattern: str = "*") -> Iterator[str]:
        self._ask("repositories")
        return self.folder.repositories(pattern)

    def refs(self, repo: str) -> Refs:
        self._ask("refs")
        return self.folder.refs(repo)

    def history(self, reference: Reference) -> Iterator[Commit]:
        self._ask("history")
        return self.folder.history(reference)

    def commit(self, repo: str, changes: object, **options: object) -> Commit:
        self._ask("commit")
        return self.folder.commit(repo, changes, **options)  # type: ignore[arg-type]

    def tag(self, repo: str, tag: str, *, commit: str, author: str) -> None:
        self._ask("tag")
        self.folder.tag(repo, tag, commit=commit, author=author)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path / "registry")


def publish(files: dict[str, bytes], **options: object) -> Commit:
    return hub.publish_files("org/name", files, message="m", **options)  # type: ignore[arg-type]


def blob_of(data: bytes) -> Path:
    digest = Digest.of(data)
    path = Cache().find(digest).path
    assert path
    return path


def damage(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)
    os.utime(path, (1, 1))


# The way through


def test_what_is_published_is_fetched(files: dict[str, bytes]) -> None:
    commit = publish(files, tag="v1")
    release = fetch("org/name@v1")
    assert release.commit == commit
    assert {name: path.read_bytes() for name, path in release.paths.items()} == files
    assert release.manifest
    assert release.manifest.license == "mit"
    assert release.manifest_digest == Digest.of(files["hubstate.json"])
    assert release.read("README.md") == b"# a model"
    assert release.weights == "model.safetensors"


def test_a_release_has_the_files_that_were_given_and_no_others(files: dict[str, bytes]) -> None:
    first = publish({**files, "old.txt": b"old", ".gitattributes": b"*"})
    second = publish(files)
    assert set(second.files) == {*files, ".gitattributes"}
    assert second.parent == first.id
    third = publish({"new.txt": b"new"}, keep=True)
    assert set(third.files) == {*second.files, "new.txt"}


def test_publishing_the_same_again_is_the_same_release(files: dict[str, bytes]) -> None:
    first = publish(files)
    assert publish(files, tag="v1") == first
    assert hub.open_release("org/name@v1").commit == first


def test_files_are_published_from_memory_and_from_disk(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"disk")
    commit = hub.publish_files(
        "org/name", {"a": tmp_path / "file", "b": b"memory"}, message="m", author="Ada"
    )
    assert commit.author == "Ada"
    assert hub.open_release("org/name").read("a") == b"disk"
    with pytest.raises(Unreachable, match="nowhere"):
        hub.publish_files("org/name", {"a": tmp_path / "nowhere"}, message="m")


def test_publishing_on_a_release_that_is_no_longer_the_last_is_a_conflict(
    files: dict[str, bytes],
) -> None:
    first = publish(files)
    second = publish({**files, "n": b"2"})
    with pytest.raises(Conflict, match=second.id):
        publish({**files, "n": b"3"}, parent=first.id)
    with pytest.raises(Conflict, match=second.id):
        publish({**files, "n": b"3"}, parent=None)
    hub.tag_commit("org/name", "v2", commit=second.id)
    with pytest.raises(Conflict, match=second.id):
        hub.tag_commit("org/name", "v2", commit=first.id)


def test_a_repository_is_published_to_by_its_name_alone(files: dict[str, bytes]) -> None:
    with pytest.raises(InvalidReference, match="the branch is an argument"):
        hub.publish_files("org/name@dev", files, message="m")


def test_every_kind_of_revision_opens_the_release(files: dict[str, bytes]) -> None:
    commit = publish(files, tag="v1", branch="fix/BN")
    digest = Digest.of(files["hubstate.json"])
    for revision in ("fix/BN", "v1", commit.id, commit.id[:7], str(digest)):
        assert hub.open_release(f"org/name@{revision}").commit == commit
    assert hub.open_release("org/name@v1").pinned == Reference(
        repo="org/name", revision=str(digest)
    )


def test_opening_fetches_the_manifest_only(files: dict[str, bytes], server: Server) -> None:
    publish(files)
    release = hub.open_release("org/name", registry=server)
    assert server.asked == ["resolve main", "read hubstate.json"]
    assert set(release.paths) == {"hubstate.json"}
    path = release.path("model.safetensors")
    assert release.paths["model.safetensors"] == path
    assert server.asked[2:] == ["read model.safetensors"]


def test_files_are_chosen_by_name_and_by_pattern(files: dict[str, bytes]) -> None:
    publish({**files, "onnx/a.json": b"1"})
    assert set(fetch("org/name", files=["*.json"]).paths) == {"hubstate.json", "onnx/a.json"}
    assert set(fetch("org/name", files="README.md").paths) >= {"README.md"}
    release = fetch("org/name", files=["README.md"])
    assert set(release.paths) == {"README.md", "hubstate.json"}
    with pytest.raises(FileNotInRelease, match=r"no file '\*\.bin'; it has README\.md"):
        fetch("org/name", files=["*.bin"])


def test_progress_hears_of_what_is_fetched_and_of_nothing_else(files: dict[str, bytes]) -> None:
    publish(files)
    told: list[int] = []
    hub.open_release("org/name")
    fetch("org/name", progress=told.append)
    assert sum(told) == len(files["README.md"]) + len(WEIGHTS)
    fetch("org/name", progress=told.append)
    assert sum(told) == len(files["README.md"]) + len(WEIGHTS)


def test_an_interrupted_fetch_is_completed_by_the_next(files: dict[str, bytes]) -> None:
    publish(files)

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("org/name", progress=interrupt)
    assert list((Cache().folders[0] / "tmp").iterdir()) == []
    assert set(fetch("org/name").paths) == set(files)


def test_what_is_not_there_is_named(files: dict[str, bytes]) -> None:
    with pytest.raises(RepositoryNotFound):
        hub.open_release("org/name")
    publish(files)
    with pytest.raises(RevisionNotFound):
        hub.open_release("org/name@v9")
    with pytest.raises(FileNotInRelease, match=r"it has README\.md"):
        hub.open_release("org/name").path("nope")


# Warm


def test_a_pinned_release_in_the_cache_asks_nothing(
    files: dict[str, bytes], server: Server
) -> None:
    commit = publish(files)
    fetch("org/name", registry=server)
    server.asked.clear()
    for revision in (commit.id, str(Digest.of(files["hubstate.json"]))):
        release = fetch(f"org/name@{revision}", registry=server)
        assert set(release.paths) == set(files)
    assert server.asked == []


def test_a_branch_is_asked_for_and_its_unchanged_files_are_not_fetched(
    files: dict[str, bytes], server: Server
) -> None:
    publish(files)
    fetch("org/name", registry=server)
    server.asked.clear()
    moved = publish({**files, "README.md": b"# better"})
    release = fetch("org/name", registry=server)
    assert release.commit == moved
    assert server.asked == ["resolve main", "read README.md"]


def test_a_server_that_states_no_digests_is_asked_for_each_file_once(
    files: dict[str, bytes], server: Server
) -> None:
    publish(files)
    server.states_digests = False
    fetch("org/name", registry=server)
    server.asked.clear()
    assert set(fetch("org/name", registry=server).paths) == set(files)
    assert server.asked == ["resolve main"]
    (entry,) = entries(Cache())
    assert entry.present == set(files)


# Offline


@pytest.mark.parametrize("name", ["HUBSTATE_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_nothing_is_asked_and_the_last_answer_counts(
    files: dict[str, bytes], server: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    commit = publish(files)
    fetch("org/name", registry=server)
    publish({"a": b"newer"})
    server.asked.clear()
    monkeypatch.setenv(name, "1")
    for revision in ("main", commit.id, str(Digest.of(files["hubstate.json"]))):
        release = fetch(f"org/name@{revision}", registry=server)
        assert release.commit == commit
        assert release.weights_header().tensors["a"].shape == (2, 3)
    assert server.asked == []


def test_offline_says_what_is_missing_and_how_to_get_it(
    files: dict[str, bytes], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(files)
    release = hub.open_release("org/name", registry=server)
    server.asked.clear()
    monkeypatch.setenv("HUBSTATE_OFFLINE", "1")
    for call in (
        lambda: release.path("model.safetensors"),
        lambda: release.weights_header(),
        lambda: hub.open_release("org/name@v2", registry=server),
    ):
        with pytest.raises(Offline) as caught:
            call()
        text = str(caught.value)
        assert str(Cache().folders[0]) in text
        assert "hubstate fetch org/name@" in text
        assert server.name in text
    for refused in (
        lambda: hub.open_release("org/name", registry=server, refresh=True),
        lambda: hub.publish_files("org/name", files, message="m", registry=server),
        lambda: hub.tag_commit("org/name", "v", commit="0" * 40, registry=server),
    ):
        with pytest.raises(Offline):
            refused()
    assert server.asked == []


def test_a_server_is_named_by_its_url_and_the_cache_serves_what_came_from_it(
    files: dict[str, bytes], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(files)
    fetch("org/name", registry=server)
    monkeypatch.setenv("HUBSTATE_REGISTRY", f"{server.name}/")
    monkeypatch.setenv("HUBSTATE_OFFLINE", "1")
    assert set(fetch("org/name").paths) == set(files)
    with pytest.raises(Offline, match=f"forbids asking {server.name}"):
        fetch("org/other")


def test_offline_a_folder_registry_is_still_read(
    files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUBSTATE_OFFLINE", "1")
    publish(files)
    assert set(fetch("org/name").paths) == set(files)


def test_offline_a_folder_that_is_not_mounted_is_made_up_for_by_the_cache(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(files)
    fetch("org/name")
    (tmp_path / "registry").rename(tmp_path / "elsewhere")
    with pytest.raises(RepositoryNotFound):
        fetch("org/name")
    monkeypatch.setenv("HUBSTATE_OFFLINE", "1")
    with pytest.warns(UserWarning, match="is taken to mean commit"):
        assert set(fetch("org/name").paths) == set(files)


def test_a_registry_that_is_down_is_made_up_for_with_a_warning(
    files: dict[str, bytes], server: Server
) -> None:
    commit = publish(files)
    fetch("org/name", registry=server)
    server.up = False
    with pytest.warns(UserWarning, match=f"{commit.id}.*connection refused") as caught:
        assert fetch("org/name", registry=server).commit == commit
    assert len(caught) == 1
    with pytest.raises(Unreachable):
        hub.open_release("org/name", registry=server, refresh=True)
    with pytest.raises(Unreachable):
        hub.open_release("org/other", registry=server)


# Damage and lies


def test_a_damaged_file_in_the_cache_is_fetched_again(files: dict[str, bytes]) -> None:
    publish(files)
    path = fetch("org/name").path("model.safetensors")
    damage(path, bytes(len(WEIGHTS)))
    assert fetch("org/name").path("model.safetensors").read_bytes() == WEIGHTS


def test_offline_a_damaged_file_is_named(
    files: dict[str, bytes], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(files)
    release = fetch("org/name", registry=server)
    damage(release.path("model.safetensors"), bytes(len(WEIGHTS)))
    monkeypatch.setenv("HUBSTATE_OFFLINE", "1")
    with pytest.raises(DigestMismatch, match=r"model\.safetensors is damaged in the cache"):
        fetch("org/name", registry=server)


@pytest.mark.parametrize(
    "lie",
    [b"", WEIGHTS[:-1], WEIGHTS + b"x", bytes(len(WEIGHTS))],
    ids=["nothing", "too little", "too much", "other"],
)
@pytest.mark.parametrize("states_digests", [True, False])
def test_other_bytes_than_promised_are_refused_and_not_kept(
    files: dict[str, bytes], server: Server, lie: bytes, states_digests: bool
) -> None:
    publish(files)
    server.states_digests = states_digests
    server.lies = {"model.safetensors": lie}
    with pytest.raises(DigestMismatch, match=r"model\.safetensors of org/name@.* from http"):
        fetch("org/name", registry=server)
    assert Cache().find(Digest.of(lie)).path is None
    server.lies = {}
    assert fetch("org/name", registry=server).read("model.safetensors") == WEIGHTS


def test_another_manifest_than_the_one_pinned_is_refused(
    files: dict[str, bytes], server: Server
) -> None:
    publish(files)
    pinned = f"org/name@{Digest.of(files['hubstate.json'])}"
    server.states_digests = False
    server.lies = {"hubstate.json": dump(Manifest(license="evil"))}
    server.resolve = lambda reference: replace(  # type: ignore[method-assign]
        server.folder.resolve(Reference.parse("org/name")),
        files={"hubstate.json": FileInfo(size=None)},
    )
    with pytest.raises(DigestMismatch, match=r"hubstate\.json of org/name@"):
        hub.open_release(pinned, registry=server)
    server.resolve = lambda reference: replace(  # type: ignore[method-assign]
        server.folder.resolve(Reference.parse("org/name")), files={}
    )
    with pytest.raises(DigestMismatch):
        hub.open_release(pinned, registry=server)


def test_a_manifest_that_contradicts_the_listing_is_refused_with_every_file(
    files: dict[str, bytes],
) -> None:
    records = tuple(
        FileRecord(path=name, size=size, digest=Digest.of(b"other"), header=None, tensors=())
        for name, size in (("README.md", 9), ("absent.bin", 5), ("model.safetensors", 5))
    )
    publish({**files, "hubstate.json": dump(Manifest(files=records))})
    with pytest.raises(DigestMismatch) as caught:
        hub.open_release("org/name")
    text = str(caught.value)
    assert "README.md" in text
    assert "no file 'absent.bin'" in text
    assert "expected 5 bytes, found more than 5" in text


def test_a_manifest_that_cannot_be_read_is_refused(files: dict[str, bytes]) -> None:
    publish({**files, "hubstate.json": b"{"})
    with pytest.raises(InvalidManifest):
        hub.open_release("org/name")


def test_a_manifest_of_a_size_that_none_has_is_not_fetched(server: Server) -> None:
    commit = publish({"hubstate.json": b"{}"})
    huge = replace(commit, files={"hubstate.json": FileInfo(size=1 << 40)})
    server.resolve = lambda reference: huge  # type: ignore[method-assign]
    with pytest.raises(InvalidManifest, match="at most"):
        hub.open_release("org/name", registry=server)
    assert server.asked == []


# Without a manifest


def test_a_release_without_a_manifest_shows_its_structure_by_a_range(server: Server) -> None:
    tensors = {f"layer{n}.weight": ("float32", (4,)) for n in range(5000)}
    weights = dump_header(tensors, {}) + bytes(16 * 5000)
    publish({"model.safetensors": weights})
    release = hub.open_release("org/name", registry=server)
    assert release.manifest is None
    assert release.manifest_digest is None
    assert release.pinned.revision == release.commit.id
    assert set(release.weights_header().tensors) == set(tensors)
    reads = [asked.split()[-1] for asked in server.asked if asked.startswith("read")]
    assert reads[0] == "0-65536"
    assert len(reads) == 2
    assert set(release.paths) == set()
    release.path("model.safetensors")
    server.asked.clear()
    assert len(release.weights_header().tensors) == 5000
    assert server.asked == []


def test_the_weights_of_a_release_are_the_one_file_that_can_be(server: Server) -> None:
    publish({"other.safetensors": WEIGHTS})
    assert hub.open_release("org/name").weights == "other.safetensors"
    publish({"a.safetensors": WEIGHTS, "b.safetensors": WEIGHTS})
    with pytest.raises(FileNotInRelease, match=r"found a\.safetensors, b\.safetensors"):
        _ = hub.open_release("org/name").weights
    publish({"README.md": b"x"})
    with pytest.raises(FileNotInRelease, match="found none"):
        _ = hub.open_release("org/name").weights


def test_weights_that_are_not_safetensors_are_refused() -> None:
    publish({"model.safetensors": b"PK\x03\x04 a zip"})
    with pytest.raises(InvalidWeights):
        hub.open_release("org/name").weights_header()


# Processes

FETCHER = """
import sys
from hubstate.fetching import fetch
release = fetch("org/name")
print(*sorted(release.paths))
assert not {"torch", "numpy", "requests", "tqdm", "huggingface_hub"} & set(sys.modules)
"""


def test_many_processes_fetch_into_one_cache_without_torch(files: dict[str, bytes]) -> None:
    publish({**files, "big": os.urandom(4 << 20)})
    children = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", FETCHER],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for child in children:
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
        assert out.split() == sorted([*files, "big"])
    assert list((Cache().folders[0] / "tmp").iterdir()) == []


def test_the_files_of_a_cache_hold_only_json_and_content(files: dict[str, bytes]) -> None:
    publish(files)
    fetch("org/name")
    for path in Cache().folders[0].rglob("*.json"):
        json.loads(path.read_bytes())
    assert blob_of(WEIGHTS).read_bytes() == WEIGHTS
