"""The names that a builder's tensors once had: from them by its migrations, and back to them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from hubstate.errors import InvalidSetting, Issue, StructureMismatch
from hubstate.loading import transform_entries
from hubstate.migrating import gather_rules
from hubstate.rules import Rule, Rules
from hubstate.states import describe
from hubstate.subject import Subject
from hubstate.transforms import Transformation, resolve
from hubstate.zoo.create import find_builder, list_models
from hubstate.zoo.libraries import library_of

__all__ = ["migrate", "restore_names"]

_COUNTER = "num_batches_tracked"  # older files have none


def migrate(tensors: Mapping[str, Tensor], builder: str) -> dict[str, Tensor]:
    """The tensors under the names that a builder gives them today, wherever it has migrations.

    Raises:
        UnknownModel: there is no such builder.
        StructureMismatch: a migration that does not fit.

    >>> import torch
    >>> old = {"encoder.layers.encoder_layer_0.mlp.linear_1.weight": torch.zeros(4, 2),
    ...        "encoder.layers.encoder_layer_0.mlp.linear_2.weight": torch.zeros(2, 4)}
    >>> list(migrate(old, "vit_b_16"))[0]
    'encoder.layers.encoder_layer_0.mlp.0.weight'
    """
    return _migrated(tensors, find_builder(builder).registration.migrations)


def _migrated(tensors: Mapping[str, Tensor], migrations: Mapping[str, Rules]) -> dict[str, Tensor]:
    if not migrations:
        return dict(tensors)
    found = gather_rules(None, describe(dict(tensors)), migrations=migrations, transforms=None)
    return resolve(found.get("builder", ()), tensors).apply(tensors)


def restore_names(
    tensors: Mapping[str, Tensor], old: Subject, *, builder: str | None, transforms: Rules | None
) -> dict[str, Tensor]:
    """The tensors under the names, and with the axes, that they had in an older release or file.

    Every rule that leads from there to here is undone. Counters of batches that it lacks are left
    out, as files of before PyTorch 0.4.1 had none.

    Args:
        tensors: under the names that the builder gives them today, or once gave them.
        old: whose names and axes are wanted.
        builder: whose migrations lead from there to here; one that is not known has none.
        transforms: rules that are applied after these.

    Raises:
        InvalidSetting: a rule loses values, so that nothing undoes it.
        StructureMismatch: a rule that does not fit, or the two are not of one architecture.
    """
    manifest, migrations = old.manifest, _known(builder)
    tensors = _migrated(tensors, migrations)
    applied = gather_rules(
        manifest, manifest.structure, migrations=migrations, transforms=transforms
    )
    there, made = transform_entries(
        manifest.structure, [rule for rules in applied.values() for rule in rules]
    )
    wanted = [entry.path for entry in made if entry.is_tensor]
    _hold_against(tensors, wanted, where=old.name)
    named = {name: tensors[name] for name in wanted}
    found = resolve(_inverse(there, where=old.name), named).apply(named)
    order = [entry.path for entry in manifest.structure if entry.is_tensor]
    return {name: found[name] for name in order}


def _inverse(there: Transformation, *, where: str) -> tuple[Rule, ...]:
    try:
        return there.inverse()
    except ValueError as error:
        raise InvalidSetting(f"{where}: {error}") from None


def _known(builder: str | None) -> Mapping[str, Rules]:
    """A builder's migrations; nothing is imported because a manifest names it."""
    if builder is None or not (builder in list_models() or library_of(builder)):
        return {}
    return find_builder(builder).registration.migrations


def _hold_against(tensors: Mapping[str, Tensor], wanted: list[str], *, where: str) -> None:
    here, there = tensors.keys(), set(wanted)
    issues = [Issue(name, "missing", f"only {where} has it") for name in wanted if name not in here]
    issues += [
        Issue(name, "unexpected", f"{where} has none")
        for name in here
        if name not in there and name.rpartition(".")[2] != _COUNTER
    ]
    if issues:
        raise StructureMismatch(issues, where=where)
