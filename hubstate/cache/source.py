"""Where the files of a commit come from: the cache, or else the registry by way of the cache."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from hubstate import settings
from hubstate.blobs import FileInfo
from hubstate.cache.fetching import Remote, Traffic, fetch_ranges, fetch_whole, find_ranges
from hubstate.cache.layers import Cache
from hubstate.cache.leases import take_turns
from hubstate.cache.partials import Partials
from hubstate.digest import Digest
from hubstate.endpoints.base import Commit, Endpoint
from hubstate.errors import DigestMismatch, FileNotInRelease, NotFound, Offline
from hubstate.header import Header, header_size
from hubstate.manifest import FileRecord
from hubstate.progress import Hook
from hubstate.reference import Reference
from hubstate.transport import RangesRefused
from hubstate.transport.chunks import Chunk, Range, cut, seal, tensors_of, tile, union

_CALLER = 6  # frames from a warning to whoever called Release.tensors_path
_LARGE = 8 << 20  # bytes; below, one request is as good as several

__all__ = ["Source", "offline_error"]


@dataclass(frozen=True, kw_only=True, slots=True)
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
    traffic: dict[str, Traffic] = field(default_factory=dict)
    """Where the bytes of each file came from that was fetched."""
    headers: dict[str, Header] = field(default_factory=dict)
    """What the header of each weights file says, once it was read."""

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
            DigestMismatch: all there is is a damaged copy, and no request is allowed.
        """
        info = self.info(name)
        if name in self.paths or info.digest is None:
            return self.paths.get(name)
        found = self.cache.find(info.digest, size=info.size, seal=self._sealing(name))
        if found.path is None and found.damaged and self._is_cut_off():
            raise DigestMismatch(
                f"{self.where}: {name} is damaged in the cache ({found.damaged[0]}: expected "
                f"{info.digest}), and the offline setting forbids fetching it again from "
                f"{self.endpoint.name}"
            )
        if found.path:
            self.paths[name] = found.path
        return found.path

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
        self.check_allowed(name)
        return take_turns(
            self.cache.writable,
            self._key(name),
            find=lambda: self._find_again(name),
            fetch=lambda: self._fetch(name, progress),
        )

    def check_room(self, names: Collection[str]) -> None:
        """Refuse files that are to be fetched and do not fit, before the first of them is.

        Raises:
            Unreachable: the cache has no room for all of them, or cannot be written.
        """
        if not self._is_cut_off():
            self.cache.ready(sum(map(self._absent, names)), f"{len(names)} files of {self.where}")

    def _absent(self, name: str) -> int:
        """The bytes that a file will take, beyond those of transfers that were broken off."""
        size, remote = self.info(name).size or 0, self._remote(name, None)
        if remote is None or self.cache.writable is None:
            return size
        return max(0, size - Partials(self.cache.writable, remote.key).begun)

    def _key(self, name: str) -> str:
        """What tells the file from others, before anything of it is there."""
        digest = self.info(name).digest or Digest.of(self._identity(name).encode())
        return digest.hex

    def _identity(self, name: str) -> str:
        return f"{self.endpoint.name}\n{self.commit.repo}\n{self.commit.id}\n{name}"

    def _find_again(self, name: str) -> Path | None:
        """A file that somebody else may have fetched meanwhile."""
        if self.info(name).digest is None:
            known = self.cache.known(self.endpoint.name, self.reference)
            if known and known.commit.id == self.commit.id:
                self.infos[name] = known.commit.files.get(name, self.infos[name])
        return self.find(name)

    def _fetch(self, name: str, progress: Hook) -> Path:
        path, digest, traffic = self._transfer(name, progress)
        self.paths[name] = path
        self._count(name, traffic)
        self._learn(name, FileInfo(size=path.stat().st_size, digest=digest))
        return path

    def _transfer(self, name: str, progress: Hook) -> tuple[Path, Digest, Traffic]:
        info, remote = self.info(name), self._remote(name, None)
        if remote and remote.digest and (remote.sealed or remote.size >= _LARGE):
            with suppress(RangesRefused):  # then all of it in one stream
                path, traffic = fetch_whole(self.cache, remote, progress=progress)
                return path, remote.digest, traffic
        with self.endpoint.read(self.commit, name) as stream:
            path, digest = self.cache.store(
                stream, info=info, what=self._what(name), progress=progress
            )
        return path, digest, Traffic(downloaded=path.stat().st_size)

    def _count(self, name: str, traffic: Traffic) -> None:
        self.traffic[name] = self.traffic.get(name, Traffic()) + traffic

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
        if path := self.find(name):
            return path
        remote = self._remote(name, header)
        if remote is None:
            return self.obtain(name, progress=progress)
        wanted = self._wanted(name, header, tensors)
        if wanted == [(0, remote.size)]:
            return self.obtain(name, progress=progress)
        if path := find_ranges(self.cache, remote, wanted):
            return path
        self.check_allowed(name)
        return take_turns(
            self.cache.writable,
            self._key(name),
            find=lambda: self.find(name) or find_ranges(self.cache, remote, wanted),
            fetch=lambda: self._fetch_ranges(name, remote, wanted, progress),
        )

    def _fetch_ranges(
        self, name: str, remote: Remote, wanted: Sequence[Range], progress: Hook
    ) -> Path:
        try:
            path, traffic = fetch_ranges(self.cache, remote, wanted, progress=progress)
        except RangesRefused as error:
            warnings.warn(f"{error}; all of it is fetched", stacklevel=_CALLER)
            return self._fetch(name, progress)
        self._count(name, traffic)
        return path

    def prefix(self, name: str) -> bytes | None:
        """The header of a weights file, from whatever part of the file the cache has."""
        remote = self._remote(name, None)
        path = self.find(name)
        if path is None and remote:
            path = find_ranges(self.cache, remote, [(0, 8)])
        if path is None:
            return None
        with path.open("rb") as file:
            start = file.read(8)
            return start + file.read(header_size(start) - 8)

    def _wanted(self, name: str, header: Header | None, tensors: Collection[str]) -> list[Range]:
        record = self.records.get(name)
        found = record if record and record.tensors else header
        listed = {t.name: (t.start, t.stop) for t in tensors_of(found)}
        if found is None or (absent := sorted(set(tensors) - set(listed))):
            names = ", ".join(absent[:10]) if found else "any tensor"
            raise NotFound(f"{self._what(name)}: expected {names}, found no such tensor")
        start = min((start for start, _ in listed.values()), default=self.info(name).size or 0)
        return union([(0, start), *(listed[name] for name in tensors)])

    def _what(self, name: str) -> str:
        return f"{name} of {self.where} from {self.endpoint.name}"

    def _remote(self, name: str, header: Header | None) -> Remote | None:
        """A file that can be fetched in ranges, if there is one to ask and its size is known."""
        info = self.info(name)
        size = info.size
        if not self.endpoint.remote or not size:
            return None
        return Remote(
            what=self._what(name),
            size=size,
            digest=info.digest,
            tiles=self._tiles(name) or _unsealed(header),
            identity=self._identity(name),
            commit=self.commit,
            read=lambda start, stop: self.endpoint.read(
                self.commit, name, start=start, stop=None if stop == size else stop
            ),
        )

    def _tiles(self, name: str) -> tuple[Chunk, ...] | None:
        return tile(self.records[name]) if name in self.records else None

    def _sealing(self, name: str) -> Callable[[], Digest | None]:
        def sealed() -> Digest | None:
            tiles = self._tiles(name)
            return seal(tiles) if tiles else None

        return sealed

    def _learn(self, name: str, info: FileInfo) -> None:
        """Remember a digest that the registry does not state, so that the next look finds it."""
        self.infos[name] = info
        listed = self.commit.files[name]
        if listed.digest is None:
            commit = replace(self.commit, files={**self.commit.files, name: info})
            self.cache.learn(self.endpoint.name, self.reference, commit)

    def _is_cut_off(self) -> bool:
        return self.endpoint.remote and settings.offline()

    def check_allowed(self, what: str) -> None:
        """Refuse a request where the settings forbid any.

        Raises:
            Offline: they do; the message says what is missing, and how to get it.
        """
        if self._is_cut_off():
            raise offline_error(what, self.reference, self.endpoint, self.cache)


def offline_error(what: str, reference: Reference, endpoint: Endpoint, cache: Cache) -> Offline:
    """What is missing, where it was looked for, and how to get it."""
    folders = ", ".join(map(str, cache.folders))
    return Offline(
        f"{reference}: {what} is not in the cache ({folders}), and HUBSTATE_OFFLINE or "
        f"HF_HUB_OFFLINE forbids asking {endpoint.name}. Where the network is allowed, run "
        f"'hubstate fetch {reference}'"
    )


def _unsealed(header: Header | None) -> tuple[Chunk, ...]:
    """The chunks of each tensor, without digests."""
    if header is None:
        return ()
    tensors = [(tensor.start, tensor.stop) for tensor in header.tensors.values()]
    return tuple(cut(part for part in [(0, header.size), *tensors] if part[0] < part[1]))
