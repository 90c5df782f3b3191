"""What the Xet routes do, without any HTTP: receive, register, answer, plan and read.

Nothing is stored before it was checked: a xorb chunk by chunk while it arrives, a file against
the chunks of its xorbs and then, read back whole, against its sha256.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, closing
from itertools import takewhile

from sqlalchemy.exc import IntegrityError

from hubstate_registry.storage import Storage
from hubstate_registry.storage import xet as tables
from hubstate_registry.storage.blobs import is_held
from hubstate_registry.storage.xet import XorbFolder
from hubstate_registry.xet import files, shard
from hubstate_registry.xet.access import Grant
from hubstate_registry.xet.arrival import Arrival
from hubstate_registry.xet.digests import Beginnings, Hashing
from hubstate_registry.xet.errors import OutOfRange, XetError
from hubstate_registry.xet.files import Plan
from hubstate_registry.xet.hashes import Hash, format_hash
from hubstate_registry.xet.reading import ChunkReader
from hubstate_registry.xet.shard import Shard, ShardFile, ShardXorb, Term
from hubstate_registry.xet.xorb import Xorb

__all__ = ["Xet"]

_MOST_CHUNKS = 4_000_000  # of one shard's files together: 256 GB of chunks of the usual size
_ABSENT = (
    "is not stored here, or not for this token; if the client's cache names it (HF_XET_CACHE, by "
    "default ~/.cache/huggingface/xet), remove that and upload again"
)
_ANSWER_SECONDS = 3600  # how long a client goes by what it was told of a chunk


class Xet:
    """The Xet side of a registry's folder."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.folder = XorbFolder(storage.root)
        self._chunks = ChunkReader(storage.database, self.folder)
        self._beginnings = Beginnings()

    @asynccontextmanager
    async def arriving(self, grant: Grant) -> AsyncIterator[Arrival]:
        """A xorb that arrives within the block; removed unless it got its name."""
        path = self.storage.files.uploads / f"{secrets.token_hex(16)}.tmp"
        async with self._beginnings.growing(_caller(grant)) as growth:
            arrival = Arrival(path, growth)
            try:
                yield arrival
            finally:
                arrival.close()

    def store(self, arrival: Arrival, xorb: Xorb, *, grant: Grant) -> bool:
        """Give a landed xorb its name; whether this user brings it for the first time."""
        with self.storage.database.write() as connection:
            return tables.add_xorb(
                connection,
                self.folder,
                xorb,
                landed=arrival.path,
                user=grant.reader.user or "",
            )

    def register(self, data: bytes, *, grant: Grant, object_bytes: int) -> None:
        """Check an uploaded shard, and let the grant's repository hold its files.

        Raises:
            XetError: it is broken, false, or over a limit; or it builds on chunks that the
                caller may not use, for whom they are the same as chunks that are not there.
        """
        self._beginnings.end(_caller(grant))
        told = shard.parse(data)
        _check_limits(told, object_bytes)
        for stated in told.xorbs:
            self._check_xorb(stated, grant=grant)
        for file in told.files:
            if file.terms:  # an empty file needs no content, and the client states no hash for it
                self._register(file, grant=grant)

    def answer(self, chunk: Hash, *, grant: Grant) -> bytes | None:
        """What to tell somebody who has this chunk: a shard, or nothing."""
        with self.storage.database.read() as connection:
            related = tables.find_related(connection, chunk, reader=grant.reader)
            if not related:
                return None
            runs = tables.find_runs(connection, related, reader=grant.reader)
            known = tables.load_xorbs(connection, runs)
            old = tables.find_old(connection, runs, older=_ANSWER_SECONDS)
        if not any(chunk == known[x].chunks[at].hash for x in runs for r in runs[x] for at in r):
            return None
        if old:  # what is named now must outlive the upload that builds on it
            with self.storage.database.write() as connection:
                tables.keep(connection, old)
        described = [shard.describe_xorb(known[xorb], visible=runs[xorb]) for xorb in sorted(runs)]
        now = int(time.time())
        told = Shard(files=(), xorbs=tuple(described))
        return shard.write(told, created=now, expires=now + _ANSWER_SECONDS)

    def plan(
        self, file: Hash, *, grant: Grant, start: int = 0, stop: int | None = None
    ) -> Plan | None:
        """How to put together a range of a file; None if the repository has no such file.

        Raises:
            OutOfRange: the file has no such range.
        """
        with self.storage.database.read() as connection:
            sha256 = tables.find_file(connection, file)
            if sha256 is None or not is_held(connection, grant.repository, sha256=sha256):
                return None
            terms = tables.find_terms(connection, file=file)
            size = sum(term.size for term in terms)
            stop = size if stop is None else min(stop, size)
            kept, begins = files.select(terms, start=start, stop=stop)
            known = tables.load_xorbs(connection, (term.xorb for term in kept))
        if not kept:
            raise OutOfRange(f"no bytes {start} to {stop} in a file of {size}", where="range")
        return files.plan(kept, known, start=start - begins, stop=stop - begins)

    def read(
        self, sha256: str, *, start: int = 0, stop: int | None = None
    ) -> Iterator[bytes | memoryview]:
        """The bytes of a file that came by Xet, for plain readers, a chunk at a time.

        Each chunk is checked; memory holds one chunk and the index of one xorb.

        Raises:
            XetError: the file is not stored this way, or its bytes are damaged.
        """
        with self.storage.database.read() as connection:
            terms = tables.find_terms(connection, sha256=sha256)
        if not terms:
            raise XetError("no terms are stored", where=f"sha256:{sha256}")
        yield from self._chunks.read(terms, start=start, stop=stop)

    def _register(self, file: ShardFile, *, grant: Grant) -> None:
        known = self._load_usable(file, grant=grant)
        files.check_file(file, known)
        with self.storage.database.read() as connection:
            sha256 = tables.find_file(connection, file.hash)
        sha256 = sha256 or self._hash(file, known)
        if file.sha256 not in (None, sha256):
            where = f"shard, file {format_hash(file.hash)}"
            raise XetError(f"states sha256 {file.sha256}, its content has {sha256}", where=where)
        try:
            with self.storage.database.write() as connection:
                tables.add_file(
                    connection,
                    file,
                    sha256=sha256,
                    repository=grant.repository,
                    first=known[file.terms[0].xorb],
                )
        except IntegrityError as error:  # swept, or the repository deleted, since it was checked
            raise XetError("what it builds on is gone; upload again", where="shard") from error

    def _check_xorb(self, stated: ShardXorb, *, grant: Grant) -> None:
        with self.storage.database.read() as connection:
            usable = tables.find_runs(connection, [stated.hash], reader=grant.reader)
            known = tables.load_xorbs(connection, usable)
        xorb = known.get(stated.hash)
        whole = xorb is not None and usable[stated.hash] == [range(len(xorb.chunks))]
        files.check_xorb(stated, xorb if whole else None)

    def _load_usable(self, file: ShardFile, *, grant: Grant) -> Mapping[Hash, Xorb]:
        """The xorbs of a file, of which the caller may use every run that the file needs."""
        hashes = {term.xorb for term in file.terms}
        with self.storage.database.read() as connection:
            usable = tables.find_runs(connection, hashes, reader=grant.reader)
            known = tables.load_xorbs(connection, usable)
        for at, term in enumerate(file.terms):
            runs = usable.get(term.xorb, [])
            if not any(run.start <= term.start and term.stop <= run.stop for run in runs):
                where = f"shard, file {format_hash(file.hash)}, term {at}"
                raise XetError(f"xorb {format_hash(term.xorb)} {_ABSENT}", where=where)
        return known

    def _hash(self, file: ShardFile, xorbs: Mapping[Hash, Xorb]) -> str:
        """The sha256 of a file, from where it was hashed as it arrived."""
        whole = [term.xorb for term in takewhile(lambda term: _is_whole(term, xorbs), file.terms)]
        count, state = self._beginnings.find(whole)
        if count < len(file.terms):
            with closing(Hashing(state)) as hashing:
                for piece in self._chunks.read(file.terms[count:]):
                    hashing.take(piece)
                state = hashing.finish()
        return str(state.hexdigest())


def _is_whole(term: Term, xorbs: Mapping[Hash, Xorb]) -> bool:
    return term.start == 0 and term.stop == len(xorbs[term.xorb].chunks)


def _caller(grant: Grant) -> tuple[str | None, int]:
    return grant.reader.user, grant.repository


def _check_limits(told: Shard, object_bytes: int) -> None:
    chunks = sum(term.stop - term.start for file in told.files for term in file.terms)
    if chunks > _MOST_CHUNKS:
        raise XetError(f"{chunks} chunks, at most {_MOST_CHUNKS} are read", where="shard")
    for file in told.files:
        if file.size > object_bytes:
            where = f"shard, file {format_hash(file.hash)}"
            raise XetError(f"{file.size} bytes, at most {object_bytes} are stored", where=where)
