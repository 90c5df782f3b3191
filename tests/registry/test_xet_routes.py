"""The Xet routes against callers who send broken things, or who ask for what is not theirs."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select, update
from xet_serving import Serving, serving

from hubstate_registry import spooling
from hubstate_registry.auth import Role
from hubstate_registry.operations.backup import backup
from hubstate_registry.operations.check import check
from hubstate_registry.storage import Storage, accounts, xet
from hubstate_registry.storage.schema import holdings, metadata, tokens
from hubstate_registry.storage.xet_schema import xet_files, xorbs
from hubstate_registry.xet import chunks, shard, upkeep
from hubstate_registry.xet.hashes import (
    ZERO,
    format_hash,
    hash_chunk,
    hash_file,
    hash_term,
    hash_tree,
)
from hubstate_registry.xet.service import Xet
from hubstate_registry.xet.shard import Shard, ShardFile, Term
from hubstate_registry.xet.xorb import Xorb, scan

rng = np.random.default_rng(11)
SECRET, SHARED, MORE = (rng.integers(0, 256, n, dtype="u1").tobytes() for n in (9000, 8500, 8200))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path, "ada", "eve") as running:
        for user in ("ada", "eve"):
            for name, private in (("open", False), ("secret", True)):
                body = {"name": name, "visibility": "private" if private else "public"}
                done = call(running, "POST", "/api/repos/create", user=user, json=body)
                assert done.status_code == 200, done.text
        yield running


def call(
    server: Serving, method: str, path: str, *, user: str | None = None, **options: Any
) -> requests.Response:
    headers = dict(options.pop("headers", {}))
    if user:
        headers["Authorization"] = f"Bearer {server.tokens[user]}"
    return requests.request(
        method,
        server.url + path,
        headers=headers,
        timeout=30,
        **options,
    )


@dataclass
class Client:
    """A client of the chunk store that does exactly what it is told."""

    server: Serving
    token: str

    def send(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}"} | options.pop("headers", {})
        return call(self.server, method, f"/xet{path}", headers=headers, **options)

    def upload(self, *contents: bytes) -> Xorb:
        data = pack(*contents)
        xorb = scan([data], hash=name_of(*contents))
        done = self.send("POST", f"/v1/xorbs/default/{format_hash(xorb.hash)}", data=data)
        assert done.status_code == 200, done.text
        return xorb

    def register(self, *files: ShardFile, xorbs: Sequence[Xorb] = ()) -> requests.Response:
        told = Shard(files=files, xorbs=tuple(shard.describe_xorb(xorb) for xorb in xorbs))
        return self.send("POST", "/v1/shards", data=shard.write(told, created=0, expires=0))

    def publish(self, *contents: bytes) -> tuple[Xorb, ShardFile]:
        xorb = self.upload(*contents)
        file = describe((xorb, range(len(contents))))
        done = self.register(file, xorbs=[xorb])
        assert done.status_code == 200, done.text
        return xorb, file


def enter(server: Serving, user: str | None, repo: str, *, role: str = "write") -> Client:
    path = f"/api/models/{repo}/xet-{role}-token/main"
    answer = call(server, "GET", path, user=user)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["casUrl"] == answer.headers["X-Xet-Cas-Url"] == f"{server.url}/xet"
    assert told["accessToken"] == answer.headers["X-Xet-Access-Token"]
    assert str(told["exp"]) == answer.headers["X-Xet-Token-Expiration"]
    assert time.time() < told["exp"] <= time.time() + 3600
    return Client(server, told["accessToken"])


def pack(*contents: bytes) -> bytes:
    return b"".join(chunks.pack(content, scheme=chunks.Scheme.LZ4) for content in contents)


def name_of(*contents: bytes) -> bytes:
    return hash_tree((hash_chunk(content), len(content)) for content in contents)


def describe(*runs: tuple[Xorb, range], sha256: str | None = None) -> ShardFile:
    used = [xorb.chunks[run.start : run.stop] for xorb, run in runs]
    return ShardFile(
        hash=hash_file([(c.hash, c.size) for part in used for c in part]),
        terms=tuple(
            Term(xorb.hash, run.start, run.stop, sum(c.size for c in part))
            for (xorb, run), part in zip(runs, used, strict=True)
        ),
        verification=tuple(hash_term(c.hash for c in part) for part in used),
        sha256=sha256,
    )


# --- broken uploads -------------------------------------------------------------------------


def test_a_broken_xorb_is_refused_and_leaves_nothing(server: Serving) -> None:
    ada = enter(server, "ada", "ada/open")
    name = format_hash(name_of(MORE))
    good = pack(MORE)
    for data in (b"", good[:-1], good + b"x", good[:50] + b"?" + good[51:], pack(SHARED), b"\xff"):
        answer = ada.send("POST", f"/v1/xorbs/default/{name}", data=data)
        assert answer.status_code == 400, (answer.text, data[:20])
        assert answer.headers["X-Error-Message"]
    for path in (f"/v1/xorbs/other/{name}", "/v1/xorbs/default/xyz", f"/v1/chunks/x/{name}"):
        method = "GET" if "chunks" in path else "POST"
        assert ada.send(method, path, data=good).status_code == 400
    assert files_below(server) == []
    assert ada.send("POST", f"/v1/xorbs/default/{name}", data=good).json() == {"was_inserted": True}
    again = ada.send("POST", f"/v1/xorbs/default/{name}", data=good)
    assert again.json() == {"was_inserted": False}
    assert files_below(server) == [name]


def files_below(server: Serving) -> list[str]:
    roots = (server.storage.root / "xorbs", server.storage.root / "uploads")
    return [path.name for root in roots for path in root.rglob("*") if path.is_file()]


def test_a_file_is_known_by_its_bytes_whether_or_not_they_came_in_its_order(
    server: Serving,
) -> None:
    ada = enter(server, "ada", "ada/open")
    truth = hashlib.sha256(SECRET + SHARED + MORE + SECRET).hexdigest()
    backward = [ada.upload(content) for content in (MORE, SHARED, SECRET)]
    in_order = [backward[2], backward[1], backward[0], backward[2]]
    file = describe(*((xorb, range(1)) for xorb in in_order))
    assert ada.register(replace(file, sha256="0" * 64)).status_code == 400
    assert ada.register(replace(file, sha256=truth)).status_code == 200


def test_a_file_that_came_in_order_is_not_read_back(server: Serving) -> None:
    ada = enter(server, "ada", "ada/open")
    sent = [ada.upload(content) for content in (SECRET, SHARED, MORE)]
    file = describe(*((xorb, range(1)) for xorb in sent))
    for name in files_below(server):
        (server.storage.root / "xorbs" / name[:2] / name).unlink()
    false = replace(file, sha256=hashlib.sha256(SECRET).hexdigest())
    assert "its content has" in ada.register(false).text
    truth = hashlib.sha256(SECRET + SHARED + MORE).hexdigest()
    assert ada.register(replace(file, sha256=truth)).status_code == 200


def test_a_false_shard_is_refused_and_nothing_is_held(server: Serving) -> None:
    ada = enter(server, "ada", "ada/open")
    xorb = ada.upload(SECRET, SHARED)
    good = describe((xorb, range(2)))
    missing = describe((scan([pack(MORE)], hash=name_of(MORE)), range(1)))
    false = {
        "states sha256": replace(good, sha256="0" * 64),
        "states no verification": replace(good, verification=None),
        "its terms make": replace(good, hash=ZERO[:-1] + b"\1"),
        "is not stored here": missing,
    }
    for problem, file in false.items():
        answer = ada.register(file)
        assert (answer.status_code, problem in answer.text) == (400, True), answer.text
    with server.storage.database.read() as connection:
        assert connection.execute(select(holdings)).all() == []
        assert connection.execute(select(xet_files)).all() == []
    assert ada.register(good, xorbs=[xorb]).status_code == 200
    assert ada.register(good).status_code == 200  # again is no error
    for file, end in ((good, '{"type": "result"}'), (missing, '"retryable": false}')):
        body = shard.write(Shard(files=(file,), xorbs=()), created=0, expires=0)
        answer = ada.send("POST", "/v2/shards", data=body)
        assert (answer.status_code, answer.text.strip().endswith(end)) == (200, True), answer.text


def test_a_shard_that_is_not_small_waits_on_the_disk_and_leaves_nothing(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooling, "_SMALL", 100)
    ada = enter(server, "ada", "ada/open")
    xorb, file = ada.publish(SECRET, SHARED)
    short = shard.write(Shard(files=(file,), xorbs=()), created=0, expires=0)[:-50]
    assert ada.send("POST", "/v1/shards", data=short).status_code == 400
    assert files_below(server) == [format_hash(xorb.hash)]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_shard_makes_the_server_fail(server: Serving, data: st.DataObject) -> None:
    ada = enter(server, "ada", "ada/open")
    xorb = ada.upload(SECRET, SHARED)
    told = Shard(files=(describe((xorb, range(2))),), xorbs=(shard.describe_xorb(xorb),))
    body = bytearray(shard.write(told, created=0, expires=0))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    assert ada.send("POST", "/v1/shards", data=bytes(body)).status_code in (200, 400)


# --- tokens ---------------------------------------------------------------------------------


def test_a_token_opens_one_repository_for_one_purpose(server: Serving) -> None:
    writer = enter(server, "ada", "ada/open")
    _, file = writer.publish(SHARED)
    path = f"/v1/reconstructions/{format_hash(file.hash)}"
    reader = enter(server, None, "ada/open", role="read")
    assert reader.send("GET", path).status_code == 200
    assert enter(server, "ada", "ada/secret", role="read").send("GET", path).status_code == 404
    for method, place in (("POST", f"/v1/xorbs/default/{'0' * 64}"), ("POST", "/v1/shards")):
        assert reader.send(method, place, data=b"").status_code == 403
    for token in ("", "x", writer.token[:-2], server.tokens["ada"]):
        assert Client(server, token).send("GET", path).status_code == 401
    claim = server.storage.signer.sign("xet-token", {"repository": 1}, seconds=-1)
    assert Client(server, claim).send("GET", path).status_code == 401


def test_token_endpoints_hide_what_the_hub_hides(server: Serving) -> None:
    for user, repo, role, status in [
        ("eve", "ada/secret", "read", 404),
        ("eve", "ada/secret", "write", 404),
        ("eve", "ada/none", "read", 404),
        ("eve", "ada/open", "write", 403),
        (None, "ada/open", "write", 401),
        (None, "ada/secret", "read", 404),
    ]:
        answer = call(server, "GET", f"/api/models/{repo}/xet-{role}-token/main", user=user)
        assert answer.status_code == status, (user, repo, role, answer.text)


def test_a_token_ends_with_what_it_rests_on(server: Serving) -> None:
    _, file = enter(server, "ada", "ada/open").publish(SHARED)
    path = f"/v1/reconstructions/{format_hash(file.hash)}"
    ada, other = enter(server, "ada", "ada/open"), enter(server, "eve", "ada/open", role="read")
    assert (ada.send("GET", path).status_code, other.send("GET", path).status_code) == (200, 200)
    with server.storage.database.write() as connection:
        mine = tokens.c.user == "ada"
        connection.execute(update(tokens).where(mine).values(revoked=time.time()))
    assert (ada.send("GET", path).status_code, other.send("GET", path).status_code) == (401, 200)
    with server.storage.database.write() as connection:
        connection.execute(update(tokens).values(revoked=None))
    body = {"name": "open"}
    assert call(server, "DELETE", "/api/repos/delete", user="ada", json=body).status_code == 200
    assert (ada.send("GET", path).status_code, other.send("GET", path).status_code) == (401, 401)


def test_a_token_ends_with_its_callers_right_to_what_it_opens(server: Serving) -> None:
    with server.storage.database.write() as connection:
        accounts.add_namespace(connection, "lab", kind="organisation")
        for user in ("ada", "eve"):
            accounts.set_member(connection, user, organisation="lab", role=Role.WRITE)
    body = {"name": "shared", "organization": "lab", "visibility": "private"}
    assert call(server, "POST", "/api/repos/create", user="ada", json=body).status_code == 200
    xorb, file = enter(server, "ada", "lab/shared").publish(SHARED)
    path, chunk = (
        f"/v1/{kind}{format_hash(hash)}"
        for kind, hash in (
            ("reconstructions/", file.hash),
            ("chunks/default/", xorb.chunks[0].hash),
        )
    )
    writer = enter(server, "eve", "lab/shared")
    elsewhere = enter(server, "eve", "eve/open")
    assert elsewhere.send("GET", chunk).status_code == 200
    for role, status in ((Role.READ, 401), (Role.NONE, 401), (Role.WRITE, 200)):
        with server.storage.database.write() as connection:
            accounts.set_member(connection, "eve", organisation="lab", role=role)
        assert writer.send("GET", path).status_code == status, role
        assert elsewhere.send("GET", chunk).status_code == (404 if role is Role.NONE else 200)
    _, public = enter(server, "ada", "ada/open").publish(MORE)
    stranger = enter(server, None, "ada/open", role="read")
    path = f"/v1/reconstructions/{format_hash(public.hash)}"
    for change, status in (("private", 401), ("public", 200)):
        settings = "/api/models/ada/open/settings"
        call(server, "PUT", settings, user="ada", json={"visibility": change})
        assert stranger.send("GET", path).status_code == status, change


# --- what is not theirs ---------------------------------------------------------------------


def test_a_hash_gives_no_access_to_private_bytes(server: Serving) -> None:
    """Eve knows every hash of a private file, and how to write a shard."""
    xorb, file = enter(server, "ada", "ada/secret").publish(SECRET, SHARED)
    eve = enter(server, "eve", "eve/open")
    first = format_hash(xorb.chunks[0].hash)
    assert eve.send("GET", f"/v1/chunks/default/{first}").status_code == 404
    assert eve.send("GET", f"/v1/reconstructions/{format_hash(file.hash)}").status_code == 404
    absent = scan([pack(MORE)], hash=name_of(MORE))
    answers = [
        eve.register(file),
        eve.register(describe((xorb, range(1)))),
        eve.register(xorbs=[xorb]),
        eve.register(xorbs=[absent]),
    ]
    assert [answer.status_code for answer in answers] == [400] * 4
    texts = {
        answer.text.replace(format_hash(name), "X")
        for answer, name in zip(answers[2:], (xorb.hash, absent.hash), strict=True)
    }
    assert len(texts) == 1  # the answer for a private xorb is that for an absent one
    # Whoever brings all of the bytes is told nothing but that they are taken.
    brought = eve.send(
        "POST", f"/v1/xorbs/default/{format_hash(xorb.hash)}", data=pack(SECRET, SHARED)
    )
    assert brought.json() == {"was_inserted": True}
    assert eve.register(file).status_code == 200


def test_a_shared_chunk_does_not_open_its_neighbours(server: Serving) -> None:
    """A public file is part of a private xorb; the rest of that xorb stays private."""
    xorb, _ = enter(server, "ada", "ada/secret").publish(SECRET, SHARED, MORE)
    ada = enter(server, "ada", "ada/open")
    part = describe((xorb, range(1, 2)))
    assert ada.register(part).status_code == 200
    eve = enter(server, "eve", "eve/open")
    answer = eve.send("GET", f"/v1/chunks/default-merkledb/{format_hash(xorb.chunks[1].hash)}")
    (told,) = shard.parse(answer.content).xorbs
    assert [chunk.hash for chunk in told.chunks] == [ZERO, hash_chunk(SHARED), ZERO]
    assert eve.register(part).status_code == 200
    for run in (range(1), range(2), range(1, 3), range(3)):
        assert eve.register(describe((xorb, run))).status_code == 400, run
    plan = eve.send("GET", f"/v1/reconstructions/{format_hash(part.hash)}").json()
    (fetch,) = plan["fetch_info"][format_hash(xorb.hash)]
    start, end = fetch["url_range"]["start"], fetch["url_range"]["end"]
    got = requests.get(fetch["url"], headers={"Range": f"bytes={start}-{end}"}, timeout=30)
    assert got.status_code == 206
    assert got.content == pack(SECRET, SHARED, MORE)[start : end + 1]
    assert got.headers["Content-Range"] == f"bytes {start}-{end}/{xorb.stored}"
    for wrong in (f"bytes={start - 1}-{end}", f"bytes={start}-{end + 1}", f"bytes=0-{end}"):
        refused = requests.get(fetch["url"], headers={"Range": wrong}, timeout=30)
        assert refused.status_code == 403, wrong
    assert requests.get(fetch["url"], timeout=30).status_code == 403
    forged = requests.get(fetch["url"][:-1] + "_", headers={"Range": "bytes=0-1"}, timeout=30)
    assert forged.status_code == 403
    claims = {"xorb": format_hash(xorb.hash), "start": 0, "stop": 10}
    late = server.storage.signer.sign("xet-fetch", claims, seconds=-1)
    assert (
        call(server, "GET", f"/xet/fetch?claim={late}", headers={"Range": "bytes=0-1"}).status_code
        == 403
    )


def test_an_answer_names_the_whole_files_xorbs(server: Serving) -> None:
    ada = enter(server, "ada", "ada/open")
    first, second = ada.upload(SECRET, SHARED), ada.upload(MORE)
    assert ada.register(describe((first, range(2)), (second, range(1)))).status_code == 200
    eve = enter(server, "eve", "eve/open")
    answer = eve.send("GET", f"/v1/chunks/default/{format_hash(first.chunks[0].hash)}")
    assert {told.hash for told in shard.parse(answer.content).xorbs} == {first.hash, second.hash}
    inner = eve.send("GET", f"/v1/chunks/default/{format_hash(first.chunks[1].hash)}")
    assert inner.status_code == 404  # no client asks for a chunk amid a file


def test_a_range_of_a_file_is_planned_and_refused_past_its_end(server: Serving) -> None:
    ada = enter(server, "ada", "ada/open")
    xorb, file = ada.publish(SECRET, SHARED)
    path = f"/v1/reconstructions/{format_hash(file.hash)}"
    plan = ada.send("GET", path, headers={"Range": f"bytes={len(SECRET) + 5}-{10**19}"}).json()
    assert plan["offset_into_first_range"] == 5
    assert plan["terms"][0]["range"] == {"start": 1, "end": 2}
    assert plan["fetch_info"][format_hash(xorb.hash)][0]["url_range"]["end"] == xorb.stored - 1
    for old in ("/reconstructions/", "/reconstruction/"):
        assert ada.send("GET", old + format_hash(file.hash)).json()["fetch_info"]
    for text in (f"bytes={file.size}-{file.size}", "bytes=5-4", "bytes=-5", "lines=1-2"):
        assert ada.send("GET", path, headers={"Range": text}).status_code == 416, text


# --- what stays and what goes ---------------------------------------------------------------


def test_a_plain_reader_gets_the_file_or_a_broken_connection(server: Serving) -> None:
    ada = enter(server, "ada", "ada/open")
    xorb, file = ada.publish(SECRET, SHARED, MORE)
    content = SECRET + SHARED + MORE
    commit(server, "ada", "ada/open", hashlib.sha256(content).hexdigest(), size=file.size)
    path = "/ada/open/resolve/main/weights.bin"
    assert call(server, "GET", path).content == content
    for start, stop in ((0, 1), (8999, 9001), (9000, 17500), (100, 25_700), (25_699, 25_700)):
        got = call(server, "GET", path, headers={"Range": f"bytes={start}-{stop - 1}"})
        assert (got.status_code, got.content) == (206, content[start:stop])
    stored = server.storage.root / "xorbs" / format_hash(xorb.hash)[:2] / format_hash(xorb.hash)
    data = bytearray(stored.read_bytes())
    data[-5] ^= 1
    stored.write_bytes(data)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        call(server, "GET", path)


def commit(server: Serving, user: str, repo: str, sha256: str, *, size: int) -> None:
    lines = (
        '{"key": "header", "value": {"summary": "a file"}}\n'
        '{"key": "lfsFile", "value": {"path": "weights.bin", "algo": "sha256", '
        f'"oid": "{sha256}", "size": {size}}}}}\n'
    )
    done = call(server, "POST", f"/api/models/{repo}/commit/main", user=user, data=lines)
    assert done.status_code == 200, done.text


def test_only_what_nothing_needs_is_collected(server: Serving) -> None:
    ada = enter(server, "ada", "ada/open")
    kept, file = ada.publish(SECRET)
    loose = ada.upload(MORE)
    nothing = upkeep.Freed(files=0, xorbs=0, bytes=0, orphans=0)
    assert upkeep.collect(server.storage, grace=3600) == nothing  # an upload is under way
    would = upkeep.collect(server.storage, grace=-1, dry_run=True)
    assert (
        upkeep.collect(server.storage, grace=-1)
        == would
        == replace(nothing, xorbs=1, bytes=loose.stored)
    )
    assert files_below(server) == [format_hash(kept.hash)]
    assert ada.register(describe((loose, range(1)))).status_code == 400
    with server.storage.database.write() as connection:
        connection.execute(delete(holdings))
    freed = upkeep.collect(server.storage, grace=-1)
    assert freed == replace(nothing, files=1, xorbs=1, bytes=kept.stored)
    assert files_below(server) == []
    path = f"/v1/reconstructions/{format_hash(file.hash)}"
    assert ada.send("GET", path).status_code == 404
    ada.publish(SECRET)  # and it can come again
    assert list(upkeep.check(server.storage)) == []


def test_what_an_answer_has_named_outlives_the_upload_that_builds_on_it(server: Serving) -> None:
    ada = enter(server, "ada", "ada/open")
    xorb, _ = ada.publish(SECRET)
    with server.storage.database.write() as connection:
        connection.execute(update(xorbs).values(touched=time.time() - 100_000))
    eve = enter(server, "eve", "eve/open")
    asked = eve.send("GET", f"/v1/chunks/default/{format_hash(xorb.chunks[0].hash)}")
    assert asked.status_code == 200
    with server.storage.database.write() as connection:
        connection.execute(delete(holdings))
    assert upkeep.collect(server.storage, grace=86_400).xorbs == 0


def test_damage_is_found(server: Serving) -> None:
    ada = enter(server, "ada", "ada/open")
    found = [ada.publish(content)[0].hash for content in (SECRET, SHARED, MORE)]
    paths = [xet.XorbFolder(server.storage.root).path(hash) for hash in found]
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    paths[2].write_bytes(paths[2].read_bytes()[:-1] + b"?")
    with server.storage.database.write() as connection:
        connection.execute(update(xet_files).values(size=xet_files.c.size + 1))
    problems = "\n".join(upkeep.check(server.storage))
    for hash, problem in zip(found, ("missing", "expected", "damaged"), strict=True):
        assert f"xorb {format_hash(hash)}: {problem}" in problems
    assert problems.count("its terms have") == 3
    assert "damaged" not in "\n".join(upkeep.check(server.storage, hash_bytes=False))
    stray = paths[0].with_name("0" * 64)
    stray.write_bytes(b"left by a kill")
    assert upkeep.collect(server.storage, grace=-1).orphans == 1
    assert not stray.exists()


def test_a_backup_has_what_came_by_xet(server: Serving, tmp_path: Path) -> None:
    _, file = enter(server, "ada", "ada/open").publish(SECRET, SHARED)
    digest = hashlib.sha256(SECRET + SHARED).hexdigest()
    commit(server, "ada", "ada/open", digest, size=file.size)
    assert (backup(server.storage, tmp_path / "copy").copied, file.size) == (1, 17_500)
    enter(server, "ada", "ada/open").publish(MORE)
    again = backup(server.storage, tmp_path / "copy")
    assert (again.copied, again.kept) == (1, 1)
    copy = Storage(tmp_path / "copy")
    assert check(copy).problems == []
    assert b"".join(Xet(copy).read(digest)) == SECRET + SHARED
    copy.close()


def test_a_xorb_lost_from_the_disk_is_healed_by_the_next_upload(server: Serving) -> None:
    ada = enter(server, "ada", "ada/open")
    xorb, _ = ada.publish(SECRET)
    folder = xet.XorbFolder(server.storage.root)
    folder.path(xorb.hash).unlink()
    ada.upload(SECRET)
    assert folder.path(xorb.hash).read_bytes() == pack(SECRET)


def test_the_schema_is_what_the_migrations_make(server: Serving) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with server.storage.database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
