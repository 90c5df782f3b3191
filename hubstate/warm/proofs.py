"""What was found of what was wanted: every file with its size, its digest and its place."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Literal

from hubstate.cache import Traffic
from hubstate.errors import HubstateError
from hubstate.hub import Release
from hubstate.values import frozen
from hubstate.warm.wanted import Wanted

__all__ = ["FileProof", "Proof", "prove"]

State = Literal["present", "fetched", "partial", "unwanted", "missing", "damaged"]


@frozen
class FileProof:
    """One file: what it must be, and what was found."""

    name: str
    size: int | None
    digest: str | None
    path: Path | None
    state: State
    """``partial`` where a filter wants some tensors only, and they are there; ``unwanted`` where
    it wants none."""
    problem: HubstateError | None = field(default=None, compare=False)
    traffic: Traffic = field(default=Traffic(), compare=False)


@frozen
class Proof:
    """One release: all that was wanted of it is there, or what is not."""

    wanted: Wanted
    release: Release | None
    files: tuple[FileProof, ...] = ()
    problem: HubstateError | None = None
    """Why not even its manifest is there; otherwise the files' problems say what is missing."""

    @property
    def complete(self) -> bool:
        """Whether everything is there, and right."""
        return self.error is None

    @property
    def error(self) -> HubstateError | None:
        """The first problem."""
        problems = (file.problem for file in self.files if file.problem)
        return self.problem or next(problems, None)

    def to_json(self) -> dict[str, object]:
        """The proof as plain data."""
        release = self.release
        return {
            "name": str(self.wanted.reference),
            "complete": self.complete,
            "problem": str(self.problem) if self.problem else None,
            "commit": release.commit.id if release else None,
            "manifest": str(release.manifest_digest or "") or None if release else None,
            "registry": release.source.endpoint.name if release else None,
            "files": {file.name: _plain(file) for file in self.files},
        }


def _plain(file: FileProof) -> dict[str, object]:
    return {
        "size": file.size,
        "digest": file.digest,
        "path": str(file.path) if file.path else None,
        "state": file.state,
        "downloaded": file.traffic.downloaded,
        "reused": file.traffic.reused,
        "problem": str(file.problem) if file.problem else None,
    }


def prove(
    release: Release,
    name: str,
    path: Path | None,
    state: State,
    problem: HubstateError | None = None,
) -> FileProof:
    info = release.source.info(name)
    return FileProof(
        name=name,
        size=info.size,
        digest=str(info.digest) if info.digest else None,
        path=path,
        state=state,
        problem=problem,
        traffic=release.source.traffic.get(name, Traffic()),
    )
