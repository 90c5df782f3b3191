"""The folder registry: atomic, safe for several writers, and it survives any kill."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubstate.digest import Digest
from hubstate.endpoints import Commit, FileInfo, Stream, open_endpoint
from hubstate.endpoints.base import check_path, check_paths
from hubstate.endpoints.folder import FolderEndpoint
from hubstate.endpoints.records import dump_commit, parse_commit
from hubstate.endpoints.sweeping import sweep
from hubstate.errors import (
    Conflict,
    Damaged,
    DigestMismatch,
    FileNotInRelease,
    InvalidReference,
    InvalidSetting,
    RepositoryNotFound,
    RevisionNotFound,
    Unreachable,
)
from hubstate.reference import Reference

REPO = "org/name"


@pytest.fixture
def registry(tmp_path: Path) -> FolderEndpoint:
    return FolderEndpoint(tmp_path / "registry")


def publish(
    registry: FolderEndpoint, files: dict[str, bytes | Path | None], **options: object
) -> Commit:
    defaults = {"message": "a message", "author": "ada"}
    return registry.commit(REPO, files, **(defaults | options))  # type: ignore[arg-type]


def at(revision: str = "main", repo: str = REPO) -> Reference:
    return Reference(repo=repo, revision=revision)


def content(stream: Stream) -> bytes:
    buffer = memoryview(bytearray(100))
    parts = []
    while count := stream.readinto(buffer) or 0:
        parts.append(bytes(buffer[:count]))
    return b"".join(parts)


def read(registry: FolderEndpoint, commit: Commit, path: str, **bounds: int) -> bytes:
    with registry.read(commit, path, **bounds) as stream:
        return content(stream)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# One writer


def test_what_is_published_can_be_read_under_every_kind_of_revision(
    registry: FolderEndpoint,
) -> None:
    files: dict[str, bytes | Path | None] = {"hubstate.json": b"{}", "a/b.txt": b"x" * 250}
    commit = publish(registry, files, tag="v1")
    digest = str(Digest.of(b"{}"))
    for revision in ("main", "v1", commit.id, commit.id[:7], digest):
        assert registry.resolve(at(revision)) == commit
    assert read(registry, commit, "a/b.txt") == b"x" * 250
    assert read(registry, commit, "a/b.txt", start=100, stop=220) == b"x" * 120
    assert read(registry, commit, "a/b.txt", start=240) == b"x" * 10
    assert read(registry, commit, "a/b.txt", start=240, stop=999) == b"x" * 10
    assert commit.size == 252
    assert commit.parent is None


def test_a_commit_is_named_by_the_digest_of_its_record(registry: FolderEndpoint) -> None:
    commit = publish(registry, {"a": b"1"})
    record = registry.root / "repos" / REPO / "commits" / f"{commit.id}.json"
    assert Digest.of(record.read_bytes()).hex.startswith(commit.id)


def test_files_accumulate_and_go_when_told_to(registry: FolderEndpoint) -> None:
    first = publish(registry, {"a": b"1", "b": b"2"})
    second = publish(registry, {"b": None, "c": b"3"})
    assert set(second.files) == {"a", "c"}
    assert second.parent == first.id
    assert [c.id for c in registry.history(at())] == [second.id, first.id]
    assert registry.resolve(at(first.id)) == first


def test_the_same_content_again_makes_no_commit(registry: FolderEndpoint) -> None:
    first = publish(registry, {"a": b"1"})
    before = files_below(registry.root)
    assert publish(registry, {"a": b"1"}, message="again") == first
    assert files_below(registry.root) == before


def test_an_interrupted_publish_is_completed_with_its_tag(registry: FolderEndpoint) -> None:
    first = publish(registry, {"a": b"1"})  # the tag was not reached
    assert publish(registry, {"a": b"1"}, tag="v1") == first
    assert registry.resolve(at("v1")) == first


def test_content_is_stored_once(registry: FolderEndpoint, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"same")
    publish(registry, {"a": b"same", "b": tmp_path / "file"})
    blob = registry._shelf.blobs.path(Digest.of(b"same"))
    inode = blob.stat().st_ino
    publish(registry, {"c": b"same"}, branch="other", parent=None)
    assert blob.stat().st_ino == inode
    assert len([p for p in (registry.root / "blobs").rglob("*") if p.is_file()]) == 1
    assert list((registry.root / "tmp").iterdir()) == []


def test_a_blob_that_was_cut_short_is_mended_by_publishing_it_again(
    registry: FolderEndpoint,
) -> None:
    publish(registry, {"a": b"content"})
    blob = registry._shelf.blobs.path(Digest.of(b"content"))
    blob.unlink()
    blob.write_bytes(b"cont")
    commit = publish(registry, {"a": b"content"})
    assert read(registry, commit, "a") == b"content"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(registry: FolderEndpoint, umask: int) -> None:
    before = os.umask(umask)
    try:
        commit = publish(registry, {"a": b"1"})
    finally:
        os.umask(before)
    blob = registry._shelf.blobs.path(Digest.of(b"1"))
    assert blob.stat().st_mode & 0o777 == 0o444 & ~umask
    assert (registry.root / "repos" / REPO / "refs.json").stat().st_mode & 0o777 == 0o666 & ~umask
    assert commit.id


def test_refs_are_listed_and_copied_for_readers_that_cannot_list(
    registry: FolderEndpoint,
) -> None:
    first = publish(registry, {"a": b"1"}, branch="fix/BN", tag="V1.0")
    second = publish(registry, {"a": b"2"}, branch="main", parent=None)
    refs = registry.refs(REPO)
    assert refs.branches == {"fix/BN": first.id, "main": second.id}
    assert refs.tags == {"V1.0": first.id}
    copy = json.loads((registry.root / "repos" / REPO / "refs.json").read_bytes())
    assert copy["branches"] == refs.branches
    assert copy["tags"] == refs.tags


def test_repositories_are_listed_by_pattern(registry: FolderEndpoint) -> None:
    assert list(registry.repositories()) == []
    for repo in ("org/b", "org/a", "single", "other/a"):
        registry.commit(repo, {"x": b"1"}, message="m", author="ada")
    assert list(registry.repositories()) == ["single", "org/a", "org/b", "other/a"]
    assert list(registry.repositories("org/*")) == ["org/a", "org/b"]
    assert list(registry.repositories("*/a")) == ["org/a", "other/a"]
    assert registry.resolve(at(repo="single")).repo == "single"


def test_a_tag_does_not_move(registry: FolderEndpoint) -> None:
    first = publish(registry, {"a": b"1"}, tag="v1")
    before = files_below(registry.root / "repos")
    with pytest.raises(Conflict, match=f"tag 'v1' names commit {first.id}.*by ada"):
        publish(registry, {"a": b"2"}, tag="v1")
    assert files_below(registry.root / "repos") == before
    registry.tag(REPO, "v1", commit=first.id, author="ada")
    second = publish(registry, {"a": b"2"})
    with pytest.raises(Conflict):
        registry.tag(REPO, "v1", commit=second.id, author="bob")
    registry.tag(REPO, "v2", commit=second.id[:9], author="bob")
    assert registry.resolve(at("v2")) == second


def test_a_branch_and_a_tag_do_not_share_a_name(registry: FolderEndpoint) -> None:
    publish(registry, {"a": b"1"}, tag="v1")
    with pytest.raises(Conflict, match="is a branch"):
        publish(registry, {"a": b"2"}, branch="other", tag="main")
    with pytest.raises(Conflict, match="is a tag"):
        publish(registry, {"a": b"2"}, branch="v1")


def test_a_branch_starts_at_any_commit(registry: FolderEndpoint) -> None:
    first = publish(registry, {"a": b"1"})
    publish(registry, {"a": b"2"})
    branched = publish(registry, {"b": b"3"}, branch="fix", parent=first.id)
    assert branched.parent == first.id
    assert set(branched.files) == {"a", "b"}
    assert publish(registry, {"a": b"1"}, branch="same", parent=first.id) == first
    assert registry.refs(REPO).branches["same"] == first.id


# What is refused


def test_a_stale_parent_is_refused_with_the_name_of_the_winner(registry: FolderEndpoint) -> None:
    first = publish(registry, {"a": b"1"})
    second = publish(registry, {"a": b"2"}, author="bob", message="bob's own")
    for parent in (first.id, None):
        with pytest.raises(Conflict) as caught:
            publish(registry, {"a": b"3"}, parent=parent)
        assert second.id in str(caught.value)
        assert "bob" in str(caught.value)
        assert "bob's own" in str(caught.value)
    assert registry.resolve(at()) == second


def test_an_unknown_parent_is_refused(registry: FolderEndpoint) -> None:
    with pytest.raises(RevisionNotFound, match="parent"):
        publish(registry, {"a": b"1"}, parent="0" * 40)


def test_nothing_is_no_release(registry: FolderEndpoint) -> None:
    with pytest.raises(InvalidReference, match="at least one file"):
        publish(registry, {})


@pytest.mark.parametrize(
    "path",
    ["../x", "/x", "", "a//b", "a/./b", "a\\b", "a/", ".git/config", "a\nb", "a\0b", "x" * 1001],
)
def test_a_path_that_climbs_or_breaks_a_system_is_refused(
    registry: FolderEndpoint, path: str
) -> None:
    with pytest.raises(InvalidReference, match="expected a relative path"):
        publish(registry, {path: b"1"})
    assert not (registry.root / "repos").exists()


@pytest.mark.parametrize("paths", [["a", "A"], ["a", "a/b"], ["x/a", "X/A"], ["A/b", "a"]])
def test_paths_that_cannot_stand_side_by_side_are_refused(
    registry: FolderEndpoint, paths: list[str]
) -> None:
    with pytest.raises(InvalidReference):
        publish(registry, dict.fromkeys(paths, b"1"))


def test_a_file_can_be_renamed_to_other_case(registry: FolderEndpoint) -> None:
    publish(registry, {"readme.md": b"1"})
    assert set(publish(registry, {"readme.md": None, "README.md": b"1"}).files) == {"README.md"}


def test_repositories_that_differ_in_case_only_are_refused(registry: FolderEndpoint) -> None:
    publish(registry, {"a": b"1"})
    for repo in ("org/Name", "ORG/other"):
        with pytest.raises(Conflict, match="case only"):
            registry.commit(repo, {"a": b"1"}, message="m", author="ada")


@pytest.mark.parametrize("name", ["a" * 40, "A" * 40, str(Digest.of(b""))])
def test_names_that_would_be_read_as_commits_are_refused(
    registry: FolderEndpoint, name: str
) -> None:
    with pytest.raises(InvalidReference, match="read as a commit"):
        publish(registry, {"a": b"1"}, branch=name)
    with pytest.raises(InvalidReference, match="read as a commit"):
        publish(registry, {"a": b"1"}, tag=name)


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InvalidSetting, match=r"thesis\.tex"):
        publish(FolderEndpoint(tmp_path), {"a": b"1"})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_registry_of_a_later_schema_is_left_alone(registry: FolderEndpoint) -> None:
    registry.root.mkdir()
    (registry.root / "hubstate-registry.json").write_text('{"schema": 2}')
    with pytest.raises(Damaged, match="schema 1, found 2"):
        publish(registry, {"a": b"1"})


def test_what_is_not_there_is_named_with_what_is(registry: FolderEndpoint) -> None:
    with pytest.raises(RepositoryNotFound, match="there is no registry at"):
        registry.resolve(at())
    commit = publish(registry, {"a": b"1"}, tag="v1")
    with pytest.raises(RepositoryNotFound, match=r"org/nam.*it has org/name"):
        registry.resolve(at(repo="org/nam"))
    with pytest.raises(RepositoryNotFound):
        registry.refs("org/nam")
    for revision in ("v2", "0" * 40, "0123456", str(Digest.of(b"?"))):
        with pytest.raises(RevisionNotFound, match="it has main, v1"):
            registry.resolve(at(revision))
    with pytest.raises(FileNotInRelease, match="no file 'b'"):
        read(registry, commit, "b")


def test_an_ambiguous_prefix_names_the_commits(registry: FolderEndpoint) -> None:
    commit = publish(registry, {"a": b"1"})
    folder = registry.root / "repos" / REPO / "commits"
    (folder / f"{commit.id[:7]}{'0' * 33}.json").write_bytes(b"")
    with pytest.raises(RevisionNotFound, match=commit.id):
        registry.resolve(at(commit.id[:7]))


# Damage


def test_a_changed_commit_record_is_noticed(registry: FolderEndpoint) -> None:
    commit = publish(registry, {"a": b"1"})
    record = registry.root / "repos" / REPO / "commits" / f"{commit.id}.json"
    data = record.read_bytes().replace(b"ada", b"eve")
    record.unlink()
    record.write_bytes(data)
    with pytest.raises(DigestMismatch, match=commit.id):
        registry.resolve(at())


def test_a_missing_commit_record_or_blob_is_named(registry: FolderEndpoint) -> None:
    commit = publish(registry, {"a": b"1"})
    registry._shelf.blobs.path(Digest.of(b"1")).unlink()
    with pytest.raises(Unreachable, match=f"cannot read a of org/name@{commit.id}"):
        read(registry, commit, "a")
    (registry.root / "repos" / REPO / "commits" / f"{commit.id}.json").unlink()
    with pytest.raises(Damaged, match="record is missing"):
        registry.resolve(at())


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"\xff", b"[" * 9999, b'{"schema": 1, "commit": 3}']
)
def test_a_torn_move_is_damage_with_its_place(registry: FolderEndpoint, data: bytes) -> None:
    publish(registry, {"a": b"1"})
    move = registry.root / "repos" / REPO / "branches" / "main" / "00000002"
    move.write_bytes(data)
    with pytest.raises(Damaged, match="00000002"):
        registry.resolve(at())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries(
        {"schema": st.just(1)},
        optional={
            "files": json_values
            | st.dictionaries(
                st.sampled_from(["a", "../b", "A", "a/b"]),
                st.fixed_dictionaries({"size": json_values, "sha256": json_values}),
            ),
            "date": json_values | st.just("2026-01-01T00:00:00+00:00"),
            "message": json_values,
            "author": json_values,
            "parent": json_values,
        },
    )
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_a_hostile_commit_record_is_damage_and_nothing_else(record: dict[str, object]) -> None:
    data = json.dumps(record).encode()
    try:
        commit = parse_commit(data, repo=REPO, id="0" * 40, what="x")
    except Damaged:
        return
    assert parse_commit(dump_commit(commit), repo=REPO, id="0" * 40, what="x") == commit


@given(st.text())
def test_a_path_is_refused_or_stays_below_its_folder(path: str) -> None:
    try:
        check_path(path)
    except InvalidReference:
        return
    base = Path("/base")
    assert Path(os.path.normpath(base / path)).is_relative_to(base)
    check_paths({path: None})


# Several writers


RIVAL = """
import sys
from pathlib import Path
from hubstate.endpoints.folder import FolderEndpoint
from hubstate.errors import Conflict
registry, number = FolderEndpoint(Path(sys.argv[1])), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
try:
    files = {"a": number.encode()}
    commit = registry.commit("org/name", files, message="m", author=f"rival-{number}")
    print("won", commit.id)
except Conflict as error:
    print("lost", error)
"""


@pytest.mark.parametrize("first", [True, False], ids=["first publish", "later publish"])
def test_of_processes_that_publish_at_once_one_wins_and_the_others_learn_who(
    registry: FolderEndpoint, first: bool
) -> None:
    if not first:
        publish(registry, {"a": b"0"})
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", RIVAL, str(registry.root), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(1, 6)
    ]
    for rival in rivals:
        assert rival.stdout
        assert rival.stdout.readline() == "ready\n"
    for rival in rivals:
        assert rival.stdin
        rival.stdin.write("\n")
        rival.stdin.flush()
    outcomes = [rival.communicate(timeout=20)[0].split(maxsplit=1) for rival in rivals]
    winners = {text.strip() for verdict, text in outcomes if verdict == "won"}
    history = [commit.id for commit in registry.history(at())]
    assert winners
    assert winners <= set(history)
    assert len(history) == len(winners) + (0 if first else 1)
    for verdict, text in outcomes:
        assert verdict == "won" or "published by rival-" in text


def test_a_slow_publisher_loses_to_whoever_was_there_first(registry: FolderEndpoint) -> None:
    publish(registry, {"a": b"0"})
    fast: list[Commit] = []

    class Slow:
        """Content that takes so long to read that somebody else publishes meanwhile."""

        def __init__(self, path: Path) -> None:
            os.mkfifo(path)
            self.path = path

        def feed(self) -> None:
            with self.path.open("wb") as file:
                fast.append(publish(registry, {"a": b"fast"}, author="bob"))
                file.write(b"slow")

    slow = Slow(registry.root.parent / "pipe")
    feeder = threading.Thread(target=slow.feed)
    feeder.start()
    with pytest.raises(Conflict, match="published by bob"):
        publish(registry, {"a": slow.path})
    feeder.join()
    assert registry.resolve(at()) == fast[0]


def test_different_branches_and_repositories_do_not_stand_in_each_others_way(
    registry: FolderEndpoint,
) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(5):
                data = {"a": f"{number} {turn}".encode()}
                publish(registry, data, branch=f"b{number}", author="ada")  # type: ignore[arg-type]
                registry.commit(f"org/r{number}", data, message="m", author="ada")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    refs = registry.refs(REPO)
    assert set(refs.branches) == {"b0", "b1", "b2", "b3"}
    copy = json.loads((registry.root / "repos" / REPO / "refs.json").read_bytes())
    assert copy["branches"] == refs.branches
    assert len(list(registry.history(at("b2")))) == 5


# Kills

PUBLISHER = """
import os, sys
from pathlib import Path
from hubstate.endpoints.folder import FolderEndpoint
registry = FolderEndpoint(Path(sys.argv[1]))
print("ready", flush=True)
number = 0
while True:
    number += 1
    content = os.urandom(1 << 18)
    commit = registry.commit("org/name", {"weights": content, "n": str(number).encode()},
                             message=f"{number}", author="ada", tag=f"t-{os.getpid()}-{number}")
    print(commit.id, flush=True)
"""


def test_a_kill_at_any_moment_leaves_the_last_release_whole(registry: FolderEndpoint) -> None:
    dice = random.Random(0)
    start = time.perf_counter()
    publish(registry, {"weights": os.urandom(1 << 18)}, tag="first")
    moment = time.perf_counter() - start
    acknowledged: list[str] = []
    for turn in range(14):
        child = subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, str(registry.root)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        if turn % 2:  # from the second publish on, whatever the load of the machine
            acknowledged.append(child.stdout.readline().strip())
        time.sleep(dice.uniform(0, 1.5 * moment))
        child.send_signal(signal.SIGKILL)
        # What was being printed when the kill came may be cut off.
        acknowledged += [line for line in child.communicate()[0].split() if len(line) == 40]
        history = list(registry.history(at()))
        assert {commit.id for commit in history} >= set(acknowledged)
        for commit in history[:3]:
            check(registry, commit)
    assert len(acknowledged) >= 7
    final = publish(registry, {"n": b"last"})
    assert registry.resolve(at()) == final
    names = set(registry.refs(REPO).tags.values())
    assert names <= {commit.id for commit in registry.history(at())}


def check(registry: FolderEndpoint, commit: Commit) -> None:
    for path, info in commit.files.items():
        assert Digest.of(read(registry, commit, path)) == info.digest


STEPWISE = """
import os, shutil, signal, sys
from pathlib import Path
from hubstate.endpoints.folder import FolderEndpoint
STEPS = {"open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.utime"}
base, work = Path(sys.argv[1]), Path(sys.argv[2])

def publish(root):
    FolderEndpoint(root).commit("org/name", {"a": b"new", "b": b"other"}, message="m",
                                author="ada", tag="v2")

def die_at(last):
    count = 0
    def hook(event, arguments):
        nonlocal count
        if event in STEPS:
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

for last in range(1, 1000):
    root = work / str(last)
    shutil.copytree(base, root)
    child = os.fork()
    if not child:
        die_at(last)
        publish(root)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


@pytest.mark.parametrize("first", [True, False], ids=["first publish", "later publish"])
def test_a_kill_before_each_step_leaves_the_old_release_or_the_new_one(
    registry: FolderEndpoint, tmp_path: Path, first: bool
) -> None:
    registry.root.mkdir()
    old = None if first else publish(registry, {"a": b"old"}, tag="v1")
    work = tmp_path / "work"
    subprocess.run([sys.executable, "-c", STEPWISE, registry.root, work], check=True)
    outcomes = []
    for folder in sorted(work.iterdir(), key=lambda path: int(path.name)):
        left = FolderEndpoint(folder)
        try:
            now = left.resolve(at())
        except RepositoryNotFound:
            assert first
            outcomes.append("old")
        else:
            check(left, now)
            outcomes.append("old" if now == old else "new")
        if len(outcomes) % 4:
            continue
        # Whatever was left behind, running it again completes it.
        again = publish(left, {"a": b"new", "b": b"other"}, tag="v2")
        assert left.resolve(at()) == left.resolve(at("v2")) == again
        assert again.parent == (old.id if old else None)
    assert len(outcomes) > 20
    assert outcomes == sorted(outcomes, reverse=True)  # "old" up to the move, "new" from there on
    assert {"old", "new"} == set(outcomes)


# Sweeping


def leave_behind(registry: FolderEndpoint) -> list[Path]:
    """What a publisher leaves that is killed before it moves the branch."""
    shelf = registry._shelf
    with pytest.raises(Conflict):
        publish(registry, {"lost": b"lost"}, parent=None)
    publish(registry, {"lost": b"lost2"}, branch="doomed", parent=None)
    (move,) = shelf.moves(REPO, "branches", "doomed").iterdir()
    record = registry.resolve(at("doomed")).id
    move.unlink()
    temporary = shelf.blobs.temporaries / "1-dead"
    temporary.write_bytes(b"half")
    return [
        shelf.blobs.path(Digest.of(b"lost2")),
        shelf.repo(REPO) / "commits" / f"{record}.json",
        temporary,
    ]


def test_sweeping_takes_what_nothing_names_and_nothing_else(registry: FolderEndpoint) -> None:
    first = publish(registry, {"a": b"1"}, tag="v1")
    second = publish(registry, {"a": b"2"})
    lost = leave_behind(registry)
    assert sweep(registry.root).paths == ()  # it is all too young
    assert set(sweep(registry.root, age=-1, dry_run=True).paths) >= set(lost)
    assert all(path.exists() for path in lost)
    swept = sweep(registry.root, age=-1)
    assert set(swept.paths) >= set(lost)
    assert swept.size > 0
    assert not any(path.exists() for path in lost)
    assert read(registry, first, "a") == b"1"
    assert [c.id for c in registry.history(at())] == [second.id, first.id]


def test_sweeping_stops_before_anything_where_a_record_is_damaged(
    registry: FolderEndpoint,
) -> None:
    publish(registry, {"a": b"1"})
    lost = leave_behind(registry)
    (registry.root / "repos" / REPO / "branches" / "main" / "00000002").write_bytes(b"torn")
    with pytest.raises(Damaged):
        sweep(registry.root, age=-1)
    assert all(path.exists() for path in lost)


def test_sweeping_keeps_an_old_blob_that_was_just_used_again(registry: FolderEndpoint) -> None:
    publish(registry, {"a": b"1"})
    (blob, *_) = leave_behind(registry)
    os.utime(blob, (0, 0))
    stream = io.BytesIO(b"lost2")
    registry._shelf.blobs.add(stream, info=FileInfo(size=5), what="x", replace=False)
    sweep(registry.root, age=3600)
    assert blob.exists()


# Opening


def test_a_registry_opens_by_path_and_by_url(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    publish(FolderEndpoint(folder), {"a": b"1"})
    for text in (str(folder), folder.as_uri(), folder):
        endpoint = open_endpoint(text)
        assert endpoint.name == folder.as_uri()
        assert not endpoint.remote
        assert set(endpoint.resolve(at()).files) == {"a"}


@pytest.mark.parametrize(
    "text", ["file://host/folder", "ftp://host", "s3://bucket", "file://", "http://"]
)
def test_a_url_that_names_no_registry_is_refused(text: str) -> None:
    with pytest.raises(InvalidSetting, match="expected"):
        open_endpoint(text)
