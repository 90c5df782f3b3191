"""Addresses that are signed for an upload: what they are good for, and when that ends."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from registry_serving import Serving, serving

from hubstate_registry.auth import Role
from hubstate_registry.errors import Forbidden
from hubstate_registry.signing import Signer
from hubstate_registry.storage import accounts
from hubstate_registry.storage.database import Connection

SMALL, LARGE = b"small", bytes(range(25))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    """A registry whose uploads of more than 10 bytes come in parts of 10; ada writes in lab."""
    with serving(tmp_path, multipart_bytes=10, part_bytes=10) as running:
        with running.storage.database.write() as connection:
            accounts.add_namespace(connection, "lab", kind="organisation")
            accounts.set_member(connection, "ada", organisation="lab", role=Role.WRITE)
        running.api().create_repo("lab/model")
        yield running


@dataclass(frozen=True)
class Addresses:
    """Where ada may send ``SMALL`` as one body and ``LARGE`` in parts."""

    whole: str
    parts: tuple[str, ...]
    end: str

    def send(self, served: Serving) -> list[int]:
        """Send to all of them; the statuses."""
        tries = [(self.whole, SMALL), *zip(self.parts, cut(LARGE), strict=True)]
        sent = [served.request("PUT", href, user=None, data=data) for href, data in tries]
        ended = served.request("POST", self.end, user=None, json=COMPLETION)
        return [answer.status_code for answer in (*sent, ended)]


COMPLETION = {"parts": [{"partNumber": number, "etag": "e"} for number in (1, 2, 3)]}


def cut(data: bytes) -> list[bytes]:
    return [data[start : start + 10] for start in range(0, len(data), 10)]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def ask(served: Serving) -> Addresses:
    objects = [{"oid": sha256(data), "size": len(data)} for data in (SMALL, LARGE)]
    batch = {"operation": "upload", "transfers": ["basic", "multipart"], "objects": objects}
    answer = served.request("POST", "/lab/model.git/info/lfs/objects/batch", json=batch)
    small, large = [row["actions"]["upload"] for row in answer.json()["objects"]]
    header = large["header"]
    return Addresses(small["href"], tuple(header[n] for n in ("1", "2", "3")), large["href"])


def stored(served: Serving) -> list[str]:
    return sorted(path.name for path in served.storage.files.blobs.glob("*/*"))


def test_an_address_takes_only_what_it_was_signed_for(served: Serving) -> None:
    address = ask(served).whole
    for bad in (b"evil!", b"smal", b"smalls", b""):
        assert served.request("PUT", address, user=None, data=bad).status_code in (413, 422)
    assert stored(served) == [] and not list(served.storage.files.uploads.iterdir())
    forged = address[:-2] + ("aa" if address[-2:] != "aa" else "bb")
    assert served.request("PUT", forged, user=None, data=SMALL).status_code == 403
    other = address.replace("/api/lfs-object/", "/api/lfs-part/")
    assert served.request("PUT", other, user=None, data=SMALL).status_code == 403
    kept = served.request("PUT", address, user=None, data=SMALL)
    assert (kept.status_code, kept.headers["ETag"]) == (200, f'"{sha256(SMALL)}"')
    assert served.api("root").delete_repo("lab/model") is None
    assert served.request("PUT", address, user=None, data=SMALL).status_code == 404


def test_signatures_expire_and_hold_for_one_purpose() -> None:
    signer = Signer(b"k" * 32)
    assert signer.verify("a", signer.sign("a", {"n": 1}, seconds=60))["n"] == 1
    for token in (
        signer.sign("a", {}, seconds=-1),
        signer.sign("b", {}, seconds=60),
        Signer(b"x" * 32).sign("a", {}, seconds=60),
        "",
        "e30.",
        "\u00e9.\u00e9",
    ):
        with pytest.raises(Forbidden):
            signer.verify("a", token)


def revoke(connection: Connection) -> None:
    (token,) = accounts.list_tokens(connection, "ada")
    accounts.revoke_token(connection, token.id)


def expire(connection: Connection) -> None:
    connection.exec_driver_sql("UPDATE tokens SET expires = 1.0")


def disable(connection: Connection) -> None:
    accounts.disable_user(connection, "ada")


def delete(connection: Connection) -> None:
    for table, column in (("memberships", "user"), ("tokens", "user"), ("namespaces", "name")):
        connection.exec_driver_sql(f"DELETE FROM {table} WHERE \"{column}\" = 'ada'")


def demote(connection: Connection) -> None:
    accounts.set_member(connection, "ada", organisation="lab", role=Role.READ)


ENDS = [revoke, expire, disable, delete, demote]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: str(end.__name__))
def test_an_address_ends_with_the_right_to_write_of_who_asked_for_it(
    served: Serving, end: Callable[[Connection], None]
) -> None:
    before = ask(served)
    assert before.send(served) == [200] * 5
    assert stored(served) == sorted([sha256(SMALL), sha256(LARGE)])
    with served.storage.database.write() as connection:
        end(connection)
    assert before.send(served) == [403] * 5


def test_an_address_of_an_earlier_version_names_no_token_and_is_refused(served: Serving) -> None:
    claims = {"repository": 1, "oid": sha256(SMALL), "size": len(SMALL)}
    signed = served.storage.signer.sign("lfs-object", claims, seconds=60)
    path = f"/api/lfs-object/{sha256(SMALL)}?signature={signed}"
    assert served.request("PUT", path, user=None, data=SMALL).status_code == 403


def begin(served: Serving, head: str, data: bytes, *, length: int) -> socket.socket:
    """A request whose body has only begun."""
    host, port = served.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    text = f"{head.replace(served.url, '')}\r\nHost: {host}:{port}\r\nContent-Length: {length}"
    connection.sendall(text.encode() + b"\r\n\r\n" + data)
    return connection


def put(served: Serving, address: str, data: bytes, *, length: int) -> socket.socket:
    """A PUT that has begun."""
    return begin(served, f"PUT {address} HTTP/1.1", data, length=length)


def test_a_token_that_is_revoked_while_the_bytes_come_stores_nothing(served: Serving) -> None:
    with put(served, ask(served).whole, SMALL[:2], length=len(SMALL)) as connection:
        while not list(served.storage.files.uploads.iterdir()):
            pass  # the server has begun to read
        with served.storage.database.write() as database:
            revoke(database)
        connection.sendall(SMALL[2:])
        assert connection.recv(4096).startswith(b"HTTP/1.1 403")
    assert stored(served) == []


def test_a_token_that_is_revoked_while_a_commit_comes_commits_nothing(served: Serving) -> None:
    before = served.api("root").model_info("lab/model").sha
    body = (
        b'{"key":"header","value":{"summary":"s"}}\n'
        b'{"key":"file","value":{"path":"a.txt","encoding":"utf-8","content":"a"}}\n'
    )
    head = (
        "POST /api/models/lab/model/commit/main HTTP/1.1\r\n"
        f"Authorization: Bearer {served.tokens['ada']}"
    )
    assert served.request("GET", "/api/whoami-v2").status_code == 200  # ada is known from here on
    with begin(served, head, body[:-1], length=len(body)) as connection:
        while not served.application.registry.metrics.running:
            pass
        served.request("GET", "/healthz", user=None)  # whoever came before was let in
        with served.storage.database.write() as database:
            revoke(database)
        connection.sendall(body[-1:])
        assert connection.recv(4096).startswith(b"HTTP/1.1 401")
    assert served.api("root").model_info("lab/model").sha == before


def test_parts_may_come_again_and_must_all_come(served: Serving) -> None:
    to, (one, two, three) = ask(served), cut(LARGE)

    def send(address: str, data: bytes) -> int:
        return served.request("PUT", address, user=None, data=data).status_code

    def complete() -> int:
        return served.request("POST", to.end, user=None, json=COMPLETION).status_code

    assert complete() == 400
    for number, piece in ((2, three), (0, b"0" * 10), (0, one)):
        assert send(to.parts[number], piece) == 200
    assert send(to.parts[1], two[:9]) == 422
    assert (complete(), stored(served)) == (422, [])
    assert send(to.parts[1], two) == 200
    for _ in range(2):  # the second as if the first answer had been lost
        assert complete() == 200
    assert served.storage.files.path(sha256(LARGE)).read_bytes() == LARGE


def test_a_part_that_still_comes_cannot_change_what_has_got_its_name(served: Serving) -> None:
    """Its sender could otherwise put other bytes under a name that everybody trusts."""
    to = ask(served)
    with put(served, to.parts[0], b"", length=10) as late:
        while not list(served.storage.files.uploads.iterdir()):
            pass  # the file is open
        statuses = to.send(served)
        assert statuses == [200, 200, 200, 200, 503]
        assert stored(served) == [sha256(SMALL)]
        late.sendall(LARGE[:10])
        assert late.recv(4096).startswith(b"HTTP/1.1 200")
    ended = served.request("POST", to.end, user=None, json=COMPLETION)
    assert ended.status_code == 200, ended.text
    assert served.storage.files.path(sha256(LARGE)).read_bytes() == LARGE
