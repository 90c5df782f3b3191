"""What all tests share: the documentation is executed, and nothing of the user's is touched."""

from __future__ import annotations

import doctest
import os
import tempfile
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.evaluators.python import PythonEvaluator
from sybil.integration.pytest import SybilItem
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

# Before torch is imported: tests are too small to be shared between threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_PRIVATE = ("HF_", "HUGGING", "HUBSTATE_", "TORCH_HOME", "XDG_")


def _isolate(environment: MutableMapping[str, str], folder: Path) -> None:
    """A registry, a cache and a home of its own, and no token."""
    for name in [name for name in environment if name.startswith(_PRIVATE)]:
        del environment[name]
    home = folder / "home"
    environment["HOME"] = str(home)
    environment["HF_HOME"] = str(home / "hf")
    environment["HUBSTATE_REGISTRY"] = str(folder / "registry")
    environment["HUBSTATE_CACHE"] = str(folder / "cache")


@pytest.fixture(autouse=True)
def own_folders(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test has folders of its own; a document has them for all of its examples."""
    if isinstance(request.node, SybilItem):
        yield
        return
    before = dict(os.environ)
    _isolate(os.environ, request.getfixturevalue("tmp_path"))
    yield
    os.environ.clear()
    os.environ.update(before)


def _open_document(namespace: dict[str, Any]) -> None:
    folder = tempfile.TemporaryDirectory(prefix="document-", ignore_cleanup_errors=True)
    namespace["_before"] = (dict(os.environ), Path.cwd(), folder)
    _isolate(os.environ, Path(folder.name))
    os.chdir(folder.name)


def _close_document(namespace: dict[str, Any]) -> None:
    environment, place, folder = namespace.pop("_before")
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    folder.cleanup()


_python = Sybil(
    parsers=[DocTestParser()],
    pattern="*.py",
    document_types={".py": PythonDocStringDocument},
    setup=_open_document,
    teardown=_close_document,
)
_sessions = PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS)
_sessions.codeblock_parser = CodeBlockParser("pycon", PythonEvaluator())
_markdown = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS), _sessions, SkipParser()],
    pattern="*.md",
    setup=_open_document,
    teardown=_close_document,
)
pytest_collect_file = (_python + _markdown).pytest()
