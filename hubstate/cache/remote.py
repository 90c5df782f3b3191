"""A file that a registry has, as something to be fetched; and what became of its bytes.

Two kinds of files are told apart. A **sealed** one has a digest for every chunk, from the
manifest: each range is verified against what was published, and a file whose chunks are all right
is right. One that is **not sealed** comes from a repository without manifest: its size is
checked, and its digest once all of it is there, if the registry states one. Until then, nothing
tells whether a range is what was published; that no bit has changed since it arrived is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hubstate.digest import Digest
from hubstate.endpoints.base import Commit
from hubstate.transport.chunks import Chunk, seal
from hubstate.transport.engine import Read
from hubstate.values import frozen

if TYPE_CHECKING:
    from hubstate.cache.batch import Batch

__all__ = ["Remote", "Traffic"]


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file that a registry has."""

    what: str
    """In the errors' words."""
    size: int
    digest: Digest | None
    tiles: tuple[Chunk, ...]
    """Chunks that make up the file, in order; none where nothing is known of its inside."""
    identity: str
    """What the file is, where its tiles do not say so: registry, commit and path."""
    commit: Commit
    """That it is of."""
    read: Read
    leases: Mapping[Path, bytes] = field(default_factory=dict)
    """Of other processes, from before that of this file was taken."""
    batch: Batch | None = None
    """The files that are fetched at the same time, whose names reach the disk together."""

    @property
    def sealed(self) -> bool:
        """Whether there is a digest for every byte."""
        known = self.digest is not None and bool(self.tiles)
        return known and all(chunk.digest for chunk in self.tiles)

    @cached_property
    def seal(self) -> Digest | None:
        """The digest of all digests."""
        return seal(self.tiles) if self.sealed else None

    @cached_property
    def key(self) -> str:
        """The name under which parts of it are kept.

        It covers the digests of all chunks: who can state a file's digest alone, in a manifest
        of his own, must not get at the parts of the file that really has it.
        """
        return (self.seal or Digest.of(self.identity.encode())).hex


@frozen
class Traffic:
    """Where the bytes of a file came from that was not in the cache as a whole.

    >>> Traffic(downloaded=10) + Traffic(downloaded=1, reused=2)
    Traffic(downloaded=11, reused=2)
    """

    downloaded: int = 0
    """From the registry."""
    reused: int = 0
    """From other files in the cache, and from transfers that were broken off."""

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            downloaded=self.downloaded + other.downloaded, reused=self.reused + other.reused
        )
