"""Readers of answers who take their time, or all of it."""

from __future__ import annotations

import socket
import time
from contextlib import suppress

import pytest
from registry_serving import Serving

from hubstate_registry.patience import PatientProtocol

SIZE = 24 << 20


@pytest.fixture
def address(served: Serving, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file of ``SIZE`` bytes, for readers who are watched closely."""
    monkeypatch.setattr(PatientProtocol, "READER_SECONDS", 0.5)
    served.api().create_repo("ada/large")
    blob = b"\0" * SIZE
    with pytest.warns(DeprecationWarning, match="Use 'content="):
        served.api().upload_file(path_or_fileobj=blob, path_in_repo="w.bin", repo_id="ada/large")
    return "/ada/large/resolve/main/w.bin"


def read(served: Serving, address: str, *, rest: float, pause: float) -> int:
    """How much comes to a reader who rests first, and pauses after each 256 KiB."""
    host, port = served.url.removeprefix("http://").split(":")
    got = 0
    with socket.socket() as connection, suppress(ConnectionResetError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        connection.settimeout(10)
        connection.connect((host, int(port)))
        connection.sendall(
            f"GET {address} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        time.sleep(rest)
        while block := connection.recv(1 << 18):
            got += len(block)
            time.sleep(pause)
    return got


def test_a_reader_who_takes_nothing_is_given_up(served: Serving, address: str) -> None:
    assert read(served, address, rest=1.5, pause=0) < SIZE
    assert served.request("GET", "/healthz", user=None).status_code == 200


def test_a_reader_who_is_only_slow_gets_everything(served: Serving, address: str) -> None:
    assert read(served, address, rest=0, pause=0.005) > SIZE
