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
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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

__all__ = ["LEAST", "Place", "find_chunks", "find_sharing"]

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
    parts = partial_digests(cache.folders)

    def is_there(digest: Digest) -> bool:
        return digest in parts or _blob(cache, digest) is not None

    for data in _manifests(cache, near, is_there, limit=max(_RECORDS, left // _EACH)):
        read += len(data)
        named = missing.keys() & set(_DIGEST.findall(data))
        if sum(missing[digest] for digest in named) >= LEAST:
            found |= _places(cache, data, {Digest(digest.decode()) for digest in named})
            missing = {d: size for d, size in missing.items() if Digest(d.decode()) not in found}
            left = sum(missing.values())
        if left < LEAST or read > max(_BYTES, left // _SHARE):
            break
    return found


def find_sharing(
    cache: Cache, chunks: Iterable[Chunk], *, near: Sequence[Commit], files: Collection[str]
) -> dict[str, int]:
    """How many bytes of the chunks are in each of some files, of which the cache may have nothing.

    Args:
        cache: whose manifests are searched.
        chunks: whose digests are known.
        near: the commits that they are of; these are not searched.
        files: the digests of the files, in hexadecimal.
    """
    missing = {chunk.digest: chunk.size for chunk in chunks if chunk.digest}
    found: dict[str, int] = {}
    for data in _manifests(cache, near, lambda digest: digest.hex in files, limit=_RECORDS):
        for record in _records(data):
            digests = {digest for tensor in record.tensors for digest in tensor.digests}
            if record.digest.hex in files:
                found[record.digest.hex] = sum(missing[d] for d in digests & missing.keys())
    return found


def _records(data: bytes) -> Sequence[FileRecord]:
    try:
        return parse(data).files
    except InvalidManifest:
        return ()


def _manifests(
    cache: Cache, near: Sequence[Commit], usable: Callable[[Digest], bool], *, limit: int
) -> Iterator[bytes]:
    """Manifests of releases with a usable file; those of like size are likely to share more."""
    seen = {commit.manifest for commit in near}
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
            if any(map(usable, _large(commit))):
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
    found: dict[Digest, Place] = {}
    for record in _records(data):
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
