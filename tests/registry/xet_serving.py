"""A real server on loopback, and the stock client in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hubstate_registry.app import Application, create
from hubstate_registry.auth import Role
from hubstate_registry.settings import Settings
from hubstate_registry.storage import Storage, accounts
from hubstate_registry.xet.routes import XetExtension

_PRELUDE = """
import hashlib, json, sys
from pathlib import Path
import huggingface_hub as hub
import huggingface_hub.utils
from huggingface_hub.errors import HfHubHTTPError
huggingface_hub.utils.disable_progress_bars()
api = hub.HfApi()
"""


class Counting:
    """Counts the bytes of request bodies, and the requests, by the first words of the path."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.bytes: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = "/".join(scope.get("path", "").split("/")[1:4])
        self.requests[kind] += 1

        async def counted() -> Message:
            message = await receive()
            self.bytes[kind] += len(message.get("body", b""))
            return message

        await self.app(scope, counted, send)

    @property
    def sent(self) -> int:
        """Bytes of xorbs that clients have sent."""
        return self.bytes["xet/v1/xorbs"]


@dataclass
class Serving:
    """A running registry."""

    url: str
    storage: Storage
    counts: Counting
    tokens: dict[str, str]
    homes: Path
    xet: XetExtension

    def run(
        self, code: str, *args: object, user: str = "ada", home: str = "", **variables: str
    ) -> Any:
        """Run code with the stock client as a user; what it printed last, read as JSON."""
        folder = self.homes / (home or f"{user}-{time.monotonic_ns()}")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "HF_HOME": str(folder / "hf"),
            "HF_ENDPOINT": self.url,
            **variables,
        }
        if user in self.tokens:
            environment["HF_TOKEN"] = self.tokens[user]
        done = subprocess.run(
            [sys.executable, "-c", _PRELUDE + textwrap.dedent(code), *map(str, args)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=40,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        lines = done.stdout.strip().splitlines()
        return json.loads(lines[-1]) if lines else None


@contextmanager
def serving(root: Path, *users: str, copies: bool = False) -> Iterator[Serving]:
    """Serve a new registry with these users until the block ends."""
    storage = Storage(root / "registry")
    xet = XetExtension(storage, copies=copies)
    app: Application = create(Settings(root=root / "registry"), storage=storage, extensions=[xet])
    with storage.database.write() as connection:
        for user in users:
            accounts.add_namespace(connection, user)
        tokens = {
            user: accounts.create_token(connection, user, scopes={"*": Role.ADMIN})
            for user in users
        }
    counts = Counting(app)
    server = uvicorn.Server(uvicorn.Config(counts, port=0, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Serving(f"http://127.0.0.1:{port}", storage, counts, tokens, root / "homes", xet)
    finally:
        server.should_exit = True
        thread.join()
