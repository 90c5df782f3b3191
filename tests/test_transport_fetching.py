"""Files from servers into the cache: in ranges, verified, resumed, in part, come what may."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hubs import Fault, Hub, free_port, serving

import hubstate
from hubstate.blobs import Blobs, move_file
from hubstate.cache import Cache, upkeep
from hubstate.cache.arrival import Arrival
from hubstate.cache.batch import Batch
from hubstate.cache.fetching import fetch_whole
from hubstate.cache.partials import partial_digests
from hubstate.cache.remote import Remote
from hubstate.digest import Digest
from hubstate.endpoints.http import HttpEndpoint
from hubstate.errors import (
    DigestMismatch,
    HubstateError,
    NotFound,
    Offline,
    Unreachable,
)
from hubstate.fetching import fetch
from hubstate.filters import only
from hubstate.header import dump_header, parse_header
from hubstate.hub import Release, open_release, publish_files
from hubstate.manifest import Entry, Manifest, dump, hash_weights
from hubstate.progress import quiet
from hubstate.reference import Reference
from hubstate.transport import Patience
from hubstate.transport.runs import new_run, read_journal
from hubstate.values import replace

HASTE = Patience(attempts=4, base=0.001, longest=0.02)
NAME = "model.safetensors"
SIDE = 128  # each weight of a layer has 64 KiB


def weights(layers: int, *, seed: int = 0) -> bytes:
    """A safetensors file with a weight and a small bias for each layer."""
    shapes = {f"layer{i}.{k}": ("float32", s) for i in range(layers) for k, s in PARTS.items()}
    head = dump_header(shapes, {})
    return head + random.Random(seed).randbytes(layers * 4 * (SIDE * SIDE + SIDE))


PARTS: dict[str, tuple[int, ...]] = {"weight": (SIDE, SIDE), "bias": (SIDE,)}


def manifest(path: Path) -> bytes:
    record = hash_weights(path, name=NAME)
    tensors = [
        Entry(path=t.name, kind="param", shape=t.shape, dtype=t.dtype, trainable=True)
        for t in record.tensors
    ]
    modules = {t.path.rpartition(".")[0] for t in tensors} | {""}
    structure = [*(Entry(path=m, kind="module") for m in sorted(modules)), *tensors]
    return dump(Manifest(structure=tuple(structure), files=(record,)))


@pytest.fixture
def data() -> bytes:
    return weights(100)


@pytest.fixture
def hub(data: bytes, tmp_path: Path) -> Iterator[Hub]:
    file = tmp_path / "source"
    file.write_bytes(data)
    served = Hub({NAME: data, "hubstate.json": manifest(file)})
    with serving(served):
        yield served


def release(hub: Hub) -> Release:
    return open_release("org/name", registry=HttpEndpoint(hub.base, patience=HASTE))


def left_behind() -> list[Path]:
    """What is in the cache beside blobs, receipts, outlines and the records of releases."""
    cache = Path(os.environ["HUBSTATE_CACHE"])
    known = {"CACHEDIR.TAG", "blobs", "receipts", "outlines", "endpoints"}
    return [
        p for p in cache.rglob("*") if p.is_file() and p.relative_to(cache).parts[0] not in known
    ]


def header_bytes(data: bytes) -> int:
    return parse_header(data, file_size=len(data)).size


# Whole files


def test_a_file_is_fetched_once_whole_and_leaves_nothing_else(hub: Hub, data: bytes) -> None:
    told: list[int] = []
    path = release(hub).path(NAME, progress=told.append)
    assert path.read_bytes() == data
    assert path.name == hashlib.sha256(data).hexdigest()
    assert hub.sent(NAME) == len(data) == sum(told)
    assert left_behind() == []
    release(hub).path(NAME)
    assert hub.sent(NAME) == len(data)


@pytest.mark.parametrize(
    "faults",
    [
        [Fault(cut=100_000), Fault(cut=1_000_000)],
        [Fault(status=503), Fault(status=429, retry_after="0"), Fault(status=500)],
        [Fault(cut=0), Fault(cut=1), Fault(cut=2_000_000), Fault(status=502)],
        [Fault(cut=0, reset=True), Fault(cut=300_000, reset=True)],
    ],
    ids=["truncated", "refused", "both", "reset"],
)
def test_a_transfer_survives_a_bad_server_and_asks_for_no_byte_twice(
    hub: Hub, data: bytes, faults: list[Fault]
) -> None:
    opened = release(hub)
    lost = sum(fault.cut or 0 for fault in faults if fault.reset)  # in the system's buffers
    hub.faults = faults
    assert opened.path(NAME).read_bytes() == data
    assert len(data) <= hub.sent(NAME) <= len(data) + lost
    assert left_behind() == []


def test_a_server_that_restarts_is_waited_for(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(data)
    files = {NAME: data, "hubstate.json": manifest(tmp_path / "source")}
    port, patience = free_port(), Patience(attempts=9, base=0.05, longest=0.3)
    first, second = Hub(files), Hub(files)
    fetched: list[bytes] = []
    with serving(first, port=port) as base:
        opened = open_release("org/name", registry=HttpEndpoint(base, patience=patience))
        first.rate = 5e6
        worker = threading.Thread(target=lambda: fetched.append(opened.path(NAME).read_bytes()))
        worker.start()
        while first.sent(NAME) < 1_000_000:
            time.sleep(0.01)
    time.sleep(0.2)
    with serving(second, port=port):
        worker.join()
    assert fetched == [data]
    assert 0 < second.sent(NAME) < len(data)


def test_bytes_that_are_wrong_once_are_asked_for_again(hub: Hub, data: bytes) -> None:
    opened = release(hub)
    hub.faults = [Fault(flip=header_bytes(data) + 5)]
    assert opened.path(NAME).read_bytes() == data
    assert left_behind() == []


def test_bytes_that_stay_wrong_are_named_and_leave_a_clean_cache(hub: Hub, data: bytes) -> None:
    opened = release(hub)
    at = hub.corrupt[NAME] = len(data) // 2
    with pytest.raises(DigestMismatch) as caught:
        opened.path(NAME)
    found = str(caught.value).partition(": bytes ")[2].partition(":")[0].replace(",", "")
    start, stop = map(int, found.split("–"))
    assert start <= at < stop
    assert stop - start <= 4 * SIDE * SIDE
    assert left_behind() == []
    assert not Blobs(Path(os.environ["HUBSTATE_CACHE"])).path(Digest.of(data)).exists()


def test_from_a_server_without_ranges_a_part_is_the_whole_file_and_a_warning(
    hub: Hub, data: bytes
) -> None:
    hub.ranges = False
    opened = release(hub)
    with pytest.warns(UserWarning, match=r"does not serve ranges; all of it is fetched") as caught:
        path = opened.tensors_path(NAME, ["layer9.weight"])
    assert caught[0].filename == __file__
    assert path.read_bytes() == data
    assert opened.path(NAME) == path
    assert left_behind() == []


def test_from_a_server_without_ranges_wrong_bytes_are_refused_too(hub: Hub) -> None:
    hub.ranges, hub.corrupt[NAME] = False, len(hub.files[NAME]) - 1
    opened = release(hub)
    with pytest.warns(UserWarning), pytest.raises(DigestMismatch, match=r"expected sha256:.*found"):
        opened.tensors_path(NAME, ["layer9.weight"])
    assert left_behind() == []
    assert list(Cache().folders[0].glob("blobs/*/*/*")) == [opened.paths["hubstate.json"]]


def test_a_file_of_another_size_leaves_a_clean_cache(hub: Hub, data: bytes) -> None:
    opened = release(hub)
    hub.files[NAME] = data + b"more"
    with pytest.raises(DigestMismatch, match=f"expected {len(data)} bytes, the server has"):
        opened.path(NAME)
    assert left_behind() == []


def test_a_file_that_is_replaced_on_the_way_leaves_a_clean_cache(hub: Hub, data: bytes) -> None:
    opened = release(hub)
    hub.faults = [Fault(cut=300_000), Fault(headers={"ETag": '"another"'})]
    with pytest.raises(DigestMismatch, match="replaced while it was read"):
        opened.path(NAME)
    assert left_behind() == []


def test_a_disk_without_the_room_is_refused_before_a_byte_is_asked_for(
    hub: Hub, data: bytes
) -> None:
    del hub.files["hubstate.json"]
    told = hub.info()
    told["siblings"][0]["size"] = told["siblings"][0]["lfs"]["size"] = 10**16
    hub.info = lambda: told  # type: ignore[method-assign]
    with pytest.raises(Unreachable, match=r"needs 10000000000000000 bytes, the cache .* left"):
        release(hub).path(NAME)
    assert hub.sent(NAME) == 0
    assert left_behind() == []


@pytest.mark.parametrize("together", [False, True])
def test_a_disk_that_fails_leaves_nothing_to_go_on_with(
    hub: Hub, data: bytes, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    """What it has lost is still in memory, where it looks right until it is written off."""
    opened, batch = release(hub), Batch() if together else None
    opened = replace(opened, source=replace(opened.source, batch=batch))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
        with pytest.raises(Unreachable, match="Input/output error"):
            opened.path(NAME)
    if batch:
        batch.convoy.close()
    assert left_behind() == []
    assert opened.path(NAME).read_bytes() == data


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Let the disk have so many bytes left, as far as it is asked."""

    def set_room(size: int) -> None:
        found = os.statvfs_result((1, 1, *[size] * 3, *[0] * 5))
        monkeypatch.setattr(os, "statvfs", lambda _: found)

    yield set_room
    monkeypatch.undo()


def test_files_that_do_not_fit_together_are_refused_before_the_first(
    hub: Hub, data: bytes, small_disk: Callable[[int], None]
) -> None:
    hub.files["more.bin"] = b"?" * 1_000_000
    opened = release(hub)
    small_disk(len(data) + 900_000)
    with pytest.raises(
        Unreachable, match=f"needs {len(data) + 1_000_000} bytes, the cache .* left"
    ):
        opened.fetch([NAME, "more.bin"])
    assert hub.sent(NAME) == hub.sent("more.bin") == 0
    opened.fetch([NAME])
    opened.fetch(["more.bin"])


def test_parts_and_files_that_do_not_fit_together_are_refused_before_the_first(
    hub: Hub, small_disk: Callable[[int], None]
) -> None:
    hub.files["more.bin"] = b"?" * 1_000_000
    opened, part = release(hub), 4 * SIDE * SIDE
    small_disk(1_000_000)
    with pytest.raises(Unreachable, match=f"needs {1_000_000 + part} bytes, the cache .* left"):
        fetch("org/name", registry=hub.base, filter=only("layer1.weight"))
    assert hub.sent(NAME) == hub.sent("more.bin") == 0
    small_disk(part)
    with pytest.raises(Unreachable, match=r"needs \d+ bytes, the cache .* left"):
        opened.tensors_path(NAME, ["layer1.weight", "layer9.weight"])
    assert hub.sent(NAME) == 0
    small_disk(1_000_000 + 2 * part)
    fetch("org/name", registry=hub.base, filter=only("layer1.weight"))
    small_disk(0)
    fetch("org/name", registry=hub.base, filter=only("layer1.weight"))


def test_what_a_broken_transfer_has_reserved_counts_as_room(
    hub: Hub, data: bytes, small_disk: Callable[[int], None]
) -> None:
    opened = release(hub)
    hub.faults = [Fault(cut=1_000_000), *[Fault(status=503)] * 40]
    with pytest.raises(Unreachable, match="503"):
        opened.path(NAME)
    hub.faults = []
    small_disk(100_000)
    assert opened.path(NAME).read_bytes() == data


def test_what_is_offline_is_not_asked_for(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = release(hub)
    monkeypatch.setenv("HUBSTATE_OFFLINE", "1")
    with pytest.raises(Offline, match=NAME):
        opened.path(NAME)
    with pytest.raises(Offline, match=NAME):
        opened.tensors_path(NAME, ["layer9.weight"])
    assert hub.sent(NAME) == 0


# Interruptions

FETCH = """
import sys
from hubstate.fetching import fetch
fetch("org/name", registry=sys.argv[1])
"""


def journals() -> list[Path]:
    return sorted(Path(os.environ["HUBSTATE_CACHE"]).rglob("journal"))


def start_and_kill(hub: Hub, *, after: int) -> int:
    """Kill a process that fetches, once it has verified so many bytes; how many they were."""
    child = subprocess.Popen([sys.executable, "-c", FETCH, hub.base])
    verified = 0
    while verified < after:
        assert child.poll() is None, "the transfer ended before it was killed"
        time.sleep(0.01)
        verified = sum(c.size for journal in journals() for c in read_journal(journal))
    child.send_signal(signal.SIGKILL)
    child.wait()
    while hub.busy:
        time.sleep(0.01)
    return sum(c.size for journal in journals() for c in read_journal(journal))


def test_a_killed_transfer_goes_on_without_fetching_what_was_verified(
    hub: Hub, data: bytes
) -> None:
    hub.rate = 3e6
    verified = start_and_kill(hub, after=1_000_000)
    verified = start_and_kill(hub, after=verified + 1_000_000)
    hub.rate, before = None, hub.sent(NAME)
    assert release(hub).path(NAME).read_bytes() == data
    assert hub.sent(NAME) - before == len(data) - verified
    assert left_behind() == []


def start_command(hub: Hub, *words: str) -> subprocess.Popen[str]:
    code = "import signal, hubstate.cli; signal.signal(signal.SIGINT, signal.default_int_handler);"
    return subprocess.Popen(  # in a shell's background, SIGINT would be ignored
        [sys.executable, "-c", f"{code} hubstate.cli.main()", *words, "org/name"],
        env={**os.environ, "HUBSTATE_REGISTRY": hub.base},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupt(command: subprocess.Popen[str], number: int) -> None:
    """Send a signal, and see the command end at once, and well."""
    command.send_signal(number)
    start = time.monotonic()
    out, err = command.communicate(timeout=20)
    assert time.monotonic() - start < 2
    assert (command.returncode, out, err.strip()) == (
        128 + number,
        "",
        "interrupted: nothing was left half-written",
    )


@pytest.mark.skipif(sys.platform == "win32", reason="other signals")
@pytest.mark.parametrize(
    ("word", "number"),
    [("fetch", signal.SIGINT), ("warm", signal.SIGINT), ("warm", signal.SIGTERM)],
)
def test_a_signal_ends_a_command_at_once_and_the_next_goes_on(
    hub: Hub, data: bytes, word: str, number: int
) -> None:
    hub.rate = 3e6
    with start_command(hub, word) as command:
        while hub.sent(NAME) < 1_500_000:
            assert command.poll() is None
            time.sleep(0.01)
        interrupt(command, number)
    while hub.busy:
        time.sleep(0.01)
    assert {path.parent.name.partition("-")[0] for path in left_behind()} == {"run"}, "no lease"
    assert not Blobs(Cache().folders[0]).path(Digest.of(data)).exists()
    kept = sum(chunk.size for chunk in read_journal(journals()[0]))
    assert kept > 500_000
    hub.rate, before = None, hub.sent(NAME)
    assert release(hub).path(NAME).read_bytes() == data
    assert hub.sent(NAME) - before == len(data) - kept
    assert left_behind() == []


@pytest.mark.skipif(sys.platform == "win32", reason="other signals")
def test_ctrl_c_ends_a_command_that_waits_for_another_process(hub: Hub, data: bytes) -> None:
    lease = Cache().folders[0] / "leases" / Digest.of(data).hex
    lease.parent.mkdir(parents=True)
    lease.touch()
    with start_command(hub, "warm") as command:
        while len(hub.seen) < 2:
            assert command.poll() is None
            time.sleep(0.01)
        time.sleep(0.1)
        interrupt(command, signal.SIGINT)
    assert left_behind() == [lease], "which is not its own"
    assert hub.sent(NAME) == 0


def test_what_was_verified_and_is_no_longer_right_is_fetched_again(hub: Hub, data: bytes) -> None:
    hub.rate = 3e6
    start_and_kill(hub, after=1_000_000)
    [journal] = journals()
    chunk = read_journal(journal)[0]
    with (journal.parent / "part").open("r+b") as part:
        part.seek(chunk.start)
        part.write(b"?")
    hub.rate = None
    assert release(hub).path(NAME).read_bytes() == data


def test_an_interrupted_transfer_keeps_what_was_verified_for_the_next(
    hub: Hub, data: bytes
) -> None:
    opened = release(hub)
    hub.faults = [Fault(cut=1_000_000), *[Fault(status=503)] * 40]
    with pytest.raises(Unreachable, match="503"):
        opened.path(NAME)
    kept = sum(chunk.size for chunk in read_journal(journals()[0]))
    assert kept > 500_000
    hub.faults, before = [], hub.sent(NAME)
    assert opened.path(NAME).read_bytes() == data
    assert hub.sent(NAME) - before == len(data) - kept


def test_what_a_process_leaves_that_ends_meanwhile_does_not_stay(hub: Hub, data: bytes) -> None:
    """One that was killed may hold its lock for a moment still, and is then only copied from."""
    opened = release(hub)
    remote = Arrival(opened.source, NAME)._remote(None)
    assert remote
    place = Path(os.environ["HUBSTATE_CACHE"], "partial", remote.key)
    place.mkdir(parents=True)
    run, journal = new_run(place)
    (run / "part").write_bytes(b"begun")
    locks = [journal]
    path = opened.path(NAME, progress=lambda _: locks and os.close(locks.pop()))
    assert path.read_bytes() == data
    assert left_behind() == []


def test_several_processes_at_once_all_get_the_file(hub: Hub, data: bytes) -> None:
    children = [subprocess.Popen([sys.executable, "-c", FETCH, hub.base]) for _ in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    assert release(hub).path(NAME).read_bytes() == data
    assert [path for path in left_behind() if "run-" in str(path)] == []


def test_a_folder_that_others_remove_at_that_moment_is_made_again(tmp_path: Path) -> None:
    cache, problems = Cache([tmp_path]), list[HubstateError]()

    def begin_and_fail(identity: str) -> None:
        one = Remote(
            what="it",
            size=1,
            digest=None,
            tiles=(),
            identity=identity,
            commit=None,  # type: ignore[arg-type]
            read=refuse,
        )
        for _ in range(30):
            try:
                fetch_whole(cache, one, progress=quiet)
            except Unreachable as error:
                problems.append(error)

    def refuse(start: int, stop: int) -> Any:
        raise Unreachable("nothing comes")

    threads = [threading.Thread(target=begin_and_fail, args=(name,)) for name in "aabbcc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {str(problem) for problem in problems} == {"nothing comes"}
    assert left_behind() == []


def test_folders_that_come_and_go_do_no_harm_to_who_looks_through_them(tmp_path: Path) -> None:
    stop, places = threading.Event(), [tmp_path / "partial" / f"{n:02}" for n in range(20)]

    def come_and_go() -> None:
        while not stop.is_set():
            for place in places:
                place.mkdir(parents=True, exist_ok=True)
            for place in places:
                place.rmdir()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(100):
            assert partial_digests([tmp_path]) == set()
            assert list(upkeep.prune(Cache([tmp_path])).paths) == []
    finally:
        stop.set()
        thread.join()


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    data = weights(1500)
    (tmp_path / "source").write_bytes(data)
    code = """
import re, sys
from pathlib import Path
import hubstate.fetching, requests
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
hubstate.fetch("org/name", registry=sys.argv[1])
print((peak() - before) * 1024)
"""
    hub = Hub({NAME: data, "hubstate.json": manifest(tmp_path / "source")})
    with serving(hub):
        answer = subprocess.run(
            [sys.executable, "-c", code, hub.base], capture_output=True, text=True, check=True
        )
    assert int(answer.stdout) < 60e6 < len(data)


def test_slow_connections_are_made_more(data: bytes, tmp_path: Path) -> None:
    large = weights(600)
    hub = Hub({NAME: large})
    with serving(hub):
        opened = release(hub)
        hub.rate = 10e6
        assert opened.path(NAME).read_bytes() == large
    assert hub.busiest >= 4


# Parts of files


def test_only_the_wanted_tensors_move_and_later_only_the_rest(hub: Hub, data: bytes) -> None:
    opened = release(hub)
    wanted = [f"layer{i}.weight" for i in range(10, 40)]
    path = opened.tensors_path(NAME, wanted)
    least = header_bytes(data) + 30 * 4 * SIDE * SIDE
    assert least <= hub.sent(NAME) <= 1.01 * least
    assert path.stat().st_size == len(data)
    header = parse_header(data, file_size=len(data))
    for name in wanted:
        tensor = header.tensors[name]
        assert path.read_bytes()[tensor.start : tensor.stop] == data[tensor.start : tensor.stop]
    assert opened.path(NAME).read_bytes() == data
    assert hub.sent(NAME) == len(data)


def test_a_part_that_is_there_is_not_asked_for_not_even_offline(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = release(hub).tensors_path(NAME, ["layer1.weight", "layer2.weight"])
    before = hub.sent(NAME)
    monkeypatch.setenv("HUBSTATE_OFFLINE", "1")
    opened = release(hub)
    assert opened.tensors_path(NAME, ["layer2.weight"]) == path
    with pytest.raises(Offline):
        opened.tensors_path(NAME, ["layer3.weight"])
    assert hub.sent(NAME) == before


def test_parts_add_up_and_an_older_path_stays_good(hub: Hub, data: bytes) -> None:
    opened = release(hub)
    header = parse_header(data, file_size=len(data))
    first = opened.tensors_path(NAME, ["layer1.weight"])
    second = opened.tensors_path(NAME, ["layer50.weight"])
    sent = hub.sent(NAME)
    assert opened.tensors_path(NAME, ["layer1.weight", "layer50.weight"]) in (first, second)
    assert hub.sent(NAME) == sent <= header.size + 2 * 4 * SIDE * SIDE * 1.01
    assert first.stat().st_ino == second.stat().st_ino, "the one that has more replaced the other"
    for path in (first, second):
        tensor = header.tensors["layer1.weight"]
        assert path.read_bytes()[tensor.start : tensor.stop] == data[tensor.start : tensor.stop]
    opened.path(NAME)
    assert first.read_bytes() == data


@pytest.mark.parametrize("at", ["before", "after"])
def test_a_part_is_not_lost_if_it_ends_as_it_gets_its_place(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def end(*args: Any, **options: Any) -> None:
        if at == "after":
            move_file(*args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hubstate.transport.part.move_file", end)
        with pytest.raises(KeyboardInterrupt):
            release(hub).tensors_path(NAME, ["layer1.weight"])
    sent = hub.sent(NAME)
    release(hub).tensors_path(NAME, ["layer1.weight"])
    assert hub.sent(NAME) == sent


def test_a_part_that_was_changed_on_the_disk_is_not_used(hub: Hub, data: bytes) -> None:
    opened = release(hub)
    path = opened.tensors_path(NAME, ["layer1.weight"])
    start = parse_header(data, file_size=len(data)).tensors["layer1.weight"].start
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"????")
    path = release(hub).tensors_path(NAME, ["layer1.weight"])
    assert path.read_bytes()[start : start + 4] == data[start : start + 4]


@pytest.mark.parametrize("stated", [True, False])
def test_parts_go_when_their_release_is_removed_and_not_before(hub: Hub, stated: bool) -> None:
    hub.lfs = hub.lfs if stated else set()  # then the manifest alone has the digest
    path = release(hub).tensors_path(NAME, ["layer1.weight"])
    assert upkeep.prune(Cache(), age=0).size == 0
    assert path.exists()
    freed = upkeep.remove(Cache(), Reference.parse("org/name"))
    assert path.parent in freed.paths
    assert freed.size >= 4 * SIDE * SIDE
    assert left_behind() == []


def test_a_file_stays_for_a_release_whose_manifest_alone_has_its_digest(
    hub: Hub, data: bytes, tmp_path: Path
) -> None:
    publish_files("org/other", hub.files, message="m", registry=tmp_path / "folder")
    fetch("org/other", registry=tmp_path / "folder")
    hub.lfs = set()
    path = release(hub).path(NAME)
    upkeep.remove(Cache(), Reference.parse("org/other"))
    assert path.read_bytes() == data


def test_all_tensors_are_the_whole_file(hub: Hub, data: bytes) -> None:
    names = parse_header(data, file_size=len(data)).tensors
    opened = release(hub)
    assert opened.tensors_path(NAME, names) == opened.path(NAME)
    assert hub.sent(NAME) == len(data)
    assert left_behind() == []


def test_tensors_that_the_file_does_not_have_are_named(hub: Hub) -> None:
    with pytest.raises(NotFound, match=r"expected layer7\.nothing"):
        release(hub).tensors_path(NAME, ["layer7.weight", "layer7.nothing"])
    assert hub.sent(NAME) == 0


@pytest.mark.parametrize("manifest", [True, False])
def test_a_filter_fetches_the_tensors_that_pass_and_every_other_file(
    hub: Hub, data: bytes, manifest: bool
) -> None:
    hub.files["README.md"] = b"# A model"
    if not manifest:
        del hub.files["hubstate.json"]
    found = hubstate.fetch("org/name", filter=only("layer5", "layer7.bias"), registry=hub.base)
    assert found.paths.keys() == hub.files.keys() - {NAME}
    wanted = 4 * (SIDE * SIDE + 2 * SIDE)
    assert hub.sent(NAME) <= 1.01 * wanted + header_bytes(data) + (0 if manifest else 65536)
    before = hub.sent(NAME)
    path = found.tensors_path(NAME, ["layer5.weight", "layer5.bias", "layer7.bias"])
    assert hub.sent(NAME) == before
    tensor = parse_header(data, file_size=len(data)).tensors["layer5.weight"]
    assert path.read_bytes()[tensor.start : tensor.stop] == data[tensor.start : tensor.stop]
    whole = hubstate.fetch("org/name", filter=only("layer*"), files=[NAME], registry=hub.base)
    assert whole.paths[NAME].read_bytes() == data


def test_parts_come_from_repositories_without_a_manifest_too(
    hub: Hub, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    del hub.files["hubstate.json"]
    opened = release(hub)
    path = opened.tensors_path(NAME, ["layer5.weight"])
    tensor = parse_header(data, file_size=len(data)).tensors["layer5.weight"]
    assert path.read_bytes()[tensor.start : tensor.stop] == data[tensor.start : tensor.stop]
    sent = hub.sent(NAME)
    assert sent <= 65536 + header_bytes(data) + (tensor.stop - tensor.start)
    with monkeypatch.context() as patch:
        patch.setenv("HUBSTATE_OFFLINE", "1")
        assert release(hub).tensors_path(NAME, ["layer5.weight"]) == path
    assert hub.sent(NAME) == sent


def test_without_a_manifest_a_part_that_was_wrong_is_found_out_with_the_whole(
    tmp_path: Path,
) -> None:
    data = weights(140)  # large enough to be fetched in ranges
    hub = Hub({NAME: data})
    with serving(hub):
        opened = release(hub)
        at = parse_header(data, file_size=len(data)).tensors["layer5.weight"].start
        hub.corrupt[NAME] = at
        opened.tensors_path(NAME, ["layer5.weight"])
        hub.corrupt.clear()
        with pytest.raises(DigestMismatch, match=f"expected {Digest.of(data)}"):
            opened.path(NAME)
        assert left_behind() == []
        assert opened.path(NAME).read_bytes() == data


# Whom to believe


def test_a_manifest_that_lies_about_a_digest_cannot_replace_the_file_that_has_it(
    hub: Hub, data: bytes, tmp_path: Path
) -> None:
    evil = weights(100, seed=1)
    (tmp_path / "evil").write_bytes(evil)
    record = replace(hash_weights(tmp_path / "evil", name=NAME), digest=Digest.of(data))
    true = manifest(tmp_path / "evil")
    lie = true.replace(Digest.of(evil).hex.encode(), Digest.of(data).hex.encode())
    assert lie != true
    assert record.digest == Digest.of(data)
    liar = Hub({NAME: evil, "hubstate.json": lie})
    liar.lfs = set()  # a server that states no digests of its own
    with serving(liar):
        assert release(liar).path(NAME).read_bytes() == evil, "what was asked for, by its chunks"
        assert release(hub).path(NAME).read_bytes() == data
    found = Cache().find(Digest.of(data)).path
    assert found is not None
    assert found.read_bytes() == data


def test_a_manifest_that_lies_about_a_size_cannot_replace_the_file_either(
    hub: Hub, data: bytes, tmp_path: Path
) -> None:
    path = release(hub).path(NAME)
    (tmp_path / "evil").write_bytes(evil := weights(50, seed=1))
    lie = manifest(tmp_path / "evil")
    lie = lie.replace(Digest.of(evil).hex.encode(), Digest.of(data).hex.encode())
    liar = Hub({NAME: evil, "hubstate.json": lie})
    liar.lfs = set()
    said = f"{NAME} of org/name.*: expected {len(evil)} bytes, .* has {len(data)}"
    with serving(liar), pytest.raises(DigestMismatch, match=said):
        release(liar).path(NAME)
    assert path.read_bytes() == data


def test_a_proxy_is_used_where_the_environment_names_one(
    hub: Hub, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", hub.base)
    monkeypatch.setenv("http_proxy", hub.base)
    assert fetch("org/name", registry="http://hub.invalid").paths[NAME].read_bytes() == data
    monkeypatch.setenv("http_proxy", f"http://user:secret@127.0.0.1:{(port := free_port())}")
    said = f"does not answer by the proxy http://127.0.0.1:{port}: Failed to .* refused \\(tried"
    with pytest.raises(Unreachable, match=said):
        fetch("org/other", registry="http://hub.invalid")


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl to make a certificate")
def test_certificates_are_held_to_the_bundle_that_the_environment_names(
    hub: Hub, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    with serving(hub, certificate=certificate, key=key) as base:
        endpoint = HttpEndpoint(base, patience=HASTE)
        with pytest.raises(HubstateError, match="certificate verify failed"):
            fetch("org/name", registry=endpoint)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        with pytest.raises(HubstateError, match=r"what publishes reads .* SSL_CERT_FILE"):
            publish_files("org/new", {"a": b"1"}, message="m", registry=endpoint)
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
            with monkeypatch.context() as patch:
                patch.setenv(name, str(certificate))
                assert fetch("org/name", registry=endpoint).paths[NAME].read_bytes() == data
                shutil.rmtree(os.environ["HUBSTATE_CACHE"])
