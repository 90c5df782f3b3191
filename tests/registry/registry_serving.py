"""A real registry on loopback, in a thread, and what a test needs to talk to it."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import requests
import uvicorn
from huggingface_hub import HfApi

from hubstate_registry.app import Application, create
from hubstate_registry.auth import Role
from hubstate_registry.patience import PatientProtocol
from hubstate_registry.settings import Limits, Settings
from hubstate_registry.storage import Storage, accounts


@dataclass
class Serving:
    """A running registry with users ``root`` (operator), ``ada`` and ``bob``."""

    url: str
    application: Application
    folder: Path
    tokens: Mapping[str, str]
    session: requests.Session = field(default_factory=requests.Session)

    @property
    def storage(self) -> Storage:
        return self.application.registry.storage

    def api(self, user: str | None = "ada") -> HfApi:
        """The stock client as a user; as nobody with None."""
        return HfApi(endpoint=self.url, token=False if user is None else self.tokens[user])

    def request(
        self, method: str, path: str, *, user: str | None = "ada", **kwargs: Any
    ) -> requests.Response:
        """One plain request."""
        headers = dict(kwargs.pop("headers", {}))
        if user is not None:
            headers["Authorization"] = f"Bearer {self.tokens[user]}"
        address = path if path.startswith("http") else self.url + path
        kwargs.setdefault("allow_redirects", False)
        return self.session.request(method, address, headers=headers, timeout=30, **kwargs)

    def environment(self, home: Path, *, user: str | None = "ada", **more: str) -> dict[str, str]:
        """What a process of the stock client needs, and nothing of this machine's user."""
        mine = {} if user is None else {"HF_TOKEN": self.tokens[user]}
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "HF_HOME": str(home / "hf"),
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "NO_COLOR": "1",
            **mine,
            **more,
        }

    def run(self, home: Path, *command: str, user: str | None = "ada") -> str:
        """Run a command with that environment; its output."""
        done = subprocess.run(
            command,
            env=self.environment(home, user=user),
            capture_output=True,
            text=True,
            timeout=120,
            cwd=home,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


def hf() -> str:
    """The stock client's command line."""
    return str(Path(sys.executable).with_name("hf"))


@contextmanager
def serving(root: Path, **options: Any) -> Iterator[Serving]:
    """Serve a registry in ``root`` until the block ends; options are Settings or Limits."""
    extensions = options.pop("extensions", [])
    limits = {k: options.pop(k) for k in list(options) if hasattr(Limits(), k)}
    settings = Settings(root=root, limits=replace(Limits(), **limits), **options)
    filled, tokens = template()
    shutil.copytree(filled, root, dirs_exist_ok=True)
    storage = Storage(root)
    made = [extension(storage) for extension in extensions]
    application = create(settings, storage=storage, extensions=made)
    config = uvicorn.Config(
        application,
        port=0,
        log_config=None,
        access_log=False,
        lifespan="on",
        http=PatientProtocol,
        h11_max_incomplete_event_size=limits.get("header_bytes", Limits().header_bytes),
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        served = Serving(f"http://127.0.0.1:{port}", application, root, tokens)
        with served.session:
            yield served
    finally:
        server.should_exit = True
        thread.join()


@cache
def template() -> tuple[Path, Mapping[str, str]]:
    """A folder with the schema and the users, made once: each registry starts as a copy."""
    folder = Path(tempfile.mkdtemp(prefix="registry-"))
    atexit.register(shutil.rmtree, folder)
    storage = Storage(folder)
    tokens = _people(storage)
    storage.close()
    return folder, tokens


def _people(storage: Storage) -> dict[str, str]:
    with storage.database.write() as connection:
        accounts.add_namespace(connection, "root", admin=True)
        for name in ("ada", "bob"):
            accounts.add_namespace(connection, name)
        return {
            name: accounts.create_token(connection, name, scopes={"*": Role.ADMIN})
            for name in ("root", "ada", "bob")
        }
