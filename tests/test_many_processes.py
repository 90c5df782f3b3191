"""Many processes and one empty cache: one download, nobody fails, and the dead are replaced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hubs import Hub, free_port, serving
from quick import release_of
from toys import Toy

from hubstate import settings
from hubstate.cache import Cache, leases, prune
from hubstate.cache.leases import take_turns
from hubstate.digest import Digest
from hubstate.endpoints import open_endpoint
from hubstate.fetching import fetch
from hubstate.hub import open_release
from hubstate.reference import Reference

HERE = Path(__file__).parent
NAME = "model.safetensors"
WAIT = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1], str(os.getpid())).touch()
while not pathlib.Path(sys.argv[1], "go").exists():
    time.sleep(0.01)
"""
FETCH = """
import hashlib, hubstate
path = hubstate.fetch("org/name").paths["model.safetensors"]
print(hashlib.sha256(path.read_bytes()).hexdigest())
"""
PRETRAINED = """
import hashlib, hubstate
from toys import toy
model = toy(pretrained="org/name", width=400)
print(float(model.fc.bias.detach().sum()))
"""
NO_LOCKS = """
import fcntl
def refuse(*_): raise OSError(38, "no locks here")
fcntl.flock = fcntl.lockf = refuse
"""
RANK = """
import os, torch, torch.distributed as dist
from toys import toy
dist.init_process_group("gloo")
model = toy(pretrained="org/name", width=400)
total = model.fc.bias.detach().sum()
sums = [torch.zeros(()) for _ in range(dist.get_world_size())]
dist.all_gather(sums, total)
assert all(torch.equal(one, total) for one in sums)
print(dist.get_rank(), float(total))
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def model() -> Toy:
    torch.manual_seed(0)
    return Toy(400, 4)


@pytest.fixture
def hub(model: Toy) -> Iterator[Hub]:
    """A server with one release, which is the configured registry."""
    served = Hub(release_of(model))
    with serving(served) as url:
        os.environ["HUBSTATE_REGISTRY"] = url
        yield served


def start(code: str, *words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(HERE), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    """What each printed, once all have ended well."""
    printed = []
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        printed.append(out.strip())
    return printed


def start_together(count: int, code: str, folder: Path) -> list[subprocess.Popen[str]]:
    """Processes that begin at one moment, once all of them are up."""
    folder.mkdir()
    warm_up = "import hubstate.hub, hubstate.zoo.builders\n"
    processes = [start(warm_up + WAIT + code, str(folder)) for _ in range(count)]
    wait_until(lambda: len(list(folder.iterdir())) == count, seconds=120)
    (folder / "go").touch()
    return processes


def wait_until(condition: Any, *, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.01)


def lease_files() -> list[Path]:
    return list((settings.cache_folders()[0] / "leases").glob("*"))


def digest(hub: Hub) -> str:
    return Digest.of(hub.files[NAME]).hex


# Whole processes


@pytest.mark.parametrize("before", ["", NO_LOCKS], ids=["", "without flock"])
def test_many_processes_make_one_download(hub: Hub, tmp_path: Path, before: str) -> None:
    hub.latency = 0.05
    processes = start_together(6, before + FETCH, tmp_path / "start")
    assert set(finish(processes)) == {digest(hub)}
    for name, data in hub.files.items():
        assert hub.sent(name) == len(data), name
    assert lease_files() == []


@pytest.mark.slow
def test_32_processes_with_pretrained_weights_make_one_download(
    hub: Hub, model: Toy, tmp_path: Path
) -> None:
    hub.latency = 0.05
    processes = start_together(32, PRETRAINED, tmp_path / "start")
    assert set(finish(processes)) == {str(float(model.fc.bias.detach().sum()))}
    for name in ("hubstate.json", NAME):
        assert hub.sent(name) == len(hub.files[name]), name
    assert lease_files() == []


@pytest.mark.parametrize("before", ["", NO_LOCKS], ids=["", "without flock"])
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_holder_that_is_killed_is_taken_over_at_once(hub: Hub, before: str) -> None:
    fetch("org/name", files=["hubstate.json", "README.md"])
    hub.rate = len(hub.files[NAME]) / 60  # a minute for the whole of it
    first = start(before + FETCH)
    wait_until(lambda: hub.sent(NAME) > 0)
    others = [start(before + FETCH) for _ in range(2)]
    time.sleep(0.5)
    asked = [seen for seen in hub.seen if seen.path.endswith(NAME)]
    hub.rate = None
    start_time = time.monotonic()
    first.send_signal(signal.SIGKILL)  # and nobody waits for it: it stays a zombie
    assert set(finish(others)) == {digest(hub)}
    assert time.monotonic() - start_time < 8
    assert len(asked) == 1, "the others waited"
    first.communicate()
    assert lease_files() == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_holder_after_holder_may_be_killed(hub: Hub, tmp_path: Path) -> None:
    fetch("org/name", files=["hubstate.json", "README.md"])
    hub.rate = len(hub.files[NAME]) / 60
    processes = {one.pid: one for one in start_together(8, FETCH, tmp_path / "start")}
    for _ in range(4):
        wait_until(lambda: lease_files() and holder() in processes)
        with processes.pop(holder()) as killed:
            killed.kill()
    hub.rate = None
    start_time = time.monotonic()
    assert set(finish(list(processes.values()))) == {digest(hub)}
    assert time.monotonic() - start_time < 15
    assert lease_files() == []


def holder() -> int:
    """The process that has the lease."""
    try:
        return int(json.loads(lease_files()[0].read_text())["pid"])
    except (OSError, ValueError, IndexError):
        return 0


def test_when_the_registry_fails_nobody_waits_for_ever(hub: Hub) -> None:
    fetch("org/name", files=["hubstate.json", "README.md"])
    hub.corrupt[NAME] = len(hub.files[NAME]) - 1
    start_time = time.monotonic()
    processes = [start(FETCH) for _ in range(4)]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert all("DigestMismatch" in error for error in errors)
    assert time.monotonic() - start_time < 20
    assert lease_files() == []


def test_under_torchrun_one_rank_fetches_and_the_rest_wait(hub: Hub, model: Toy) -> None:
    hub.latency = 0.2  # so that all of them are there before the first has it
    port = str(free_port())
    shared = {"WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [start(RANK, RANK=str(n), LOCAL_RANK=str(n), **shared) for n in range(4)]
    total = float(model.fc.bias.detach().sum())
    assert finish(ranks) == [f"{n} {total}" for n in range(4)]
    for name in ("hubstate.json", NAME):
        assert hub.sent(name) == len(hub.files[name]), name


# The leases themselves


class Task:
    """Something that takes a while to fetch, and counts how often it was."""

    def __init__(self, seconds: float = 0.1, failures: int = 0) -> None:
        self.seconds, self.failures = seconds, failures
        self.fetched = 0
        self.there = False
        self.lock = threading.Lock()

    def find(self) -> str | None:
        return "there" if self.there else None

    def fetch(self) -> str:
        with self.lock:
            self.fetched += 1
            failing = self.fetched <= self.failures
        time.sleep(self.seconds)
        if failing:
            raise OSError("the line is dead")
        self.there = True
        return "there"

    def take(self, folder: Path | None) -> str:
        return take_turns(folder, "ab", find=self.find, fetch=self.fetch)


def in_threads(count: int, call: Any) -> list[object]:
    """What each call returned or raised."""
    results: list[object] = []

    def work() -> None:
        try:
            results.append(call())
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_threads_take_turns_as_well(tmp_path: Path) -> None:
    task = Task()
    assert in_threads(12, lambda: task.take(tmp_path)) == ["there"] * 12
    assert task.fetched == 1
    assert list((tmp_path / "leases").iterdir()) == []


def test_one_failure_is_one_failure(tmp_path: Path) -> None:
    task = Task(failures=1)
    results = in_threads(8, lambda: task.take(tmp_path))
    assert sum(isinstance(result, OSError) for result in results) == 1
    assert task.fetched == 2


def test_after_some_failures_nobody_waits_for_the_next(tmp_path: Path) -> None:
    task = Task(seconds=0.2, failures=100)
    start_time = time.monotonic()
    results = in_threads(16, lambda: task.take(tmp_path))
    assert all(isinstance(result, OSError) for result in results)
    assert time.monotonic() - start_time < 0.2 * 8, "one after another it is 16 times"


def leave_lease(folder: Path, **holder: object) -> Path:
    path = folder / "leases" / "ab"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(holder) if holder else "")
    return path


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_lease_of_an_ended_process_counts_for_nothing(tmp_path: Path) -> None:
    leave_lease(tmp_path, pid=ended_process(), machine=leases._machine(), host="x")
    start_time = time.monotonic()
    assert Task(seconds=0).take(tmp_path) == "there"
    assert time.monotonic() - start_time < 1


@pytest.mark.parametrize("holder", [{"pid": 1, "machine": "another", "host": "x"}, {}])
def test_a_lease_that_nobody_touches_is_taken_over(
    tmp_path: Path, holder: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_STALE", 0.5)
    path = leave_lease(tmp_path, **holder)
    os.utime(path, (4e9, 4e9))  # the clock of the other machine is a lifetime ahead
    start_time = time.monotonic()
    task = Task(seconds=0)
    assert in_threads(4, lambda: task.take(tmp_path)) == ["there"] * 4
    assert 0.5 <= time.monotonic() - start_time < 2
    assert list(path.parent.iterdir()) == []


def test_a_lease_that_is_touched_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_STALE", 0.6)
    monkeypatch.setattr(leases, "_BEAT", 0.1)
    task = Task(seconds=2)
    assert in_threads(3, lambda: task.take(tmp_path)) == ["there"] * 3
    assert task.fetched == 1


def test_one_thread_touches_all_leases_of_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_BEAT", 0.02)
    paths = [tmp_path / "leases" / name for name in ("ab", "cd")]
    before = set(threading.enumerate())
    with ExitStack() as held:
        for path in paths:
            held.enter_context(leases._lease(path))
            os.utime(path, (1, 1))
        wait_until(lambda: all(path.stat().st_mtime > 1 for path in paths))
        assert len(set(threading.enumerate()) - before) <= 1
    wait_until(lambda: not set(threading.enumerate()) - before)


def test_whoever_lost_a_lease_does_not_give_back_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "leases" / "ab"
    with ExitStack() as theirs:
        with leases._lease(path) as ours:
            assert ours
            seen = leases._look(path)
            assert seen
            leases._take_away(path, seen)
            assert list(path.parent.iterdir()) == []
            assert theirs.enter_context(leases._lease(path))
            leases._take_away(path, seen)
            assert path.exists(), "a newer lease is put back"
        assert path.exists(), "and is left to its holder"
    assert list(path.parent.iterdir()) == []


def test_where_no_lease_can_be_written_nobody_waits(tmp_path: Path) -> None:
    (tmp_path / "leases").write_text("a file where the folder should be")
    assert Task(seconds=0).take(tmp_path) == "there"
    assert Task(seconds=0).take(None) == "there"


def test_pruning_removes_leases_that_nobody_holds(tmp_path: Path) -> None:
    path = leave_lease(tmp_path, pid=1, machine="another")
    cache = Cache([tmp_path])
    assert prune(cache).paths == ()
    os.utime(path, (0, 0))
    assert prune(cache, dry_run=True).paths == prune(cache).paths == (path,)
    assert not path.exists()


def test_the_first_rank_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def take(rank: str) -> None:
        take_turns(tmp_path, rank, find=lambda: None, fetch=lambda: order.append(rank))

    monkeypatch.setenv("LOCAL_RANK", "1")
    later = threading.Thread(target=take, args=("1",))
    later.start()
    time.sleep(0.05)
    monkeypatch.setenv("LOCAL_RANK", "0")
    take("0")
    later.join()
    assert order == ["0", "1"]


def test_a_late_answer_does_not_undo_what_was_measured_meanwhile(hub: Hub) -> None:
    """A server states no digest of small files; whoever fetched one has recorded it."""
    endpoint, reference = open_endpoint(hub.base), Reference.parse("org/name")
    answer = endpoint.resolve(reference)
    assert answer.files["README.md"].digest is None
    fetch("org/name", files=["README.md"])
    cache = Cache()
    cache.record(endpoint.name, reference, answer, known=None)
    known = cache.known(endpoint.name, reference)
    assert known
    assert known.commit.files["README.md"].digest == Digest.of(hub.files["README.md"])


def test_what_is_measured_late_does_not_move_a_name_back(hub: Hub) -> None:
    endpoint, reference = open_endpoint(hub.base), Reference.parse("org/name")
    opened = open_release("org/name")
    moved = replace(endpoint.resolve(reference), id="d" * 40)
    Cache().record(endpoint.name, reference, moved, known=None)
    opened.path("README.md")
    known = Cache().known(endpoint.name, reference)
    assert known
    assert known.commit.id == moved.id


RECORD_IN_A_FORK = """
import os, signal, threading
from datetime import UTC, datetime
from hubstate.cache import Cache, releases
from hubstate.endpoints import Commit
from hubstate.reference import Reference

held, date = threading.Event(), datetime(2026, 1, 1, tzinfo=UTC)
commit = Commit(
    repo="org/name", id="1" * 40, parent=None, message="", author="", date=date, files={}
)

def record_slowly():
    for lock in releases._MERGING:
        lock.acquire()
    held.set()
    threading.Event().wait()

threading.Thread(target=record_slowly, daemon=True).start()
held.wait()
if child := os.fork():
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
signal.alarm(10)  # rather than for ever
Cache().record("http://127.0.0.1:1", Reference.parse("org/name"), commit, known=None)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_fork_does_not_wait_for_a_thread_of_its_parent_that_records_something() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", RECORD_IN_A_FORK], check=True, timeout=60)


def test_a_lease_of_this_process_is_never_taken_for_that_of_another(tmp_path: Path) -> None:
    """Not even at the moment at which its file is there and it is not yet known to be held."""
    place = tmp_path / "leases"
    place.mkdir()
    os.close(leases._create(place / ("0" * 64)))
    own = (place / ("0" * 64)).read_bytes()
    other = place / ("1" * 64)
    other.write_bytes(own.replace(b"}", b"1}"))  # a process whose number begins alike
    assert leases.held(tmp_path) == {other: other.read_bytes()}
    assert json.loads(own)["pid"] == os.getpid()
