"""Files that are fetched together have one journal, and go on one by one where they broke off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hubs import Hub, serving
from test_transport_fetching import HASTE, left_behind, weights

from hubstate.cache import Cache
from hubstate.cache.batch import Batch
from hubstate.cache.partials import MANY
from hubstate.digest import Digest
from hubstate.endpoints.http import HttpEndpoint
from hubstate.hub import Release, open_release
from hubstate.manifest import Entry, Manifest, dump, hash_weights
from hubstate.transport.chunks import Chunk
from hubstate.transport.convoy import Convoy, find_members, has_member, unpack
from hubstate.transport.part import Part
from hubstate.transport.runs import read_journal, runs_in
from hubstate.values import replace
from hubstate.warm.filling import _check_room
from hubstate.workers import at_once

NAMES = ["a.safetensors", "b.safetensors"]
FETCH = """
import sys
from hubstate.cache.batch import Batch
from hubstate.hub import open_release
from hubstate.values import replace
from hubstate.workers import at_once
release = open_release("org/name", registry=sys.argv[1])
release = replace(release, source=replace(release.source, batch=Batch()))
at_once(release.path, sys.argv[2:])
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A release with two weights files."""
    folder = tmp_path_factory.mktemp("files")
    found = {NAMES[0]: weights(20), NAMES[1]: weights(21).replace(b'"layer', b'"other')}
    for name, data in found.items():
        (folder / name).write_bytes(data)
    records = tuple(hash_weights(folder / name, name=name) for name in NAMES)
    tensors = {t.name: t for record in records for t in record.tensors}
    modules = sorted({name.rpartition(".")[0] for name in tensors} | {""})
    structure = [Entry(path=path, kind="module") for path in modules]
    structure += [
        Entry(path=t.name, kind="param", shape=t.shape, dtype=t.dtype, trainable=True)
        for t in tensors.values()
    ]
    return {**found, "hubstate.json": dump(Manifest(structure=tuple(structure), files=records))}


@pytest.fixture
def hub(files: dict[str, bytes]) -> Iterator[Hub]:
    served = Hub(dict(files))
    with serving(served):
        yield served


def release(hub: Hub, batch: Batch | None = None) -> Release:
    opened = open_release("org/name", registry=HttpEndpoint(hub.base, patience=HASTE))
    return replace(opened, source=replace(opened.source, batch=batch))


def place() -> Path:
    return Path(os.environ["HUBSTATE_CACHE"], "partial", MANY)


def sent(hub: Hub) -> int:
    return sum(hub.sent(name) for name in NAMES)


def start_and_kill(hub: Hub) -> int:
    """Kill a process that has verified something of both files; how many bytes that was."""
    hub.rate = 1e6
    child = subprocess.Popen([sys.executable, "-c", FETCH, hub.base, *NAMES])
    while len({line.split()[0] for line in journal_lines()}) < 2:
        assert child.poll() is None, "the transfers ended before they were killed"
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    while hub.busy:
        time.sleep(0.01)
    hub.rate = None
    return verified()


def journal_lines() -> list[bytes]:
    return [line for path in place().glob("*/journal") for line in path.read_bytes().splitlines()]


def verified() -> int:
    return sum(chunk.size for run in runs_in(place()) for chunk in read_journal(run / "journal"))


def test_files_that_are_fetched_together_leave_nothing_else(
    hub: Hub, files: dict[str, bytes]
) -> None:
    batch = Batch()
    paths = at_once(release(hub, batch).path, NAMES)
    batch.convoy.close()
    assert [path.read_bytes() for path in paths] == [files[name] for name in NAMES]
    assert sent(hub) == sum(len(files[name]) for name in NAMES)
    assert left_behind() == []
    assert not list(place().iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_after_a_kill_both_go_on_alone_or_together(
    hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    had = start_and_kill(hub)
    before, batch = sent(hub), Batch()
    assert had > 0
    none = os.statvfs_result((1, 1, *[0] * 8))
    with monkeypatch.context() as patch:  # all of it is reserved
        patch.setattr(os, "statvfs", lambda _: none)
        _check_room([(release(hub), name) for name in NAMES], Cache(), None)
    assert release(hub, batch).path(NAMES[0]).read_bytes() == files[NAMES[0]]
    assert list(runs_in(place())) == [], "each has a run of its own by now"
    assert release(hub).path(NAMES[1]).read_bytes() == files[NAMES[1]]
    batch.convoy.close()
    assert sent(hub) - before == sum(len(files[name]) for name in NAMES) - had
    assert left_behind() == []


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_whoever_is_at_work_goes_on_with_what_one_has_that_began_later_and_was_killed(
    hub: Hub, files: dict[str, bytes]
) -> None:
    hub.lfs.add("hubstate.json")  # or its chunks would be found as those of another release
    batch = Batch()
    release(hub, batch).path(NAMES[0])
    had = start_and_kill(hub) - len(files[NAMES[0]])
    before = sent(hub)
    assert had > 0
    assert release(hub, batch).path(NAMES[1]).read_bytes() == files[NAMES[1]]
    batch.convoy.close()
    assert sent(hub) - before == len(files[NAMES[1]]) - had
    assert left_behind() == []


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_convoy_of_another_machine_is_copied_from(hub: Hub, files: dict[str, bytes]) -> None:
    had = start_and_kill(hub)
    (run,) = runs_in(place())
    other = run.rename(run.with_name("run-00000000-1-0a"))
    with (other / "journal").open("ab") as journal:
        journal.write(b"torn")
    before, batch = sent(hub), Batch()
    for name, one in zip(NAMES, [None, batch], strict=True):
        assert release(hub, one).path(name).read_bytes() == files[name]
    batch.convoy.close()
    assert sent(hub) - before == sum(len(files[name]) for name in NAMES) - had
    assert sorted(other.iterdir())[-1].name == "journal"


# One by one


def member(convoy: Convoy, folder: Path, key: str, data: bytes) -> Part:
    part = convoy.begin(folder, key)
    part.write(memoryview(data), 0)
    part.keep([Chunk(0, len(data), Digest.of(data))])
    return part


def test_what_is_broken_off_gets_a_run_of_its_own(tmp_path: Path) -> None:
    folder, convoy = tmp_path / MANY, Convoy()
    keys = ["0" * 64, "1" * 64, "2" * 64]
    parts = [member(convoy, folder, key, key.encode()) for key in keys]
    for part in parts:
        with part:
            pass
    parts[0].discard()
    unpack(folder, tmp_path)  # while it is at work, nothing happens
    assert len(list(runs_in(folder))) == 1
    convoy.close()
    unpack(folder, tmp_path)
    assert not list(folder.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == [*keys[1:], MANY]
    for key in keys[1:]:
        (run,) = runs_in(tmp_path / key)
        assert (run / "part").read_bytes() == key.encode()
        assert read_journal(run / "journal") == [Chunk(0, 64, Digest.of(key.encode()))]


def test_one_file_has_no_part_in_what_another_has(tmp_path: Path) -> None:
    convoy, keys = Convoy(), ["0" * 64, "1" * 64]
    for key in keys:
        with member(convoy, tmp_path, key, key.encode()):
            pass
    assert list(find_members(tmp_path, keys[0])) == []  # they are this process's own
    (run,) = runs_in(tmp_path)
    run = run.rename(run.with_name("-".join([*run.name.split("-")[:3], "0a"])))
    assert has_member(tmp_path, keys[0])  # a container that is started again has the same numbers
    run = run.rename(run.with_name("run-00000000-1-0a"))
    ((path, chunks),) = find_members(tmp_path, keys[0])
    assert (path.parent, path.read_bytes()) == (run, keys[0].encode())
    assert [chunk.digest for chunk in chunks] == [Digest.of(keys[0].encode())]
    convoy.close()


def test_two_transfers_of_one_key_do_not_meet(tmp_path: Path) -> None:
    convoy = Convoy()
    one, two = (member(convoy, tmp_path, "0" * 64, data) for data in (b"one", b"two"))
    with one, two:
        assert (one.path.read_bytes(), two.path.read_bytes()) == (b"one", b"two")
    convoy.close()
