"""How a transfer cuts what it fetches into requests, and what it leaves to the disk at the end."""

from __future__ import annotations

import ctypes
import errno
import itertools
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubstate import copying
from hubstate.errors import DigestMismatch
from hubstate.transport.chunks import Chunk, Range, cut, union
from hubstate.transport.engine import transfer
from hubstate.transport.pace import Pace
from hubstate.transport.part import Part, start_run

MB = 1 << 20


class Zeros:
    """A stream of zeros, which never has them all at once."""

    def __init__(self, size: int) -> None:
        self.left = size

    def readinto(self, buffer: memoryview, /) -> int:
        count = min(len(buffer), self.left)
        self.left -= count
        time.sleep(0)
        return count


class Server:
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Range] = []

    @contextmanager
    def read(self, start: int, stop: int) -> Iterator[Zeros]:
        self.asked.append((start, stop))
        yield Zeros(stop - start)


class Crowd(Server):
    """Remembers how many asked at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    @contextmanager
    def read(self, start: int, stop: int) -> Iterator[Zeros]:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.005)
        yield Zeros(stop - start)
        with self.lock:
            self.now -= 1


class Disk(Part):
    """A part whose bytes go nowhere: it tells which were left to the disk before the end."""

    begun: list[Range]

    def write(self, view: memoryview, position: int) -> None:
        pass

    def keep(self, chunks: list[Chunk]) -> None:
        with self._lock:
            self.have += chunks

    def begin_flush(self, start: int, stop: int) -> None:
        with self._lock:
            self.begun.append((start, stop))


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    with start_run(folder) as part:
        part.__class__ = Disk
        assert isinstance(part, Disk)
        part.begun = []
        yield part


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def ask(folder: Path, tensors: list[Range]) -> list[Range]:
    server = Server()
    with disk(folder) as part:
        transfer(server.read, cut(tensors), part, what="zeros")
        assert part.covered == union(tensors)
    return sorted(server.asked)


def test_tensors_in_a_row_are_asked_for_without_crumbs(folder: Path) -> None:
    """Each of these has a chunk of 8 MiB and one of 2: the latter is not worth a request."""
    tensors = [(at * 10 * MB, (at + 1) * 10 * MB) for at in range(12)]
    asked = ask(folder, tensors)
    assert union(asked) == [(0, 120 * MB)]
    assert min(stop - start for start, stop in asked) >= 4 * MB
    assert len(asked) <= 10


def test_requests_are_short_at_first_and_near_the_end(folder: Path) -> None:
    """Before anything has arrived nobody knows whether a few connections will do."""
    lengths = [stop - start for start, stop in ask(folder, [(0, 320 * MB)])]
    assert lengths[0] == 40 * MB
    assert lengths[-1] <= 48 * MB < max(lengths)


@pytest.mark.parametrize(("more", "said"), [(1, "goes on after"), (-1, "ends at")])
def test_a_stream_of_another_length_is_refused(folder: Path, more: int, said: str) -> None:
    @contextmanager
    def read(start: int, stop: int) -> Iterator[Zeros]:
        yield Zeros(stop - start + more)

    with disk(folder) as part, pytest.raises(DigestMismatch, match=f"zeros: {said} byte"):
        transfer(read, cut([(0, MB)]), part, what="zeros")


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 24)), min_size=1, max_size=6))
@settings(max_examples=20)
def test_every_wanted_byte_is_asked_for_once(folder: Path, gaps: list[Range]) -> None:
    at, tensors = 0, []
    for gap, size in gaps:
        tensors.append((at + gap * MB, at + gap * MB + size * MB // 4))
        at = tensors[-1][1]
    asked = ask(folder, tensors)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(asked))
    assert union(asked) == union(tensors)


@pytest.mark.parametrize(("pieces", "most"), [(4, 2), (24, 3)])
def test_many_pieces_have_one_connection_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch, pieces: int, most: int
) -> None:
    """Each waits for its answer, and the processors need not."""
    monkeypatch.setattr(Pace, "judge", lambda *_: None)
    server = Crowd()
    with disk(folder) as part:
        tensors = [(at * 20 * MB, (at * 20 + 10) * MB) for at in range(pieces)]
        transfer(server.read, cut(tensors), part, what="zeros")
    assert server.most == most


def test_little_is_left_to_the_disk_at_the_end(folder: Path) -> None:
    """It is kept busy meanwhile, and not asked for each megabyte either."""
    with disk(folder) as part:
        transfer(Server().read, cut([(0, 256 * MB)]), part, what="zeros")
    assert sum(stop - start for start, stop in part.begun) >= 240 * MB
    assert min(stop - start for start, stop in part.begun) >= 2 * MB


@pytest.mark.parametrize("able", [True, False])
def test_to_begin_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, able: bool
) -> None:
    assert copying._system("sync_file_range", "qqI") or sys.platform != "linux"
    if not able:
        monkeypatch.setattr(copying, "_system", lambda *_: None)
    with start_run(folder) as part:
        part.write(memoryview(b"abc" * MB), 0)
        part.begin_flush(0, 2 * MB)
        part.begin_flush(3 * MB, 3 * MB)
        assert part.path.read_bytes() == b"abc" * MB
    copying.begin_flush(-1, 0, 1)
    part.discard()


def test_room_is_reserved_at_once(folder: Path) -> None:
    with start_run(folder) as part:
        part.resize(9 * MB)
        part.reserve([(0, 4 * MB), (5 * MB, 5 * MB)])
        assert part.path.stat().st_size == 9 * MB
        if sys.platform == "linux":
            assert 4 * MB <= part.path.stat().st_blocks * 512 < 9 * MB
            with pytest.raises(OSError, match=r"large|space"):
                part.reserve([(0, 1 << 62)])
    part.discard()


@pytest.mark.parametrize("able", [True, False], ids=["not supported", "no such function"])
def test_where_no_room_can_be_reserved_nothing_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, able: bool
) -> None:
    """The library of the system would write to each block, which sends a file twice over NFS."""

    def refuse(*_: int) -> int:
        ctypes.set_errno(errno.EOPNOTSUPP)
        return -1

    monkeypatch.setattr(copying, "_system", lambda *_: refuse if able else None)
    with start_run(folder) as part:
        part.resize(9 * MB)
        part.reserve([(0, 9 * MB)])
        assert part.path.stat().st_blocks == 0
    part.discard()


class Line(Server):
    """Brings so many bytes a second, and remembers how many were taken at one time."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate, self.taken = rate, list[int]()

    @contextmanager
    def read(self, start: int, stop: int) -> Iterator[Zeros]:
        stream = Zeros(stop - start)
        take = stream.readinto

        def slowly(buffer: memoryview) -> int:
            count = take(buffer)
            time.sleep(count / self.rate)
            self.taken.append(count)
            return count

        stream.readinto = slowly  # type: ignore[method-assign]
        yield stream


def test_a_slow_line_brings_small_blocks_so_that_a_kill_costs_little(folder: Path) -> None:
    slow, fast = Line(2 * MB), Line(10_000 * MB)
    for line, size in ((slow, MB), (fast, 64 * MB)):
        with disk(folder) as part:
            one = Pace(most=1)
            transfer(line.read, cut([(0, size)]), part, what="zeros", pace=one)
    assert max(slow.taken[1:]) <= 256 << 10
    assert max(fast.taken) == 2 * MB
