"""A server that remembers answers as one that knows nothing, whatever was changed by whom."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from registry_serving import template

from hubstate_registry.app import Application, create
from hubstate_registry.auth import Role
from hubstate_registry.names import parse_repo
from hubstate_registry.operations.collect import collect
from hubstate_registry.settings import Limits, Settings
from hubstate_registry.storage import Storage, accounts, blobs, repositories
from hubstate_registry.storage.database import Connection
from hubstate_registry.xet.routes import XetExtension

NAMES = ("ada/one", "ada/two", "lab/three")
DIGESTS = ("1" * 64, "2" * 64)
RESTS = (
    "GET /api/models",
    "GET /api/whoami-v2",
    "GET /api/models/{name}",
    "GET /api/models/{name}/refs",
    "GET /api/models/{name}/tree/{revision}?recursive=true",
    "GET /api/models/{name}/commits/{revision}",
    "POST /api/models/{name}/paths-info/{revision}",
    "HEAD /{name}/resolve/{revision}/w",
)
names, revisions, digests = map(st.sampled_from, (NAMES, ("main", "dev"), DIGESTS))
users = st.sampled_from(["ada", "bob", None])
asked = st.tuples(revisions, users)


def changed(storage: Storage, change: Callable[[Connection], object]) -> None:
    with storage.database.write() as connection:
        change(connection)


class Client:
    """Asks an application, without a socket."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._tokens = {**template()[1], None: ""}

    def ask(
        self, application: Application, method: str, path: str, *, user: str | None, data: bytes
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        """Status, headers and body."""
        place, _, query = path.partition("?")
        token = self._tokens[user]
        headers = [(b"host", b"here"), (b"content-length", str(len(data)).encode())]
        headers += [(b"authorization", f"Bearer {token}".encode())] if token else []
        scope = {
            "type": "http",
            "method": method,
            "scheme": "http",
            "path": place,
            "raw_path": place.encode(),
            "query_string": query.encode(),
            "headers": headers,
            "client": ("here", 1),
            "server": ("here", 1),
        }
        messages: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": data, "more_body": False}

        async def send(message: Any) -> None:
            messages.append(message)

        self._runner.run(application(scope, receive, send))
        told = {k: v for k, v in messages[0]["headers"] if k != b"x-request-id"}
        return messages[0]["status"], told, b"".join(m.get("body", b"") for m in messages)


class Registries(RuleBasedStateMachine):
    """One server that runs all the time, and for each question another that knows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        shutil.copytree(template()[0], self.root, dirs_exist_ok=True)
        self.runner = asyncio.Runner()
        self.client = Client(self.runner)
        self.storages = [Storage(self.root), Storage(self.root)]
        self.kept, self.other = map(self.serve, self.storages)
        changed(self.storages[1], lambda c: accounts.add_namespace(c, "lab", kind="organisation"))
        for name in NAMES:
            self.post("/api/repos/create", name=name, private=name == "ada/two")

    def serve(self, storage: Storage) -> Application:
        limits = Limits(requests_per_minute=0, failures_per_minute=0)
        options = Settings(root=self.root, limits=limits)
        return create(options, storage=storage, extensions=[XetExtension(storage)])

    def teardown(self) -> None:
        for storage in self.storages:
            storage.close()
        self.runner.close()
        self.folder.cleanup()

    def post(self, path: str, *, method: str = "POST", data: bytes = b"", **fields: object) -> None:
        """Change something by way of the other server."""
        body = data or json.dumps(fields).encode()
        status, _, told = self.client.ask(self.other, method, path, user="root", data=body)
        assert status < 500, told

    def commit(self, name: str, *lines: object) -> None:
        header = {"key": "header", "value": {"summary": "s"}}
        data = "\n".join(map(json.dumps, (header, *lines))).encode()
        self.post(f"/api/models/{name}/commit/main", data=data)

    @contextmanager
    def watch(self, name: str, asked: tuple[str, str | None]) -> Iterator[None]:
        """Ask about a repository before a change, and then both servers after it."""
        self.ask(self.kept, name, *asked)
        yield
        knows_nothing = self.serve(self.storages[1])
        for told, wanted in zip(
            self.ask(self.kept, name, *asked), self.ask(knows_nothing, name, *asked), strict=True
        ):
            assert told == wanted

    def ask(
        self, application: Application, name: str, revision: str, user: str | None
    ) -> list[object]:
        found: list[object] = []
        for rest in RESTS:
            kind, place = rest.split(" ")
            path = place.format(name=name, revision=revision)
            form = b"paths=w&paths=none" if kind == "POST" else b""
            answer = self.client.ask(application, kind, path, user=user, data=form)
            found.append((rest, answer))
        return found

    @rule(name=names, asked=asked, private=st.booleans())
    def create(self, name: str, asked: Any, private: bool) -> None:
        with self.watch(name, asked):
            self.post("/api/repos/create", name=name, private=private)

    @rule(name=names, asked=asked)
    def delete(self, name: str, asked: Any) -> None:
        with self.watch(name, asked):
            self.post("/api/repos/delete", method="DELETE", name=name)

    @rule(name=names, to=names, asked=asked)
    def move(self, name: str, to: str, asked: Any) -> None:
        with self.watch(name, asked), self.watch(to, asked):
            self.post("/api/repos/move", fromRepo=name, toRepo=to, type="model")

    @rule(name=names, to=names, asked=asked)
    def duplicate(self, name: str, to: str, asked: Any) -> None:
        with self.watch(to, asked):
            self.post("/api/repos/delete", method="DELETE", name=to)
            self.post(f"/api/models/{name}/duplicate", repository=to)

    @rule(name=names, asked=asked, private=st.booleans(), gated=st.sampled_from([False, "auto"]))
    def restrict(self, name: str, asked: Any, private: bool, gated: object) -> None:
        path = f"/api/models/{name}/settings"
        with self.watch(name, asked):
            self.post(path, method="PUT", private=private, gated=gated)

    @rule(name=names, asked=asked, content=st.sampled_from(["YQ==", "Yg=="]))
    def commit_small(self, name: str, asked: Any, content: str) -> None:
        value = {"path": "w", "content": content, "encoding": "base64"}
        with self.watch(name, asked):
            self.commit(name, {"key": "file", "value": value})

    @rule(name=names, asked=asked, digest=digests)
    def commit_large_and_bring_it_by_xet(self, name: str, asked: Any, digest: str) -> None:
        def hold(connection: Connection) -> None:
            found = repositories.find(connection, parse_repo(name))
            if found is not None:
                blobs.record(connection, digest, size=9)
                blobs.hold(connection, found.number, sha256=digest)

        changed(self.storages[1], hold)
        value = {"path": "w", "algo": "sha256", "oid": digest, "size": 9}
        with self.watch(name, asked):
            self.commit(name, {"key": "lfsFile", "value": value})
        with self.watch(name, asked):
            changed(self.storages[1], lambda c: blobs.record(c, digest, size=9, xet=digest))

    @rule(name=names, kind=st.sampled_from(["branch", "tag"]), at=revisions, user=users)
    def refer(self, name: str, kind: str, at: str, user: str | None) -> None:
        path = f"/api/models/{name}/{kind}"
        with self.watch(name, ("dev", user)):
            if kind == "branch":
                self.post(f"{path}/dev", startingPoint=at)
            else:
                self.post(f"{path}/{at}", tag="dev")

    @rule(name=names, kind=st.sampled_from(["branch", "tag"]), user=users)
    def unrefer(self, name: str, kind: str, user: str | None) -> None:
        with self.watch(name, ("dev", user)):
            self.post(f"/api/models/{name}/{kind}/dev", method="DELETE")

    @rule(role=st.sampled_from([Role.NONE, Role.READ]), name=names)
    def set_member(self, role: Role, name: str) -> None:
        for one in (name, "lab/three"):
            with self.watch(one, ("main", "bob")):
                self.change_member(role)

    def change_member(self, role: Role) -> None:
        changed(
            self.storages[1],
            lambda c: accounts.set_member(c, "bob", organisation="lab", role=role),
        )

    @rule(disabled=st.booleans(), name=names)
    def disable(self, disabled: bool, name: str) -> None:
        with self.watch(name, ("main", "bob")):
            changed(self.storages[1], lambda c: accounts.disable_user(c, "bob", disabled=disabled))

    @rule(name=names, asked=asked)
    def collect(self, name: str, asked: Any) -> None:
        with self.watch(name, asked):
            collect(self.storages[1], grace=0)


def test_a_server_that_remembers_answers_as_one_that_knows_nothing() -> None:
    plan = settings(max_examples=6, stateful_step_count=12, deadline=None)
    run_state_machine_as_test(Registries, settings=plan)
