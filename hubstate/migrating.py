"""Whose rules lead from the tensors of a release to those of a model, in the order to apply them.

::

    release    the manifest's: from what is stored to the builder as it was when this was published
    builder    its migrations: from what it was to what it is
    call       what the caller gave, or the catalogue's entry
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from hubstate.digest import Digest
from hubstate.errors import InvalidSetting

if TYPE_CHECKING:
    from hubstate.manifest import Entry, Manifest
    from hubstate.rules import Rule, Rules
    from hubstate.strictjson import Json

__all__ = ["check_migrations", "gather_rules", "is_migrated"]

_HAS = "has:"


def gather_rules(
    manifest: Manifest | None,
    entries: Sequence[Entry],
    *,
    migrations: Mapping[str, Rules] | None,
    transforms: Rules | None,
) -> dict[str, tuple[Rule, ...]]:
    """The rules for a release by whose they are; nobody is named who has none.

    Args:
        manifest: of the release, if it has one.
        entries: its structure.
        migrations: the builder's, as ``register_model`` takes them.
        transforms: the caller's.

    Raises:
        InvalidSetting: a rule that means nothing.
        StructureMismatch: one of the manifest's, or of a migration's, does not fit.
    """
    own = manifest.transforms if manifest else ()
    found: dict[str, Rules] = {"release": own}
    if migrations:
        found["builder"] = _migration(manifest, entries, own, migrations)
    found["call"] = transforms or ()
    if not any(found.values()):
        return {}
    from hubstate.rules import parse_rules  # here, because few loads have any

    return {whose: parse_rules(rules) for whose, rules in found.items() if rules}


def is_migrated(structure: Digest, names: Collection[str], migrations: Mapping[str, Rules]) -> bool:
    """Whether one of the migrations is for a release with this hash of its structure and these
    names of its tensors."""
    if str(structure) in migrations:
        return True
    return any(key.startswith(_HAS) and key.removeprefix(_HAS) in names for key in migrations)


def _migration(
    manifest: Manifest | None,
    entries: Sequence[Entry],
    own: tuple[Rule, ...],
    migrations: Mapping[str, Rules],
) -> Rules:
    """The migration for this very structure, or else all those that find their tensor in turn."""
    if manifest is not None and any(not key.startswith(_HAS) for key in migrations):
        rules = migrations.get(str(manifest.structure_hash))
        if rules is not None:
            return rules
    chosen: list[Rule | Mapping[str, Json]] = []
    names = _names(entries, own)
    for key, rules in migrations.items():
        if key.startswith(_HAS) and key.removeprefix(_HAS) in names:
            chosen += rules
            names = _names(entries, [*own, *chosen])
    return chosen


def _names(entries: Iterable[Entry], rules: Rules) -> set[str]:
    """The tensors that there are once rules have been applied."""
    if rules:
        from hubstate.loading import transform_entries  # here, because few releases have any

        _, entries = transform_entries(entries, rules)
    return {entry.path for entry in entries if entry.is_tensor}


def check_migrations(migrations: Mapping[str, Rules]) -> Mapping[str, Rules]:
    """Migrations that mean something, their rules as values.

    Raises:
        InvalidSetting: a key that is neither the hash of a structure nor ``has:`` and the name of
            a tensor; a rule that means nothing.
    """
    if not migrations:
        return {}
    from hubstate.rules import parse_rules  # here, because few builders have any

    for key in migrations:
        _check_key(key)
    return {key: parse_rules(rules) for key, rules in migrations.items()}


def _check_key(key: str) -> None:
    if key.startswith(_HAS) and key != _HAS:
        return
    try:
        Digest.parse(key)
    except ValueError as error:
        raise InvalidSetting(
            f"migrations: expected the hash of a structure, or has: and the name of a tensor that "
            f"only the old one has, found {key!r:.80}: {error}"
        ) from None
