"""Long bodies: received past h11, and the connection goes on as if nothing had been."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pytest
import uvicorn

from hubstate_registry.patience import PatientProtocol

MIB = 1 << 20
BODY = random.Random(1).randbytes(3 * MIB + 12345)


class App:
    """Answers with the sizes of what it received; ``/refuse`` answers before the body is here."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.ends: list[str] = []

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        sizes, more = [], True
        while more and scope["path"] != "/refuse":
            message = await receive()
            self.ends.append(message["type"])
            if message["type"] == "http.disconnect":
                return
            self.received += message["body"]
            sizes.append(len(message["body"]))
            more = message["more_body"]
        if scope["path"] == "/refuse":
            await receive()
            await receive()
        answer = json.dumps(sizes).encode()
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


@pytest.fixture(scope="module")
def port_and_app() -> Iterator[tuple[int, App]]:
    app = App()
    config = uvicorn.Config(app, port=0, http=PatientProtocol, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    yield server.servers[0].sockets[0].getsockname()[1], app
    server.should_exit = True
    thread.join()


@pytest.fixture
def app(port_and_app: tuple[int, App]) -> App:
    port_and_app[1].received.clear()
    port_and_app[1].ends.clear()
    return port_and_app[1]


@pytest.fixture
def connection(port_and_app: tuple[int, App]) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port_and_app[0]), timeout=10) as made:
        yield made


def head(path: str = "/", *, length: int = len(BODY), more: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{more}\r\n".encode()


@contextmanager
def sending(connection: socket.socket, *pieces: bytes, pause: float = 0) -> Iterator[None]:
    def send() -> None:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)

    thread = threading.Thread(target=send)
    thread.start()
    yield
    thread.join()


def answer(file: IO[bytes]) -> list[int]:
    status = file.readline()
    assert b" 200 " in status, status
    length = 0
    while (line := file.readline().lower()) != b"\r\n":
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    sizes: list[int] = json.loads(file.read(length))
    return sizes


def test_a_long_body_arrives_in_blocks_of_a_mebibyte(app: App, connection: socket.socket) -> None:
    with sending(connection, head(), BODY):
        sizes = answer(connection.makefile("rb"))
    assert app.received == BODY
    assert MIB in sizes
    assert len(sizes) < 8


def test_the_connection_serves_the_request_after_a_long_body(
    app: App, connection: socket.socket
) -> None:
    with sending(connection, head() + BODY + head(length=3) + b"abc"):
        answers = connection.makefile("rb")
        answer(answers)
        assert answer(answers) == [3]
    assert app.received == BODY + b"abc"


def test_a_body_whose_refusal_comes_first_is_dropped(app: App, connection: socket.socket) -> None:
    with sending(connection, head("/refuse"), BODY, head(length=3) + b"abc"):
        answers = connection.makefile("rb")
        assert answer(answers) == []
        assert answer(answers) == [3]
    assert app.received == b"abc"


def test_a_slow_body_is_handed_on_as_it_comes(app: App, connection: socket.socket) -> None:
    at = 100_000
    with sending(connection, head(), BODY[:at], BODY[at : 2 * at], BODY[2 * at :], pause=0.2):
        assert at in answer(connection.makefile("rb"))
    assert app.received == BODY


def test_a_client_that_waits_to_be_asked_is_asked(app: App, connection: socket.socket) -> None:
    connection.sendall(head(more="Expect: 100-continue\r\n"))
    assert connection.recv(100).startswith(b"HTTP/1.1 100")
    with sending(connection, BODY):
        answer(connection.makefile("rb"))
    assert app.received == BODY


def test_a_body_of_unknown_length_arrives(app: App, connection: socket.socket) -> None:
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    with sending(
        connection, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", chunked
    ):
        answer(connection.makefile("rb"))
    assert app.received == BODY


def test_a_client_that_leaves_is_noticed(app: App, connection: socket.socket) -> None:
    connection.sendall(head() + BODY[: 2 * MIB])
    time.sleep(0.1)
    connection.close()
    until = time.monotonic() + 5
    while "http.disconnect" not in app.ends:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert BODY.startswith(app.received)
