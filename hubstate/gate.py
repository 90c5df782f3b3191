"""The gate: a release is rebuilt and run in a fresh process before anybody can see it.

What the publishing process holds in memory proves nothing: its module may be patched, its weights
may alias, its builder may exist in that process only. So a new interpreter is given nothing but
the staged folder, and must end up with the same structure, the same bytes and the same output.

It answers in one line of JSON on standard output: the problems.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from hubstate.building import SkippedInit, skip_init
from hubstate.errors import GateRefused, HubstateError
from hubstate.loading import assign_tensors, describe, plan_entries, transform_entries
from hubstate.manifest import (
    NAME,
    BuilderRecord,
    Entry,
    Manifest,
    parse,
    structure_hash,
    verify_file,
)
from hubstate.probe import check_probe
from hubstate.report import LoadReport
from hubstate.shards import INDEX_SUFFIX, open_index
from hubstate.values import replace
from hubstate.weights import map_weights
from hubstate.zoo.create import maker_of

__all__ = ["inspect", "pass_gate"]

_PATIENCE = 1800  # seconds; a model of tens of gigabytes is hashed and run once within that


def pass_gate(folder: Path) -> None:
    """Inspect a staged release in a fresh process.

    Raises:
        GateRefused: with every problem that the fresh process found, or with the end of its
            error output where it died.
    """
    answer = subprocess.run(
        [sys.executable, "-m", "hubstate.gate", str(folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        env=_environment(),
        check=False,
    )
    if answer.returncode != 0:
        last = "\n    ".join(answer.stderr.strip().splitlines()[-12:])
        raise GateRefused([f"a fresh process ended with {answer.returncode}:\n    {last}"])
    problems = json.loads(answer.stdout.splitlines()[-1])["problems"]
    if problems:
        raise GateRefused(problems)


def inspect(folder: Path) -> list[str]:
    """Every reason why the release in a folder is not what its manifest says."""
    manifest = parse((folder / NAME).read_bytes())
    problems = [p for file in manifest.files for p in verify_file(folder / file.path, file)]
    if problems:
        return problems
    try:
        for file in manifest.files:
            if file.path.endswith(INDEX_SUFFIX):
                open_index(folder / file.path)
        return list(_differences(manifest.builder, folder, manifest)) if manifest.builder else []
    except GateRefused as error:
        return list(error.problems)
    except HubstateError as error:
        return [str(error)]


def _rebuild(record: BuilderRecord) -> tuple[nn.Module, SkippedInit]:
    """The model as a load makes it: its parameters take no memory before they have values."""
    try:
        make = maker_of(record)
        with skip_init() as skipped:
            return make(), skipped
    except HubstateError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise GateRefused([f"builder {record.name}: fails in a fresh process: {what}"]) from error


def _differences(record: BuilderRecord, folder: Path, manifest: Manifest) -> Iterator[str]:
    model, skipped = _rebuild(record)
    entries: tuple[Entry, ...] = manifest.structure
    there = None
    if manifest.transforms:
        there, entries = transform_entries(entries, manifest.transforms)
    plan = plan_entries(model, entries, fresh=True)
    tensors: dict[str, torch.Tensor] = {}
    for file in manifest.files:
        if file.tensors:
            tensors |= map_weights(folder / file.path)
    if there is not None:
        tensors = there.apply(tensors, names=dict.fromkeys([*there.nodes, *plan.wanted]))
    report = assign_tensors(plan, tensors)
    skipped.finish(model, loaded=frozenset(report.loaded))
    loaded = model.state_dict()
    for name, tensor in tensors.items():
        # Weights of half the precision load into a builder's float32 without a loss.
        if not _same_bytes(loaded[name].to(tensor.dtype), tensor):
            yield f"{name}: the rebuilt model holds other values than the weights file"
    if there is None and structure_hash(_as_stored(model, report)) != manifest.structure_hash:
        yield "the rebuilt model has another structure hash than the manifest"
    if manifest.probe:
        yield from check_probe(model, manifest.probe)


def _as_stored(model: nn.Module, report: LoadReport) -> list[Entry]:
    """The structure of a model, with the dtypes that its tensors had in the source."""
    return [
        replace(entry, dtype=report.cast[entry.path][0]) if entry.path in report.cast else entry
        for entry in describe(model)
    ]


def _same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    flat_a, flat_b = a.detach().contiguous().flatten(), b.detach().contiguous().flatten()
    return torch.equal(flat_a.view(torch.uint8), flat_b.view(torch.uint8))


def _environment() -> dict[str, str]:
    # The fresh process reads nothing but the folder: an unwanted request must fail, not succeed.
    # It finds the modules that this process finds, a script's own folder included.
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return {**os.environ, "HUBSTATE_OFFLINE": "1", "PYTHONPATH": path}


def _main() -> None:
    real, sys.stdout = sys.stdout, sys.stderr  # what a builder prints is not our answer
    problems = inspect(Path(sys.argv[1]))
    print(json.dumps({"problems": problems}), file=real)


if __name__ == "__main__":
    _main()
