"""A release on its way: what it means, and its files in a folder."""

from __future__ import annotations

import json
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn

from hubstate.blobs import reachable
from hubstate.card import config_json, model_card
from hubstate.errors import GateRefused, InvalidSetting, StructureMismatch
from hubstate.loading import describe, loadmodel, transform_entries
from hubstate.manifest import (
    NAME,
    BuilderRecord,
    Entry,
    FileRecord,
    Json,
    Manifest,
    Probe,
    dump,
    hash_plain,
    hash_weights,
)
from hubstate.probe import make_probe
from hubstate.release import WEIGHTS
from hubstate.rules import Rule
from hubstate.values import frozen
from hubstate.walk import tensors_of
from hubstate.weights import save_sharded
from hubstate.zoo.builders import builder_record, preprocessing_of, registered
from hubstate.zoo.create import build

__all__ = [
    "WEIGHTS",
    "Description",
    "exact_rules",
    "preprocessing_of",
    "provenance",
    "recorded_builder",
    "stage",
]


@frozen
class Description:
    """What the publisher says of a model, beside its tensors."""

    builder: BuilderRecord | None
    license: str
    metrics: Mapping[str, Json]
    labels: tuple[str, ...]
    preprocessing: Mapping[str, Json]
    provenance: Mapping[str, Json]
    text: str
    probe: tuple[int, ...] | None
    probe_dtype: str
    weights_only: bool
    transforms: tuple[Rule, ...] = ()


def recorded_builder(
    model: nn.Module, builder: str | None, arguments: Mapping[str, Json] | None
) -> BuilderRecord | None:
    """The builder that was named, or else the one that made the model, or None."""
    if builder is None:
        if arguments is not None:
            raise InvalidSetting("arguments: they are a builder's, and no builder is named")
        return builder_record(model)
    if not isinstance(builder, str):
        raise TypeError(
            f"builder is a name or 'package.module:function', not a {type(builder).__name__}"
        )
    source = builder if ":" in builder else None
    if builder in registered():
        source = registered()[builder].registration.source
    return BuilderRecord(name=builder, arguments=dict(arguments or {}), source=source)


def exact_rules(structure: tuple[Entry, ...], transforms: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The rules by name: what comes from a registry is never tried as a pattern."""
    return transform_entries(structure, transforms)[0].exact if transforms else ()


def stage(
    model: nn.Module, folder: Path, meaning: Description, *, repository: str, limit: int
) -> Manifest:
    """Write a release's files into an empty folder and return its manifest.

    Tensors of more than ``limit`` bytes in all are written to several files; see
    :func:`hubstate.weights.save_sharded`.

    Raises:
        InvalidWeights: a tensor that safetensors cannot store; the path is named.
        GateRefused: a probe that cannot be recorded.
        Unreachable: the folder cannot be written.
    """
    movable = Path(tempfile.gettempdir()) in folder.parents
    hint = " (TMPDIR names another place)" if movable else ""
    with reachable(f"the release cannot be put together in {folder}{hint}"):
        return _stage(model, folder, meaning, repository, limit)


def _stage(
    model: nn.Module, folder: Path, meaning: Description, repository: str, limit: int
) -> Manifest:
    tensors = tensors_of(model)
    written = save_sharded(folder / WEIGHTS, tensors, limit=limit)
    structure = describe(model)
    manifest = Manifest(
        structure=structure,
        files=tuple(map(_record, written)),
        builder=meaning.builder,
        preprocessing=meaning.preprocessing,
        labels=meaning.labels,
        metrics=meaning.metrics,
        license=meaning.license,
        provenance={**provenance(), **meaning.provenance},
        probe=_probe(model, meaning),
        transforms=exact_rules(structure, meaning.transforms),
    )
    (folder / NAME).write_bytes(dump(manifest))
    config = json.dumps(config_json(manifest), indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(config, encoding="utf-8")
    card = model_card(repository, manifest, description=meaning.text)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return manifest


def _computing(model: nn.Module, meaning: Description) -> nn.Module:
    """The model, or what its builder makes of it where it does nothing but hold tensors."""
    if meaning.builder is None or type(model).forward is not nn.Module.forward:
        return model
    rebuilt = build(meaning.builder)
    try:
        loadmodel(rebuilt, tensors_of(model), transforms=meaning.transforms)
    except StructureMismatch as error:
        raise GateRefused([str(issue) for issue in error.issues]) from None
    return rebuilt


def _record(path: Path) -> FileRecord:
    return hash_weights(path) if path.suffix == ".safetensors" else hash_plain(path)


def _probe(model: nn.Module, meaning: Description) -> Probe | None:
    shape = meaning.probe
    size = meaning.preprocessing.get("input_size")
    if shape is None and isinstance(size, list | tuple):
        shape = (2, *size)
    if shape is None:
        return None
    if not all(isinstance(side, int) and side > 0 for side in shape):
        raise GateRefused([f"probe: expected a shape of positive integers, found {shape}"])
    try:
        return make_probe(_computing(model, meaning), shape, dtype=meaning.probe_dtype)
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        raise GateRefused([f"probe of shape {tuple(shape)}: {error}"]) from error


def provenance() -> dict[str, Json]:
    """When, with which versions, and from which commit of the working folder something is made."""
    from hubstate import __version__

    facts: dict[str, Json] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "hubstate": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
    }
    return facts | _git()


def _git() -> dict[str, Json]:
    """The commit of the working folder, and whether anything in it was not committed."""
    try:
        commit = _ask_git("rev-parse", "HEAD")
        return {"git_commit": commit, "git_dirty": bool(_ask_git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def _ask_git(*words: str) -> str:
    answer = subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=20)
    return answer.stdout.strip()
