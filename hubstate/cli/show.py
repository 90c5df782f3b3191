"""``hubstate show``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import click

from hubstate.cli.output import as_json, show, size

if TYPE_CHECKING:
    from hubstate.manifest import Entry, Manifest
    from hubstate.strictjson import Json
    from hubstate.subject import Subject

__all__ = ["command"]


@click.command("show")
@click.argument("subject")
@click.option("--depth", type=click.IntRange(0), metavar="N", help="Levels of the tree; all.")
@click.option("--registry", metavar="WHERE", help="A folder or URL. [HUBSTATE_REGISTRY]")
@as_json
def command(subject: str, depth: int | None, registry: str | None, as_json: bool) -> None:
    """Show what SUBJECT holds: every tensor, its shape, dtype, size and ties, and what it means.

    SUBJECT is org/name@revision or a .safetensors file. No weights are fetched.

    \b
    Example:
      hubstate show org/name@v1 --depth 1
      hubstate show model.safetensors --json
    """
    from hubstate.subject import open_subject

    found = open_subject(subject, registry=registry)
    text = "\n".join([*_heading(found), "", *_tree(found.manifest, depth)])
    show(_facts(found), text, as_json=as_json)


def _facts(subject: Subject) -> dict[str, Any]:
    from hubstate.manifest import write_entry

    manifest, release = subject.manifest, subject.release
    builder = manifest.builder
    return {
        "name": subject.name,
        "pinned": str(release.pinned) if release else None,
        "commit": release.commit.id if release else None,
        "files": dict(subject.sizes),
        "builder": {"name": builder.name, "arguments": dict(builder.arguments)}
        if builder
        else None,
        "license": manifest.license or None,
        "metrics": dict(manifest.metrics),
        "labels": list(manifest.labels),
        "preprocessing": dict(manifest.preprocessing),
        "provenance": dict(manifest.provenance),
        "probe": list(manifest.probe.shape) if manifest.probe else None,
        "transforms": _rules(manifest),
        "structure_hash": None if subject.bare else str(manifest.structure_hash),
        "totals": _totals(manifest.structure),
        "structure": [
            write_entry(entry) | ({"bytes": _bytes(entry)} if entry.is_tensor else {})
            for entry in manifest.structure
        ],
    }


def _rules(manifest: Manifest) -> list[dict[str, Json]]:
    from hubstate.rules import dump_rules

    return dump_rules(manifest.transforms)


def _brief(rules: list[dict[str, Json]]) -> str:
    from hubstate.rules import brief

    return ", ".join(map(brief, rules[:8])) + " …" * (len(rules) > 8)


def _bytes(entry: Entry) -> int:
    """What a tensor takes in a file: nothing where it is tied to another."""
    from hubstate.header import ITEM_SIZES

    if entry.shape is None or entry.tied_to is not None:
        return 0
    return prod(entry.shape) * ITEM_SIZES.get(entry.dtype or "", 0)


def _values(entry: Entry) -> int:
    return prod(entry.shape) if entry.shape is not None and entry.tied_to is None else 0


def _totals(entries: tuple[Entry, ...]) -> dict[str, int]:
    tensors = [entry for entry in entries if entry.is_tensor]
    return {
        "tensors": len(tensors),
        "parameters": sum(_values(entry) for entry in tensors if entry.kind == "param"),
        "values": sum(map(_values, tensors)),
        "bytes": sum(map(_bytes, tensors)),
        "ties": sum(entry.tied_to is not None for entry in tensors),
    }


def _heading(subject: Subject) -> Iterator[str]:
    manifest = subject.manifest
    yield subject.name + (f" is {subject.release.pinned}" if subject.release else "")
    if subject.bare:
        yield "  no manifest: its tensors are all that is known"
    yield from (f"  {name:<13} {value}" for name, value in _lines(subject) if value)
    totals = _totals(manifest.structure)
    kinds = f"{totals['values']:,} values, {size(totals['bytes'])}"
    if not subject.bare:
        kinds = f"{totals['parameters']:,} parameters, {kinds}"
    yield f"  {'tensors':<13} {totals['tensors']}, {kinds}"


def _lines(subject: Subject) -> Iterator[tuple[str, str]]:
    manifest = subject.manifest
    if manifest.builder:
        yield "builder", f"{manifest.builder.name}({_pairs(manifest.builder.arguments)})"
    yield "licence", manifest.license
    yield "metrics", _pairs(manifest.metrics)
    yield "preprocessing", _pairs(manifest.preprocessing)
    labels = manifest.labels
    if labels:
        yield "labels", f"{len(labels)}: {', '.join(labels[:8])}" + " …" * (len(labels) > 8)
    yield "transforms", _brief(_rules(manifest))
    yield "probe", f"an input of {manifest.probe.shape}" if manifest.probe else ""
    sizes = subject.sizes.items()
    yield "files", ", ".join(f"{name} {size(count or 0)}" for name, count in sizes)


def _pairs(mapping: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in mapping.items())


@dataclass(kw_only=True, slots=True)
class _Node:
    """A name of the structure and what is below it."""

    entry: Entry | None = None
    children: dict[str, _Node] = field(default_factory=dict)

    def tensors(self) -> Iterator[Entry]:
        if self.entry is not None and self.entry.is_tensor:
            yield self.entry
        for child in self.children.values():
            yield from child.tensors()


def _tree(manifest: Manifest, depth: int | None) -> Iterator[str]:
    root = _Node()
    for entry in manifest.structure:
        if entry.is_tensor or entry.kind in ("module", "none"):
            _place(root, entry)
    rows = [("(model)", *_cells(root, folded=depth == 0)), *_rows(root, "", depth)]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for name, what, shape, count in rows:
        yield f"{name:<{widths[0]}}  {what:<{widths[1]}}  {shape:<{widths[2]}}  {count}".rstrip()


def _place(root: _Node, entry: Entry) -> None:
    node = root
    for part in entry.path.split(".") if entry.path else []:
        node = node.children.setdefault(part, _Node())
    node.entry = entry


def _rows(node: _Node, indent: str, depth: int | None) -> Iterator[tuple[str, str, str, str]]:
    if depth == 0:
        return
    below = None if depth is None else depth - 1
    last = len(node.children) - 1
    for number, (name, child) in enumerate(node.children.items()):
        branch, bar = ("└── ", "    ") if number == last else ("├── ", "│   ")
        yield (indent + branch + name, *_cells(child, folded=below == 0))
        yield from _rows(child, indent + bar, below)


def _cells(node: _Node, *, folded: bool) -> tuple[str, str, str]:
    entry = node.entry
    if entry is not None and entry.is_tensor:
        shape = " × ".join(map(str, entry.shape or ())) or "scalar"
        tied = f"= {entry.tied_to}" if entry.tied_to else size(_bytes(entry))
        return entry.dtype or "", shape, tied + (" frozen" if entry.trainable is False else "")
    if entry is not None and entry.kind == "none":
        return "none", "", ""
    kind = (entry.class_name or "").rpartition(".")[2] if entry is not None else ""
    if entry is not None and entry.tied_to is not None:
        return kind, "", f"= {entry.tied_to or '(model)'}"
    tensors = list(node.tensors())
    total = f"{len(tensors)} tensor{'s' * (len(tensors) > 1)}" if folded and tensors else ""
    return kind, total, size(sum(map(_bytes, tensors))) if tensors else ""
