"""``hubstate diff``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from hubstate.cli.output import as_json, show

if TYPE_CHECKING:
    from hubstate.deviation import Deviation
    from hubstate.difference import Difference
    from hubstate.manifest import Manifest
    from hubstate.subject import Subject

__all__ = ["command"]

_SHOWN = 20
_WIDTH = 60


@click.command("diff")
@click.argument("old")
@click.argument("new")
@click.option("--values", is_flag=True, help="Also say by how much changed tensors differ.")
@click.option("--registry", metavar="WHERE", help="A folder or URL. [HUBSTATE_REGISTRY]")
@as_json
def command(old: str, new: str, values: bool, registry: str | None, as_json: bool) -> None:
    """Compare two releases or weights files, tensor by tensor. Exit code 1 if they differ.

    OLD and NEW are org/name@revision or .safetensors files. Releases are compared by their
    manifests; weights are fetched for --values only, or where there is no manifest.

    \b
    Example:
      hubstate diff org/name@v1 org/name@v2
      hubstate diff org/name@v1 model.safetensors --values --json
    """
    from hubstate.difference import compare
    from hubstate.subject import open_subject

    a, b = (open_subject(name, registry=registry) for name in (old, new))
    before, after = a.hashed(), b.hashed()
    difference = compare(before, after)
    meaning = {} if a.bare or b.bare else _meaning(before, after, difference)
    amounts = _amounts(difference, a, b) if values else {}
    differ = not difference.same_tensors or bool(meaning)
    data = difference.to_json() | {"differ": differ, "meaning": meaning}
    if values:
        data["values"] = {name: amount.to_json() for name, amount in amounts.items()}
    text = "\n".join(_text(difference, meaning, amounts, bare=a.bare or b.bare))
    show(data, text, as_json=as_json)
    if differ:
        sys.exit(1)


def _amounts(difference: Difference, a: Subject, b: Subject) -> Mapping[str, Deviation]:
    from hubstate.deviation import deviations

    return dict(deviations(difference.changed, a.paths(), b.paths())) if difference.changed else {}


def _meaning(before: Manifest, after: Manifest, difference: Difference) -> dict[str, Any]:
    """Each field beside the tensors that differs, as (old, new)."""
    return {
        name: [_plain(name, before), _plain(name, after)]
        if name != "structure"
        else _structure(before, after)
        for name in difference.meaning
    }


def _plain(name: str, manifest: Manifest) -> Any:
    from hubstate.manifest import dump

    if name == "files":
        return {file.path: len(file.tensors) for file in manifest.files}
    document: dict[str, Any] = json.loads(dump(manifest))
    return document[name]


def _structure(before: Manifest, after: Manifest) -> list[list[Any]]:
    """The entries that only one side has, or that differ."""
    from hubstate.manifest import write_entry

    old, new = ({entry.path: entry for entry in m.structure} for m in (before, after))
    paths = [path for path in {**old, **new} if old.get(path) != new.get(path)]
    sides = ([write_entry(side[path]) for path in paths if path in side] for side in (old, new))
    return list(sides)


def _text(
    difference: Difference,
    meaning: Mapping[str, Any],
    amounts: Mapping[str, Deviation],
    *,
    bare: bool,
) -> Iterator[str]:
    from dataclasses import replace

    yield str(replace(difference, meaning=()))
    largest = sorted(amounts.items(), key=lambda item: -_rank(item[1]))
    for name, amount in largest[:_SHOWN]:
        yield f"  {name}: {amount}"
    if len(largest) > _SHOWN:
        yield f"  … and {len(largest) - _SHOWN} that differ by less (--json has all)"
    for name, (old, new) in meaning.items():
        if name == "structure":
            yield from _structure_lines(old, new)
        else:
            yield f"  {name}: {_brief(old)} -> {_brief(new)}"
    if bare:
        yield "  tensors alone were compared: not both have a manifest"


def _rank(amount: Deviation) -> float:
    nan = amount.absolute != amount.absolute
    return float("inf") if nan else amount.relative


def _structure_lines(old: list[Any], new: list[Any]) -> Iterator[str]:
    before, after = ({entry["path"]: entry for entry in side} for side in (old, new))
    paths = list({**before, **after})
    for path in paths[:_SHOWN]:
        pair = f"{_detail(before.get(path))} -> {_detail(after.get(path))}"
        yield f"  structure: {path or '(model)'}: {pair}"
    if len(paths) > _SHOWN:
        yield f"  structure: … and {len(paths) - _SHOWN} more"


def _detail(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "nothing"
    return _brief({key: value for key, value in entry.items() if key != "path"})


def _brief(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
