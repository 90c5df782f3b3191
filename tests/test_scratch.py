"""Work in progress: removed after use, and after a kill by whoever comes next."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from hubstate.scratch import _prefix, scratch_folder

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


def test_in_a_shared_place_only_what_is_old_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / f"{_prefix()}99999999-x"  # no process of ours has this number
    left.mkdir()
    (left / "weights").write_bytes(b"x")
    long_ago = time.time() - 4000
    os.utime(left, (long_ago, long_ago))
    with scratch_folder(tmp_path) as folder:
        assert folder.parent == tmp_path
        assert left.exists(), "something in it is young: it may be of another container"
    os.utime(left / "weights", (long_ago, long_ago))
    with scratch_folder(tmp_path):
        assert not left.exists()
