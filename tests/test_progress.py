"""Progress is drawn on a terminal, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pty = pytest.importorskip("pty")
termios = pytest.importorskip("termios")

CODE = """
import sys
from hubstate.progress import bar, step
with step("working"), bar("weights", total=1000) as advance:
    advance(400)
    advance(600)
print("tqdm" in sys.modules)
"""


def run(stderr: int) -> bytes:
    settings = {name: text for name, text in os.environ.items() if not name.startswith("TQDM_")}
    answer = subprocess.run(
        [sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=stderr, env=settings
    )
    assert answer.returncode == 0
    return answer.stdout


def test_without_a_terminal_nothing_is_drawn_and_tqdm_is_not_imported() -> None:
    reader, writer = os.pipe()
    assert run(writer) == b"False\n"
    os.close(writer)
    with os.fdopen(reader, "rb") as drawn:
        assert drawn.read() == b""


def test_on_a_terminal_a_bar_is_drawn() -> None:
    reader, writer = pty.openpty()
    os.set_blocking(reader, False)  # a bar that is not drawn must fail, not hang
    termios.tcsetwinsize(writer, (24, 80))  # tqdm draws nothing on a screen without lines
    assert run(writer) == b"True\n"
    drawn = os.read(reader, 1 << 16)
    os.close(writer)
    os.close(reader)
    assert drawn.startswith("working …".encode())
    assert b"weights" in drawn
    assert drawn.endswith(b"\r\x1b[K"), "the line is taken back"
