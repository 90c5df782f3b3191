"""The house as a table: a room imports only from rooms that stand before it on its side."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1] / "hubstate"
SERVER = Path(__file__).parents[1] / "registry" / "hubstate_registry"

# From the ground up. Within a floor, a room may use the rooms written before it.
WORDS = [
    *("lazy", "values", "errors", "digest", "strictjson", "records", "header", "shards", "filters"),
    *("naming", "rules", "report", "manifest", "outline", "difference", "card", "reference"),
    *("settings", "collector", "scratch", "workers"),
]
BYTES = [
    *("progress", "copying", "blobs", "transport", "endpoints", "lock", "cache", "release"),
    *("opening", "hub", "bundle", "subject"),
]
TORCH = [
    "walk",
    "states",
    "transforms",
    "loading",
    "weights",
    "checkpoint",
    "building",
    "prototypes",
    "probe",
    "deviation",
    "adapting",
    "migrating",
]
BOTH = [
    *("pretrained", "zoo", "gate", "staging", "fitness", "publishing", "fetching", "pinning"),
    *("warm", "convert"),
]
DOORS = ["__init__", "cli", "__main__"]

# What each side may not import when its module is imported, only inside a function.
HEAVY = {"torch", "numpy", "requests", "huggingface_hub", "tqdm", "platformdirs", "safetensors"}


def rooms_below(room: str) -> set[str]:
    for floors in ([WORDS, BYTES], [WORDS, TORCH], [WORDS, BYTES, TORCH, BOTH, DOORS]):
        order = [name for floor in floors for name in floor]
        if room in order:
            return set(order[: order.index(room)])
    raise AssertionError(f"{room} has no place in the house: give it one in tests/test_layers.py")


def room_of(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def sources(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            if node.module == "hubstate":
                yield from (f"hubstate.{alias.name}" for alias in node.names)


def imported_at_once(tree: ast.Module) -> Iterator[str]:
    """What importing the module imports: not inside functions, not for type checkers alone."""
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from imported(node)


@pytest.mark.parametrize("path", sources(HOUSE), ids=lambda p: str(p.relative_to(HOUSE)))
def test_no_import_climbs(path: Path) -> None:
    room = room_of(path)
    below = rooms_below(room) | {room}
    tree = ast.parse(path.read_text())
    relative = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]
    assert not relative, "in the client, imports name the whole path"
    for name in imported(tree):
        if name.startswith("hubstate."):
            target = name.split(".")[1]
            known = target in {*WORDS, *BYTES, *TORCH, *BOTH, *DOORS}
            assert not known or target in below, f"{room} imports {name}, which stands above it"


@pytest.mark.parametrize("room", WORDS + BYTES)
def test_words_and_bytes_import_nothing_heavy(room: str) -> None:
    paths = [HOUSE / f"{room}.py"] if (HOUSE / f"{room}.py").exists() else sources(HOUSE / room)
    for path in paths:
        tree = ast.parse(path.read_text())
        assert "torch" not in {name.split(".")[0] for name in imported(tree)}, path
        assert not HEAVY & {name.split(".")[0] for name in imported_at_once(tree)}, path


def test_the_words_need_the_standard_library_alone() -> None:
    for room in WORDS:
        paths = [HOUSE / f"{room}.py"] if (HOUSE / f"{room}.py").exists() else sources(HOUSE / room)
        for path in paths:
            names = {name.split(".")[0] for name in imported(ast.parse(path.read_text()))}
            foreign = names - set(sys.stdlib_module_names) - {"hubstate"}
            assert foreign <= ({"platformdirs"} if room == "settings" else set()), path


def test_the_server_imports_neither_the_client_nor_torch() -> None:
    for path in sources(SERVER):
        names = {name.split(".")[0] for name in imported(ast.parse(path.read_text()))}
        assert not names & {"hubstate", "torch", "safetensors"}, path


@pytest.mark.parametrize(
    "statement",
    ["import hubstate", "import hubstate.cli", "import hubstate.hub", "from hubstate import fetch"],
)
def test_no_door_brings_torch(statement: str) -> None:
    code = f"{statement}; import sys; print(*sorted(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert not set(answer.stdout.split()) & {"torch", "numpy", "huggingface_hub", "requests"}


def test_every_public_name_is_there() -> None:
    import hubstate

    for name in hubstate.__all__:
        assert getattr(hubstate, name) is not None
    homes = [name for names in hubstate._HOMES.values() for name in names]
    assert sorted([*homes, "__version__"]) == sorted(hubstate.__all__)


def test_the_picture_shows_every_room() -> None:
    text = (HOUSE.parent / "docs" / "architecture.md").read_text()
    picture = text.split("```text")[1].split("```")[0].replace("/", " ").split()
    rooms = {room_of(path) for path in sources(HOUSE)}
    assert rooms - set(picture) == set(), "drawn in tests/test_layers.py, not in the picture"
    assert rooms == {*WORDS, *BYTES, *TORCH, *BOTH, *DOORS}
