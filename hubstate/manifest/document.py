"""The manifest as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING

from hubstate.digest import Digest
from hubstate.manifest.files import FileRecord
from hubstate.manifest.meaning import BuilderRecord, Probe
from hubstate.manifest.structure import Entry, structure_hash
from hubstate.strictjson import Json
from hubstate.values import frozen

if TYPE_CHECKING:
    from hubstate.rules import Rule

__all__ = ["MINOR", "NAME", "SCHEMA", "Manifest"]

NAME = "hubstate.json"
"""The manifest's file name in a release."""
SCHEMA = 1
"""The major version of the schema: readers of another one cannot read it."""
MINOR = 1
"""The minor version: later ones only add keys, which this reader then skips.

1.1 has ``transforms``. A manifest without any is written as 1.0, as it always was.
"""


@frozen
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
    transforms: tuple[Rule, ...] = ()
    """Rules that make the tensors of the builder's model of those that are stored, by name."""
    schema: int = SCHEMA

    @property
    def structure_hash(self) -> Digest:
        """The hash of the contract; see `hubstate.manifest.structure_hash`."""
        return structure_hash(self.structure)
