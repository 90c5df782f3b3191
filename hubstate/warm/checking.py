"""Checking a cache: no registry is asked, and every byte is hashed again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from hubstate.cache import Cache, Source
from hubstate.cache.partials import forget_partial, read_partial
from hubstate.digest import hash_file, hash_ranges
from hubstate.endpoints import Commit, Endpoint
from hubstate.errors import DigestMismatch, HubstateError, Offline
from hubstate.fetching import Stored, portion_size, wanted_tensors
from hubstate.filters import Filter, check_filter
from hubstate.hub import Release, is_here
from hubstate.manifest import TensorRecord, chunks
from hubstate.opening import read_release
from hubstate.progress import Hook
from hubstate.reference import Reference
from hubstate.transport.chunks import Chunk
from hubstate.values import replace
from hubstate.warm.filling import prove_all
from hubstate.warm.proofs import FileProof, Proof, prove
from hubstate.warm.wanted import Wanted

__all__ = ["check"]

_REMEDY = "'hubstate warm' fetches it again"


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
        size=lambda release, name: portion_size(release, name, filter),
        prove=lambda release, name, hook: _verify(release, name, filter, hook),
        label="check",
        progress=progress,
    )


class _Recalled(Source):
    """A source that asks nobody."""

    @property
    def is_cut_off(self) -> bool:
        return True

    def tell_damaged(self, name: str, path: Path) -> str:
        return (
            f"{self.where}: {name} was damaged in the cache ({self._folders}), and is not used; "
            f"{_REMEDY}"
        )

    def check_allowed(self, what: str) -> None:
        raise Offline(f"{self.reference}: {what} is not in the cache ({self._folders})")

    @property
    def _folders(self) -> str:
        return ", ".join(map(str, self.cache.folders))


def _recall(wanted: Wanted, cache: Cache) -> Release:
    endpoint, place, commit = _locate(wanted, cache)
    if wanted.pin:
        wanted.pin.check(commit)
        commit = replace(commit, files=dict(wanted.pin.files))
    source = _Recalled(
        endpoint=endpoint, cache=cache, reference=place, commit=commit, infos=dict(commit.files)
    )
    return replace(read_release(source), reference=wanted.reference)


def _locate(wanted: Wanted, cache: Cache) -> tuple[Endpoint, Reference, Commit]:
    for endpoint, place in itertools.product(wanted.endpoints, wanted.places):
        if known := cache.known(endpoint.name, place):
            return endpoint, place, known.commit
    if wanted.pin and is_here(wanted.pin, cache, part=True):
        return wanted.endpoints[0], wanted.places[0], wanted.pin.release
    folders = ", ".join(map(str, cache.folders))
    raise Offline(f"{wanted.reference} is not in the cache ({folders}): run 'hubstate warm'")


def _verify(release: Release, name: str, filter: Filter | None, hook: Hook) -> FileProof:
    try:
        chosen = wanted_tensors(release, name, filter)
        path = release.source.find(name)
        if path is None and chosen == []:
            return prove(release, name, None, "unwanted")
        if path is None and chosen is not None:
            path = release.tensors_path(name, [tensor.name for tensor in chosen], progress=hook)
            _check_part(path, release.source.tiles(name)[:1], chosen, hook)
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
        if expected:
            release.source.cache.doubt(expected)  # so that a warm-up sees it, too
        raise DigestMismatch(f"{path}: {name}: expected {expected}, found {found}; {_REMEDY}")


def _check_part(path: Path, header: Sequence[Chunk], tensors: Sequence[Stored], hook: Hook) -> None:
    published = (chunk for tensor in tensors for chunk in _published(tensor))
    parts = [*header, *published] or read_partial(path)
    found = hash_ranges(path, [(c.start, c.stop) for c in parts], threads=1, progress=hook)
    for part, digest in zip(parts, found, strict=True):
        if part.digest != digest:
            forget_partial(path)
            raise DigestMismatch(
                f"{path}: bytes {part.start}-{part.stop}: expected {part.digest}, "
                f"found {digest}; {_REMEDY}"
            )


def _published(tensor: Stored) -> Iterator[Chunk]:
    """A tensor's chunks with the manifest's digests; without one, those of arrival count."""
    if isinstance(tensor, TensorRecord):
        bounds = chunks(tensor.start, tensor.stop)
        for (start, stop), digest in zip(bounds, tensor.digests, strict=True):
            yield Chunk(start, stop, digest)
