"""What the server remembers is what the database says, whatever has changed and whoever did it."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from registry_serving import Serving, template

from hubstate_registry.memory import Memory
from hubstate_registry.names import RepoId
from hubstate_registry.storage import Storage, blobs, commits, repositories
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.references import Actor

DIGEST = "1" * 64


def changed(storage: Storage, change: Callable[[Connection], object]) -> None:
    with storage.database.write() as connection:
        change(connection)


@contextmanager
def folder() -> Iterator[Storage]:
    """A registry's storage with an administrator, and a repository that has a commit."""
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(template()[0], name, dirs_exist_ok=True)
        storage = Storage(Path(name))
        for path in ("one", "two"):
            id = RepoId(namespace="ada", name=path)

            def make(connection: Connection, id: RepoId = id) -> None:
                made = repositories.create(connection, id)
                commits.start(connection, made, actor=Actor(user="ada"))

            changed(storage, make)
        yield storage
        storage.close()


def remember(storage: Storage) -> Memory:
    """What is known of both repositories."""
    memory = Memory(storage.glance)
    memory.refresh()
    for name in ("one", "two"):
        look = storage.glance.look(RepoId(namespace="ada", name=name), branch="main")
        memory.learn(look.repository)
    return memory


@pytest.mark.parametrize(
    ("statement", "known"),
    [
        ("UPDATE repositories SET private = 1 WHERE name = 'one'", {"two"}),
        ("UPDATE refs SET message = 'm' WHERE repository = 1", {"two"}),
        ("DELETE FROM refs WHERE repository = 1", {"two"}),
        ("DELETE FROM commits WHERE repository = 1", {"two"}),
        ("DELETE FROM repositories WHERE name = 'one'", {"two"}),
        ("UPDATE repositories SET key = 'ada/three' WHERE name = 'one'", {"two"}),
        ("UPDATE tokens SET revoked = 1 WHERE user = 'bob'", set()),
        ("INSERT INTO memberships VALUES ('root', 'bob', 'read')", set()),
        ("UPDATE namespaces SET disabled = 1 WHERE name = 'bob'", set()),
        ("UPDATE audit SET at = 1", {"one", "two"}),
    ],
)
def test_what_a_change_is_about_is_forgotten_and_the_rest_is_not(
    statement: str, known: set[str]
) -> None:
    with folder() as storage:
        memory = remember(storage)
        principals, anything = memory.principals, memory.anything
        changed(storage, lambda connection: connection.execute(sa.text(statement)))
        memory.refresh()
        ids = {name: RepoId(namespace="ada", name=name) for name in ("one", "two")}
        assert {name for name, id in ids.items() if memory.find(id)} == known
        assert (memory.principals is principals) == bool(known)
        assert (memory.anything is anything) == (known == set(ids))


def test_bytes_that_are_stored_elsewhere_now_end_all_that_is_known() -> None:
    with folder() as storage:
        changed(storage, lambda c: blobs.record(c, DIGEST, size=1))
        memory = remember(storage)
        changed(storage, lambda c: blobs.record(c, DIGEST, size=1, xet="a" * 64))
        memory.refresh()
        assert memory.find(RepoId(namespace="ada", name="one")) is None


@pytest.mark.parametrize("count", [998, 999, 10_500])
def test_a_journal_that_does_not_reach_back_ends_all_that_is_known(count: int) -> None:
    rows = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {count}) "
    touch = sa.text("UPDATE refs SET message = 'm' WHERE repository = 2 AND kind = 'branch'")
    many = sa.text(rows + "INSERT INTO refs SELECT 2, 'tag', i, '', '', 0 FROM n")
    one, two = (RepoId(namespace="ada", name=name) for name in ("one", "two"))
    with folder() as storage:
        memory = remember(storage)
        changed(storage, lambda c: (c.execute(touch), c.execute(many)))
        memory.refresh()
        assert memory.find(two) is None
        assert bool(memory.find(one)) == (count < 999)
        with storage.database.read() as connection:
            kept = connection.execute(sa.text("SELECT count(*) FROM changes")).scalar_one()
        assert (kept == 10_000) == (count > 10_000)
        for id in (one, two):
            memory.learn(storage.glance.look(id, branch="main").repository)
        changed(storage, lambda c: c.execute(touch))
        memory.refresh()
        assert memory.find(one)
        assert memory.find(two) is None


def test_a_repository_that_moves_while_it_is_looked_at_is_known_by_one_name() -> None:
    one, three = (RepoId(namespace="ada", name=name) for name in ("one", "three"))
    move = "UPDATE repositories SET name = 'three', key = 'ada/three' WHERE name = 'one'"
    with folder() as storage:
        memory = remember(storage)
        changed(storage, lambda c: c.execute(sa.text(move)))
        memory.learn(storage.glance.look(three, branch="main").repository)
        assert memory.find(one) is None
        memory.refresh()
        assert memory.find(three) is None


def test_much_that_is_known_is_forgotten() -> None:
    with folder() as storage:
        memory = remember(storage)
        for number in range(20):
            memory.anything.keep(number, b"", size=2 << 20)
        memory.refresh()
        assert not memory.anything
        memory.anything.keep("large", b"", size=(2 << 20) + 1)
        assert not memory.anything


def test_no_reader_among_many_is_behind_what_was_acknowledged(served: Serving) -> None:
    served.request("POST", "/api/repos/create", json={"name": "model"})
    stop, problems = threading.Event(), list[str]()

    def read() -> None:
        other = Serving(served.url, served.application, served.folder, served.tokens)
        with other.session:
            while not stop.is_set():
                if other.request("GET", "/api/models/ada/model").status_code != 200:
                    problems.append("not 200")

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    try:
        for number in range(10):
            value = {"path": "w", "content": f"{number}", "encoding": "utf-8"}
            lines = ({"key": "header", "value": {}}, {"key": "file", "value": value})
            body = "\n".join(map(json.dumps, lines))
            made = served.request("POST", "/api/models/ada/model/commit/main", data=body)
            seen = served.request("GET", "/api/models/ada/model", user="bob").json()["sha"]
            assert seen == made.json()["commitOid"]
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert not problems


def test_under_load_the_database_is_asked_once_for_all_that_wait(
    served: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    application, looks = served.application, list[str]()
    version = application.registry.storage.glance.version
    monkeypatch.setattr(
        application.registry.storage.glance, "version", lambda: looks.append("") or version()
    )
    scope = {"type": "http", "method": "GET", "path": "/healthz", "query_string": b""}

    async def ask() -> None:
        await application(dict(scope, headers=[]), receive, send)

    async def receive() -> dict[str, object]:
        return {"type": "http.request"}

    async def send(_: object) -> None:
        pass

    async def ask_many() -> None:
        await asyncio.gather(*(ask() for _ in range(16)))
        assert len(looks) == 1
        await asyncio.gather(ask(), ask())
        assert len(looks) == 2

    asyncio.run(ask_many())
