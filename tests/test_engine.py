"""How a transfer cuts what it fetches into requests, and what it leaves to the disk at the end."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubstate.transport.chunks import Chunk, Range, cut, union
from hubstate.transport.engine import transfer
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


class Disk(Part):
    """A part whose bytes go nowhere: it tells how many had not been flushed at the end."""

    unflushed = flushes = 0

    def write(self, view: memoryview, position: int) -> None:
        with self._lock:
            self.unflushed += len(view)

    def keep(self, chunks: list[Chunk]) -> None:
        with self._lock:
            self.have += chunks

    def flush(self) -> None:
        with self._lock:
            self.flushes += 1
            self.unflushed = 0


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    with start_run(folder) as part:
        part.__class__ = Disk
        assert isinstance(part, Disk)
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


def test_little_is_left_to_the_disk_at_the_end(folder: Path) -> None:
    """It is kept busy meanwhile, and not asked for each megabyte either."""
    with disk(folder) as part:
        transfer(Server().read, cut([(0, 256 * MB)]), part, what="zeros")
        assert part.unflushed <= 20 * MB
        assert 6 <= part.flushes <= 24


def test_a_disk_that_fails_to_flush_fails_the_transfer(folder: Path) -> None:
    """Whoever asks it again is told that all is well, and the bytes may be gone."""

    class Failing(Disk):
        def flush(self) -> None:
            raise OSError("no longer there")

    with disk(folder) as part:
        part.__class__ = Failing
        with pytest.raises(OSError, match="no longer there"):
            transfer(Server().read, cut([(0, 96 * MB)]), part, what="zeros")
