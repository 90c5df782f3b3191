"""A release on its way: what it means, whether it is fit, and its files in a folder."""

from __future__ import annotations

import json
import math
import platform
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn

from hubstate.blobs import reachable
from hubstate.card import config_json, model_card
from hubstate.errors import Damaged, GateRefused, InvalidSetting, StructureMismatch
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
from hubstate.strictjson import loads
from hubstate.values import frozen
from hubstate.walk import tensors_of
from hubstate.walk.plain import fields_of, plain
from hubstate.walk.traits import has_extra, unwrap
from hubstate.weights import save_sharded
from hubstate.zoo.builders import builder_record, preprocessing_of, registered
from hubstate.zoo.create import build

__all__ = [
    "WEIGHTS",
    "Description",
    "preprocessing_of",
    "provenance",
    "recorded_builder",
    "refusals",
    "stage",
]


# https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/
_ID = r"\(*[A-Za-z0-9][A-Za-z0-9.+-]*\)*"
_LICENSE = re.compile(rf"{_ID}( (AND|OR|WITH) {_ID})*\Z")
_BLOCK = 1 << 19  # values that are looked at together, so that little memory is taken
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


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


def refusals(model: nn.Module, meaning: Description, *, allow_nonfinite: bool) -> list[str]:
    """Every reason to refuse a model that can be seen before anything is written."""
    problems = list(_refused_meaning(meaning))
    try:
        tensors = tensors_of(model)
    except ValueError as error:  # lazy, packed, sharded, or within itself
        return [*problems, str(error)]
    if not any(tensor.numel() for tensor in tensors.values()):
        problems.append("the model has no tensor with a value in it")
    problems += _refused_names(list(tensors))
    problems += _refused_rules(model, meaning.transforms)
    problems += _refused_extras(unwrap(model))
    if not allow_nonfinite:
        problems += _nonfinite(tensors)
    return problems


def _refused_meaning(meaning: Description) -> Iterator[str]:
    if not isinstance(meaning.license, str) or not _LICENSE.match(meaning.license):
        yield (
            f"license: expected an SPDX identifier such as apache-2.0, mit or other, "
            f"found {meaning.license!r}"
        )
    for name in ("metrics", "preprocessing", "provenance"):
        yield from _refused_values(name, getattr(meaning, name))
    if meaning.builder is None and not meaning.weights_only:
        yield (
            "builder: nothing can rebuild this model: make it with a registered builder, name "
            "one with builder='package.module:function', or pass weights_only=True"
        )
    elif meaning.builder and (meaning.builder.source or "").startswith("__main__:"):
        yield (
            f"builder: {meaning.builder.name} is defined in the script that is running, where "
            "nobody else can import it: move it to a module, or pass weights_only=True"
        )
    elif (
        meaning.builder and meaning.builder.source is None and meaning.builder.name in registered()
    ):
        yield (
            f"builder: {meaning.builder.name} is defined inside a function, where nobody else can "
            "import it: move it to the top of its module, or pass weights_only=True"
        )


def _refused_values(field: str, values: object) -> Iterator[str]:
    if not isinstance(values, Mapping):
        yield f"{field}: expected a mapping, found a {type(values).__name__}"
        return
    for name, value in values.items():
        try:
            loads(json.dumps(value, allow_nan=False).encode(), what=f"{field}.{name}")
        except Damaged as error:  # JSON, but nothing that every language reads alike
            yield str(error)
        except (TypeError, ValueError, RecursionError):
            yield (
                f"{field}.{name}: expected finite numbers, text, None, or lists and mappings of "
                f"these, found {value!r:.60}, a {type(value).__name__}"
            )


def _refused_names(names: list[str]) -> Iterator[str]:
    wrapped = [name for name in names if any(prefix in name for prefix in _WRAPPERS)]
    if names and all(name.startswith("module.") for name in names):
        wrapped = names
    if wrapped:
        yield (
            f"{wrapped[0]}: {len(wrapped)} of {len(names)} names carry the prefix of a wrapper: "
            "publish the model that is wrapped"
        )


def _refused_rules(model: nn.Module, transforms: tuple[Rule, ...]) -> Iterator[str]:
    try:
        _exact(describe(model), transforms)
    except StructureMismatch as error:
        yield from (f"transforms: {issue}" for issue in error.issues)


def _exact(structure: tuple[Entry, ...], transforms: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The rules by name: what comes from a registry is never tried as a pattern."""
    return transform_entries(structure, transforms)[0].exact if transforms else ()


def _refused_extras(model: nn.Module) -> Iterator[str]:
    for path, module in model.named_modules():
        value = module.get_extra_state() if has_extra(module) else None
        if not isinstance(value, torch.Tensor):
            for lost in _lost(value, f"{path}._extra_state" if path else "_extra_state"):
                yield (
                    f"{lost}: a release cannot keep it: get_extra_state() may return a tensor, or "
                    "plain data that holds none"
                )


def _lost(value: object, path: str) -> Iterator[str]:
    """The paths of what would come back as nothing."""
    fields = fields_of(value, path)
    if fields is None and plain(value, path=path, lost=[])[0] == "opaque":
        yield path
    for name, item in (fields or {}).items():
        yield from _lost(item, f"{path}.{name}")


def _nonfinite(tensors: Mapping[str, torch.Tensor]) -> Iterator[str]:
    for name, tensor in tensors.items():
        if bad := _bad_values(tensor):
            yield (
                f"{name}: {bad} of {tensor.numel()} values are NaN or infinite "
                "(allow_nonfinite=True, --allow-nonfinite, publishes them)"
            )


def _bad_values(tensor: torch.Tensor) -> int:
    real = tensor.is_floating_point() or tensor.is_complex()
    if not real or tensor.is_meta or tensor.layout != torch.strided:
        return 0
    try:
        return sum(map(_count_bad, _blocks(tensor.detach())))
    except NotImplementedError:  # it cannot be stored: it is refused by name when it is written
        return 0


def _count_bad(block: torch.Tensor) -> int:
    whole = block.float() if block.element_size() == 1 else block  # fp8 has no isfinite
    return block.numel() - int(torch.isfinite(whole).sum())


def _blocks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Views of a tensor that cover it, none much larger than a block."""
    if tensor.numel() <= _BLOCK:
        yield tensor
        return
    side = max(range(tensor.dim()), key=lambda index: tensor.shape[index])
    count = math.ceil(tensor.numel() / _BLOCK)
    for part in torch.split(tensor, math.ceil(tensor.shape[side] / count), side):
        yield from _blocks(part)


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
        transforms=_exact(structure, meaning.transforms),
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
