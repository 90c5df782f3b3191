"""One file of a release on its way into the cache, all of it or the parts that somebody wants.

::

    Source.obtain ─> Arrival.whole ─┐                ┌─> in ranges, verified: cache.fetching
    Source.obtain_tensors ─> .part ─┴─> take_turns ──┴─> in one stream: Cache.store
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from hubstate.blobs import FileInfo
from hubstate.cache.fetching import fetch_ranges, fetch_whole, find_ranges
from hubstate.cache.leases import held, take_turns
from hubstate.cache.partials import Partials
from hubstate.cache.remote import Remote, Traffic
from hubstate.cache.source import Source
from hubstate.digest import Digest
from hubstate.errors import NotFound
from hubstate.header import Header, header_size
from hubstate.progress import Hook
from hubstate.transport import RangesRefused
from hubstate.transport.chunks import Chunk, Range, cut, tensors_of, union
from hubstate.values import replace

__all__ = ["Arrival"]

_CALLER = 7  # frames from a warning to whoever called Release.tensors_path
_LARGE = 8 << 20  # bytes; below, one request is as good as several


class Arrival:
    """A file of a source that the cache does not have, or only in part."""

    def __init__(self, source: Source, name: str) -> None:
        self.source = source
        self.name = name
        self.cache = source.cache
        self._leases: Mapping[Path, bytes] = {}

    def room(self, size: int) -> int:
        """What so many bytes of the file will take at least, beyond what was begun."""
        remote = self._remote(None)
        if remote is None or self.cache.writable is None:
            return size
        return max(0, size - Partials(self.cache.writable, remote.key).begun)

    def whole(self, progress: Hook) -> Path:
        """All of the file; for what it raises see :meth:`Source.obtain`."""
        self.source.check_allowed(self.name)
        if self.source.endpoint.holds(self.source.commit, self.name):
            return self._fetch(progress)
        self._leases = self._held()
        return take_turns(
            self.cache.writable,
            self._key,
            find=self._find_again,
            fetch=lambda: self._fetch(progress),
        )

    def part(self, tensors: Collection[str], header: Header | None, progress: Hook) -> Path:
        """The file with some tensors; see :meth:`Source.obtain_tensors`."""
        self._leases = self._held()
        remote = self._remote(header, folder=not tensors)
        if remote is None:
            return self.whole(progress)
        wanted = self._wanted(header, tensors)
        if wanted == [(0, remote.size)]:
            return self.whole(progress)
        if path := find_ranges(self.cache, remote, wanted):
            return path
        self.source.check_allowed(self.name)
        return take_turns(
            self.cache.writable,
            self._key,
            find=lambda: self.source.find(self.name) or find_ranges(self.cache, remote, wanted),
            fetch=lambda: self._fetch_ranges(remote, wanted, progress),
        )

    def _held(self) -> Mapping[Path, bytes]:
        batch, folder = self.source.batch, self.cache.writable
        return batch.held(folder) if batch else held(folder)

    def prefix(self) -> bytes | None:
        """The header of a weights file, from whatever part of the file the cache has."""
        remote = self._remote(None, folder=True)
        path = self.source.find(self.name)
        if path is None and remote:
            path = find_ranges(self.cache, remote, [(0, 8)])
        if path is None:
            return None
        with path.open("rb") as file:
            start = file.read(8)
            return start + file.read(header_size(start) - 8)

    @property
    def _key(self) -> str:
        """What tells the file from others, before anything of it is there."""
        digest = self.source.info(self.name).digest or Digest.of(self._identity.encode())
        return digest.hex

    @property
    def _identity(self) -> str:
        commit = self.source.commit
        return f"{self.source.endpoint.name}\n{commit.repo}\n{commit.id}\n{self.name}"

    @property
    def _what(self) -> str:
        return f"{self.name} of {self.source.where} from {self.source.endpoint.name}"

    def _find_again(self) -> Path | None:
        """The file, if somebody else has fetched it meanwhile."""
        source, name = self.source, self.name
        if source.info(name).digest is None:
            known = self.cache.known(source.endpoint.name, source.reference)
            if known and known.commit.id == source.commit.id:
                source.infos[name] = known.commit.files.get(name, source.infos[name])
        return source.find(name)

    def _fetch(self, progress: Hook) -> Path:
        path, digest, traffic = self._transfer(progress)
        self.source.paths[self.name] = path
        self._count(traffic)
        self._learn(FileInfo(size=self._size(path), digest=digest))
        return path

    def _transfer(self, progress: Hook) -> tuple[Path, Digest, Traffic]:
        source, remote = self.source, self._remote(None)
        if remote and remote.digest and (remote.sealed or remote.size >= _LARGE):
            with suppress(RangesRefused):  # then all of it in one stream
                path, traffic = fetch_whole(self.cache, remote, progress=progress)
                return path, remote.digest, traffic
        with source.endpoint.read(source.commit, self.name) as stream:
            info = source.info(self.name)
            path, digest = self.cache.store(stream, info=info, what=self._what, progress=progress)
        return path, digest, Traffic(downloaded=self._size(path))

    def _size(self, path: Path) -> int:
        listed = self.source.info(self.name).size
        return path.stat().st_size if listed is None else listed

    def _fetch_ranges(self, remote: Remote, wanted: Sequence[Range], progress: Hook) -> Path:
        try:
            path, traffic = fetch_ranges(self.cache, remote, wanted, progress=progress)
        except RangesRefused as error:
            warnings.warn(f"{error}; all of it is fetched", stacklevel=_CALLER)
            return self._fetch(progress)
        self._count(traffic)
        return path

    def _count(self, traffic: Traffic) -> None:
        account = self.source.traffic
        account[self.name] = account.get(self.name, Traffic()) + traffic

    def _learn(self, info: FileInfo) -> None:
        """Remember a digest that the registry does not state, so that the next look finds it."""
        source = self.source
        source.infos[self.name] = info
        if source.commit.files[self.name].digest is None:
            files = {**source.commit.files, self.name: info}
            commit = replace(source.commit, files=files)
            self.cache.learn(source.endpoint.name, source.reference, commit)

    def _wanted(self, header: Header | None, tensors: Collection[str]) -> list[Range]:
        record = self.source.records.get(self.name)
        found = record if record and record.tensors else header
        listed = {t.name: (t.start, t.stop) for t in tensors_of(found)}
        if found is None or (absent := sorted(set(tensors) - set(listed))):
            names = ", ".join(absent[:10]) if found else "any tensor"
            raise NotFound(f"{self._what}: expected {names}, found no such tensor")
        size = self.source.info(self.name).size or 0
        start = min((start for start, _ in listed.values()), default=size)
        return union([(0, start), *(listed[name] for name in tensors)])

    def _remote(self, header: Header | None, *, folder: bool = False) -> Remote | None:
        """The file as one to fetch in ranges, if there is one to ask and its size is known.

        From a folder that is done only where ``folder`` says so: for a header alone.
        """
        source, info = self.source, self.source.info(self.name)
        size = info.size
        if not (source.endpoint.remote or folder) or not size:
            return None
        return Remote(
            what=self._what,
            size=size,
            digest=info.digest,
            tiles=source.tiles(self.name) or _unsealed(header),
            identity=self._identity,
            commit=source.commit,
            leases=self._leases,
            batch=source.batch,
            read=lambda start, stop: source.endpoint.read(
                source.commit, self.name, start=start, stop=None if stop == size else stop
            ),
        )


def _unsealed(header: Header | None) -> tuple[Chunk, ...]:
    """The chunks of each tensor, without digests."""
    if header is None:
        return ()
    tensors = [(tensor.start, tensor.stop) for tensor in header.tensors.values()]
    return tuple(cut(part for part in [(0, header.size), *tensors] if part[0] < part[1]))
