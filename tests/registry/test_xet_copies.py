"""Plain copies of what came by Xet: made when they pay, never half, removed on demand."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import requests
from click.testing import CliRunner
from xet_serving import Serving, serving

from hubstate_registry.cli import main
from hubstate_registry.names import parse_repo
from hubstate_registry.operations.check import check
from hubstate_registry.operations.collect import collect
from hubstate_registry.storage import blobs, repositories
from hubstate_registry.xet.copies import drop

UPLOAD = """
api.create_repo("ada/model")
api.upload_file(path_or_fileobj=sys.argv[1], path_in_repo="w.bin", repo_id="ada/model")
"""
PATH = "/ada/model/resolve/main/w.bin"


class Published(NamedTuple):
    server: Serving
    content: bytes

    @property
    def name(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def place(self) -> Path:
        return self.server.storage.files.path(self.name)

    @property
    def blob(self) -> blobs.Blob:
        with self.server.storage.database.read() as connection:
            found = blobs.find(connection, self.name)
        assert found is not None
        return found

    @property
    def stored(self) -> str:
        return self.blob.stored

    def get(self, **headers: str) -> bytes:
        address = self.server.url + PATH
        return requests.get(address, headers=headers, timeout=20).content

    def wait_for(self, stored: str) -> None:
        for _ in range(200):
            if self.stored == stored:
                return
            time.sleep(0.02)
        raise AssertionError(f"stored as {self.stored!r}, not {stored!r}")


@pytest.fixture
def published(tmp_path: Path) -> Iterator[Published]:
    content = os.urandom(2_000_000)
    (tmp_path / "w").write_bytes(content)
    with serving(tmp_path, "ada", copies=True) as server:
        server.run(UPLOAD, tmp_path / "w")
        yield Published(server, content)


def test_a_copy_is_made_once_a_files_size_was_read_plainly(published: Published) -> None:
    content = published.content
    assert (published.stored, published.place.exists()) == ("xet", False)
    for _ in range(4):
        assert published.get(Range="bytes=0-399999") == content[:400_000]
    time.sleep(0.2)
    assert published.stored == "xet", "1.6 of 2 MB were read"
    assert published.get(Range="bytes=1000000-1499999") == content[1_000_000:1_500_000]
    published.wait_for("file")
    assert published.place.read_bytes() == content
    assert published.get() == content
    assert published.get(Range="bytes=5-9") == content[5:10]
    assert check(published.server.storage).problems == []


def test_copies_go_on_demand_and_come_again(published: Published, tmp_path: Path) -> None:
    for _ in range(2):
        assert published.get() == published.content
        published.wait_for("file")
        shown = CliRunner().invoke(main, ["gc", str(tmp_path / "registry"), "--copies"])
        assert "removed 1 plain copies (2000000 bytes)" in shown.output
        assert (published.stored, published.place.exists()) == ("xet", False)
    assert published.get() == published.content
    assert check(published.server.storage).problems == []


def test_what_came_by_lfs_alone_is_no_copy(published: Published, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"x" * 100_000)
    code = UPLOAD.replace("ada/model", "ada/lfs")
    published.server.run(code, tmp_path / "w", HF_HUB_DISABLE_XET="1")
    assert drop(published.server.storage) == (0, 0)


def test_a_copy_goes_with_its_file(published: Published) -> None:
    published.get()
    published.wait_for("file")
    with published.server.storage.database.write() as connection:
        found = repositories.find(connection, parse_repo("ada/model"))
        assert found is not None
        repositories.delete(connection, found)
    report = collect(published.server.storage, grace=-1)
    assert report.blobs == 1
    assert not published.place.exists()
    assert check(published.server.storage).problems == []


def test_damaged_chunks_make_no_copy(published: Published) -> None:
    folder = published.server.storage.root / "xorbs"
    extension, blob = published.server.xet, published.blob
    assert extension.copies is not None
    [xorb] = [path for path in folder.rglob("*") if path.is_file()]
    whole = xorb.read_bytes()
    extension.copies.note(blob, blob.size)
    published.wait_for("file")
    drop(published.server.storage)
    xorb.write_bytes(whole[:-5000] + bytes(5000))
    extension.copies.note(blob, blob.size)
    time.sleep(0.5)
    assert (published.stored, published.place.exists()) == ("xet", False)
    assert list(published.server.storage.files.uploads.iterdir()) == []


def test_a_full_disk_makes_no_copy(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(published.server.storage.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=usage.total // 20))
    assert published.get() == published.content
    time.sleep(0.3)
    assert (published.stored, published.place.exists()) == ("xet", False)
