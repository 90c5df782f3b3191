"""Bundles: exactly what the lock file says, the same bytes each time; and hostile ones refused."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hubs import Hub, serving
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from quick import publish_quickly, release_of
from toys import Toy, toy

from hubstate.bundle import export_bundle, import_bundle, importing
from hubstate.bundle.layout import blobs_of
from hubstate.bundle.tar import TarWriter, read_tar
from hubstate.cache import Cache, layers
from hubstate.digest import Digest
from hubstate.endpoints.folder import FolderEndpoint
from hubstate.endpoints.moves import push_move
from hubstate.errors import Conflict, Damaged, DigestMismatch, InvalidSetting, Unreachable
from hubstate.fetching import fetch
from hubstate.hub import publish_files
from hubstate.lock import LockFile, dump_lock, parse_lock, read_lock, write_lock
from hubstate.pinning import add_pins
from hubstate.reference import Reference

pytestmark = pytest.mark.usefixtures("project")

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with two releases, pinned under three names, and their bundle; made once."""
    folder = tmp_path_factory.mktemp("stocked")
    registry, cache = folder / "registry", Cache([folder / "cache"])
    publish_quickly(toy(), "org/name", seed=0, registry=registry)
    files: dict[str, Path | bytes] = {"a.txt": b"1", "deep/b.txt": b"2"}
    commit = publish_files("plain", files, message="m", tag="v1", registry=registry)
    names = ["org/name@main", "plain@v1", f"plain@{commit.id}"]
    lock, _ = add_pins(LockFile(), names, registry=str(registry), cache=cache)
    pins = {name: replace(pin, registry=None) for name, pin in lock.releases.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUBSTATE_REGISTRY", str(registry))
        write_lock(folder / "hubstate.lock", LockFile(releases=pins))
        export_bundle(LockFile(releases=pins), folder / "models.tar", cache=cache)
    return folder


@pytest.fixture
def lock(stocked: Path) -> LockFile:
    """What is pinned in this test's project, and in its registry."""
    shutil.copytree(stocked / "registry", os.environ["HUBSTATE_REGISTRY"])
    shutil.copyfile(stocked / "hubstate.lock", "hubstate.lock")
    return read_lock(Path("hubstate.lock"))


@pytest.fixture
def bundle(stocked: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(stocked / "models.tar", tmp_path / "models.tar"))


def move_elsewhere(folder: Path) -> None:
    """Another machine: an empty cache, and this folder as the registry."""
    os.environ["HUBSTATE_REGISTRY"] = str(folder)
    os.environ["HUBSTATE_CACHE"] = str(folder.parent / "cache-elsewhere")


def content(path: Path) -> Files:
    with path.open("rb") as file:
        found = {}
        for member in read_tar(file):
            data = bytearray(member.size)
            view = memoryview(data)
            while view:
                view = view[member.stream.readinto(view) or 0 :]
            found[member.name] = bytes(data)
        return found


def write(path: Path, files: Files) -> Path:
    with path.open("wb") as file:
        tar = TarWriter(file)
        for name, data in files.items():
            tar.add(name, data, size=len(data))
        tar.close()
    return path


# The way there


def test_a_bundle_depends_on_the_lock_file_alone(lock: LockFile, tmp_path: Path) -> None:
    first = export_bundle(lock, tmp_path / "1.tar")
    os.environ["HUBSTATE_CACHE"] = str(tmp_path / "empty")
    again = export_bundle(parse_lock(dump_lock(lock), where="x"), tmp_path / "2.tar")
    assert first.digest == again.digest == Digest.of((tmp_path / "1.tar").read_bytes())
    assert first.size == (tmp_path / "1.tar").stat().st_size
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
    assert [path.name for path in tmp_path.glob(".*")] == []


@pytest.mark.parametrize("way", ["import", "tarfile"])
def test_what_is_locked_loads_elsewhere_and_nothing_else_is_there(
    lock: LockFile, bundle: Path, tmp_path: Path, way: str
) -> None:
    target = tmp_path / "elsewhere"
    if way == "import":
        import_bundle(bundle, target)
    else:
        with tarfile.open(bundle) as tar:
            safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            tar.extractall(target, **safe)
    publish_quickly(toy(), "org/name", seed=5)
    original = toy(pretrained="org/name").state_dict()
    move_elsewhere(target)
    copied = toy(pretrained="org/name").state_dict()
    assert all(torch.equal(original[name], copied[name]) for name in original)
    for name, pin in lock.releases.items():
        release = fetch(name)
        assert {path: info.size for path, info in pin.files.items()} == {
            path: file.stat().st_size for path, file in release.paths.items()
        }
    assert sorted(FolderEndpoint(target).repositories()) == ["org/name", "plain"]
    blobs = [path for path in target.rglob("blobs/sha256/*/*") if path.is_file()]
    digests = {info.digest for pin in lock.releases.values() for info in pin.files.values()}
    assert {Digest(path.name) for path in blobs} == digests


def test_without_the_lock_file_the_names_are_there_as_well(bundle: Path, tmp_path: Path) -> None:
    import_bundle(bundle, tmp_path / "elsewhere")
    move_elsewhere(tmp_path / "elsewhere")
    assert fetch("plain@v1").path("deep/b.txt").read_bytes() == b"2"
    assert toy(pretrained="org/name")


def test_what_comes_from_a_server_without_manifest_is_carried_too(tmp_path: Path, run: Any) -> None:
    with serving(Hub({**release_of(Toy(4, 4)), "x.txt": b"x"})) as url:
        os.environ["HUBSTATE_REGISTRY"] = url
        run("lock", "add", "org/name", f"org/name@{Hub.COMMIT}")
        code, out, _ = run("bundle", "export", str(tmp_path / "b.tar"), "--json")
        assert (code, len(json.loads(out)["releases"])) == (0, 2)
    folder = tmp_path / "elsewhere"
    code, out, _ = run("bundle", "import", str(tmp_path / "b.tar"), "--registry", str(folder))
    assert (code, "2 releases" in out) == (0, True)
    move_elsewhere(folder)
    assert fetch("org/name").read("x.txt") == b"x"
    assert fetch(f"org/name@{Hub.COMMIT}").read("x.txt") == b"x"


def test_an_import_can_be_repeated_and_a_later_one_moves_the_names(
    lock: LockFile, bundle: Path, tmp_path: Path
) -> None:
    target = tmp_path / "elsewhere"
    import_bundle(bundle, target)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("repos/**/0000000?")}
    import_bundle(bundle, target)
    assert {path: path.stat().st_mtime_ns for path in target.rglob("repos/**/0000000?")} == before
    publish_quickly(toy(), "org/name", seed=7)
    later, _ = add_pins(lock, ["org/name"])
    export_bundle(later, tmp_path / "later.tar")
    import_bundle(tmp_path / "later.tar", target)
    registry = FolderEndpoint(target)
    main = registry.resolve(Reference.parse("org/name"))
    assert main.manifest == later.releases["org/name@main"].manifest
    old = lock.releases["org/name@main"]
    assert registry.resolve(old.places[1]).manifest == old.manifest, "by the digest it stays"


def test_imports_of_the_same_at_one_time_all_succeed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "elsewhere"

    def late(*args: Any, **options: Any) -> bool:
        monkeypatch.setattr(importing, "push_move", push_move)
        import_bundle(bundle, target)
        return push_move(*args, **options)

    monkeypatch.setattr(importing, "push_move", late)
    import_bundle(bundle, target)
    assert sorted(FolderEndpoint(target).repositories()) == ["org/name", "plain"]


def test_what_is_no_file_is_not_made_one(lock: LockFile, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InvalidSetting, match="is no file"):
        export_bundle(lock, pipe)
    assert pipe.is_fifo()


def test_a_bundle_is_written_to_where_a_link_leads(lock: LockFile, tmp_path: Path) -> None:
    (tmp_path / "large-disk").mkdir()
    (tmp_path / "models.tar").symlink_to("large-disk/models.tar")
    export_bundle(lock, tmp_path / "models.tar")
    assert (tmp_path / "models.tar").is_symlink()
    assert content(tmp_path / "large-disk" / "models.tar")


def test_what_makes_no_bundle_is_told_before_anything_is_fetched(
    lock: LockFile, tmp_path: Path
) -> None:
    with pytest.raises(Unreachable, match="is no folder to write to"):
        export_bundle(lock, tmp_path / "absent" / "models.tar")
    pin = lock.releases["org/name@main"]
    alike = replace(pin, reference=Reference.parse("org/Name"))
    with pytest.raises(Conflict, match="differs in case only"):
        export_bundle(lock.having(releases={"org/Name@main": alike}), tmp_path / "models.tar")
    assert list(Path(os.environ["HUBSTATE_CACHE"]).rglob("blobs")) == []


def test_a_disk_without_the_room_is_refused_before_anything_is_written(
    lock: LockFile, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(blobs_of(lock).values())
    usage = shutil.disk_usage(tmp_path)._replace(free=size - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    for target, call in {
        tmp_path / "far": lambda: import_bundle(bundle, tmp_path / "far"),
        tmp_path / "b.tar": lambda: export_bundle(lock, tmp_path / "b.tar"),
    }.items():
        with pytest.raises(Unreachable, match=f"needs {size} bytes, and .* has {size - 1} left"):
            call()
        assert not target.exists()


def test_what_is_there_already_needs_no_room_again(
    lock: LockFile, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_bundle(bundle, tmp_path / "far")
    largest = max(blobs_of(lock).values())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=largest))
    import_bundle(bundle, tmp_path / "far")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=largest - 1))
    with pytest.raises(Unreachable, match=f"needs {largest} bytes"):
        import_bundle(bundle, tmp_path / "far")


def test_an_import_does_not_move_what_was_published_there(bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    mine = publish_files("org/name", {"a": b"mine"}, message="mine", registry=target)
    with pytest.raises(Conflict, match="a folder of its own"):
        import_bundle(bundle, target)
    registry = FolderEndpoint(target)
    assert registry.resolve(Reference.parse("org/name")) == mine
    assert list(registry.repositories()) == ["org/name"]


def test_a_bundle_is_not_imported_into_a_server_or_a_folder_of_other_things(
    bundle: Path, tmp_path: Path, run: Any
) -> None:
    code, _, err = run("bundle", "import", str(bundle), "--registry", "http://127.0.0.1:1")
    assert (code, "is a server" in err) == (2, True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(InvalidSetting, match="other things"):
        import_bundle(bundle, tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["notes.txt"]


def test_a_cache_that_is_damaged_makes_no_bundle(
    lock: LockFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "UNRECEIPTED", 0)  # or the damage would be seen, and mended
    path = fetch("org/name").path("model.safetensors")
    times = path.stat()
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DigestMismatch, match="expected sha256"):
        export_bundle(lock, tmp_path / "b.tar")
    assert [path.name for path in tmp_path.iterdir() if "tar" in path.name] == []


# Hostile bundles

CASES: dict[str, tuple[Callable[[tarfile.TarInfo], None], str]] = {
    "symlink": (lambda i: _turn(i, tarfile.SYMTYPE, "/etc/passwd"), "a symbolic link"),
    "hard link": (lambda i: _turn(i, tarfile.LNKTYPE, "hubstate.lock"), "a hard link"),
    "device": (lambda i: _turn(i, tarfile.CHRTYPE), "a device"),
    "pipe": (lambda i: _turn(i, tarfile.FIFOTYPE), "a pipe"),
    "folder": (lambda i: _turn(i, tarfile.DIRTYPE), "a folder"),
    "sparse": (lambda i: _turn(i, tarfile.GNUTYPE_SPARSE), "a sparse file"),
    "climbing": (lambda i: _name(i, "blobs/../../evil"), "not harmless"),
    "absolute": (lambda i: _name(i, "/etc/evil"), "not harmless"),
    "dot": (lambda i: _name(i, "./evil"), "not harmless"),
    "backslash": (lambda i: _name(i, "..\\evil"), "not harmless"),
    "control": (lambda i: _name(i, "evil\n"), "not harmless"),
    "twice": (lambda i: _name(i, "hubstate.lock"), "is there twice"),
    "long": (lambda i: _name(i, "a/" * 4000 + "b"), "a header of"),
    "unknown": (lambda i: _name(i, "more"), "says nothing of it"),
    "unknown blob": (lambda i: _name(i, "blobs/sha256/ab/" + "ab" * 32), "says nothing of it"),
    "unknown commit": (lambda i: _name(i, f"repos/org/x/commits/{'0' * 40}.json"), "nothing of it"),
}


def _turn(info: tarfile.TarInfo, kind: bytes, target: str = "") -> None:
    info.type, info.linkname, info.size = kind, target, 0


def _name(info: tarfile.TarInfo, name: str) -> None:
    info.name = name


def nothing_is_there(target: Path) -> bool:
    return not target.exists() or not list(FolderEndpoint(target).repositories())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("at_end", [False, True], ids=["before the blobs", "at the end"])
def test_a_member_that_does_not_belong_is_refused(
    bundle: Path, tmp_path: Path, case: str, at_end: bool
) -> None:
    change, said = CASES[case]
    info = tarfile.TarInfo("evil")
    info.size = 4
    change(info)
    hostile, target = tmp_path / "hostile.tar", tmp_path / "elsewhere"
    with tarfile.open(hostile, "w", format=tarfile.PAX_FORMAT) as tar:
        for number, (name, data) in enumerate(content(bundle).items()):
            if number == 2 and not at_end:
                tar.addfile(info, io.BytesIO(b"evil"))
            good = tarfile.TarInfo(name)
            good.size = len(data)
            tar.addfile(good, io.BytesIO(data))
        if at_end:
            tar.addfile(info, io.BytesIO(b"evil"))
    with pytest.raises(Damaged) as caught:
        import_bundle(hostile, target)
    # A blob before its time ends what comes before the blobs.
    assert said in str(caught.value) or (case, at_end) == ("unknown blob", False)
    assert str(hostile) in str(caught.value)
    assert nothing_is_there(target)
    assert not (tmp_path / "evil").exists()


def damage_blob(files: Files) -> None:
    name = next(name for name in files if name.startswith("blobs/"))
    files[name] = bytes(len(files[name]))


def grow_blob(files: Files) -> None:
    name = next(name for name in files if name.startswith("blobs/"))
    files[name] += b"x"


def drop_blob(files: Files) -> None:
    del files[max(files, key=lambda name: (name.startswith("blobs/"), name))]


def drop_record(files: Files) -> None:
    del files["hubstate-registry.json"]


def move_branch(files: Files) -> None:
    name = "repos/org/name/branches/main/00000001"
    files[name] = files[name].replace(b"hubstate bundle", b"somebody else")


def drop_lock(files: Files) -> None:
    del files["hubstate.lock"]


def empty_lock(files: Files) -> None:
    files["hubstate.lock"] = dump_lock(LockFile())


def break_lock(files: Files) -> None:
    files["hubstate.lock"] = b"x" + files["hubstate.lock"]


@pytest.mark.parametrize(
    "harm",
    [
        *(damage_blob, grow_blob, drop_blob, drop_record, move_branch, drop_lock, empty_lock),
        break_lock,
    ],
    ids=lambda harm: harm.__name__,
)
def test_a_bundle_that_is_not_what_its_lock_file_says_is_refused(
    bundle: Path, tmp_path: Path, harm: Callable[[Files], None]
) -> None:
    files = content(bundle)
    harm(files)
    with pytest.raises(Damaged, match=r"hostile\.tar"):
        import_bundle(write(tmp_path / "hostile.tar", files), tmp_path / "elsewhere")
    assert nothing_is_there(tmp_path / "elsewhere")


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_compressed_bundle_is_refused_before_it_is_unpacked(
    bundle: Path, tmp_path: Path, kind: str
) -> None:
    packed = tmp_path / "packed"
    with tarfile.open(packed, f"w:{kind}") as tar:  # type: ignore[call-overload]
        tar.add(bundle, "x")
    with pytest.raises(Damaged, match="expected a tar file"):
        import_bundle(packed, tmp_path / "elsewhere")


def test_a_size_that_is_only_claimed_allocates_nothing(bundle: Path, tmp_path: Path) -> None:
    info = tarfile.TarInfo("hubstate.lock")
    too_much = "bytes before the first blob"
    for size, said in ((7 << 30, too_much), (9 << 30, too_much), (1 << 20, "cut off")):
        info.size = size
        (tmp_path / "bomb.tar").write_bytes(info.tobuf(tarfile.PAX_FORMAT) + b"x" * 600)
        with pytest.raises(Damaged, match=said):
            import_bundle(tmp_path / "bomb.tar", tmp_path / "elsewhere")


@pytest.mark.parametrize("part", [0, 1, 100, 600, 5000, 9000, -1])
def test_a_bundle_that_is_cut_off_is_refused(bundle: Path, tmp_path: Path, part: int) -> None:
    (tmp_path / "cut.tar").write_bytes(bundle.read_bytes()[:part])
    target = tmp_path / "elsewhere"
    if part == -1:
        import_bundle(tmp_path / "cut.tar", target)
        return  # a part of the end mark is missing, and nothing else
    with pytest.raises(Damaged, match="cut off"):
        import_bundle(tmp_path / "cut.tar", target)
    assert nothing_is_there(target)


def test_something_after_the_end_is_refused(bundle: Path, tmp_path: Path) -> None:
    with bundle.open("ab") as file:
        file.write(b"x")
    with pytest.raises(Damaged, match="after the end"):
        import_bundle(bundle, tmp_path / "elsewhere")
    assert nothing_is_there(tmp_path / "elsewhere")


@functools.cache
def small_bundle() -> bytes:
    """A bundle with little in it, so that most of its bytes are headers and records."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        publish_files("a/b", {"x": b"1"}, message="m", registry=folder / "registry")
        lock, _ = add_pins(LockFile(), ["a/b"], registry=str(folder / "registry"))
        export_bundle(lock, folder / "b.tar")
        return (folder / "b.tar").read_bytes()


@hypothesis_settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_byte_that_is_turned_is_refused_or_changes_nothing(
    tmp_path: Path, data: st.DataObject
) -> None:
    good = small_bundle()
    turned = bytearray(good)
    turned[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)
    (tmp_path / "turned.tar").write_bytes(turned)
    try:
        import_bundle(tmp_path / "turned.tar", tmp_path / "elsewhere")
    except Damaged:
        assert nothing_is_there(tmp_path / "elsewhere")
    else:
        registry = FolderEndpoint(tmp_path / "elsewhere")
        assert registry.resolve(Reference.parse("a/b")).files["x"].digest == Digest.of(b"1")


def test_nothing_can_be_hidden_between_the_files(tmp_path: Path) -> None:
    good = small_bundle()
    size = int(good[124:136].rstrip(b"\0"), 8)
    for at, said in ((140, "a header that is none"), (512 + size, "between the files")):
        turned = bytearray(good)
        turned[at] ^= 1
        (tmp_path / "turned.tar").write_bytes(turned)
        with pytest.raises(Damaged, match=said):
            import_bundle(tmp_path / "turned.tar", tmp_path / "elsewhere")


def test_names_and_sizes_that_need_pax_headers_come_through(tmp_path: Path) -> None:
    long = "x" * 95 + "/" + "y" * 95 + "/" + "z" * 200
    files = {long: b"1" * 513, "é" * 60: b"", "short": b"2" * 512}
    assert content(write(tmp_path / "a.tar", files)) == files
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames() == list(files)


def test_gnu_tar_unpacks_a_bundle(bundle: Path, tmp_path: Path) -> None:
    if not shutil.which("tar"):
        pytest.skip("there is no tar here")
    (tmp_path / "elsewhere").mkdir()
    subprocess.run(["tar", "-xf", str(bundle), "-C", str(tmp_path / "elsewhere")], check=True)
    assert FolderEndpoint(tmp_path / "elsewhere").resolve(Reference.parse("plain@v1"))


def test_the_commands_bring_no_torch(bundle: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom hubstate.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as e:\n    print(e.code, 'torch' in sys.modules)\n"
    )
    words = ["bundle", "import", str(bundle), "--registry", str(tmp_path / "elsewhere")]
    answer = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert answer.stdout.splitlines()[-1] == "0 False", answer.stderr


@pytest.mark.parametrize("command", [[], ["export"], ["import"]])
def test_every_help_shows_an_example(run: Any, command: list[str]) -> None:
    code, out, _ = run("bundle", *command, "--help")
    assert (code, "Example:" in out) == (0, True)
    assert "hubstate " + " ".join(["bundle", *command]) in out
