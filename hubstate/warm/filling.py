"""Filling a cache: many releases are opened at once, what is missing is added up, and fetched."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

from hubstate.cache import Cache
from hubstate.cache.arrival import Arrival
from hubstate.cache.batch import Batch
from hubstate.collector import collection_paused
from hubstate.endpoints import Endpoint
from hubstate.errors import HubstateError, NotFound, Unreachable
from hubstate.fetching import portion_size, wanted_tensors
from hubstate.filters import Filter, check_filter
from hubstate.hub import Release, open_pinned, open_release
from hubstate.progress import Hook, bar, shared
from hubstate.values import replace
from hubstate.warm.asking import ask_ahead
from hubstate.warm.families import Task, each, families
from hubstate.warm.proofs import FileProof, Proof, prove
from hubstate.warm.wanted import Wanted
from hubstate.workers import at_once, in_turn

__all__ = ["prove_all", "warm"]

_FEWEST = 4  # files at one time


def warm(
    wanted: Sequence[Wanted],
    *,
    cache: Cache | None = None,
    filter: Filter | None = None,
    progress: Hook | None = None,
) -> list[Proof]:
    """Fetch what is missing of several releases; what cannot be had is in the proofs.

    Args:
        wanted: from :func:`locked` or :func:`named`.
        cache: instead of the configured cache.
        filter: of the weights, only the tensors whose names pass; with their second argument
            None. Files without tensors are fetched all the same.
        progress: is told of bytes, from several threads, one at a time; without it, a terminal
            shows a bar.
    """
    check_filter(filter)
    cache, batch = cache or Cache(), Batch()
    answered = ask_ahead(wanted, cache)
    proofs = prove_all(
        wanted,
        open=lambda one: _open(one, answered.registries.get(id(one)), cache, batch),
        opening=in_turn if answered.all else at_once,
        size=lambda release, name: _missing(release, name, filter),
        prove=lambda release, name, hook: _fetch(release, name, filter, hook),
        group=lambda tasks, absent: _grouped(tasks, absent, cache, batch, filter),
        label=f"{len(wanted)} releases",
        progress=progress,
    )
    batch.convoy.close()  # not after an interrupt, when threads are still at work on it
    cache.settle(path for proof in proofs for path in _written(proof, cache))
    return [_remembered(proof, cache) for proof in proofs]


def prove_all(
    wanted: Sequence[Wanted],
    *,
    open: Callable[[Wanted], Release],
    size: Callable[[Release, str], int],
    prove: Callable[[Release, str, Hook], FileProof],
    label: str,
    progress: Hook | None,
    opening: Callable[..., list[Proof]] = in_turn,
    group: Callable[[Sequence[Task], Sequence[Task]], list[list[Task]]] = each,
) -> list[Proof]:
    """Open every release, and prove every file of each, several at a time.

    ``opening`` says whether several are opened at a time as well, and ``group`` which files to
    prove one after another: of all, and of those with a size, once of each content.
    """
    with collection_paused():  # what manifests are parsed to stays alive
        opened = opening(lambda one: _opened(one, open), wanted)
    releases = [proof.release for proof in opened if proof.release]
    tasks = [(release, name) for release in releases for name in sorted(release.source.infos)]
    sizes = in_turn(lambda task: (task, size(*task)), _distinct(tasks))
    groups = group(tasks, [task for task, count in sizes if count])
    total = sum(count for _, count in sizes)
    shown = bar(label, total=total) if progress is None else nullcontext(progress)
    with shown as drawn, shared(drawn) as hook:

        def work(tasks: Sequence[Task]) -> list[tuple[Release, FileProof]]:
            return [(release, prove(release, name, hook)) for release, name in tasks]

        done = [pair for pairs in at_once(work, groups, fewest=_FEWEST) for pair in pairs]
    found: dict[int, list[FileProof]] = {}
    for release, file in sorted(done, key=lambda pair: pair[1].name):
        found.setdefault(id(release), []).append(file)
    return [_complete(proof, found.get(id(proof.release), [])) for proof in opened]


def _complete(proof: Proof, files: Sequence[FileProof]) -> Proof:
    weights = [file.state for file in files if file.name.endswith(".safetensors")]
    if weights and set(weights) == {"unwanted"}:
        error = NotFound(f"{proof.wanted.reference}: the filter selects none of its tensors")
        return replace(proof, files=tuple(files), problem=error)
    return replace(proof, files=tuple(files))


def _distinct(tasks: Sequence[Task]) -> list[Task]:
    """The files without those that have the content of another, which is fetched once."""
    found: dict[object, Task] = {}
    for release, name in tasks:
        key = release.source.infos[name].digest or (id(release), name)
        found.setdefault(key, (release, name))
    return list(found.values())


def _opened(wanted: Wanted, open: Callable[[Wanted], Release]) -> Proof:
    try:
        return Proof(wanted=wanted, release=open(wanted))
    except HubstateError as error:
        return Proof(wanted=wanted, release=None, problem=error)


def _open(wanted: Wanted, first: Endpoint | None, cache: Cache, batch: Batch) -> Release:
    registry = first or wanted.registry
    if wanted.pin:
        release = open_pinned(wanted.pin, registry=registry, cache=cache)
    else:
        release = open_release(wanted.reference, registry=registry, cache=cache)
    return replace(release, source=replace(release.source, batch=batch))


def _grouped(
    tasks: Sequence[Task],
    absent: Sequence[Task],
    cache: Cache,
    batch: Batch,
    filter: Filter | None,
) -> list[list[Task]]:
    """The families; the cache is searched at once for what those of one file need."""
    _check_room(absent, cache, filter)
    groups = families(tasks)
    single = {(id(release), name) for [(release, name), *others] in groups if not others}
    missing = [
        (record.digest, release.source.tiles(name), release.commit)
        for release, name in absent
        if (record := release.source.records.get(name)) and (id(release), name) in single
    ]
    if missing:
        files = {digest: tiles for digest, tiles, _ in missing}
        batch.search(cache, files, near=[commit for *_, commit in missing])
    return groups


def _check_room(absent: Sequence[Task], cache: Cache, filter: Filter | None) -> None:
    """Refuse what does not fit, before the first of it is fetched; a cache may be read-only."""
    if not absent or cache.writable is None:
        return
    sizes = [portion_size(release, name, filter) for release, name in absent]
    try:
        cache.ready(sum(sizes), "all of it")
    except Unreachable:  # then what was begun counts, which takes longer to find out
        rooms = [r.source.room(name, size) for (r, name), size in zip(absent, sizes, strict=True)]
        cache.ready(sum(rooms), f"{len(absent)} files")


def _written(proof: Proof, cache: Cache) -> Iterator[Path]:
    """The files of a cache that a proof speaks of, or rests on."""
    yield from (file.path for file in proof.files if file.path)
    if proof.release:
        source = proof.release.source
        yield from cache.records(source.endpoint.name, source.reference, source.commit)


def _remembered(proof: Proof, cache: Cache) -> Proof:
    """The proof, with a problem if the cache will not know what the reference means."""
    release = proof.release
    if release is None or proof.wanted.pin:  # what is pinned is found by the digests of its files
        return proof
    source = release.source
    records = cache.records(source.endpoint.name, source.reference, source.commit)
    if records and all(map(os.path.isfile, records)):
        return proof
    known = cache.known(source.endpoint.name, source.reference)
    if known and known.commit.id == source.commit.id:
        return proof
    folders = ", ".join(map(str, cache.folders))
    text = f"{proof.wanted.reference}: what it means cannot be written to the cache ({folders})"
    return replace(proof, problem=proof.problem or Unreachable(text))


def _missing(release: Release, name: str, filter: Filter | None) -> int:
    with suppress(HubstateError):
        if release.source.find(name):
            return 0
    return portion_size(release, name, filter)


def _fetch(release: Release, name: str, filter: Filter | None, hook: Hook) -> FileProof:
    try:
        before = release.source.find(name)
        chosen = None if before else wanted_tensors(release, name, filter)
        if chosen is None:
            path = before or Arrival(release.source, name).whole(hook)
            return prove(release, name, path, "present" if before else "fetched")
        if not chosen:
            release.keep_header(name)
            return prove(release, name, None, "unwanted")
        path = release.tensors_path(name, [tensor.name for tensor in chosen], progress=hook)
        return prove(release, name, path, "partial")
    except HubstateError as error:
        return prove(release, name, None, "missing", error)
