"""fsck, gc, backup, import-folder, and kill -9 at any moment."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner
from huggingface_hub import HfApi
from registry_serving import Serving
from test_registry_cli import process

from hubstate_registry.cli import main
from hubstate_registry.operations.backup import backup
from hubstate_registry.operations.check import check
from hubstate_registry.operations.collect import collect
from hubstate_registry.operations.importing import import_folder
from hubstate_registry.storage import Storage

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def upload(api: HfApi, data: bytes, *, repo: str = "ada/model", path: str = "w.bin") -> str:
    return api.upload_file(path_or_fileobj=data, path_in_repo=path, repo_id=repo).oid


def test_fsck_finds_what_is_damaged_missing_or_short(served: Serving, api: HfApi) -> None:
    api.create_repo("ada/model")
    for name in (b"one", b"two", b"three"):
        upload(api, name * 100, path=f"{name.decode()}.bin")
    assert check(served.storage).problems == []
    places = [
        served.storage.files.path(hashlib.sha256(n * 100).hexdigest())
        for n in (b"one", b"two", b"three")
    ]
    places[0].unlink()
    places[1].write_bytes(b"TWO" * 100)
    places[2].write_bytes(b"short")
    with served.storage.database.write() as connection:
        connection.exec_driver_sql("UPDATE refs SET \"commit\" = 'f' WHERE name = 'main'")
    problems = "\n".join(check(served.storage).problems)
    for word in ("missing", "damaged", "found 5", "which is not there"):
        assert word in problems
    assert CliRunner().invoke(main, ["fsck", str(served.folder)]).exit_code == 1


def test_gc_frees_what_nothing_needs_and_nothing_else(served: Serving, api: HfApi) -> None:
    api.create_repo("ada/model")
    api.create_repo("ada/gone")
    kept = upload(api, b"old" * 100)
    upload(api, b"new" * 100)  # history keeps the old bytes
    upload(api, b"gone" * 100, repo="ada/gone")
    api.create_branch("ada/model", branch="side")
    api.upload_file(
        path_or_fileobj=b"side" * 100, path_in_repo="s.bin", repo_id="ada/model", revision="side"
    )
    api.delete_repo("ada/gone")
    api.delete_branch("ada/model", branch="side")
    nothing = collect(served.storage, grace=3600)
    assert (nothing.commits, nothing.blobs, nothing.orphans) == (0, 0, 0)
    (served.storage.files.blobs / "ab").mkdir(exist_ok=True)
    (served.storage.files.blobs / "ab" / ("ab" * 32)).write_bytes(b"orphan")
    dry = collect(served.storage, grace=0, dry_run=True)
    report = collect(served.storage, grace=0)
    assert (report.commits, report.blobs, report.bytes, report.orphans) == (1, 2, 800, 1)
    assert (dry.commits, dry.blobs) == (
        1,
        1,
    )  # what is freed only once commits are gone is not in it
    assert check(served.storage).problems == []
    path = api.hf_hub_download("ada/model", "w.bin", revision=kept, local_dir=served.folder / "x")
    assert Path(path).read_bytes() == b"old" * 100


def test_gc_keeps_what_an_upload_was_just_told_is_there(served: Serving, api: HfApi) -> None:
    api.create_repo("ada/model")
    api.create_repo("ada/gone")
    data = b"shared" * 100
    upload(api, data, repo="ada/gone")
    with served.storage.database.write() as connection:
        connection.exec_driver_sql("UPDATE blobs SET created = 0")
        connection.exec_driver_sql("UPDATE holdings SET touched = 0")
    oid = hashlib.sha256(data).hexdigest()
    batch = {"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]}
    told = served.request("POST", "/ada/model.git/info/lfs/objects/batch", json=batch).json()
    assert "actions" not in told["objects"][0]
    api.delete_repo("ada/gone")
    assert collect(served.storage, grace=3600).blobs == 0
    line = {"key": "lfsFile", "value": {"path": "w.bin", "algo": "sha256", "oid": oid}}
    body = '{"key":"header","value":{"summary":"s"}}\n' + json.dumps(line)
    done = served.request("POST", "/api/models/ada/model/commit/main", data=body)
    assert done.status_code == 200, done.text
    assert served.request("GET", "/ada/model/resolve/main/w.bin").content == data


def test_a_backup_of_a_running_registry_is_a_registry(
    served: Serving, api: HfApi, tmp_path: Path
) -> None:
    api.create_repo("ada/model", private=True)
    upload(api, b"one" * 1000)
    target = tmp_path / "backup"
    assert backup(served.storage, target).copied == 1
    commit = upload(api, b"two" * 1000)
    again = backup(served.storage, target)
    assert (again.copied, again.kept) == (1, 1)
    assert CliRunner().invoke(main, ["fsck", str(target)]).exit_code == 0
    assert {p.stat().st_mode & 0o777 for p in target.iterdir() if p.is_file()} == {0o600}
    refused = CliRunner().invoke(main, ["backup", str(served.folder), str(served.folder / "b")])
    assert refused.exit_code == 1
    with process(target, "--quiet") as (_, url):
        restored = HfApi(endpoint=url, token=served.tokens["ada"])
        assert restored.model_info("ada/model").sha == commit
        path = restored.hf_hub_download("ada/model", "w.bin", local_dir=tmp_path / "local")
        assert Path(path).read_bytes() == b"two" * 1000


def folder_registry(
    root: Path,
    *,
    message: str = "First\n\nwords",
    parent: str | None = None,
    number: int = 1,
    content: bytes = b"weights",
) -> str:
    """A client's folder registry, written by hand as its drawing says; the commit's id."""
    files = {"model.safetensors": content, "README.md": b"---\nlicense: mit\n---\n"}
    (root / "repos/lab/net").mkdir(parents=True, exist_ok=True)
    (root / "hubstate-registry.json").write_text('{"schema": 1}\n')
    for data in files.values():
        digest = hashlib.sha256(data).hexdigest()
        place = root / "blobs/sha256" / digest[:2] / digest
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    record = {
        "author": "ada",
        "date": "2026-01-31T12:00:00.000000+00:00",
        "files": {
            path: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            for path, data in files.items()
        },
        "message": message,
        "parent": parent,
        "schema": 1,
    }
    text = json.dumps(record).encode()
    id = hashlib.sha256(text).hexdigest()[:40]
    for path, data in {
        f"commits/{id}.json": text,
        f"branches/main/{number:08}": json.dumps({"commit": id, "schema": 1}).encode(),
        f"tags/v%2f{number}/00000001": json.dumps({"commit": id, "schema": 1}).encode(),
    }.items():
        place = root / "repos/lab/net" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return id


def test_a_folder_registry_is_taken_over_and_again_when_it_moves_on(
    served: Serving, tmp_path: Path
) -> None:
    root = tmp_path / "folder"
    first = folder_registry(root)
    assert import_folder(served.storage, root).lines == ["lab/net: 1 new commits"]
    api = served.api("bob")
    info = api.model_info("lab/net", revision="v/1")
    assert (info.sha, info.tags) == (first, ["license:mit"])
    second = folder_registry(root, parent=first, number=2, content=b"better", message="Second")
    assert import_folder(served.storage, root).lines == ["lab/net: 1 new commits"]
    assert import_folder(served.storage, root).lines == ["lab/net: 0 new commits"]
    assert [c.commit_id for c in api.list_repo_commits("lab/net")] == [second, first]
    got = api.hf_hub_download("lab/net", "model.safetensors", local_dir=tmp_path / "local")
    assert Path(got).read_bytes() == b"better"
    tree = {e.path: e for e in api.list_repo_tree("lab/net", expand=True)}
    assert tree["README.md"].last_commit.oid == first
    assert check(served.storage).problems == []


def test_an_import_leaves_branches_alone_that_moved_on_here(
    served: Serving, tmp_path: Path
) -> None:
    root = tmp_path / "folder"
    first = folder_registry(root)
    import_folder(served.storage, root)
    here = upload(served.api("root"), b"mine", repo="lab/net", path="mine.bin")
    folder_registry(root, parent=first, number=2, content=b"theirs")
    lines = import_folder(served.storage, root).lines
    assert len(lines) == 2 and "left alone" in lines[1]
    assert served.api().model_info("lab/net").sha == here


def test_a_damaged_folder_is_refused_and_changes_nothing(served: Serving, tmp_path: Path) -> None:
    root = tmp_path / "folder"
    folder_registry(root)
    for blob in (root / "blobs/sha256").glob("*/*"):
        blob.write_bytes(b"damaged")
    refused = CliRunner().invoke(main, ["import-folder", str(served.folder), str(root)])
    assert refused.exit_code == 1 and "expected" in refused.output
    assert [m.id for m in served.api().list_models()] == []
    shutil.rmtree(root / "blobs")
    (root / "hubstate-registry.json").write_text('{"schema": 9}')
    assert CliRunner().invoke(main, ["import-folder", str(served.folder), str(root)]).exit_code == 1
    fresh = tmp_path / "fresh"
    assert CliRunner().invoke(main, ["import-folder", str(fresh), str(root)]).exit_code == 1
    assert not fresh.exists()


class Publisher(threading.Thread):
    """Publishes without pause and remembers what it was told is done.

    By plain requests: the stock client would go on retrying for a minute after each kill.
    """

    def __init__(self, url: str, token: str, repo: str) -> None:
        super().__init__()
        self.url, self.repo = url, repo
        self.headers = {"Authorization": f"Bearer {token}"}
        self.done: dict[str, bytes] = {}
        self.stop = False

    def run(self) -> None:
        with requests.Session() as session:
            while not self.stop:
                data = os.urandom(50_000)
                with suppress(requests.RequestException):  # killed: what came back is no promise
                    self.done[self.publish(session, data)] = data

    def publish(self, session: requests.Session, data: bytes) -> str:
        oid = hashlib.sha256(data).hexdigest()
        batch = {"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]}
        address = f"{self.url}/{self.repo}.git/info/lfs/objects/batch"
        told = session.post(address, headers=self.headers, json=batch, timeout=5)
        told.raise_for_status()
        href = told.json()["objects"][0]["actions"]["upload"]["href"]
        session.put(href, data=data, timeout=5).raise_for_status()
        small = {"path": "n.json", "encoding": "utf-8", "content": oid}
        large = {"path": "w.bin", "algo": "sha256", "oid": oid, "size": len(data)}
        lines = [("header", {"summary": "m"}), ("file", small), ("lfsFile", large)]
        body = "\n".join(json.dumps({"key": key, "value": value}) for key, value in lines)
        address = f"{self.url}/api/models/{self.repo}/commit/main"
        done = session.post(address, headers=self.headers, data=body, timeout=5)
        done.raise_for_status()
        return str(done.json()["commitOid"])


def kill_loop(tmp_path: Path, *, rounds: int) -> None:
    """Kill -9 under load, restart, and look at everything that was acknowledged."""
    folder, token = tmp_path / "registry", ""
    acknowledged: dict[str, dict[str, bytes]] = {f"admin/r{i}": {} for i in range(2)}
    for number in range(rounds):
        with process(folder, "--quiet", "--rate-limit", "0") as (running, url):
            if not token:
                assert running.stdout is not None
                token = running.stdout.readline().rpartition(" ")[2].strip()
            for repo in acknowledged:
                HfApi(endpoint=url, token=token).create_repo(repo, exist_ok=True)
            publishers = [Publisher(url, token, repo) for repo in acknowledged]
            for publisher in publishers:
                publisher.start()
            time.sleep(0.6 + 0.37 * (number % 4))
            running.kill()
            for publisher in publishers:
                publisher.stop = True
            for publisher in publishers:
                publisher.join()
                acknowledged[publisher.repo] |= publisher.done
    storage = Storage(folder)
    assert check(storage).problems == []
    storage.close()
    with process(folder, "--quiet", "--rate-limit", "0") as (_, url):
        api = HfApi(endpoint=url, token=token)
        for repo, commits in acknowledged.items():
            assert set(commits) <= {c.commit_id for c in api.list_repo_commits(repo)}
            for id, data in list(commits.items())[-5:]:
                path = api.hf_hub_download(
                    repo, "w.bin", revision=id, local_dir=tmp_path / "local" / id
                )
                assert Path(path).read_bytes() == data
    assert sum(map(len, acknowledged.values())) >= rounds


def test_kill_9_loses_nothing_acknowledged(tmp_path: Path) -> None:
    kill_loop(tmp_path, rounds=2)


@pytest.mark.slow
def test_kill_9_in_a_long_loop(tmp_path: Path) -> None:
    kill_loop(tmp_path, rounds=40)


def test_sixteen_publishers_at_once_all_succeed(served: Serving) -> None:
    problems: list[object] = []

    def publish(number: int) -> None:
        try:
            api = served.api("ada")
            api.create_repo(f"ada/r{number % 4}", exist_ok=True)
            upload(api, os.urandom(20_000), repo=f"ada/r{number % 4}", path=f"{number}.bin")
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    found = [len(served.api().list_repo_files(f"ada/r{i}")) for i in range(4)]
    assert found == [4, 4, 4, 4]


def test_what_the_library_published_to_a_folder_is_taken_over(
    served: Serving, tmp_path: Path
) -> None:
    from hubstate.endpoints.folder import FolderEndpoint

    folder = FolderEndpoint(tmp_path / "folder")
    one = folder.commit(
        "lab/net", {"w.bin": b"1", "a.txt": b"a"}, message="One", author="ada", tag="V/1"
    )
    two = folder.commit("lab/net", {"w.bin": b"2"}, message="Two\n\nwords", author="ada")
    folder.commit("single", {"x.txt": b"x"}, message="x", author="ada", branch="Dev/X")
    lines = import_folder(served.storage, tmp_path / "folder").lines
    assert lines == ["single: 1 new commits", "lab/net: 2 new commits"]
    api = served.api()
    assert api.model_info("lab/net").sha == two.id
    assert api.model_info("lab/net", revision="V/1").sha == one.id
    assert [c.title for c in api.list_repo_commits("lab/net")] == ["Two", "One"]
    got = api.snapshot_download("lab/net", local_dir=tmp_path / "local")
    assert (Path(got) / "w.bin").read_bytes() == b"2"
    answer = served.request("GET", "/single/resolve/Dev%2FX/x.txt")
    assert answer.content == b"x"
    assert check(served.storage).problems == []
