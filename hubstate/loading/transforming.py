"""Rules applied to a source, whether its tensors are here or only promised."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor

from hubstate.loading.source import Given, Promise, Source, read_entries
from hubstate.manifest import Entry
from hubstate.transforms import Rules, Transformation, resolve
from hubstate.values import replace

__all__ = ["transform_entries", "transformed"]


def transformed(source: Source, rules: Rules | None) -> Source:
    """The source that rules make of another; promises stay promises, under the new names.

    Its plain data and its children without parameters go by the old names, so nothing is said
    of them any more.

    Raises:
        InvalidSetting: a rule that means nothing.
        StructureMismatch: a rule that matches nothing, or does not fit.
    """
    if not rules:
        return source
    transformation = _resolved(source, rules)
    here = {name: t for name, t in source.tensors.items() if isinstance(t, Tensor)}
    if len(here) == len(source.tensors):
        tensors = cast("dict[str, Given]", transformation.apply(here))
    else:
        tensors = {name: _promise(name, form) for name, form in transformation.forms.items()}
    return Source(tensors=tensors, extras=source.extras, refused=source.refused)


def transform_entries(
    entries: Iterable[Entry], rules: Rules
) -> tuple[Transformation, tuple[Entry, ...]]:
    """What rules make of a structure, and the entries of what comes out.

    Where every name stays what it was, so does all that is said of it beside its shape and dtype;
    else nothing is said but of tensors.

    Raises:
        InvalidSetting, StructureMismatch: as ``transformed``.
    """
    given = tuple(entries)
    source = read_entries(given)
    transformation = _resolved(source, rules)
    if transformation.keeps(source.tensors):
        forms = transformation.forms
        return transformation, tuple(_reformed(entry, forms.get(entry.path)) for entry in given)
    made = (
        Entry(path=name, kind="param", shape=tuple(form.shape), dtype=_dtype(form))
        for name, form in transformation.forms.items()
    )
    return transformation, (*made, *(entry for entry in given if entry.kind == "extra"))


def _reformed(entry: Entry, form: Tensor | None) -> Entry:
    if form is None or (entry.shape, entry.dtype) == (tuple(form.shape), _dtype(form)):
        return entry
    return replace(entry, shape=tuple(form.shape), dtype=_dtype(form))


def _resolved(source: Source, rules: Rules) -> Transformation:
    return resolve(rules, {name: _form(given) for name, given in source.tensors.items()})


def _form(given: Given) -> Tensor:
    return torch.empty(given.shape, dtype=given.dtype, device="meta")


def _promise(name: str, form: Tensor) -> Promise:
    return Promise(name, tuple(form.shape), form.dtype, None)


def _dtype(form: Tensor) -> str:
    return str(form.dtype).removeprefix("torch.")
