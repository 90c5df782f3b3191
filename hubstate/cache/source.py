"""Where the files of a commit come from: the cache, or else the registry by way of the cache."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from hubstate import settings
from hubstate.blobs import FileInfo
from hubstate.cache.layers import Cache
from hubstate.endpoints.base import Commit, Endpoint
from hubstate.errors import DigestMismatch, FileNotInRelease, Offline
from hubstate.progress import Hook
from hubstate.reference import Reference

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
        found = self.cache.find(info.digest, size=info.size)
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
        what = f"{name} of {self.where} from {self.endpoint.name}"
        with self.endpoint.read(self.commit, name) as stream:
            path, digest = self.cache.store(
                stream, info=self.info(name), what=what, progress=progress
            )
        self.paths[name] = path
        self._learn(name, FileInfo(size=path.stat().st_size, digest=digest))
        return path

    def _learn(self, name: str, info: FileInfo) -> None:
        """Remember a digest that the registry does not state, so that the next look finds it."""
        self.infos[name] = info
        listed = self.commit.files[name]
        if listed.digest is None:
            commit = replace(self.commit, files={**self.commit.files, name: info})
            known = self.cache.known(self.endpoint.name, self.reference)
            self.cache.record(self.endpoint.name, self.reference, commit, known=known)

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
