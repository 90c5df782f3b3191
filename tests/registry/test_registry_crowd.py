"""Many at once, and gc in the middle of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from test_registry_cli import process
from test_xet_client import DIGEST, UPLOAD, make_blocks, sha256
from xet_serving import Serving, serving

from hubstate_registry.operations.check import check
from hubstate_registry.operations.collect import collect
from hubstate_registry.storage import Storage

DOWNLOADERS, PUBLISHERS, TIMES = 64, 16, 5


class Client:
    """Plain requests, none of which is ever repeated: every error is seen."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.headers = {"Authorization": f"Bearer {token}"}
        self.statuses: Counter[int] = Counter()

    def ask(self, method: str, path: str, *, signed: bool = False, **options: Any) -> Any:
        address, headers = (path, {}) if signed else (self.url + path, self.headers)
        answer = requests.request(method, address, headers=headers, timeout=120, **options)
        self.statuses[answer.status_code] += 1
        answer.raise_for_status()
        return answer

    def publish(self, repo: str, data: bytes) -> str:
        """One commit with one large file, as the stock client sends it by LFS; its id."""
        oid = hashlib.sha256(data).hexdigest()
        batch = {"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]}
        told = self.ask("POST", f"/{repo}.git/info/lfs/objects/batch", json=batch).json()
        href = told["objects"][0]["actions"]["upload"]["href"]
        self.ask("PUT", href, signed=True, data=data)
        file = {"path": "w.bin", "algo": "sha256", "oid": oid, "size": len(data)}
        lines = [{"key": "header", "value": {"summary": "m"}}, {"key": "lfsFile", "value": file}]
        body = "\n".join(map(json.dumps, lines))
        return str(
            self.ask("POST", f"/api/models/{repo}/commit/main", data=body).json()["commitOid"]
        )


@pytest.mark.slow
def test_64_downloaders_and_16_publishers_at_once_see_no_error(tmp_path: Path) -> None:
    with process(tmp_path / "registry", "--quiet", "--rate-limit", "0") as (running, url):
        assert running.stdout is not None
        client = Client(url, running.stdout.readline().rpartition(" ")[2].strip())
        names = [f"r{number}" for number in range(PUBLISHERS)]
        for name in ("shared", *names):
            client.ask("POST", "/api/repos/create", json={"name": name})
        shared = os.urandom(4 << 20)
        client.publish("admin/shared", shared)
        published: dict[str, list[tuple[str, bytes]]] = {name: [] for name in names}

        def download(_: int) -> None:
            for _ in range(TIMES):
                assert client.ask("GET", "/admin/shared/resolve/main/w.bin").content == shared

        def publish(name: str) -> None:
            for _ in range(TIMES):
                data = os.urandom(1 << 20)
                published[name].append((client.publish(f"admin/{name}", data), data))

        with ThreadPoolExecutor(DOWNLOADERS + PUBLISHERS) as pool:
            jobs = [pool.submit(download, number) for number in range(DOWNLOADERS)]
            jobs += [pool.submit(publish, name) for name in names]
            for job in jobs:
                job.result()
        assert set(client.statuses) == {200}
        for name, done in published.items():
            rows = client.ask("GET", f"/api/models/admin/{name}/commits/main").json()
            assert [row["id"] for row in rows[:TIMES]] == [id for id, _ in reversed(done)]
            for id, data in done[:2]:
                assert client.ask("GET", f"/admin/{name}/resolve/{id}/w.bin").content == data
    storage = Storage(tmp_path / "registry")
    assert check(storage).problems == []
    storage.close()


def forget_ages(server: Serving) -> None:
    """Everything that is here has been here, untouched, for ages."""
    with server.storage.database.write() as connection:
        for change in ("blobs SET created", "holdings SET touched", "xorbs SET touched"):
            connection.exec_driver_sql(f"UPDATE {change} = 0")


def test_gc_while_a_xet_upload_runs_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the upload builds on is old and nobody needs it: gc wants it, until it is named."""
    base, tuned = make_blocks(1), make_blocks(1, changed=2)
    (tmp_path / "base").write_bytes(base)
    (tmp_path / "tuned").write_bytes(tuned)
    answered = 0
    with serving(tmp_path, "ada") as server:
        answer, store = server.xet.xet.answer, server.xet.xet.store

        def answer_and_sweep(*arguments: Any, **options: Any) -> bytes | None:
            nonlocal answered
            told = answer(*arguments, **options)
            answered += told is not None
            if told is not None:
                collect(server.storage, grace=60)
            return told

        def store_and_sweep(*arguments: Any, **options: Any) -> bool:
            stored = store(*arguments, **options)
            collect(server.storage, grace=60)
            return stored

        server.run(UPLOAD, tmp_path / "base", "ada/base")
        first = server.counts.sent
        server.run("api.delete_repo('ada/base')")
        # Its file is forgotten, its chunks are known as those that this user has brought.
        forget_ages(server)
        monkeypatch.setattr(server.xet.xet, "answer", answer_and_sweep)
        monkeypatch.setattr(server.xet.xet, "store", store_and_sweep)
        server.run(UPLOAD, tmp_path / "tuned", "ada/tuned")
        assert answered and server.counts.sent - first <= 0.12 * len(tuned)
        assert server.run(DIGEST, "ada/tuned") == sha256(tuned)
        assert check(server.storage).problems == []
