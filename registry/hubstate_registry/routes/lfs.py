"""Git LFS uploads: the batch, the bytes whole or in parts, the completion, the check.

Bytes travel to addresses that are signed for one object of one repository and need no token:
the stock client sends none there. Such an address is good while the token that asked for it is
good and may write there, which is looked up before a body is read and again when its bytes get
their name. Each answer is given only after the bytes hash to their name and are flushed to disk.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import anyio.to_thread
import sqlalchemy as sa
from starlette.responses import JSONResponse, Response

from hubstate_registry.auth import Role
from hubstate_registry.bodies import declared_length, hand_on, read_body
from hubstate_registry.context import Call
from hubstate_registry.dispatch import Rule, parse_json
from hubstate_registry.errors import (
    BadRequest,
    ContentMismatch,
    Forbidden,
    RepoNotFound,
    TooLarge,
)
from hubstate_registry.names import parse_digest
from hubstate_registry.reach import take_hold
from hubstate_registry.storage import accounts, blobs
from hubstate_registry.storage.blobs import Landed, check_content, full_disk, hash_file
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.parts import taking, writing
from hubstate_registry.storage.schema import repositories

__all__ = ["RULES"]

_OBJECTS = 1000


def batch(call: Call) -> Response:
    """Where to send each object; nowhere, if the caller may name it and it is stored."""
    fields = call.fields()
    objects, transfers = fields.get("objects"), fields.get("transfers", ["basic"])
    if fields.get("operation") != "upload":
        raise BadRequest("LFS is for uploads here; download files from their resolve address")
    if not isinstance(objects, list) or len(objects) > _OBJECTS or not isinstance(transfers, list):
        raise BadRequest(f"objects is a list of at most {_OBJECTS} objects")
    wanted = [_object(call, item) for item in objects]
    multipart = "multipart" in transfers
    with call.write() as connection:
        repository = call.repository(connection, role=Role.WRITE)
        rows = []
        for oid, size in wanted:
            blob = take_hold(connection, call, repository=repository, sha256=oid)
            row: dict[str, object] = {"oid": oid, "size": size, "authenticated": True}
            if blob is not None and blob.size != size:
                row["error"] = {"code": 422, "message": f"{oid} has {blob.size} bytes"}
            elif blob is None:
                claims = {
                    "repository": repository.number,
                    "token": call.principal.token,
                    "oid": oid,
                    "size": size,
                }
                row["actions"] = _actions(call, claims, repo=str(repository.id), parts=multipart)
            rows.append(row)
    big = any(size > call.registry.settings.limits.multipart_bytes for _, size in wanted)
    transfer = "multipart" if multipart and big else "basic"
    media = "application/vnd.git-lfs+json"
    return JSONResponse({"transfer": transfer, "objects": rows}, media_type=media)


async def put_object(call: Call) -> Response:
    """One object as one body."""
    claims = await _claims(call, "lfs-object")
    size = _int(claims, "size")
    _check_length(call, size)
    with call.storage.files.incoming() as incoming:
        await hand_on(call.stream(size), incoming.write)
        landed = await anyio.to_thread.run_sync(
            lambda: incoming.land(sha256=str(claims["oid"]), size=size)
        )
        await anyio.to_thread.run_sync(_keep, call, claims, landed)
    return Response(headers={"ETag": f'"{landed.sha256}"'})


async def put_part(call: Call) -> Response:
    """One part of an object, written where it belongs; sent again, it is written again."""
    claims = await _claims(call, "lfs-part")
    start, size = _int(claims, "start"), _int(claims, "size")
    _check_length(call, size)
    position = start
    with writing(_parts(call, claims)) as descriptor:
        async for block in call.stream(size):
            await anyio.to_thread.run_sync(_write_at, descriptor, block, position)
            position += len(block)
    if position - start != size:
        raise ContentMismatch(f"a part of {size} bytes came with {position - start}")
    return Response(headers={"ETag": f'"{claims["upload"]}-{start}"'})


async def complete(call: Call) -> Response:
    """All parts are there: hash the whole, and give it its name."""
    claims = await _claims(call, "lfs-complete")
    limits = call.registry.settings.limits
    scope, receive = call.request.scope, call.request.receive
    body = parse_json(await read_body(scope, receive, limit=limits.json_bytes, limits=limits))
    parts = body.get("parts") if isinstance(body, dict) else None
    count = -(-_int(claims, "size") // limits.part_bytes)
    if not isinstance(parts, list) or len(parts) != count:
        raise BadRequest(f"this upload has {count} parts, each with partNumber and etag")
    await anyio.to_thread.run_sync(_complete, call, claims)
    return JSONResponse({"success": True})


def verify(call: Call) -> Response:
    """Whether the object is stored, of this size, for this repository."""
    oid, size = _object(call, call.body)
    with call.read() as connection:
        repository = call.repository(connection, role=Role.WRITE)
        blob = blobs.find(connection, oid)
        held = blobs.is_held(connection, repository.number, sha256=oid)
    if blob is None or not held or blob.size != size:
        raise ContentMismatch(f"{oid} with {size} bytes was not uploaded")
    return JSONResponse({"success": True})


def _object(call: Call, item: object) -> tuple[str, int]:
    fields = item if isinstance(item, dict) else {}
    oid, size = parse_digest(fields.get("oid")), fields.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise BadRequest(f"{oid}: size is a number of bytes")
    limit = call.registry.settings.limits.object_bytes
    if size > limit:
        raise TooLarge(f"{oid}: a file may have {limit} bytes")
    return oid, size


def _actions(
    call: Call, claims: Mapping[str, object], *, repo: str, parts: bool
) -> dict[str, object]:
    limits = call.registry.settings.limits
    check = {"href": call.url(f"/{repo}.git/info/lfs/objects/verify")}
    if parts and _int(claims, "size") > limits.multipart_bytes:
        upload = _multipart(call, claims)
    else:
        upload = {"href": _signed(call, "lfs-object", claims)}
    return {"upload": upload, "verify": check}


def _multipart(call: Call, claims: Mapping[str, object]) -> dict[str, object]:
    """Numbered addresses beside chunk_size, which is how the stock client expects them."""
    whole, step = _int(claims, "size"), call.registry.settings.limits.part_bytes
    upload = {**claims, "upload": secrets.token_hex(16)}
    header = {"chunk_size": str(step)}
    for number, start in enumerate(range(0, whole, step), start=1):
        part = {**upload, "start": start, "size": min(step, whole - start)}
        header[str(number)] = _signed(call, "lfs-part", part)
    return {"href": _signed(call, "lfs-complete", upload), "header": header}


def _signed(call: Call, purpose: str, claims: Mapping[str, object]) -> str:
    seconds = call.registry.settings.limits.upload_seconds
    token = call.storage.signer.sign(purpose, claims, seconds=seconds)
    return call.url(f"/api/{purpose}/{claims['oid']}?signature={token}")


async def _claims(call: Call, purpose: str) -> Mapping[str, object]:
    claims = call.storage.signer.verify(purpose, call.query.get("signature", ""))
    await anyio.to_thread.run_sync(_admit, call, claims)
    return claims


def _admit(call: Call, claims: Mapping[str, object]) -> None:
    with call.read() as connection:
        _check_rights(connection, claims)


def _check_rights(connection: Connection, claims: Mapping[str, object]) -> None:
    """Refuse what its signer may not do any more."""
    where = sa.select(repositories.c.namespace).where(repositories.c.id == claims["repository"])
    namespace = connection.execute(where).scalar_one_or_none()
    if namespace is None:
        raise RepoNotFound("the repository of this upload")
    caller = accounts.recall(connection, claims.get("token"))
    if caller is None or caller.role(namespace) < Role.WRITE:
        raise Forbidden("The token that asked for this address is not good any more")


def _check_length(call: Call, size: int) -> None:
    length = declared_length(call.request.scope)
    if length is not None and length != size:
        raise ContentMismatch(f"expected {size} bytes, the body has {length}; nothing was stored")


def _parts(call: Call, claims: Mapping[str, object]) -> Path:
    return call.storage.files.uploads / f"{claims['upload']}.parts"


def _write_at(descriptor: int, block: bytearray, position: int) -> None:
    view = memoryview(block)
    with full_disk():
        while view:
            written = os.pwrite(descriptor, view, position)
            view, position = view[written:], position + written


def _complete(call: Call, claims: Mapping[str, object]) -> None:
    path, oid = _parts(call, claims), str(claims["oid"])
    try:
        with taking(path) as file:
            found, size = hash_file(file)
            check_content(found, size, sha256=oid, size=_int(claims, "size"))
            with full_disk():
                os.fsync(file.fileno())
            _keep(call, claims, Landed(path=path, sha256=oid, size=size))
    except FileNotFoundError:
        # A retry, beside or after the first: its answer was lost, the upload was not.
        _check_kept(call, claims)


def _keep(call: Call, claims: Mapping[str, object], landed: Landed) -> None:
    with call.write() as connection:
        _check_rights(connection, claims)
        call.storage.files.place(landed)
        blobs.record(connection, landed.sha256, size=landed.size)
        blobs.hold(connection, _int(claims, "repository"), sha256=landed.sha256)


def _check_kept(call: Call, claims: Mapping[str, object]) -> None:
    with call.read() as connection:
        held = blobs.is_held(connection, _int(claims, "repository"), sha256=str(claims["oid"]))
    if not held:
        raise BadRequest("no part of this upload has arrived")


def _int(claims: Mapping[str, object], name: str) -> int:
    value = claims[name]
    assert isinstance(value, int)
    return value


RULES = [
    Rule(
        method="POST",
        pattern="/{repo}.git/info/lfs/objects/batch",
        handler=batch,
        body="json",
    ),
    Rule(
        method="POST",
        pattern="/{repo}.git/info/lfs/objects/verify",
        handler=verify,
        body="json",
    ),
    Rule(
        method="PUT",
        pattern="/api/lfs-object/{oid}",
        handler=put_object,
        waits=True,
        open=True,
    ),
    Rule(method="PUT", pattern="/api/lfs-part/{oid}", handler=put_part, waits=True, open=True),
    Rule(
        method="POST",
        pattern="/api/lfs-complete/{oid}",
        handler=complete,
        waits=True,
        open=True,
    ),
]
