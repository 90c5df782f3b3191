"""What the registry's own texts say is so."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import hubstate_registry
from hubstate_registry.app import create
from hubstate_registry.cli import main
from hubstate_registry.routes import RULES
from hubstate_registry.settings import Settings

ROOT = Path(__file__).parents[2]
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(hubstate_registry.__path__, "hubstate_registry.")
    if "migrations" not in name and "__main__" not in name
]


def test_the_examples_in_docstrings_run() -> None:
    results = [doctest.testmod(importlib.import_module(name)) for name in MODULES]
    assert sum(result.attempted for result in results) >= 10
    assert sum(result.failed for result in results) == 0


def test_it_needs_neither_hubstate_nor_torch() -> None:
    code = f"import sys\nfor name in {MODULES!r}: __import__(name)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"hubstate", "torch", "numpy", "huggingface_hub"}


def test_every_command_in_the_guides_exists_with_its_options() -> None:
    pages = [*ROOT.glob("docs/guides/*registry*.md"), ROOT / "registry/README.md"]
    text = "\n".join(page.read_text() for page in pages).replace("\\\n", " ")
    commands = re.findall(r"^\$ hubstate-registry ([^#\n]*)", text, re.MULTILINE)
    assert len(commands) >= 15
    for command in commands:
        words = command.split()
        names = [w for w in words[:2] if re.fullmatch(r"[a-z-]+", w)]
        shown = CliRunner().invoke(main, [*names, "--help"])
        assert shown.exit_code == 0, command
        for option in re.findall(r"--[a-z-]+", command):
            assert option in shown.output, (command, option)


def test_every_route_is_in_the_protocol_page(tmp_path: Path) -> None:
    page = (ROOT / "docs/protocol.md").read_text()
    for rule in RULES:
        word = rule.pattern.replace("/api/models/{repo}", "M").split("/{")[0]
        if not rule.pattern.startswith("/api/lfs-"):
            assert word.split("}.git")[-1].rpartition("/")[2] in page, rule.pattern


def test_a_second_application_opens_the_same_folder(tmp_path: Path) -> None:
    one, two = (create(Settings(root=tmp_path)) for _ in range(2))
    assert one.registry.storage.signer.verify(
        "x", two.registry.storage.signer.sign("x", {}, seconds=9)
    )
    for application in (one, two):
        application.close()


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_says_what_it_does(command: str) -> None:
    shown = CliRunner().invoke(main, [command, "--help"])
    assert shown.exit_code == 0 and len(shown.output.splitlines()) > 4
