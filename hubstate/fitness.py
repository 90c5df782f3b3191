"""Whether a model is fit to be released: every reason against it that can be seen beforehand."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from hubstate.errors import Damaged, StructureMismatch
from hubstate.loading import describe
from hubstate.rules import Rule
from hubstate.staging import Description, exact_rules
from hubstate.strictjson import loads
from hubstate.walk import tensors_of
from hubstate.walk.plain import fields_of, plain
from hubstate.walk.traits import has_extra, unwrap
from hubstate.zoo.builders import registered

__all__ = ["refusals"]

# https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/
_ID = r"\(*[A-Za-z0-9][A-Za-z0-9.+-]*\)*"
_LICENSE = re.compile(rf"{_ID}( (AND|OR|WITH) {_ID})*\Z")
_BLOCK = 1 << 19  # values that are looked at together, so that little memory is taken
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


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
        exact_rules(describe(model), transforms)
    except StructureMismatch as error:
        yield from (f"transforms: {issue}" for issue in error.issues)


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
