"""The manifest as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hubstate.digest import Digest
from hubstate.manifest.files import FileRecord
from hubstate.manifest.meaning import BuilderRecord, Probe
from hubstate.manifest.structure import Entry, structure_hash
from hubstate.strictjson import Json

__all__ = ["MINOR", "NAME", "SCHEMA", "Manifest"]

NAME = "hubstate.json"
"""The manifest's file name in a release."""
SCHEMA = 1
"""The major version of the schema: readers of another one cannot read it."""
MINOR = 0
"""The minor version: later ones only add keys, which this reader then skips."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Everything that a release states about itself."""

    structure: tuple[Entry, ...] = ()
    files: tuple[FileRecord, ...] = ()
    builder: BuilderRecord | None = None
    preprocessing: Mapping[str, Json] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    metrics: Mapping[str, Json] = field(default_factory=dict)
    license: str = ""
    """An SPDX expression."""
    provenance: Mapping[str, Json] = field(default_factory=dict)
    probe: Probe | None = None
    schema: int = SCHEMA

    @property
    def structure_hash(self) -> Digest:
        """The hash of the contract; see `hubstate.manifest.structure_hash`."""
        return structure_hash(self.structure)
