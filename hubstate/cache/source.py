"""Where the files of a commit come from: the cache, or else the registry by way of the cache.

What is in the cache is found here; what has to be fetched is :mod:`hubstate.cache.arrival`, which
a warm load does not import.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hubstate import settings
from hubstate.blobs import FileInfo
from hubstate.cache.layers import Cache
from hubstate.digest import Digest
from hubstate.endpoints.base import Commit, Endpoint
from hubstate.errors import DigestMismatch, FileNotInRelease, Offline
from hubstate.header import Header
from hubstate.manifest import FileRecord
from hubstate.progress import Hook
from hubstate.reference import Reference
from hubstate.values import frozen

if TYPE_CHECKING:
    from hubstate.cache.arrival import Arrival
    from hubstate.cache.batch import Batch
    from hubstate.cache.remote import Traffic
    from hubstate.transport.chunks import Chunk

__all__ = ["Source", "offline_error"]


@frozen
class Source:
    """Where the files of one commit come from: the cache, or else the registry."""

    endpoint: Endpoint
    cache: Cache
    reference: Reference
    commit: Commit
    infos: dict[str, FileInfo]
    """What is known of each file; a digest that the registry does not state is added later."""
    paths: dict[str, Path] = field(default_factory=dict)
    records: dict[str, FileRecord] = field(default_factory=dict)
    """What the manifest says of each file, once it was read."""
    seals: dict[str, Digest] = field(default_factory=dict)
    """The digest of the digests of all chunks of a file, where an outline says it."""
    traffic: dict[str, Traffic] = field(default_factory=dict)
    """Where the bytes of each file came from that was fetched."""
    tilings: dict[str, tuple[Chunk, ...]] = field(default_factory=dict)
    """What :meth:`tiles` has found."""
    headers: dict[str, Header] = field(default_factory=dict)
    """What the header of each weights file says, once it was read."""
    batch: Batch | None = None
    """Files of other releases that are fetched at the same time."""

    @property
    def where(self) -> str:
        """The release in words, for messages."""
        return f"{self.commit.repo}@{self.commit.id}"

    def info(self, name: str) -> FileInfo:
        """What is known of a file.

        Raises:
            FileNotInRelease: there is none of that name.
        """
        if name not in self.infos:
            files = ", ".join(sorted(self.infos)[:20]) or "nothing"
            raise FileNotInRelease(f"{self.where}: no file {name!r}; it has {files}")
        return self.infos[name]

    def find(self, name: str) -> Path | None:
        """A file that is in the cache and sound.

        Raises:
            DigestMismatch: all there is is a damaged copy, and no request is allowed; or what has
                that digest is of another size.
        """
        info = self.info(name)
        if name in self.paths or info.digest is None:
            return self.paths.get(name)
        try:
            found = self.cache.find(info.digest, size=info.size, seal=partial(self.seal, name))
        except DigestMismatch as error:
            where = f"{name} of {self.where} from {self.endpoint.name}"
            raise DigestMismatch(f"{where}: {error}") from error
        if found.path is None and found.damaged and self.is_cut_off:
            raise DigestMismatch(self.tell_damaged(name, found.damaged[0]))
        if found.path:
            self.paths[name] = found.path
        return found.path

    def tell_damaged(self, name: str, path: Path) -> str:
        """What to say of a damaged copy, where it cannot be fetched again."""
        return (
            f"{self.where}: {name} is damaged in the cache ({path}: expected "
            f"{self.info(name).digest}), and the offline setting forbids fetching it again from "
            f"{self.endpoint.name}"
        )

    def obtain(self, name: str, *, progress: Hook) -> Path:
        """A file, verified, from the cache or else from the registry by way of the cache.

        Raises:
            FileNotInRelease: there is none of that name.
            DigestMismatch: the registry has other content under that name.
            Offline: it is not in the cache, and no request is allowed.
            Unreachable: the registry does not answer, or the cache cannot be written.
        """
        if path := self.find(name):
            return path
        return self._arrival(name).whole(progress)

    def obtain_tensors(
        self, name: str, tensors: Collection[str], *, header: Header | None, progress: Hook
    ) -> Path:
        """A weights file in which these tensors are right, and others may be holes.

        Args:
            name: of the file.
            tensors: of which there are bytes in this file.
            header: of the file, where no manifest tells what lies where.
            progress: is told of bytes.

        Raises:
            NotFound: the file has no such tensor.
            The same as :meth:`obtain` otherwise.
        """
        return self.find(name) or self._arrival(name).part(tensors, header, progress)

    def prefix(self, name: str) -> bytes | None:
        """The header of a weights file, from whatever part of the file the cache has."""
        return self._arrival(name).prefix()

    def check_room(self, sizes: Mapping[str, int]) -> None:
        """Refuse files that are to be fetched and do not fit, before the first of them is.

        Args:
            sizes: the bytes that are wanted of each file. A cache that cannot be written may have
                them in part of the file, and is not refused.

        Raises:
            Unreachable: the cache has no room for all of them.
        """
        able = self.cache.writable and not self.is_cut_off
        if sizes and able and not self.batch:  # which was looked at as a whole
            missing = sum(self.room(name, size) for name, size in sizes.items())
            what = f"{len(sizes)} files" if len(sizes) > 1 else "".join(sizes)
            self.cache.ready(missing, f"{what} of {self.where}")

    def room(self, name: str, size: int) -> int:
        """What so many bytes of a file will take on the disk, that nothing has brought yet."""
        return 0 if self.is_cut_off else self._arrival(name).room(size)

    def _arrival(self, name: str) -> Arrival:
        from hubstate.cache.arrival import Arrival

        return Arrival(self, name)

    def seal(self, name: str) -> Digest | None:
        """The digest of the digests of all chunks of a file, where they are known."""
        if name not in self.seals and (tiles := self.tiles(name)):
            from hubstate.transport.chunks import seal

            self.seals[name] = seal(tiles)
        return self.seals.get(name)

    def tiles(self, name: str) -> tuple[Chunk, ...]:
        """The chunks that make up a file, in order; none where no manifest has their digests."""
        if name not in self.records:
            return ()
        if name not in self.tilings:
            from hubstate.transport.chunks import tile

            self.tilings[name] = tile(self.records[name]) or ()
        return self.tilings[name]

    @property
    def is_cut_off(self) -> bool:
        """Whether the settings forbid to ask the registry."""
        return self.endpoint.remote and settings.offline()

    def check_allowed(self, what: str) -> None:
        """Refuse a request where the settings forbid any.

        Raises:
            Offline: they do; the message says what is missing, and how to get it.
        """
        if self.is_cut_off:
            raise offline_error(what, self.reference, self.endpoint, self.cache)


def offline_error(what: str, reference: Reference, endpoint: Endpoint, cache: Cache) -> Offline:
    """What is missing, where it was looked for, and how to get it."""
    folders = ", ".join(map(str, cache.folders))
    return Offline(
        f"{reference}: {what} is not in the cache ({folders}), and HUBSTATE_OFFLINE or "
        f"HF_HUB_OFFLINE forbids asking {endpoint.name}. Where the network is allowed, run "
        f"'hubstate fetch {reference}'"
    )
