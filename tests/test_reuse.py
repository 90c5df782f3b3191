"""What other releases in the cache have is not fetched again: a new head costs the head."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hubs import Hub, serving
from hypothesis import given
from hypothesis import strategies as st
from quick import release_of
from torch import nn

from hubstate import hub as hubs
from hubstate import warm
from hubstate.blobs import Blobs, FileInfo
from hubstate.cache import Cache, batch, donors, leases, remove
from hubstate.cache.releases import Releases
from hubstate.cache.siblings import wait_for_siblings
from hubstate.cli import main
from hubstate.copying import copy_range, split
from hubstate.digest import Digest
from hubstate.endpoints.http import HttpEndpoint
from hubstate.errors import DigestMismatch
from hubstate.fetching import fetch
from hubstate.hub import Release, publish_files
from hubstate.manifest import parse
from hubstate.progress import quiet
from hubstate.reference import Reference
from hubstate.transport import Patience
from hubstate.transport.chunks import Chunk, tile
from hubstate.transport.copies import join
from hubstate.transport.runs import read_journal
from hubstate.warm.families import families

HASTE = Patience(attempts=4, base=0.001, longest=0.02)
NAME = "model.safetensors"
BODY = [f"body.{i}.weight" for i in range(8)]
SMALL = 13 * 4 * 256  # bytes of the biases and the normalisation


class Net(nn.Module):
    """Eight layers of 256 KiB with small biases, a normalisation and a head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.ModuleList(nn.Linear(256, 256) for _ in range(8))
        self.bn = nn.BatchNorm1d(256)
        self.fc = nn.Linear(256, classes)


@functools.cache
def files(classes: int, *, seed: int = 0, body: int = 0) -> dict[str, bytes]:
    """A release of a model, with the seeds of its head and of its body."""
    model = Net(classes)
    torch.manual_seed(body)
    for layer in model.body:
        nn.init.normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    torch.manual_seed(seed)
    nn.init.normal_(model.fc.weight)
    nn.init.normal_(model.fc.bias)
    return release_of(model)


@contextmanager
def served(*releases: dict[str, bytes]) -> Iterator[list[Hub]]:
    """A server for each release."""
    with ExitStack() as stack:
        made = [Hub(dict(release)) for release in releases]
        for one in made:
            stack.enter_context(serving(one))
        yield made


@pytest.fixture
def base() -> dict[str, bytes]:
    """A release that is in the cache."""
    made = files(10)
    with served(made) as [hub]:
        release(hub).path(NAME)
    return made


@pytest.fixture
def hub(base: dict[str, bytes]) -> Iterator[Hub]:
    """A server with a fine-tune of it that has another head."""
    with served(files(300, seed=1)) as [hub]:
        yield hub


def release(hub: Hub) -> Release:
    return hubs.open_release("org/name", registry=HttpEndpoint(hub.base, patience=HASTE))


def cost(made: dict[str, bytes], *names: str) -> int:
    """The bytes of the header and of some tensors."""
    [record] = [file for file in parse(made["hubstate.json"]).files if file.path == NAME]
    chosen = [t for t in record.tensors if t.name in names]
    assert len(chosen) == len(names)
    return record.tensors[0].start + sum(t.stop - t.start for t in chosen)


def head(made: dict[str, bytes]) -> int:
    return cost(made, "fc.weight", "fc.bias")


def blob(made: dict[str, bytes], folder: Path | None = None) -> Path:
    place = folder or Path(os.environ["HUBSTATE_CACHE"])
    return Blobs(place).path(Digest.of(made[NAME]))


def left_behind() -> list[Path]:
    cache = Path(os.environ["HUBSTATE_CACHE"])
    return [p for part in ("partial", "tmp") for p in (cache / part).rglob("*") if p.is_file()]


# What moves


def test_another_head_costs_the_head(hub: Hub) -> None:
    told: list[int] = []
    opened = release(hub)
    assert opened.path(NAME, progress=told.append).read_bytes() == hub.files[NAME]
    assert head(hub.files) <= hub.sent(NAME) <= 1.01 * head(hub.files)
    assert sum(told) == len(hub.files[NAME])
    assert left_behind() == []
    traffic = opened.source.traffic[NAME]
    assert traffic.downloaded == hub.sent(NAME)
    assert traffic.reused == len(hub.files[NAME]) - hub.sent(NAME)
    assert opened.traffic.downloaded == traffic.downloaded + len(hub.files["hubstate.json"])


def test_another_revision_of_the_same_shapes_costs_what_changed(base: dict[str, bytes]) -> None:
    with served(files(10, seed=1)) as [hub]:
        assert release(hub).path(NAME).read_bytes() == hub.files[NAME]
    changed = head(hub.files) - cost(hub.files)
    assert changed <= hub.sent(NAME) <= 1.01 * changed


def test_a_release_of_another_repository_and_registry_is_found(tmp_path: Path) -> None:
    publish_files("other/base", files(10), message="Base", registry=tmp_path / "folder")
    fetch("other/base", registry=tmp_path / "folder")
    with served(files(300, seed=1)) as [hub]:
        assert release(hub).path(NAME).read_bytes() == hub.files[NAME]
    assert hub.sent(NAME) <= 1.01 * head(hub.files)


def test_what_two_releases_have_is_put_together(base: dict[str, bytes]) -> None:
    other = files(300, body=2)
    with served(other) as [hub]:
        release(hub).path(NAME)
    with served(files(300)) as [hub]:
        assert release(hub).path(NAME).read_bytes() == hub.files[NAME]
    assert hub.sent(NAME) == 0


def test_small_tensors_between_others_are_fetched_along_with_them() -> None:
    with served(files(300), files(300, body=2)) as [one, other]:
        release(one).path(NAME)
        assert release(other).path(NAME).read_bytes() == other.files[NAME]
    asked = [seen for seen in other.seen if seen.path.endswith(NAME)]
    assert len(asked) == 1
    body = cost(other.files, *BODY) - cost(other.files)
    assert body < other.sent(NAME) <= body + SMALL


def test_a_tensor_that_is_in_a_file_twice_is_fetched_once() -> None:
    model = Net(10)
    with torch.no_grad():
        for layer in model.body:
            layer.weight.zero_()
    with served(release_of(model)) as [hub]:
        assert release(hub).path(NAME).read_bytes() == hub.files[NAME]
    assert hub.sent(NAME) == len(hub.files[NAME]) - 7 * 4 * 256 * 256


def test_without_digests_nothing_is_taken_for_the_same(hub: Hub) -> None:
    del hub.files["hubstate.json"]
    assert release(hub).path(NAME).read_bytes() == hub.files[NAME]
    assert hub.sent(NAME) == len(hub.files[NAME])


def test_a_server_without_ranges_costs_the_whole_file(hub: Hub) -> None:
    opened = release(hub)
    hub.ranges = False
    assert opened.path(NAME).read_bytes() == hub.files[NAME]
    assert opened.source.traffic[NAME].reused == 0
    assert left_behind() == []


def test_nothing_is_looked_for_where_the_file_is_there(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(hub).path(NAME)
    monkeypatch.delattr(donors, "find_chunks")
    assert release(hub).path(NAME).read_bytes() == hub.files[NAME]
    code = (
        "import sys, hubstate.hub; print([m for m in sys.modules if 'donors' in m or 'cop' in m])"
    )
    answer = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert "donors" not in answer
    assert "hubstate.copying" not in answer


# Parts of files


def test_a_part_of_a_file_is_taken_from_another_release(hub: Hub) -> None:
    path = release(hub).tensors_path(NAME, BODY)
    assert hub.sent(NAME) <= cost(hub.files)
    record = release(hub).source.records[NAME]
    for tensor in (t for t in record.tensors if t.name in BODY):
        part = slice(tensor.start, tensor.stop)
        assert path.read_bytes()[part] == hub.files[NAME][part]


def test_a_part_of_another_release_is_a_source_too() -> None:
    with served(files(10), files(300, seed=1)) as [one, other]:
        release(one).tensors_path(NAME, BODY[:6])
        assert release(other).path(NAME).read_bytes() == other.files[NAME]
    rest = cost(other.files, "fc.weight", "fc.bias", *BODY[6:])
    assert other.sent(NAME) <= 1.01 * rest + SMALL


# Layers


def test_a_layer_below_is_copied_from_and_stays_as_it_is(
    base: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = Path(os.environ["HUBSTATE_CACHE"])
    before = {path: path.stat().st_mtime_ns for path in below.rglob("*")}
    monkeypatch.setenv("HUBSTATE_CACHE", f"{tmp_path / 'own'}{os.pathsep}{below}")
    with served(files(300, seed=1)) as [hub]:
        assert release(hub).path(NAME) == blob(hub.files, tmp_path / "own")
    assert hub.sent(NAME) <= 1.01 * head(hub.files)
    assert {path: path.stat().st_mtime_ns for path in below.rglob("*")} == before


# Sources that are not what they should be


def test_a_damaged_source_costs_what_is_damaged(base: dict[str, bytes], hub: Hub) -> None:
    tensor = next(t for t in parse(base["hubstate.json"]).files[0].tensors if t.name == BODY[3])
    damage(blob(base), at=tensor.start + 7)
    assert release(hub).path(NAME).read_bytes() == hub.files[NAME]
    assert hub.sent(NAME) <= 1.01 * cost(hub.files, "fc.weight", "fc.bias", BODY[3])


def test_a_source_that_is_cut_off_costs_what_is_missing(base: dict[str, bytes], hub: Hub) -> None:
    blob(base).chmod(0o644)
    os.truncate(blob(base), 1_000_000)
    assert release(hub).path(NAME).read_bytes() == hub.files[NAME]
    assert hub.sent(NAME) <= len(hub.files[NAME]) - 2 * 4 * 256 * 256


@pytest.mark.parametrize("copied", [0, 4])
def test_a_source_that_is_removed_meanwhile_is_done_without(copied: int) -> None:
    """The first word of progress comes before the search, the next after each source."""
    with served(files(10, seed=5), files(20, seed=6), files(300, seed=1)) as [one, other, hub]:
        release(one).tensors_path(NAME, BODY[:4])
        release(other).tensors_path(NAME, BODY[4:])
        told: list[int] = []

        def interfere(count: int) -> None:
            told.append(count)
            if len(told) == 1 + bool(copied):
                for part in Path(os.environ["HUBSTATE_CACHE"]).glob("partial/*/*.part"):
                    part.unlink()

        opened = release(hub)
        assert opened.path(NAME, progress=interfere).read_bytes() == hub.files[NAME]
    assert opened.source.traffic[NAME].reused // (4 * 256 * 256) == copied


def damage(path: Path, *, at: int) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_what_a_killed_process_has_copied_is_not_lost(base: dict[str, bytes], hub: Hub) -> None:
    hub.rate = 1e5
    code = "import sys, hubstate; hubstate.fetch('org/name', registry=sys.argv[1])"
    with subprocess.Popen([sys.executable, "-c", code, hub.base]) as child:
        while not any(read_journal(path) for path in journals()):
            assert child.poll() is None
            time.sleep(0.01)
        child.kill()
    while hub.busy:
        time.sleep(0.01)
    remove(Cache(), Reference.parse("org/name"), every=True)
    assert not blob(base).exists()
    hub.rate, before = None, hub.sent(NAME)
    assert release(hub).path(NAME).read_bytes() == hub.files[NAME]
    assert hub.sent(NAME) - before <= 1.01 * head(hub.files)


def journals() -> list[Path]:
    return list(Path(os.environ["HUBSTATE_CACHE"]).rglob("journal"))


def test_a_release_cannot_pass_off_its_bytes_as_those_of_another(tmp_path: Path) -> None:
    """Its manifest claims the digests of tensors that its file does not have."""
    true, other = files(10), files(10, body=3)
    lie = other["hubstate.json"]
    for ours, theirs in zip(digests(true), digests(other), strict=True):
        lie = lie.replace(theirs, ours)
    liar = {**other, "hubstate.json": lie}
    publish_files("evil/base", liar, message="Lie", registry=tmp_path / "folder")
    fetch("evil/base", registry=tmp_path / "folder")
    with served(true) as [hub]:
        assert release(hub).path(NAME).read_bytes() == true[NAME]


def digests(made: dict[str, bytes]) -> list[bytes]:
    tensors = [t for t in parse(made["hubstate.json"]).files[0].tensors if t.name in BODY]
    return [digest.hex.encode() for tensor in tensors for digest in tensor.digests]


# The search


def test_the_search_ends_where_it_would_cost_more_than_it_saves(
    base: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.loads(base["hubstate.json"])
    for number in range(8):
        text["provenance"] = {"note": str(number) + "x" * 200_000}
        made = {"hubstate.json": json.dumps(text).encode(), NAME: base[NAME]}
        publish_files(f"org/m{number}", made, message="m", registry=tmp_path / "folder")
        hubs.open_release(f"org/m{number}", registry=tmp_path / "folder")
    read: list[int] = []
    true = donors._read

    def counted(cache: Cache, digest: Digest) -> bytes:
        data = true(cache, digest)
        read.append(len(data))
        return data

    monkeypatch.setattr(donors, "_read", counted)
    [near] = [known.commit for known in Releases(Cache().folders[0]).all()][-1:]
    absent = Chunk(0, 4 << 20, Digest.of(b"nowhere"))
    assert donors.find_chunks(Cache(), [absent], near=[near]) == {}
    assert 1 << 20 <= sum(read) <= (1 << 20) + 250_000
    read.clear()
    blob(base).unlink()  # the manifests alone are of no use
    assert donors.find_chunks(Cache(), [absent], near=[near]) == {}
    assert read == []


# Many at once


def test_a_family_is_warmed_with_one_backbone() -> None:
    made = [files(100 + number, seed=number) for number in range(4)]
    with served(*made) as some:
        wanted = [
            warm.Wanted(reference=Reference.parse("org/name"), registry=hub.base) for hub in some
        ]
        proofs = warm.warm(wanted, progress=quiet)
    assert all(proof.complete for proof in proofs)
    sent = [hub.sent(NAME) for hub in some]
    body = 8 * 4 * 256 * 256
    assert sum(sent) <= body + 1.01 * sum(head(one) for one in made) + SMALL
    told = [file.traffic for proof in proofs for file in proof.files if file.name == NAME]
    assert [traffic.downloaded for traffic in told] == sent
    assert sum(traffic.reused for traffic in told) == sum(len(one[NAME]) for one in made) - sum(
        sent
    )


def test_strangers_are_warmed_with_one_search_and_one_request_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        publish_files(f"other/m{number}", files(10, body=number), message="m", registry=tmp_path)
        fetch(f"other/m{number}", registry=tmp_path)
    searched: list[int] = []
    true = batch.find_chunks

    def counted(*arguments: Any, **more: Any) -> Any:
        searched.append(1)
        return true(*arguments, **more)

    monkeypatch.setattr(batch, "find_chunks", counted)
    made = [files(300, seed=9 + n, body=n) for n in range(4)]  # the last has no relative
    with served(*made) as some:
        wanted = [
            warm.Wanted(reference=Reference.parse("org/name"), registry=hub.base) for hub in some
        ]
        proofs = warm.warm(wanted, progress=quiet)
    assert all(proof.complete for proof in proofs)
    assert searched == [1]
    for hub, one in list(zip(some, made, strict=True))[:3]:
        assert hub.sent(NAME) <= 1.01 * head(one)
    assert 0.99 * len(made[3][NAME]) <= some[3].sent(NAME) <= len(made[3][NAME])
    assert [seen.path.rpartition("/")[2] for seen in some[3].seen].count(NAME) == 1
    assert left_behind() == []


FETCH = "import sys, hubstate; hubstate.fetch('org/name', registry=sys.argv[1])"


def start_fetch(hub: Hub) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", FETCH, hub.base])


@pytest.mark.parametrize("killed", [False, True], ids=["", "killed"])
def test_a_sibling_that_another_process_fetches_is_waited_for(killed: bool) -> None:
    made = [files(100, seed=1), files(300, seed=2)]
    with served(*made) as [first, second]:
        first.rate = 5e5
        with start_fetch(first) as one:
            while not first.sent(NAME):
                time.sleep(0.01)
            with start_fetch(second) as two:
                while len(second.seen) < 2:
                    time.sleep(0.01)
                time.sleep(0.5)
                assert second.sent(NAME) == 0
                first.rate = None
                if killed:
                    one.kill()
        assert [one.returncode, two.returncode] == [-9 if killed else 0, 0]
        least = len(made[1][NAME]) if killed else head(made[1])
        assert 0.99 * least <= second.sent(NAME) <= 1.01 * least
    assert not list(Cache().folders[0].glob("leases/*"))


def test_only_a_lease_from_before_is_waited_for(base: dict[str, bytes], hub: Hub) -> None:
    """Of two that could wait for one another, the second one's lease is news to the first."""
    opened = release(hub)
    lease = Cache().folders[0] / "leases" / Digest.of(base[NAME]).hex
    lease.parent.mkdir(exist_ok=True)
    lease.write_text("first")
    assert leases.held(Cache().writable) == {lease: b"first"}
    blob(base).unlink()
    chunks = tile(opened.source.records[NAME]) or ()
    wait = functools.partial(wait_for_siblings, Cache(), chunks, {}, near=[opened.commit])
    thread = threading.Thread(target=wait, kwargs={"leases": {lease: b"first"}})
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    lease.write_text("second")
    thread.join(5)
    assert not thread.is_alive()


def test_what_is_warm_has_reached_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: set[int] = set()
    true = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: (flushed.add(os.fstat(file).st_ino), true(file))[1]
    )
    with served(files(10)) as [hub]:
        wanted = [warm.Wanted(reference=Reference.parse("org/name"), registry=hub.base)]
        [proof] = warm.warm(wanted, progress=quiet)
    records = (Path(os.environ["HUBSTATE_CACHE"]) / "endpoints").glob("*/*/*/*.json")
    kept = [*(file.path for file in proof.files if file.path), *records]
    assert len(kept) == 3 + 2
    assert {path.stat().st_ino for path in kept} <= flushed


def test_only_files_that_share_large_tensors_wait_for_one_another() -> None:
    made = [files(100), files(200, body=1), files(100, seed=1), files(200, body=1, seed=1)]
    with served(*made) as some:
        tasks = [(release(hub), NAME) for hub in some]
        tasks.append((tasks[0][0], "README.md"))
    a, b, c, d, e = tasks
    assert families(tasks) == [[a, c], [b, d], [e]]


def test_the_command_line_says_what_was_reused(
    hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUBSTATE_REGISTRY", hub.base)

    def told(*words: str) -> Any:
        with pytest.raises(SystemExit) as ended:
            main([*words, "--json"])
        assert ended.value.code == 0
        return json.loads(capsys.readouterr().out)

    small = len(hub.files["README.md"]) + len(hub.files["hubstate.json"])
    warmed = told("warm", "org/name")
    assert warmed["downloaded"] == hub.sent(NAME) + small
    assert warmed["reused"] == len(hub.files[NAME]) - hub.sent(NAME)
    [proof] = warmed["releases"]
    assert proof["files"][NAME]["reused"] == warmed["reused"]
    fetched = told("fetch", "org/name")
    assert (fetched["downloaded"], fetched["reused"]) == (0, 0)


# Copying


@given(
    start=st.integers(0, 20_000),
    size=st.integers(0, 20_000),
    shift=st.one_of(st.integers(0, 20_000), st.sampled_from([0, 4096, 8192])),
    length=st.integers(0, 40_000),
)
def test_a_range_arrives_as_far_as_the_source_has_it(
    tmp_path_factory: pytest.TempPathFactory, start: int, size: int, shift: int, length: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    data = torch.arange(length, dtype=torch.int32).numpy().tobytes()[:length]
    (folder / "source").write_bytes(data)
    with (folder / "source").open("rb") as source, (folder / "target").open("w+b") as target:
        stop = start + size
        copy_range(source.fileno(), target.fileno(), start=start, stop=stop, at=start + shift)
        found = os.pread(target.fileno(), size, start + shift)
    assert found == data[start:stop]
    parts = split(start, stop, shift=shift, block=4096)
    assert [parts[0][0], *(stop for _, stop in parts)] == [*(start for start, _ in parts), stop]


@pytest.mark.parametrize("size", [None, 4_000, 4_097, 5_000])
def test_a_file_is_stored_from_where_it_was_read_to_and_is_as_long_as_stated(
    tmp_path: Path, size: int | None
) -> None:
    data = os.urandom(4_197)
    (tmp_path / "source").write_bytes(data)
    told: list[int] = []
    with (tmp_path / "source").open("rb", buffering=0) as source:
        source.seek(100)
        with pytest.raises(DigestMismatch) if size in (4_000, 5_000) else nullcontext():
            digest, status = Blobs(tmp_path).add(
                source, info=FileInfo(size=size), what="source", progress=told.append
            )
    if size in (None, 4_097):
        assert (digest, status.st_size, sum(told)) == (Digest.of(data[100:]), 4_097, 4_097)
        assert Blobs(tmp_path).path(digest).read_bytes() == data[100:]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5), st.integers(0, 9))))
def test_runs_cover_what_is_to_be_copied(steps: list[tuple[int, int, int]]) -> None:
    copies, at = [], 0
    for gap, size, place in steps:
        copies.append((Chunk(at + gap, at + gap + size), at + place))
        at += gap + size
    singly = {t + i: s + i for c, s in copies for t in [c.start] for i in range(c.size)}
    runs = {at + i: start + i for start, stop, at in join(copies) for i in range(stop - start)}
    assert runs == singly
