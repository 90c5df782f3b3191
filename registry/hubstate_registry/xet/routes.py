"""The Xet routes: tokens beside the repositories, and the store of chunks below ``/xet``.

::

    GET   /api/models/{repo}/xet-write-token/{revision}    where to go, and a token for it
    GET   /api/models/{repo}/xet-read-token/{revision}
    GET   /xet/v1/chunks/{prefix}/{hash}         what is known around a chunk: a shard, or 404
    POST  /xet/v1/xorbs/{prefix}/{hash}          a xorb
    POST  /xet/v2/shards                         files over xorbs; says when it takes long
    POST  /xet/v1/shards                         the same, for older clients
    GET   /xet/v1/reconstructions/{hash}         how to put a file, or a range of it, together
    GET   /xet/v2/reconstructions/{hash}
    GET   /xet/reconstruction[s]/{hash}          version 1, as hf-xet before 1.3 asks for it
    GET   /xet/fetch?claim=…                     bytes of a xorb; the address is its own permit,
                                                 in the query, which no log has

Not served, and clients go on without: ``/v1/xorb-grants`` (uploads straight to an object store)
and ``/v1/telemetry``.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from anyio import CapacityLimiter, open_file, to_thread
from starlette.responses import JSONResponse, Response, StreamingResponse

from hubstate_registry.auth import Role
from hubstate_registry.bodies import hand_on
from hubstate_registry.context import Call
from hubstate_registry.dispatch import Rule
from hubstate_registry.errors import BadRequest, Forbidden, RegistryError, Unauthorized
from hubstate_registry.spooling import spool
from hubstate_registry.storage import Storage
from hubstate_registry.storage.blobs import Blob
from hubstate_registry.storage.repositories import Repository
from hubstate_registry.xet import access
from hubstate_registry.xet.access import Grant
from hubstate_registry.xet.copies import Copies
from hubstate_registry.xet.errors import OutOfRange, XetError
from hubstate_registry.xet.files import Fetch
from hubstate_registry.xet.hashes import Hash, parse_hash
from hubstate_registry.xet.reading import join_pieces
from hubstate_registry.xet.service import Xet
from hubstate_registry.xet.shard import MAX_SHARD
from hubstate_registry.xet.xorb import MAX_STORED

__all__ = ["XetExtension"]

_PREFIXES = ("default", "default-merkledb")  # the documents say the one, clients the other
_BLOCK = 1 << 20
_CHECKS = 8  # shards at once
_LARGE = 8 << 20  # bytes of a shard, of which only one is checked at a time: it takes five as many
_PATIENCE = 5.0  # seconds; a gigabyte is checked in about two
_RANGE = re.compile(r"bytes=(\d{1,20})-(\d{1,20})")


class NotStored(RegistryError):
    """A chunk, xorb or file that is not here, or not for this caller."""

    status = 404


class BadRange(RegistryError):
    """A range that the file does not have."""

    status = 416


class XetExtension:
    """Xet, as the registry's application takes it in."""

    name = "xet"

    def __init__(self, storage: Storage, *, copies: bool = False) -> None:
        self.xet = Xet(storage)
        self.copies = Copies(storage, self._read_whole) if copies else None
        self._signer = storage.signer
        # Shards take long to check; whatever else wants a thread must not wait for them.
        self._checks, self._large_checks = CapacityLimiter(_CHECKS), CapacityLimiter(1)

    def rules(self) -> Sequence[Rule]:
        """The routes of the list above."""
        write, read = (partial(self._token, role=role) for role in (Role.WRITE, Role.READ))
        plans = [partial(self._reconstruct, version=version) for version in (1, 2)]
        models = "/api/models/{repo}"
        return [
            Rule(method="GET", pattern=models + "/xet-write-token/{path}", handler=write),
            Rule(method="GET", pattern=models + "/xet-read-token/{path}", handler=read),
            _open("GET", "/xet/v1/chunks/{prefix}/{hash}", self._dedup),
            _upload("/xet/v1/xorbs/{prefix}/{hash}", self._upload_xorb),
            _upload("/xet/v1/shards", partial(self._upload_shard, version=1)),
            _upload("/xet/v2/shards", partial(self._upload_shard, version=2)),
            _open("GET", "/xet/v1/reconstructions/{hash}", plans[0]),
            _open("GET", "/xet/reconstructions/{hash}", plans[0]),
            _open("GET", "/xet/reconstruction/{hash}", plans[0]),
            _open("GET", "/xet/v2/reconstructions/{hash}", plans[1]),
            _open("GET", "/xet/fetch", self._fetch),
        ]

    def resolve_headers(
        self, call: Call, repository: Repository, *, commit: str, blob: Blob
    ) -> Mapping[str, str]:
        """Headers that send a download the Xet way, for a file that came that way."""
        if blob.xet is None:
            return {}
        address = call.url(f"/api/models/{repository.id}/xet-read-token/{commit}")
        return {"X-Xet-Hash": blob.xet, "Link": f'<{address}>; rel="xet-auth"'}

    def read(self, blob: Blob, *, start: int, stop: int) -> Iterator[bytes]:
        """A byte range of a file that came by Xet, for a plain reader."""
        # a block is one change of threads
        yield from join_pieces(self.xet.read(blob.sha256, start=start, stop=stop), size=_BLOCK)
        if self.copies is not None:  # only now: two at once would keep this reader waiting
            self.copies.note(blob, stop - start)

    def _read_whole(self, sha256: str) -> Iterator[bytes]:
        return join_pieces(self.xet.read(sha256), size=_BLOCK)

    def close(self) -> None:
        """Leave off what runs in the background."""
        if self.copies is not None:
            self.copies.close()

    def _token(self, call: Call, *, role: Role) -> Response:
        with call.read() as connection:
            repository = call.repository(connection, role=role)
        call.need_files(repository)
        token = access.issue(self._signer, call.principal, repository=repository, role=role)
        url, expires = call.url("/xet"), int(time.time()) + access.SECONDS
        headers = {
            "X-Xet-Cas-Url": url,
            "X-Xet-Access-Token": token,
            "X-Xet-Token-Expiration": str(expires),
            "Cache-Control": "no-store",
        }
        return JSONResponse({"casUrl": url, "accessToken": token, "exp": expires}, headers=headers)

    def _dedup(self, call: Call) -> Response:
        chunk = _name(call)
        told = self.xet.answer(chunk, grant=self._admit(call, role=Role.READ))
        if told is None:
            raise NotStored("No chunk of that hash is stored, or none that your token may know of")
        return Response(told, media_type="application/octet-stream")

    async def _upload_xorb(self, call: Call) -> Response:
        name = _name(call)
        grant = await to_thread.run_sync(partial(self._admit, call, role=Role.WRITE))
        async with self.xet.arriving(grant) as arrival:
            await hand_on(call.stream(MAX_STORED), arrival.write)
            xorb = await to_thread.run_sync(arrival.land, name)
            store = partial(self.xet.store, arrival, xorb, grant=grant)
            return JSONResponse({"was_inserted": await to_thread.run_sync(store)})

    async def _upload_shard(self, call: Call, *, version: int) -> Response:
        grant = await to_thread.run_sync(partial(self._admit, call, role=Role.WRITE))
        shard = await spool(call.stream(MAX_SHARD), folder=self.xet.storage.files.uploads)
        limiter = self._checks if shard.tell() <= _LARGE else self._large_checks
        limit = call.registry.settings.limits.object_bytes

        def register() -> None:
            with shard:
                shard.seek(0)
                data = shard.read()
            self.xet.register(data, grant=grant, object_bytes=limit)

        if version == 1:
            await to_thread.run_sync(register, limiter=limiter)
            return JSONResponse({"result": 1})
        task = asyncio.create_task(to_thread.run_sync(register, limiter=limiter))
        return StreamingResponse(_report(task), media_type="application/x-ndjson")

    def _reconstruct(self, call: Call, *, version: int) -> Response:
        name = _name(call)
        grant = self._admit(call, role=Role.READ)
        start, stop = _parse_range(call) or (0, None)
        plan = self.xet.plan(name, grant=grant, start=start, stop=stop)
        if plan is None:
            raise NotStored("No file of that hash is stored in this repository")

        def locate(xorb: Hash, fetch: Fetch) -> str:
            return call.url(f"/xet/fetch?claim={access.sign_fetch(self._signer, xorb, fetch)}")

        return JSONResponse(plan.to_v1(locate) if version == 1 else plan.to_v2(locate))

    def _fetch(self, call: Call) -> Response:
        xorb, allowed = access.verify_fetch(self._signer, call.query.get("claim", ""))
        asked = _parse_range(call)
        if asked is None or not allowed.start <= asked[0] < asked[1] <= allowed.stop:
            raise Forbidden(f"This address is for bytes {allowed.start} to {allowed.stop - 1}")
        path = self.xet.folder.path(xorb)
        try:
            size = path.stat().st_size
        except FileNotFoundError as error:
            raise NotStored("That xorb is not stored any more") from error
        start, stop = asked
        headers = {
            "Content-Length": str(stop - start),
            "Content-Range": f"bytes {start}-{stop - 1}/{size}",
        }
        return StreamingResponse(
            _pread(path, start=start, stop=stop),
            status_code=206,
            headers=headers,
            media_type="application/octet-stream",
        )

    def _admit(self, call: Call, *, role: Role) -> Grant:
        scheme, _, token = call.request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized("A Xet token is needed")
        with call.read() as connection:
            return access.admit(connection, self._signer, token=token.strip(), role=role)


def _open(method: str, pattern: str, handler: Callable[[Call], Response]) -> Rule:
    """A route that looks at its own token, and that answers what is broken with 400."""

    def answer(call: Call) -> Response:
        with _refusals():
            return handler(call)

    return Rule(method=method, pattern=pattern, handler=answer, open=True)


def _upload(pattern: str, handler: Callable[[Call], Awaitable[Response]]) -> Rule:
    """The same, for a body that is read as it arrives."""

    async def answer(call: Call) -> Response:
        with _refusals():
            return await handler(call)

    return Rule(method="POST", pattern=pattern, handler=answer, waits=True, open=True)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except OutOfRange as error:
        raise BadRange(str(error)) from error
    except XetError as error:
        raise BadRequest(str(error)) from error


def _name(call: Call) -> Hash:
    prefix = call.params.get("prefix", _PREFIXES[0])
    if prefix not in _PREFIXES:
        raise BadRequest(f"the prefix is {_PREFIXES[0]!r}, not {prefix[:80]!r}")
    return parse_hash(call.params["hash"])


def _parse_range(call: Call) -> tuple[int, int] | None:
    """The one range that a client asks for, as start and end."""
    text = call.request.headers.get("range")
    if text is None:
        return None
    found = _RANGE.fullmatch(text.strip())
    if found is None:
        raise BadRange(f"expected one range such as bytes=0-99, found {text[:80]!r}")
    return int(found[1]), int(found[2]) + 1


async def _report(task: asyncio.Task[None]) -> AsyncIterator[bytes]:
    """A line now and then while a shard is checked, so that no proxy gives up; then the end.

    A refusal is the last line, not a status: the stock client shows its user that line alone.
    """
    while not (await asyncio.wait({task}, timeout=_PATIENCE))[0]:
        yield _line(type="validating", verified=0, total=1)
    try:
        task.result()
        yield _line(type="result")
    except (XetError, RegistryError) as error:
        retryable = isinstance(error, RegistryError) and error.status >= 500
        yield _line(type="error", message=str(error), retryable=retryable)


def _line(**frame: object) -> bytes:
    return json.dumps(frame).encode() + b"\n"


async def _pread(path: Path, *, start: int, stop: int) -> AsyncIterator[bytes]:
    async with await open_file(path, "rb", buffering=0) as file:
        await file.seek(start)
        while start < stop:
            piece = await file.read(min(_BLOCK, stop - start))
            if not piece:
                raise XetError(f"ends at byte {start}", where=f"xorb {path.name}")
            start += len(piece)
            yield piece
