"""A remote file into the cache, all of it or some ranges, with nothing fetched twice.

What is there already is taken over first, hashed again: from a run that was killed, from partial
files of other folders of the cache or with other ranges, and from other releases that have the same
tensors (:mod:`hubstate.cache.donors`). The rest is fetched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hubstate.blobs import Blobs, make_folders, reachable
from hubstate.cache.layers import Cache
from hubstate.cache.partials import MANY, Partials, find_parts
from hubstate.cache.receipts import write_receipt
from hubstate.cache.remote import Remote, Traffic
from hubstate.digest import Digest, hash_file
from hubstate.errors import DigestMismatch
from hubstate.progress import Hook
from hubstate.transport import RangesRefused
from hubstate.transport.chunks import (
    Chunk,
    Range,
    bridge,
    cut,
    is_covered,
    subtract,
    twins,
    union,
)
from hubstate.transport.convoy import unpack
from hubstate.transport.engine import transfer
from hubstate.transport.part import Part, adopt_run, room_of, start_run
from hubstate.transport.runs import discard_runs, runs_in

if TYPE_CHECKING:
    from hubstate.cache.donors import Place

__all__ = ["fetch_ranges", "fetch_whole", "find_ranges"]

_LEAST = 1 << 20  # bytes: what is missing, for it to be looked for in other releases
_TRIES = 10


def find_ranges(cache: Cache, remote: Remote, wanted: Sequence[Range]) -> Path | None:
    """A partial file in the cache that has all of the wanted ranges."""
    found = (Partials(folder, remote.key).find(wanted) for folder in cache.folders)
    return next(filter(None, found), None)


def fetch_ranges(
    cache: Cache, remote: Remote, wanted: Sequence[Range], *, progress: Hook
) -> tuple[Path, Traffic]:
    """A file of the right length that has the wanted ranges, and holes elsewhere.

    Raises:
        DigestMismatch: a chunk is not what was published, or the size is not.
        RangesRefused: the registry sends whole files only.
        Unreachable: the registry does not answer, or the cache cannot be written.
    """
    wanted = union(wanted)
    if found := find_ranges(cache, remote, wanted):
        return found, Traffic()
    with _filling(cache, remote, wanted) as (folder, part):
        traffic = _fill(cache, remote, part, wanted, progress)
        with reachable(f"{remote.what}: cannot be written to the cache {folder}"):
            if is_covered((0, remote.size), part.covered):
                return _finish(folder, remote, part), traffic
            return Partials(folder, remote.key).publish(part, digest=remote.digest), traffic


def fetch_whole(cache: Cache, remote: Remote, *, progress: Hook) -> tuple[Path, Traffic]:
    """A whole file, verified: the blob that its digest names.

    Raises:
        The same as :func:`fetch_ranges`.
    """
    wanted = [(0, remote.size)]
    with _filling(cache, remote, wanted) as (folder, part):
        traffic = _fill(cache, remote, part, wanted, progress)
        with reachable(f"{remote.what}: cannot be written to the cache {folder}"):
            return _finish(folder, remote, part), traffic


@contextmanager
def _filling(cache: Cache, remote: Remote, wanted: Sequence[Range]) -> Iterator[tuple[Path, Part]]:
    """A part with what is there already; it is kept only where going on with it makes sense."""
    folder = cache.ready(0, remote.what)
    partials = Partials(folder, remote.key)
    what = f"{remote.what}: cannot be written to the cache {folder}"
    with reachable(what):
        begun = remote.batch is None or remote.batch.has_begun(cache, folder, remote.key)
        part = _begin(folder, remote, begun=begun)
    try:
        with part:
            size = sum(b - a for a, b in wanted)
            cache.ready(max(0, size - room_of(part.path) if begun else size), remote.what)
            with reachable(what):
                if begun:
                    _take_over(cache, remote, part)
            yield folder, part
    except (DigestMismatch, RangesRefused) as error:
        part.discard()
        if isinstance(error, DigestMismatch) and not remote.sealed:
            partials.discard()
        raise
    finally:
        if part.moved or not part.have:
            part.discard()
        if part.folder.parent == partials.folder:
            with contextlib.suppress(OSError):
                partials.folder.rmdir()


def _begin(folder: Path, remote: Remote, *, begun: bool) -> Part:
    """A run in a folder, which whoever leaves it empty removes, maybe at this moment."""
    home = folder / "partial"
    place = home / remote.key
    if remote.batch is None:
        unpack(home / MANY, home)
    elif not begun:
        return remote.batch.convoy.begin(home / MANY, remote.key)
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):
            make_folders(place, durable=False)
            return _adopt(place)
    make_folders(place, durable=False)
    return _adopt(place)


def _adopt(place: Path) -> Part:
    """Go on with the runs of killed processes, joined into one, or begin a new one."""
    found = [part for run in runs_in(place) if (part := adopt_run(run))]
    if not found:
        return start_run(place)
    for other in found[1:]:
        have = found[0].covered
        chunks = [c for c in other.have if not is_covered((c.start, c.stop), have)]
        found[0].copy([(chunk, chunk.start) for chunk in chunks], other.path)
        with other:
            other.discard()
    return found[0]


def _take_over(cache: Cache, remote: Remote, part: Part) -> None:
    """Copy what other runs and partial files of this file have, if it is what was published."""
    for path, chunks in find_parts(cache.folders, remote.key):
        known, have = {chunk for chunk in remote.tiles if chunk.digest}, part.covered
        fitting = [chunk for chunk in chunks if not remote.sealed or chunk in known]
        absent = [c for c in fitting if not is_covered((c.start, c.stop), have)]
        if absent:
            part.copy([(chunk, chunk.start) for chunk in absent], path)


def _fill(
    cache: Cache, remote: Remote, part: Part, wanted: Sequence[Range], progress: Hook
) -> Traffic:
    """Have the wanted ranges in a part, from the cache as far as it goes, or else fetched."""
    total = sum(b - a for a, b in wanted)
    missing = _missing(remote, part, wanted)
    progress(max(0, total - _size(missing)))
    with reachable(f"{remote.what}: cannot be written to {part.folder}"):
        part.resize(remote.size)
        if remote.sealed:
            _reuse(cache, remote, part, missing, progress)
        downloaded = 0
        while missing := _missing(remote, part, wanted):
            once, copies = twins(missing)
            downloaded += _download(remote, part, once, progress)
            part.copy(copies, part.path, progress=progress)
    return Traffic(downloaded=downloaded, reused=max(0, total - downloaded))


def _reuse(
    cache: Cache, remote: Remote, part: Part, missing: Sequence[Chunk], progress: Hook
) -> None:
    """Copy chunks that are elsewhere in the cache, but for small ones between missing ones."""
    if _size(missing) < _LEAST:
        return
    places = _places(cache, remote, missing)
    if not places:
        return
    rest = {chunk for chunk in missing if chunk.digest not in places}
    along = set(bridge(missing, rest))
    copies: dict[Path, list[tuple[Chunk, int]]] = {}
    for chunk in missing:
        if chunk not in along and chunk.digest:
            path, start = places[chunk.digest]
            copies.setdefault(path, []).append((chunk, start))
    for path, some in copies.items():
        part.copy(some, path, progress=progress)


def _places(cache: Cache, remote: Remote, missing: Sequence[Chunk]) -> Mapping[Digest, Place]:
    from hubstate.cache.donors import find_chunks
    from hubstate.cache.siblings import wait_for_siblings

    near, leases = [remote.commit], remote.leases
    found = remote.batch.donors(remote.digest, missing) if remote.batch else None
    if found is None:
        found = find_chunks(cache, missing, near=near)
    return wait_for_siblings(cache, missing, found, near=near, leases=leases)


def _download(remote: Remote, part: Part, chunks: Sequence[Chunk], progress: Hook) -> int:
    part.reserve(union((chunk.start, chunk.stop) for chunk in chunks))
    transfer(
        remote.read,
        chunks,
        part,
        what=remote.what,
        pace=remote.batch.pace(chunks) if remote.batch else None,
        progress=progress,
    )
    return _size(chunks)


def _size(chunks: Iterable[Chunk]) -> int:
    return sum(chunk.size for chunk in chunks)


def _missing(remote: Remote, part: Part, wanted: Sequence[Range]) -> list[Chunk]:
    have = part.covered
    if all(is_covered(range, have) for range in wanted):
        return []
    if not remote.tiles:
        return cut(subtract(wanted, have))
    if remote.sealed and not have and wanted == [(0, remote.size)]:
        return list(remote.tiles)
    absent = [t for t in remote.tiles if not is_covered((t.start, t.stop), have)]
    inside = {t for t in absent if is_covered((t.start, t.stop), wanted)}
    chosen = bridge(absent, inside)
    if remote.sealed:
        return chosen
    return cut(subtract(((chunk.start, chunk.stop) for chunk in chosen), have))


def _finish(folder: Path, remote: Remote, part: Part) -> Path:
    digest = remote.digest if remote.sealed else hash_file(part.path)
    if digest is None or remote.digest not in (None, digest):
        raise DigestMismatch(f"{remote.what}: expected {remote.digest}, found {digest}")
    path = Blobs(folder).path(digest)
    status = part.move(path, durable=remote.batch is None)
    write_receipt(folder, folder, digest, status=status, seal=remote.seal)
    partials = Partials(folder, remote.key)
    partials.supersede(path, None, digest=digest)
    discard_runs(partials.folder)  # of whoever was killed meanwhile, or was still on its way out
    return path
