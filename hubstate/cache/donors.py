"""Where else in the cache the bytes of a file are: revisions and fine-tunes share most of them.

::

    missing chunks ─> manifests of the repository, then of others, the likeliest first
                          │ searched as text: does it name any of the digests?
                          ▼
                      blobs, and partial files, of the releases that do ─> path and offset

Nothing is kept for this that could be wrong: what the cache has says itself what is where, and
whoever copies a chunk hashes the copy. The search ends where it would cost more than it can save.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from hubstate.blobs import Blobs
from hubstate.cache.layers import Cache
from hubstate.cache.partials import find_parts, partial_digests
from hubstate.cache.releases import Releases
from hubstate.digest import Digest
from hubstate.endpoints.base import Commit
from hubstate.errors import InvalidManifest
from hubstate.manifest import FileRecord, parse
from hubstate.transport.chunks import Chunk, seal, tile

__all__ = ["LEAST", "Place", "find_chunks"]

Place = tuple[Path, int]
"""A file, and where a chunk begins in it."""

_DIGEST = re.compile(rb'"sha256:([0-9a-f]{64})"')
LEAST = 64 << 10
"""Bytes to be found in one release: next to every model has some zeros."""
_EACH = 256 << 10  # missing bytes, which take as long as one more record of a commit, or longer
_SHARE = 8  # missing bytes, which take longer than searching one byte of a manifest
_RECORDS, _BYTES = 64, 1 << 20  # that are always looked at


def find_chunks(
    cache: Cache, chunks: Iterable[Chunk], *, near: Sequence[Commit]
) -> dict[Digest, Place]:
    """Where chunks are to be had, by their digests; each is to be hashed once it was copied.

    Args:
        cache: all of its folders are searched.
        chunks: whose digests are known.
        near: the commits that they are of; these are not searched.
    """
    missing = {chunk.digest.hex.encode(): chunk.size for chunk in chunks if chunk.digest}
    found: dict[Digest, Place] = {}
    left, read = sum(missing.values()), 0
    for data in _manifests(cache, near, limit=max(_RECORDS, left // _EACH)):
        read += len(data)
        named = missing.keys() & set(_DIGEST.findall(data))
        if sum(missing[digest] for digest in named) >= LEAST:
            found |= _places(cache, data, {Digest(digest.decode()) for digest in named})
            missing = {d: size for d, size in missing.items() if Digest(d.decode()) not in found}
            left = sum(missing.values())
        if left < LEAST or read > max(_BYTES, left // _SHARE):
            break
    return found


def _manifests(cache: Cache, near: Sequence[Commit], *, limit: int) -> Iterator[bytes]:
    """Manifests that the cache has; those of releases of like size are likely to share more."""
    seen, parts = {commit.manifest for commit in near}, partial_digests(cache.folders)
    sizes, several = {commit.size for commit in near}, len(near) > 1
    without = {commit.id for commit in near} if several else set()
    for repo in ("*/*",) if several else (near[0].repo, "*/*"):
        commits = [
            commit
            for folder in cache.folders
            for commit in Releases(folder).newest(limit, repo=repo, without=without)
        ]
        for commit in sorted(commits, key=lambda c: min(abs(c.size - size) for size in sizes)):
            if not commit.manifest or commit.manifest in seen:
                continue
            seen.add(commit.manifest)
            if any(digest in parts or _blob(cache, digest) for digest in _large(commit)):
                yield _read(cache, commit.manifest)


def _large(commit: Commit) -> Iterator[Digest]:
    """The files that may have tensors to be copied."""
    for info in commit.files.values():
        if info.digest and info.digest != commit.manifest and (info.size or 0) >= LEAST:
            yield info.digest


def _blob(cache: Cache, digest: Digest) -> Path | None:
    paths = (Blobs(folder).path(digest) for folder in cache.folders)
    return next((path for path in paths if os.access(path, os.R_OK)), None)


def _read(cache: Cache, digest: Digest) -> bytes:
    try:
        path = _blob(cache, digest)
        return path.read_bytes() if path else b""
    except OSError:
        return b""


def _places(cache: Cache, data: bytes, wanted: Collection[Digest]) -> dict[Digest, Place]:
    try:
        records = parse(data).files
    except InvalidManifest:
        return {}
    found: dict[Digest, Place] = {}
    for record in records:
        for path, chunks in _copies(cache, record):
            for chunk in chunks:
                if chunk.digest and chunk.digest in wanted:
                    found.setdefault(chunk.digest, (path, chunk.start))
    return found


def _copies(cache: Cache, record: FileRecord) -> Iterator[tuple[Path, Sequence[Chunk]]]:
    """Files in the cache with something of one that a manifest describes."""
    tiles = tile(record)
    if tiles is None:
        return
    if path := _blob(cache, record.digest):
        yield path, tiles
    else:
        yield from find_parts(cache.folders, seal(tiles).hex)
