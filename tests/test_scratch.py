"""Work in progress: removed after use, and after a kill by whoever comes next."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hubstate.scratch import scratch_folder

CODE = """
import os, signal
from hubstate.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "weights").write_bytes(b"x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_leaves_is_cleared_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    subprocess.run([sys.executable, "-c", CODE])
    (left,) = tmp_path.iterdir()
    (tmp_path / "hubstate-of-somebody-else").mkdir()
    with scratch_folder() as folder, scratch_folder() as other:
        assert not left.exists()
        assert folder.exists(), "a living process keeps what it has"
        assert folder != other
    assert [path.name for path in tmp_path.iterdir()] == ["hubstate-of-somebody-else"]
