"""The cache: verified while written, trusted by receipt, layered, and mended where damaged."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hubstate.blobs import Blobs, FileInfo
from hubstate.cache import Cache, entries, layers, prune, remove, total_size, verify
from hubstate.cache.receipts import UNRECEIPTED
from hubstate.digest import Digest
from hubstate.endpoints import Commit
from hubstate.errors import DigestMismatch, RevisionNotFound, Unreachable
from hubstate.reference import Reference

ENDPOINT = "http://127.0.0.1:1"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache([tmp_path / "cache"])


LARGE = b"abc" * UNRECEIPTED
OTHER = b"abd" * UNRECEIPTED


def store(cache: Cache, data: bytes) -> tuple[Path, Digest]:
    info = FileInfo(size=len(data), digest=Digest.of(data))
    return cache.store(io.BytesIO(data), info=info, what="a file")


def commit_of(files: dict[str, bytes], *, id: str = "1" * 40, repo: str = "org/name") -> Commit:
    infos = {path: FileInfo(size=len(d), digest=Digest.of(d)) for path, d in files.items()}
    date = datetime(2026, 1, 1, tzinfo=UTC)
    return Commit(repo=repo, id=id, parent=None, message="m", author="ada", date=date, files=infos)


def know(cache: Cache, reference: str, commit: Commit) -> Commit:
    parsed = Reference.parse(reference)
    return cache.record(ENDPOINT, parsed, commit, known=cache.known(ENDPOINT, parsed))


def damage(path: Path, data: bytes) -> None:
    """Other content under the same name, as a failing disk would leave it."""
    path.chmod(0o644)
    path.write_bytes(data)


def files_below(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


class Broken(io.BytesIO):
    """A stream that breaks after its content."""

    def readinto(self, buffer: object) -> int:  # type: ignore[override]
        count = super().readinto(buffer)  # type: ignore[arg-type]
        if count == 0:
            raise ConnectionResetError("reset by peer")
        return count


# Writing


def test_what_is_stored_is_found_and_cannot_be_written(cache: Cache) -> None:
    path, digest = store(cache, b"abc")
    assert cache.find(digest).path == path
    assert path.read_bytes() == b"abc"
    assert path.stat().st_mode & 0o222 == 0


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (FileInfo(size=3, digest=Digest.of(b"abd")), "expected sha256:.*, found sha256:"),
        (FileInfo(size=4, digest=Digest.of(b"abc")), "expected 4 bytes, found 3"),
        (FileInfo(size=2), "expected 2 bytes, found more than 2"),
    ],
)
def test_other_content_than_promised_leaves_nothing(
    cache: Cache, info: FileInfo, message: str
) -> None:
    with pytest.raises(DigestMismatch, match=f"a file: {message}"):
        cache.store(io.BytesIO(b"abc"), info=info, what="a file")
    assert files_below(cache.folders[0]) == {"CACHEDIR.TAG"}


def test_a_stream_that_never_ends_is_cut_off_at_its_stated_size(cache: Cache) -> None:
    class Endless(io.RawIOBase):
        given = 0

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            self.given += len(buffer)
            return len(buffer)

    endless = Endless()
    with pytest.raises(DigestMismatch, match="found more than 10"):
        cache.store(endless, info=FileInfo(size=10), what="a file")
    assert endless.given < 10 << 20


def test_a_stream_that_breaks_leaves_nothing(cache: Cache) -> None:
    with pytest.raises(Unreachable, match="a file: cannot be read: reset by peer"):
        cache.store(Broken(b"abc"), info=FileInfo(size=10), what="a file")
    assert files_below(cache.folders[0]) == {"CACHEDIR.TAG"}


def test_an_interrupt_leaves_nothing(cache: Cache) -> None:
    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.store(io.BytesIO(b"abc"), info=FileInfo(size=3), what="x", progress=interrupt)
    assert files_below(cache.folders[0]) == {"CACHEDIR.TAG"}


def test_progress_hears_of_every_byte(cache: Cache) -> None:
    told: list[int] = []
    size = (3 << 20) + 5
    data = bytes(size)
    cache.store(io.BytesIO(data), info=FileInfo(size=size), what="x", progress=told.append)
    assert sum(told) == size
    assert len(told) > 1


def test_a_file_that_does_not_fit_is_refused_before_it_is_read(cache: Cache) -> None:
    with pytest.raises(Unreachable, match=r"needs \d+ bytes, the cache .* has \d+ left"):
        cache.store(Broken(), info=FileInfo(size=1 << 60), what="a file")


WRITER = """
import sys
from pathlib import Path
from hubstate.blobs import FileInfo
from hubstate.cache import Cache

class Slow:
    def readinto(self, buffer):
        buffer[:1000] = b"x" * 1000
        print("wrote", flush=True)
        return 1000

Cache([Path(sys.argv[1])]).store(Slow(), info=FileInfo(size=1 << 40), what="x")
"""


def test_a_killed_download_leaves_a_temporary_that_goes_when_it_is_old(cache: Cache) -> None:
    folder = cache.folders[0]
    code = WRITER.replace("1 << 40", "1 << 30")
    child = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE)
    assert child.stdout
    child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.communicate()
    (temporary,) = (folder / "tmp").iterdir()
    assert not (folder / "blobs").exists()
    store(cache, b"abc")
    assert temporary.exists()
    os.utime(temporary, (0, 0))
    store(Cache(cache.folders), b"abcd")
    assert not temporary.exists()


def test_many_writers_of_the_same_and_of_other_content_do_not_fail(cache: Cache) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(10):
                path, digest = store(Cache(cache.folders), bytes([number]) * 1000)
                found = Cache(cache.folders).find(digest).path
                assert found == path
                assert found.read_bytes() == bytes([number]) * 1000
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert verify(cache).blobs == 10
    assert list((cache.folders[0] / "tmp").iterdir()) == []


# Receipts


def test_a_blob_with_a_receipt_is_not_hashed_again(cache: Cache) -> None:
    path, digest = store(cache, LARGE)
    before = path.stat()
    damage(path, OTHER)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    # Same size, time and inode: only re-hashing could tell, and a warm hit does not do that …
    assert cache.find(digest).path == path
    # … but verification does.
    assert list(verify(cache).damaged) == [path]


def test_a_changed_blob_is_hashed_and_dropped(cache: Cache) -> None:
    path, digest = store(cache, LARGE)
    time.sleep(0.01)
    damage(path, OTHER)
    found = cache.find(digest)
    assert found.path is None
    assert found.damaged == (path,)
    assert not path.exists()


def test_a_truncated_blob_is_dropped(cache: Cache) -> None:
    path, digest = store(cache, LARGE)
    damage(path, LARGE[:-1])
    assert cache.find(digest, size=len(LARGE)).damaged == (path,)
    assert not path.exists()


@pytest.mark.parametrize("state", ["missing", "torn", "other"])
def test_a_blob_without_its_receipt_is_hashed_once(cache: Cache, state: str) -> None:
    path, digest = store(cache, LARGE)
    (receipt,) = (cache.folders[0] / "receipts").rglob(digest.hex)
    whole = receipt.read_bytes()
    if state == "missing":
        receipt.unlink()
    else:
        receipt.write_bytes(b'{"size"' if state == "torn" else b'{"size": 3}')
    assert cache.find(digest).path == path
    assert json.loads(receipt.read_bytes()) == json.loads(whole)


def test_a_receipt_that_is_there_is_replaced_and_not_written_into(cache: Cache) -> None:
    """A snapshot of links keeps its own, and who may not write to a file may replace it."""
    path, digest = store(cache, LARGE)
    (receipt,) = (cache.folders[0] / "receipts").rglob(digest.hex)
    before, link = receipt.read_bytes(), receipt.with_name("link")
    os.link(receipt, link)
    os.utime(path, ns=(0, 0))
    assert cache.find(digest).path == path
    assert json.loads(receipt.read_bytes())["mtime_ns"] == 0
    assert link.read_bytes() == before


def test_a_copied_cache_is_hashed_once_and_then_trusted(cache: Cache, tmp_path: Path) -> None:
    _, digest = store(cache, LARGE)
    shutil.copytree(cache.folders[0], tmp_path / "copy")
    copy = Cache([tmp_path / "copy"])
    path = copy.find(digest).path
    assert path
    receipt = next((tmp_path / "copy" / "receipts").rglob(digest.hex))
    assert json.loads(receipt.read_bytes())["inode"] == path.stat().st_ino


def test_a_small_blob_is_hashed_each_time_and_needs_no_receipt(cache: Cache) -> None:
    path, digest = store(cache, b"abc")
    assert files_below(cache.folders[0]) == {"CACHEDIR.TAG", f"blobs/sha256/ba/{digest.hex}"}
    before = path.stat()
    damage(path, b"abd")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.find(digest).damaged == (path,)
    assert not path.exists()


def test_a_receipt_is_not_written_before_the_bytes_have_reached_the_disk(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_size)
    )
    monkeypatch.setattr(layers, "write_receipt", lambda *_, **__: flushed.append(-1))
    store(cache, LARGE)
    assert -1 in flushed
    assert len(LARGE) in flushed[: flushed.index(-1)]


# Layers


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that another user can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def as_reader(code: str, *words: str | Path) -> str:
    """Run code as somebody who may read everything below, and write only what is his."""
    prefix = "import os, sys, io\nfrom pathlib import Path\nfrom hubstate.cache import *\n"
    drop = "os.getuid() or (os.setgid(65534), os.setuid(65534))\n"
    answer = subprocess.run(
        [sys.executable, "-c", prefix + drop + code, *map(str, words)],
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def close_for_writing(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)


def open_for_writing(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)


LOOK = """
from hubstate.digest import Digest
cache = Cache([Path(word) for word in sys.argv[2:]])
print(cache.writable, cache.find(Digest(sys.argv[1])).path)
"""


def test_a_cache_that_can_only_be_read_serves_what_it_has(open_folder: Path) -> None:
    lower = open_folder / "lower"
    path, digest = store(Cache([lower]), b"abc")
    before = files_below(lower)
    close_for_writing(lower)
    try:
        assert as_reader(LOOK, digest.hex, lower) == f"None {path}"
        assert files_below(lower) == before
    finally:
        open_for_writing(lower)


def test_without_a_folder_that_can_be_written_storing_says_so(open_folder: Path) -> None:
    close_for_writing(open_folder)
    code = """
from hubstate.blobs import FileInfo
from hubstate.errors import Unreachable
try:
    Cache([Path(sys.argv[1])]).store(io.BytesIO(b"x"), info=FileInfo(size=1), what="model.bin")
except Unreachable as error:
    print(error)
"""
    text = as_reader(code, open_folder / "new")
    assert "model.bin: is in none of the cache folders" in text
    assert "HUBSTATE_CACHE" in text
    open_for_writing(open_folder)


def test_the_receipt_of_a_blob_below_is_kept_above(open_folder: Path) -> None:
    lower, upper = open_folder / "lower", open_folder / "upper"
    path, digest = store(Cache([lower]), LARGE)
    shutil.rmtree(lower / "receipts")
    upper.mkdir(mode=0o777)
    upper.chmod(0o777)
    close_for_writing(lower)
    try:
        assert as_reader(LOOK, digest.hex, lower, upper) == f"{upper} {path}"
        (receipt,) = upper.rglob(digest.hex)
        assert json.loads(receipt.read_bytes())["inode"] == path.stat().st_ino
        assert "below-" in str(receipt)
        # It is believed: a hash would now find that the content is another.
        status = path.stat()
        damage(path, OTHER)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert as_reader(LOOK, digest.hex, lower, upper) == f"{upper} {path}"
    finally:
        open_for_writing(lower)


def test_damage_below_is_left_there_and_not_used(open_folder: Path) -> None:
    lower, upper = open_folder / "lower", open_folder / "upper"
    path, digest = store(Cache([lower]), b"abc")
    damage(path, b"abd!")
    upper.mkdir()
    upper.chmod(0o777)
    close_for_writing(lower)
    try:
        assert as_reader(LOOK, digest.hex, lower, upper) == f"{upper} None"
        assert path.read_bytes() == b"abd!"
        again, _ = store(Cache([upper]), b"abc")
        assert as_reader(LOOK, digest.hex, lower, upper) == f"{upper} {again}"
    finally:
        open_for_writing(lower)


def test_the_first_folder_that_can_be_written_is_written_to(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    _, below = store(Cache([lower]), b"below")
    both = Cache([upper, lower])
    path, above = store(both, b"above")
    assert path.is_relative_to(upper)
    assert both.find(below).path
    assert Cache([lower]).find(above).path is None


# What releases mean


def test_a_reference_is_remembered_with_its_files(cache: Cache) -> None:
    commit = commit_of({"hubstate.json": b"{}", "w": b"abc"})
    know(cache, "org/name@v1", commit)
    for revision in ("v1", commit.id, str(Digest.of(b"{}"))):
        known = cache.known(ENDPOINT, Reference(repo="org/name", revision=revision))
        assert known
        assert known.commit == commit
    for revision in ("main", "1" * 39, "2" * 40, str(Digest.of(b"?"))):
        assert cache.known(ENDPOINT, Reference(repo="org/name", revision=revision)) is None
    assert cache.known("http://127.0.0.1:2", Reference.parse("org/name@v1")) is None


def test_the_latest_answer_of_all_folders_counts(tmp_path: Path) -> None:
    lower, upper = Cache([tmp_path / "lower"]), Cache([tmp_path / "upper"])
    old, new = commit_of({"a": b"1"}), commit_of({"a": b"2"}, id="2" * 40)
    know(lower, "org/name", old)
    know(upper, "org/name", new)
    record = next((tmp_path / "lower").rglob("revision-main.json"))
    record.write_text(record.read_text().replace(str(datetime.now(UTC).year), "2020"))
    for folders in ([*lower.folders, *upper.folders], [*upper.folders, *lower.folders]):
        known = Cache(folders).known(ENDPOINT, Reference.parse("org/name"))
        assert known
        assert known.commit == new


def test_a_digest_that_was_measured_is_kept_where_the_registry_states_none(cache: Cache) -> None:
    commit = commit_of({"a": b"1"})
    silent = Commit(
        **{f: getattr(commit, f) for f in Commit.__slots__} | {"files": {"a": FileInfo(size=1)}}
    )
    assert know(cache, "org/name", silent) == silent
    assert know(cache, "org/name", commit) == commit
    assert know(cache, "org/name", silent) == commit


@pytest.mark.parametrize("data", [b"", b"{}", b'{"schema": 1, "commit": 3, "resolved": 4}'])
def test_a_torn_record_counts_as_absent(cache: Cache, data: bytes) -> None:
    know(cache, "org/name", commit_of({"a": b"1"}))
    record = next(cache.folders[0].rglob("revision-main.json"))
    record.write_bytes(data)
    assert cache.known(ENDPOINT, Reference.parse("org/name")) is None
    assert entries(cache) == []


# Upkeep


def test_entries_say_what_is_there_and_what_is_not(cache: Cache) -> None:
    store(cache, b"abc")
    know(cache, "org/name@v1", commit_of({"w": b"abc", "absent": b"xyzxyz"}))
    know(cache, "single", commit_of({"w": b"abc"}, repo="single"))
    first, second = entries(cache)
    assert str(first.reference) == "org/name@v1"
    assert first.present == {"w"}
    assert first.size == 3
    assert first.endpoint == ENDPOINT
    assert set(first.files) == {"w", "absent"}
    assert abs(first.used.timestamp() - time.time()) < 60
    assert str(second.reference) == "single@main"
    assert total_size(cache) == 3


def test_verification_names_what_is_damaged_and_who_needs_it(cache: Cache) -> None:
    good, _ = store(cache, b"good")
    bad, _ = store(cache, b"bad!")
    know(cache, "org/name@v1", commit_of({"weights": b"bad!", "fine": b"good"}))
    damage(bad, b"worse")
    told: list[int] = []
    found = verify(cache, progress=told.append)
    assert found.blobs == 2
    assert dict(found.damaged) == {bad: ("org/name@v1: weights",)}
    assert sum(told) == 9
    assert bad.exists()
    verify(cache, repair=True)
    assert not bad.exists()
    assert good.exists()
    assert verify(cache).damaged == {}


def test_removing_a_release_keeps_what_others_need(cache: Cache) -> None:
    shared, _ = store(cache, b"shared")
    own, _ = store(cache, b"own")
    know(cache, "org/name@v1", commit_of({"a": b"shared", "b": b"own"}))
    know(cache, "org/name@v2", commit_of({"a": b"shared"}, id="2" * 40))
    unnamed, _ = store(cache, b"somebody is fetching this")
    freed = remove(cache, Reference.parse("org/name@v1"))
    assert freed.size == 3
    assert not own.exists()
    assert shared.exists()
    assert unnamed.exists()
    assert [str(entry.reference) for entry in entries(cache)] == ["org/name@v2"]
    with pytest.raises(RevisionNotFound, match="not in the cache"):
        remove(cache, Reference.parse("org/name@v1"))
    remove(cache, Reference.parse("org/name"), every=True)
    assert entries(cache) == []
    assert not shared.exists()
    assert not list(cache.folders[0].rglob("commit-*.json"))


def test_a_release_is_removed_by_its_commit_too(cache: Cache) -> None:
    know(cache, "org/name@v1", commit_of({"a": b"1"}))
    remove(cache, Reference(repo="org/name", revision="1" * 40))
    assert entries(cache) == []


def test_pruning_takes_what_no_release_names_once_it_is_old(cache: Cache) -> None:
    kept, _ = store(cache, b"kept")
    loose, _ = store(cache, b"loose")
    know(cache, "org/name", commit_of({"a": b"old"}))
    know(cache, "org/name", commit_of({"a": b"kept"}, id="2" * 40))
    dead = cache.folders[0] / "tmp" / "1-dead"
    dead.write_bytes(b"half")
    os.utime(dead, (0, 0))
    assert prune(cache, dry_run=True).paths == (dead,)
    assert dead.exists()
    os.utime(loose, (0, 0))
    freed = prune(cache)
    assert set(freed.paths) == {dead, loose}
    assert freed.size == 5
    assert kept.exists()
    (record,) = prune(cache, age=-1).paths
    assert record.name == f"commit-{'1' * 40}.json"
    assert cache.find(Digest.of(b"kept")).path == kept


def test_pruning_forgets_what_was_long_unused(cache: Cache) -> None:
    path, _ = store(cache, b"abc")
    know(cache, "org/name", commit_of({"a": b"abc"}))
    assert prune(cache, unused=3600, age=-1).paths == ()
    record = next(cache.folders[0].rglob("revision-main.json"))
    os.utime(record, (0, 0))
    assert entries(cache)[0].used.year == 1970
    assert {record, path} <= set(prune(cache, unused=3600, age=-1, dry_run=True).paths)
    assert path.exists()
    assert {record, path} <= set(prune(cache, unused=3600, age=-1).paths)
    assert files_below(cache.folders[0] / "blobs") == set()
    assert files_below(cache.folders[0] / "receipts") == set()


def test_use_is_remembered_to_the_hour(cache: Cache) -> None:
    commit = commit_of({"a": b"abc"})
    know(cache, "org/name", commit)
    record = next(cache.folders[0].rglob("revision-main.json"))
    os.utime(record, (0, 0))
    know(cache, "org/name", commit)
    assert time.time() - record.stat().st_mtime < 60


def test_the_blobs_of_an_empty_cache_are_none(cache: Cache) -> None:
    assert list(Blobs(cache.folders[0])) == []
    assert verify(cache).blobs == 0
    assert prune(cache).paths == ()
    assert not cache.folders[0].exists()


def test_a_hit_costs_no_more_than_reading_a_receipt(cache: Cache) -> None:
    _, digest = store(cache, bytes(1 << 20))
    cache.find(digest)
    best = min(_time(lambda: cache.find(digest)) for _ in range(50))
    assert best < 0.001


def _time(call: object) -> float:
    start = time.perf_counter()
    call()  # type: ignore[operator]
    return time.perf_counter() - start
