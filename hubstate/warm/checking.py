"""Checking a cache: no registry is asked, and every byte is hashed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hubstate.cache import Cache, Source
from hubstate.digest import hash_file, hash_ranges
from hubstate.errors import DigestMismatch, HubstateError, Offline
from hubstate.filters import Filter, check_filter
from hubstate.hub import Release
from hubstate.manifest import FileRecord, chunks
from hubstate.progress import Hook
from hubstate.release import read_release
from hubstate.warm.filling import prove_all
from hubstate.warm.proofs import FileProof, Proof, prove
from hubstate.warm.wanted import Wanted, chosen_tensors, wanted_size

__all__ = ["check"]


def check(
    wanted: Sequence[Wanted],
    *,
    cache: Cache | None = None,
    filter: Filter | None = None,
    progress: Hook | None = None,
) -> list[Proof]:
    """See whether everything is in the cache, and hash all of it again; no registry is asked.

    The arguments are those of :func:`warm`.
    """
    check_filter(filter)
    cache = cache or Cache()
    return prove_all(
        wanted,
        open=lambda one: _recall(one, cache),
        size=lambda release, name: wanted_size(release, name, filter),
        prove=lambda release, name, hook: _verify(release, name, filter, hook),
        label="check",
        progress=progress,
    )


class _Recalled(Source):
    """A source that asks nobody."""

    def _is_cut_off(self) -> bool:
        return True

    def check_allowed(self, what: str) -> None:
        folders = ", ".join(map(str, self.cache.folders))
        raise Offline(f"{self.reference}: {what} is not in the cache ({folders})")


def _recall(wanted: Wanted, cache: Cache) -> Release:
    for endpoint in wanted.endpoints:
        for place in wanted.places:
            known = cache.known(endpoint.name, place)
            if known is None:
                continue
            commit = known.commit
            if wanted.pin:
                wanted.pin.check(commit)
                commit = replace(commit, files=dict(wanted.pin.files))
            source = _Recalled(
                endpoint=endpoint,
                cache=cache,
                reference=place,
                commit=commit,
                infos=dict(commit.files),
            )
            return replace(read_release(source), reference=wanted.reference)
    folders = ", ".join(map(str, cache.folders))
    raise Offline(f"{wanted.reference} is not in the cache ({folders}): run 'hubstate warm'")


def _verify(release: Release, name: str, filter: Filter | None, hook: Hook) -> FileProof:
    try:
        chosen = chosen_tensors(release, name, filter)
        path = release.source.find(name)
        if path is None and chosen is not None:
            path = release.tensors_path(name, chosen, progress=hook)
            _check_tensors(path, release.source.records[name], chosen, hook)
            return prove(release, name, path, "partial")
        _check_whole(release, name, release.path(name, progress=hook), hook)
        return prove(release, name, release.paths[name], "present")
    except DigestMismatch as error:
        return prove(release, name, None, "damaged", error)
    except (HubstateError, OSError) as error:
        problem = error if isinstance(error, HubstateError) else Offline(f"{name}: {error}")
        return prove(release, name, None, "missing", problem)


def _check_whole(release: Release, name: str, path: Path, hook: Hook) -> None:
    expected, found = release.source.info(name).digest, hash_file(path, progress=hook)
    if found != expected:
        raise DigestMismatch(f"{path}: {name}: expected {expected}, found {found}")


def _check_tensors(path: Path, record: FileRecord, names: Sequence[str], hook: Hook) -> None:
    wanted = [tensor for tensor in record.tensors if tensor.name in set(names)]
    bounds = [range for tensor in wanted for range in chunks(tensor.start, tensor.stop)]
    expected = [digest for tensor in wanted for digest in tensor.digests]
    found = hash_ranges(path, bounds, threads=1, progress=hook)
    for (start, stop), one, other in zip(bounds, expected, found, strict=True):
        if one != other:
            raise DigestMismatch(f"{path}: bytes {start}-{stop}: expected {one}, found {other}")
