"""Xet uploads that race, and a server that dies under them."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import requests
from xet_serving import serving

from hubstate_registry.auth import Role
from hubstate_registry.names import parse_repo
from hubstate_registry.storage import Storage, accounts, repositories
from hubstate_registry.storage.blobs import find
from hubstate_registry.xet import chunks, shard, upkeep
from hubstate_registry.xet.hashes import format_hash, hash_chunk, hash_file, hash_term, hash_tree
from hubstate_registry.xet.service import Xet
from hubstate_registry.xet.shard import Shard, ShardFile, Term

_SERVER = """
import sys
from pathlib import Path
import uvicorn
from hubstate_registry.app import create
from hubstate_registry.settings import Settings
from hubstate_registry.storage import Storage
from hubstate_registry.xet.routes import XetExtension
root = Path(sys.argv[1])
storage = Storage(root)
app = create(Settings(root=root), storage=storage, extensions=[XetExtension(storage)])
server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
started = server.startup
async def startup(sockets=None):
    await started(sockets)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
server.startup = startup
server.run()
"""


def upload(url: str, token: str, content: bytes) -> str:
    """Publish content to ``ada/model`` by Xet; its sha256, once that was acknowledged."""
    bearer = {"Authorization": f"Bearer {token}"}
    told = requests.get(
        f"{url}/api/models/ada/model/xet-write-token/main", headers=bearer, timeout=10
    ).json()
    bearer = {"Authorization": f"Bearer {told['accessToken']}"}
    leaf = (hash_chunk(content), len(content))
    xorb = hash_tree([leaf])
    file = ShardFile(
        hash=hash_file([leaf]),
        terms=(Term(xorb, 0, 1, len(content)),),
        verification=(hash_term([leaf[0]]),),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    body = shard.write(Shard(files=(file,), xorbs=()), created=0, expires=0)
    for path, data in (
        (f"xorbs/default/{format_hash(xorb)}", chunks.pack(content)),
        ("shards", body),
    ):
        done = requests.post(f"{url}/xet/v1/{path}", headers=bearer, data=data, timeout=10)
        assert done.status_code == 200, done.text
    return str(file.sha256)


def test_uploads_of_the_same_bytes_at_once_all_succeed(tmp_path: Path) -> None:
    content = np.random.default_rng(1).bytes(100_000)
    with serving(tmp_path, "ada") as server:
        body = {"name": "model", "visibility": "public"}
        bearer = {"Authorization": f"Bearer {server.tokens['ada']}"}
        requests.post(f"{server.url}/api/repos/create", json=body, headers=bearer, timeout=10)
        with ThreadPoolExecutor(8) as pool:
            jobs = [
                pool.submit(upload, server.url, server.tokens["ada"], content) for _ in range(16)
            ]
        assert {job.result() for job in jobs} == {hashlib.sha256(content).hexdigest()}
        assert list(upkeep.check(server.storage)) == []


def test_a_kill_at_any_moment_loses_nothing_acknowledged(tmp_path: Path) -> None:
    root = tmp_path / "registry"
    storage = Storage(root)
    with storage.database.write() as connection:
        accounts.add_namespace(connection, "ada")
        token = accounts.create_token(connection, "ada", scopes={"*": Role.ADMIN})
        repositories.create(connection, parse_repo("ada/model"))
    storage.close()
    acknowledged: list[str] = []
    for seed in range(3):
        acknowledged += _upload_until_killed(root, token, seed)
        storage = Storage(root)
        assert list(upkeep.check(storage)) == []
        for sha256 in acknowledged:
            content = b"".join(Xet(storage).read(sha256))
            assert hashlib.sha256(content).hexdigest() == sha256
            with storage.database.read() as connection:
                assert find(connection, sha256) is not None
        storage.close()
    assert len(acknowledged) > 3
    storage = Storage(root)
    storage.files.sweep(older=-1)
    upkeep.collect(storage, grace=-1)
    assert list(storage.files.uploads.iterdir()) == []
    assert list(upkeep.check(storage)) == []
    storage.close()


def _upload_until_killed(root: Path, token: str, seed: int) -> list[str]:
    """Four clients upload without pause; the server is killed after a random while."""
    command = [sys.executable, "-c", _SERVER, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        done: list[str] = []
        clients = [
            threading.Thread(target=_upload_on, args=(url, token, done, seed * 100 + number))
            for number in range(4)
        ]
        for client in clients:
            client.start()
        time.sleep(random.Random(seed).uniform(0.2, 0.8))
        os.kill(server.pid, signal.SIGKILL)
        for client in clients:
            client.join()
    return done


def _upload_on(url: str, token: str, done: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    try:
        while True:
            done.append(upload(url, token, rng.bytes(int(rng.integers(1000, 120_000)))))
    except requests.exceptions.RequestException:
        return  # it was killed
