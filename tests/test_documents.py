"""The documents: every link leads somewhere, and the README begins with its two commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "registry" / "README.md", *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text())
    inside = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert [link for link in inside if not (path.parent / link).exists()] == []


def test_the_first_screen_has_the_two_commands() -> None:
    first = (ROOT / "README.md").read_text().split("## ")[0]
    commands = re.findall(r"^bash \S+", first, re.MULTILINE)
    assert commands == ["bash scripts/quickstart", "bash scripts/test"]
    assert all((ROOT / command.split()[1]).exists() for command in commands)
