"""A disk without room: what does not fit is refused, what is there is served, nothing is harmed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from test_registry_cli import process

SIZE = 4 << 20


@pytest.fixture
def python(tmp_path: Path) -> str:
    """An interpreter that sees a file system of ``SIZE`` bytes in the registry's place."""
    if not shutil.which("unshare"):
        pytest.skip("needs Linux namespaces")
    place = tmp_path / "registry"
    place.mkdir()
    script = tmp_path / "python"
    script.write_text(
        f"#!/bin/sh\nexec unshare -rm sh -c 'mount -t tmpfs -o size={SIZE} none {place} && "
        f'exec {sys.executable} "$@"\' sh "$@"\n'
    )
    script.chmod(0o755)
    if subprocess.run([str(script), "-c", ""], check=False, capture_output=True).returncode:
        pytest.skip("this system permits no mounts")
    return str(script)


@pytest.fixture
def session(python: str, tmp_path: Path) -> Iterator[tuple[str, requests.Session]]:
    with process(tmp_path / "registry", "--quiet", python=python) as (running, url):
        assert running.stdout is not None
        with requests.Session() as session:
            token = running.stdout.readline().rpartition(" ")[2].strip()
            session.headers["Authorization"] = f"Bearer {token}"
            session.post(f"{url}/api/repos/create", json={"name": "m"}).raise_for_status()
            yield url, session


def test_what_does_not_fit_is_refused_and_the_rest_goes_on(
    session: tuple[str, requests.Session],
) -> None:
    url, http = session

    def send(data: bytes) -> int:
        """By LFS, then in a commit; the first status that is not 200."""
        oid = hashlib.sha256(data).hexdigest()
        batch = {"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]}
        told = http.post(f"{url}/admin/m.git/info/lfs/objects/batch", json=batch)
        if told.status_code != 200:
            return told.status_code
        sent = http.put(told.json()["objects"][0]["actions"]["upload"]["href"], data=data)
        return sent.status_code if sent.status_code != 200 else commit("lfsFile", oid=oid)

    def commit(key: str, **value: object) -> int:
        lines = [
            {"key": "header", "value": {"summary": "s"}},
            {"key": key, "value": {"path": "w.bin", **value}},
        ]
        body = "\n".join(map(json.dumps, lines))
        return http.post(f"{url}/api/models/admin/m/commit/main", data=body).status_code

    def read() -> bytes:
        answer = http.get(f"{url}/admin/m/resolve/main/w.bin")
        assert answer.status_code == 200, answer.text
        return answer.content

    first = os.urandom(1 << 20)
    assert send(first) == 200
    assert send(os.urandom(SIZE)) == 507
    assert read() == first
    while (status := send(os.urandom(150_000))) == 200:
        pass  # until there is no room, be it for the file or for the database
    assert status == 507
    late = [commit("file", content=str(n) * 60_000, encoding="utf-8") for n in range(40)]
    assert 507 in late and set(late) <= {200, 507}
    before = read()
    assert http.get(f"{url}/readyz").status_code in (200, 503)
    assert http.get(f"{url}/api/models/admin/m").status_code == 200
    assert http.delete(f"{url}/api/repos/delete", json={"name": "none"}).status_code in (404, 507)
    assert read() == before
