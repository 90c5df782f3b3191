"""The parts of the download engine: chunks, journals, waiting, pace."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubstate.digest import Digest
from hubstate.errors import Unreachable
from hubstate.manifest import CHUNK, FileRecord, TensorRecord
from hubstate.transport import Interrupted, Patience, follow, origin
from hubstate.transport.chunks import (
    Chunk,
    bridge,
    cut,
    is_covered,
    runs,
    seal,
    subtract,
    tile,
    union,
)
from hubstate.transport.failures import retry_after
from hubstate.transport.pace import Pace
from hubstate.transport.part import Part, adopt_run, start_run
from hubstate.transport.runs import read_journal, runs_in

SHA = Digest.of(b"")
ranges = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=12)


def members(parts: list[tuple[int, int]]) -> set[int]:
    return {at for start, stop in parts for at in range(start, stop)}


# Ranges and chunks


@given(ranges)
def test_a_union_has_the_same_members_in_order_and_apart(parts: list[tuple[int, int]]) -> None:
    joined = union(parts)
    assert members(joined) == members(parts)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(joined))


@given(ranges, ranges)
def test_a_difference_has_what_only_the_first_has(
    parts: list[tuple[int, int]], holes: list[tuple[int, int]]
) -> None:
    assert members(subtract(parts, holes)) == members(parts) - members(holes)


@given(ranges, st.integers(0, 200), st.integers(0, 60))
def test_a_part_is_covered_if_every_byte_is(
    parts: list[tuple[int, int]], start: int, size: int
) -> None:
    part = (start, start + size)
    assert is_covered(part, union(parts)) == (members([part]) <= members(parts))


def record(*tensors: tuple[int, int], size: int | None = None, header: int = 10) -> FileRecord:
    return FileRecord(
        path="model.safetensors",
        size=size if size is not None else tensors[-1][1],
        digest=SHA,
        header=SHA,
        tensors=tuple(
            TensorRecord(
                name=str(start),
                dtype="uint8",
                shape=(stop - start,),
                start=start,
                stop=stop,
                digests=(SHA,) * max(1, -(-(stop - start) // CHUNK)),
            )
            for start, stop in tensors
        ),
    )


def test_tiles_are_the_header_and_every_chunk_of_every_tensor() -> None:
    tiles = tile(
        record(
            (10, 10 + CHUNK + 5), (10 + CHUNK + 5, 10 + CHUNK + 5), (10 + CHUNK + 5, 10 + CHUNK + 9)
        )
    )
    assert tiles is not None
    assert [(t.start, t.stop) for t in tiles] == [
        (0, 10),
        (10, 10 + CHUNK),
        (10 + CHUNK, 10 + CHUNK + 5),
        (10 + CHUNK + 5, 10 + CHUNK + 9),
    ]


@pytest.mark.parametrize(
    "untiled", [record((10, 20), (25, 30)), record((10, 20), (15, 30)), record((10, 20), size=30)]
)
def test_a_record_that_leaves_bytes_without_a_digest_makes_no_tiles(untiled: FileRecord) -> None:
    assert tile(untiled) is None


def test_a_seal_tells_files_apart_that_state_the_same_digest() -> None:
    a, b = [Chunk(0, 5, SHA)], [Chunk(0, 5, Digest.of(b"other"))]
    assert seal(a) != seal(b) == seal(b)


def test_narrow_gaps_are_fetched_along_and_cost_next_to_nothing() -> None:
    sizes = [1000, 1, 1000, 3, 1000, 21, 1000]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    tiles = [Chunk(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    wanted = {chunk for chunk in tiles if chunk.size == 1000}
    chosen = bridge(tiles, wanted)
    assert [chunk.size for chunk in chosen] == [1000, 1, 1000, 3, 1000, 1000]
    assert len(runs(chosen)) == 2


def test_chunks_without_digests_fill_their_ranges() -> None:
    assert [(c.start, c.stop) for c in cut([(0, 3), (5, 5 + CHUNK + 1)])] == [
        (0, 3),
        (5, 5 + CHUNK),
        (5 + CHUNK, 5 + CHUNK + 1),
    ]


# Parts and their journals


def fill(part: Part, *pieces: tuple[int, bytes]) -> None:
    for start, data in pieces:
        part.write(memoryview(data), start)
        part.keep([Chunk(start, start + len(data), Digest.of(data))])


def test_whoever_goes_on_with_a_run_has_what_was_verified_and_still_is(tmp_path: Path) -> None:
    with start_run(tmp_path) as part:
        part.resize(30)
        part.reserve([(0, 5), (10, 25)])
        fill(part, (0, b"first"), (10, b"second"), (20, b"third"))
        part.write(memoryview(b"XX"), 11)
        with (part.folder / "journal").open("ab") as journal:
            journal.write(b"25 29 0123")  # cut off by the kill
    [run] = runs_in(tmp_path)
    again = adopt_run(run)
    assert again is not None
    with again:
        assert again.covered == [(0, 5), (20, 25)]
        assert [(c.start, c.stop) for c in read_journal(again.folder / "journal")] == [
            (0, 5),
            (20, 25),
        ]


def test_whoever_is_late_does_not_write_to_what_was_opened_meanwhile(tmp_path: Path) -> None:
    """Threads that a second Ctrl-C leaves behind; a number of a file is soon used again."""
    with start_run(tmp_path) as part:
        pass
    with contextlib.ExitStack() as stack:
        for name in "abc":
            stack.enter_context((tmp_path / name).open("wb"))
        with pytest.raises(OSError, match="Bad file descriptor"):
            part.write(memoryview(b"late"), 0)
        with pytest.raises(OSError, match="Bad file descriptor"):
            part.keep([Chunk(0, 4, Digest.of(b"late"))])
    assert [(tmp_path / name).read_bytes() for name in "abc"] == [b""] * 3


def test_the_run_of_a_living_process_is_left_to_it(tmp_path: Path) -> None:
    with start_run(tmp_path) as part:
        assert adopt_run(part.folder) is None
        assert part.path.exists()


def test_a_run_of_another_machine_is_copied_from_and_not_taken(tmp_path: Path) -> None:
    with start_run(tmp_path) as part:
        fill(part, (0, b"first"))
    foreign = part.folder.rename(tmp_path / "run-00000000-1-abcd")
    assert adopt_run(foreign) is None
    with start_run(tmp_path) as mine:
        mine.copy([(c, c.start) for c in read_journal(foreign / "journal")], foreign / "part")
        assert mine.covered == [(0, 5)]


@pytest.mark.parametrize("locks", [True, False])
def test_a_run_that_was_idle_for_hours_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    """As that of this machine is, once it was started anew."""
    if not locks:
        monkeypatch.setattr("hubstate.transport.runs._take_lock", lambda _: None)
    with start_run(tmp_path) as part:
        fill(part, (0, b"first"))
        alive = adopt_run(part.folder)
    foreign = part.folder.rename(tmp_path / "run-00000000-1-abcd")
    assert alive is adopt_run(foreign) is None
    for path in (foreign / "part", foreign / "journal", foreign):
        os.utime(path, times=(time.time() - 10_000,) * 2)
    adopted = adopt_run(foreign)
    assert adopted
    assert (adopted.covered, foreign.exists()) == ([(0, 5)], False)
    with adopted:
        adopted.discard()


def test_a_journal_that_is_right_is_never_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_run(tmp_path) as part:
        fill(part, (0, b"first"), (9, b"more"))
    before = (part.folder / "journal").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", None)
        adopted = adopt_run(part.folder)
    assert adopted
    with adopted:
        assert adopted.covered == [(0, 5), (9, 13)]
        assert (adopted.folder / "journal").read_bytes() == before


def test_a_lock_that_is_held_counts_for_more_than_hours(tmp_path: Path) -> None:
    with start_run(tmp_path) as part:
        fill(part, (0, b"first"))
        for path in (part.path, part.folder / "journal", part.folder):
            os.utime(path, times=(time.time() - 10_000,) * 2)
        assert adopt_run(part.folder) is None


def test_what_another_file_does_not_really_have_is_not_copied(tmp_path: Path) -> None:
    donor = tmp_path / "donor"
    donor.write_bytes(b"first" + b"?" * 20)
    with start_run(tmp_path) as part:
        claims = [Chunk(0, 5, Digest.of(b"first")), Chunk(5, 9, Digest.of(b"more"))]
        claims.append(Chunk(24, 29, Digest.of(b"after")))
        copies = [(claim, claim.start) for claim in claims]
        part.copy(copies, donor)
        part.copy(copies, tmp_path / "gone")
        assert part.covered == [(0, 5)]


def test_a_part_that_moves_becomes_read_only_and_follows_the_umask(tmp_path: Path) -> None:
    with start_run(tmp_path) as part:
        fill(part, (0, b"first"))
        status = part.move(tmp_path / "blob")
    before = os.umask(0o022)
    os.umask(before)
    assert (tmp_path / "blob").stat().st_mode & 0o777 == 0o444 & ~before
    assert status.st_mtime_ns == (tmp_path / "blob").stat().st_mtime_ns


# Waiting


@given(st.integers(1, 40), st.floats(0, 1000))
def test_waits_are_bounded_and_never_shorter_than_asked(failures: int, after: float) -> None:
    patience = Patience(attempts=3, base=0.5, longest=15)
    delays = {patience.delay(failures) for _ in range(9)}
    assert 0 < min(delays) < max(delays) <= 15
    assert patience.delay(failures, after=after) >= min(after, 300)


def test_the_server_says_how_long_to_wait_in_seconds_or_by_date() -> None:
    assert retry_after({"Retry-After": "7"}) == 7
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < (retry_after({"Retry-After": later}) or 0) <= 30
    assert retry_after({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}) == 0
    assert retry_after({"Retry-After": "-1"}) is None
    assert retry_after({"Retry-After": f"Mon, 01 Jan 2020 00:00:00 -{'9' * 20}"}) is None
    assert retry_after({}) is None


def test_a_wait_ends_when_the_transfer_is_stopped() -> None:
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    with pytest.raises(Interrupted, match="down"):
        Patience(attempts=5, base=60, longest=60).wait(Interrupted("down"), 1, stop=stop)


def test_nobody_is_led_from_https_to_http() -> None:
    assert follow("http://a/x", "https://b/y", what="it") == "https://b/y"
    with pytest.raises(Unreachable, match="not secure"):
        follow("https://a/x", "http://a/x", what="it")


def test_origins_are_scheme_host_and_port() -> None:
    assert origin("http://a/x") == origin("http://A:80/y")
    assert len({origin(url) for url in ("http://a", "https://a", "http://a:81", "http://b")}) == 4


# Pace


def settle(pace: Pace, link: float, each: float, load: float = 0.1) -> int:
    for _ in range(20):
        pace.judge(min(link, each * pace.connections), load)
    return pace.connections


def test_slow_connections_become_many() -> None:
    assert settle(Pace(), link=1e9, each=30e6) == 16


def test_connections_that_only_share_a_link_stay_few() -> None:
    assert settle(Pace(), link=100e6, each=100e6) == 2


def test_connections_stop_where_they_stop_to_help() -> None:
    assert settle(Pace(), link=130e6, each=30e6) in (4, 8)


def test_a_busy_processor_gets_no_more_connections() -> None:
    assert settle(Pace(), link=1e9, each=30e6, load=0.65) == 2
