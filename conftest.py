"""What all tests share: the documentation is executed, and nothing of the user's is touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

_PRIVATE = ("HF_", "HUGGING", "HUBSTATE_", "TORCH_HOME")


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a registry, a cache and a home of its own, and no token."""
    import os

    for name in list(os.environ):
        if name.startswith(_PRIVATE):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home" / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home" / "hf"))
    monkeypatch.setenv("HUBSTATE_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("HUBSTATE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def document_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document's blocks run in a folder of their own, so that they may write files."""
    monkeypatch.chdir(tmp_path)


_python = Sybil(
    parsers=[DocTestParser()],
    pattern="*.py",
    document_types={".py": PythonDocStringDocument},
    fixtures=["own_folders", "document_folders"],
)
_markdown = Sybil(
    parsers=[DocTestParser(), PythonCodeBlockParser(), SkipParser()],
    pattern="*.md",
    fixtures=["own_folders", "document_folders"],
)
pytest_collect_file = (_python + _markdown).pytest()
