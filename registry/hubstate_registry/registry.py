"""One registry, as its routes see it: settings, storage, counters, and other ways for bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from hubstate_registry.limits import Bucket
from hubstate_registry.metrics import Metrics
from hubstate_registry.settings import Settings
from hubstate_registry.storage import Storage
from hubstate_registry.storage.blobs import Blob
from hubstate_registry.storage.repositories import Repository

if TYPE_CHECKING:
    from hubstate_registry.context import Call
    from hubstate_registry.dispatch import Rule

__all__ = ["Extension", "Registry"]


class Extension(Protocol):
    """Another way in which bytes come and go; Xet is one. See README.md."""

    name: str

    def rules(self) -> Sequence[Rule]:
        """Routes to add."""

    def resolve_headers(
        self, call: Call, repository: Repository, *, commit: str, blob: Blob
    ) -> Mapping[str, str]:
        """Headers that tell a downloader of this other way, for the file it asks for.

        They are given to other callers too: from the call they may take an address, no more.
        """

    def read(self, blob: Blob, *, start: int, stop: int) -> Iterator[bytes]:
        """A byte range of a blob that is stored only in this other way."""

    def close(self) -> None:
        """Leave off what runs in the background; the registry stops."""


@dataclass(slots=True, kw_only=True)
class Registry:
    """One registry, as its routes see it."""

    settings: Settings
    storage: Storage
    metrics: Metrics
    requests: Bucket
    failures: Bucket
    extensions: Mapping[str, Extension] = field(default_factory=dict)
    ready: bool = False
