"""A release as whoever loads it sees it: what it is, and its files as they are asked for."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from hubstate.cache import Source
from hubstate.digest import Digest
from hubstate.endpoints import MANIFEST, Commit, Stream
from hubstate.errors import FileNotInRelease, InvalidManifest, InvalidWeights
from hubstate.header import Header, header_size, parse_header
from hubstate.manifest import Manifest, parse
from hubstate.outline import Outline
from hubstate.progress import Hook, bar, quiet
from hubstate.reference import Reference
from hubstate.strictjson import Json
from hubstate.values import frozen

if TYPE_CHECKING:
    from hubstate.cache import Traffic

__all__ = ["WEIGHTS", "Document", "Release", "check_size"]

WEIGHTS = "model.safetensors"
_PREFIX = 64 << 10  # one request of this size holds the header of most weights files
_LARGEST = 32 << 20  # bytes of a manifest, or of an index


class Document:
    """The text of a manifest, and what it says once somebody asks for that."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    @cached_property
    def manifest(self) -> Manifest:
        """What it says."""
        return parse(self.text)


@frozen
class Release:
    """A published release. Its manifest is here; other files come when they are asked for."""

    reference: Reference
    """The one that was asked for."""
    commit: Commit = field(repr=False)
    manifest_digest: Digest | None
    source: Source = field(repr=False, compare=False)
    document: Document | None = field(repr=False, compare=False)
    outline: Outline | None = field(default=None, repr=False, compare=False)
    """The manifest in brief, where it is known and all weights are in the cache."""

    @property
    def manifest(self) -> Manifest | None:
        """None where the repository has no ``hubstate.json``; see :meth:`weights_header`."""
        return self.document.manifest if self.document else None

    @property
    def preprocessing(self) -> Mapping[str, Json]:
        """What the manifest states of the inputs; nothing where it does not, or there is none."""
        stated = self.outline or self.manifest
        return stated.preprocessing if stated else {}

    @property
    def paths(self) -> Mapping[str, Path]:
        """Where each file that was asked for so far is, by its name in the release."""
        return MappingProxyType(self.source.paths)

    @property
    def traffic(self) -> Traffic:
        """Where the bytes came from that were not in the cache when they were asked for.

        Bytes of other releases' tensors, which were copied, and those of a transfer that had been
        broken off, count as ``reused``. Whoever waits for another process that fetches the same
        file has none of either.
        """
        from hubstate.cache import Traffic  # here, as a warm load has none

        return sum(self.source.traffic.values(), Traffic())

    @property
    def pinned(self) -> Reference:
        """A reference that means this release for ever: by manifest, or else by commit."""
        revision = str(self.manifest_digest) if self.manifest_digest else self.commit.id
        return Reference(repo=self.commit.repo, revision=revision)

    def path(self, name: str, *, progress: Hook | None = None) -> Path:
        """One file, verified, in the cache; it is fetched if it is not there.

        ``progress`` is told of bytes as they arrive; without it, a terminal shows a bar.

        Raises:
            FileNotInRelease: the release has no such file.
            DigestMismatch: the registry has other content under that name.
            Offline: it is not in the cache, and no request is allowed.
            Unreachable: the registry does not answer, or the cache cannot be written.
        """
        return self.fetch([name], progress=progress)[name]

    def fetch(
        self, files: Iterable[str] | None = None, *, progress: Hook | None = None
    ) -> Mapping[str, Path]:
        """Several files, by name or by patterns such as ``*.json``; all of them without names.

        Raises:
            The same as :meth:`path`.
        """
        names = self.select(files)
        missing = [name for name in names if self.source.find(name) is None]
        if missing:
            sizes = {name: self.source.info(name).size or 0 for name in missing}
            self.source.check_room(sizes)
            total = sum(sizes.values())
            with _shown(str(self.reference), total, progress) as hook:
                for name in missing:
                    self.source.obtain(name, progress=hook)
        return {name: self.source.paths[name] for name in names}

    def select(self, files: Iterable[str] | None) -> list[str]:
        """The files that names and patterns mean; all of them without any.

        Raises:
            FileNotInRelease: a name or pattern that nothing in the release has.
        """
        names = sorted(self.source.infos)
        if files is None:
            return names
        files = [files] if isinstance(files, str) else files
        chosen: dict[str, None] = {}
        for pattern in files:
            matches = [pattern] if pattern in self.source.infos else fnmatch.filter(names, pattern)
            if not matches:
                self.source.info(pattern)  # says what there is
            chosen |= dict.fromkeys(matches)
        return list(chosen)

    def read(self, name: str) -> bytes:
        """The content of one file, for small ones.

        Raises:
            The same as :meth:`path`.
        """
        return self.path(name).read_bytes()

    @property
    def weights(self) -> str:
        """The name of the file with the weights.

        Raises:
            FileNotInRelease: there is no safetensors file, or there are several; see
                :meth:`weights_headers`.
        """
        names = [name for name in sorted(self.source.infos) if name.endswith(".safetensors")]
        if WEIGHTS in names or len(names) == 1:
            return WEIGHTS if WEIGHTS in names else names[0]
        found = ", ".join(names[:10]) or "none"
        raise FileNotInRelease(
            f"{self.source.where}: expected {WEIGHTS} or one safetensors file, found {found}"
        )

    def weights_header(self, name: str | None = None) -> Header:
        """The structure of a weights file, without fetching the weights.

        Raises:
            InvalidWeights: the file is not in safetensors format.
            The same as :meth:`path` otherwise.
        """
        name = self.weights if name is None else name
        if name in self.source.headers:
            return self.source.headers[name]
        try:
            header = self.source.headers[name] = self._header(name)
        except InvalidWeights as error:
            raise InvalidWeights(f"{name} of {self.source.where}: {error}") from None
        return header

    def _header(self, name: str) -> Header:
        info = self.source.info(name)
        prefix = self.source.prefix(name) or self._range(name, 0, _PREFIX)
        missing = header_size(prefix) - len(prefix)
        if missing > 0 and len(prefix) == _PREFIX:
            prefix += self._range(name, _PREFIX, _PREFIX + missing)
        return parse_header(prefix, file_size=info.size)

    def weights_headers(self) -> Mapping[str, Header]:
        """The structure of every weights file, by name, without fetching the weights.

        Without a manifest, these are ``model.safetensors``, or the shards that an index names, or
        the only safetensors file.

        Raises:
            FileNotInRelease: there are none, or several and no index, or a shard is not there.
            InvalidWeights: a file is not in safetensors format, or an index is not one, or it
                does not agree with the files that it names.
            The same as :meth:`path` otherwise.
        """
        if self.manifest is not None:
            names = [file.path for file in self.manifest.files if file.tensors]
        elif index := self._index():
            names = self._shards(index)
        else:
            names = [self.weights]
        return {name: self.weights_header(name) for name in names}

    def _index(self) -> str | None:
        """The index of a repository without manifest, where one file of weights is not all."""
        if WEIGHTS in self.source.infos:
            return None
        usual, ending = f"{WEIGHTS}.index.json", ".safetensors.index.json"
        names = [name for name in self.source.infos if name.endswith(ending) and "/" not in name]
        return usual if usual in names else names[0] if len(names) == 1 else None

    def _shards(self, index: str) -> list[str]:
        """The files that an index names, once their headers agree with it."""
        from hubstate.shards import check_files, check_shards, read_index  # few have an index
        from hubstate.workers import at_once

        what = f"{index} of {self.source.where}"
        check_size(self.source, index)
        weight_map = read_index(self.read(index), what=what)
        names = check_files(weight_map, self.source.infos, what=what)
        headers = dict(zip(names, at_once(self.weights_header, names), strict=True))
        check_shards(weight_map, {n: h.tensors for n, h in headers.items()}, what=what)
        return names

    def tensors_path(
        self, name: str, tensors: Collection[str], *, progress: Hook | None = None
    ) -> Path:
        """A weights file in which the named tensors are there; the rest of it may be holes.

        From a server only the header and the bytes of these tensors are fetched, and only those
        that are not in the cache yet; from a folder, the whole file. A later :meth:`path` fetches
        the rest. The path is good for as long as the cache is not pruned.

        What is checked: with a manifest, each tensor against its digest in it. Without one, the
        file's size and its header's form; what the tensors hold is known to be right only once
        the whole file was fetched, from a registry that states its digest.

        Args:
            name: of a safetensors file in the release.
            tensors: names that the file's header has, as stored: of tied names, the first.
            progress: told of bytes as they arrive; without it, a terminal shows a bar.

        Raises:
            NotFound: the release has no such file, or the file no such tensor.
            InvalidWeights: the file's header breaks the format.
            DigestMismatch: the registry has other content than the manifest says.
            Offline: something is not in the cache, and no request is allowed.
            Unreachable: the registry does not answer, or the cache cannot be written.

        Warns:
            UserWarning: the registry sends whole files only, so that all of it was fetched.

        >>> import hubstate
        >>> from torch import nn
        >>> _ = hubstate.publish(nn.Linear(3, 2), "org/tiny", license="mit", weights_only=True)
        >>> release = hubstate.open_release("org/tiny")
        >>> file = release.tensors_path(release.weights, ["bias"])
        >>> from hubstate.weights import map_weights
        >>> map_weights(file, ["bias"])["bias"].shape
        torch.Size([2])
        """
        if path := self.source.find(name):
            return path
        from hubstate.transport.chunks import tensors_of  # here, as a warm load needs none

        recorded = self.source.records.get(name)
        header = None if recorded and recorded.tensors else self.weights_header(name)
        sizes = {t.name: t.stop - t.start for t in tensors_of(header or recorded)}
        total = sum(sizes.get(tensor, 0) for tensor in tensors)
        with _shown(str(self.reference), total, progress) as hook:
            return self.source.obtain_tensors(name, tensors, header=header, progress=hook)

    def keep_header(self, name: str) -> None:
        """Have the header of a weights file in the cache, if nothing else says what is in it.

        Of several files without a manifest, all headers are needed to load any tensor.
        """
        if self.manifest is None:
            self.tensors_path(name, (), progress=quiet)

    def _range(self, name: str, start: int, stop: int) -> bytes:
        if path := self.source.find(name):
            with path.open("rb") as file:
                file.seek(start)
                return file.read(stop - start)
        self.source.check_allowed(name)
        with self.source.endpoint.read(self.commit, name, start=start, stop=stop) as stream:
            return _read_all(stream, stop - start)


def _shown(label: str, total: int, progress: Hook | None) -> AbstractContextManager[Hook]:
    return bar(label, total=total) if progress is None else nullcontext(progress)


def _read_all(stream: Stream, size: int) -> bytes:
    buffer = memoryview(bytearray(size))
    filled = 0
    while filled < size and (count := stream.readinto(buffer[filled:]) or 0):
        filled += count
    return bytes(buffer[:filled])


def check_size(source: Source, name: str) -> None:
    """Refuse a manifest or an index that nobody would read whole.

    Raises:
        InvalidManifest, InvalidWeights: it is too large.
    """
    size = source.info(name).size or 0
    if size > _LARGEST:
        error = InvalidManifest if name == MANIFEST else InvalidWeights
        raise error(f"{name} of {source.where}: {size} bytes, expected at most {_LARGEST}")
