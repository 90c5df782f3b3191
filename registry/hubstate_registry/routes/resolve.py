"""The bytes of a file at a revision: whole, in ranges, or by nginx."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from starlette.responses import FileResponse, Response, StreamingResponse

from hubstate_registry.context import Call
from hubstate_registry.dispatch import Rule
from hubstate_registry.errors import EntryNotFound
from hubstate_registry.ranges import parse_range
from hubstate_registry.storage.blobs import Blob
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.repositories import Repository
from hubstate_registry.storage.trees import Entry

__all__ = ["RULES"]

_TYPES = {".json": "application/json", ".md": "text/plain", ".txt": "text/plain"}


class Whole(FileResponse):
    """Starlette's own file response, in larger steps."""

    chunk_size = 1 << 20
    repeats = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A file, what is said of it, and where its bytes are if it is large."""

    entry: Entry
    headers: Mapping[str, str]
    blob: Blob | None


def resolve(call: Call) -> Response:
    """A file; HEAD answers from the database alone."""
    path, method = call.params["path"], call.scope["method"]
    with call.read() as connection:
        repository = call.repository(connection)
        call.need_files(repository)
        commit = call.commit(connection, repository)
        key = (repository.number, commit, path, call.base)
        found = call.known(
            ("file", *key), lambda: _find(call, connection, repository, commit=commit)
        )
    if call.header(b"if-none-match") == found.headers["ETag"]:
        return Response(status_code=304, headers=found.headers)
    return call.again((method, *key), lambda: _answer(call, found))


def _find(call: Call, connection: Connection, repository: Repository, *, commit: str) -> _Found:
    path = call.params["path"]
    entry = call.tree(connection, repository, commit=commit).get(path)
    if entry is None:
        missing = f"{path} does not exist on {call.params['revision']}"
        raise EntryNotFound(missing, commit=commit)
    # where the bytes of a large file are; those of a small one are always in a file
    blob = call.blobs(connection, [entry.sha256]).get(entry.sha256) if entry.large else None
    headers = _headers(entry, commit=commit)
    if blob is not None:
        for extension in call.registry.extensions.values():
            headers |= extension.resolve_headers(call, repository, commit=commit, blob=blob)
    return _Found(entry=entry, headers=headers, blob=blob)


def _answer(call: Call, found: _Found) -> Response:
    if call.scope["method"] == "HEAD":
        return Response(headers={**found.headers, "Content-Length": str(found.entry.size)})
    if found.blob is not None and found.blob.stored != "file":
        return _elsewhere(call, found.blob, headers=found.headers)
    return _file(call, found.entry, headers=found.headers)


def _headers(entry: Entry, *, commit: str) -> dict[str, str]:
    name = entry.path.rpartition("/")[2]
    headers = {
        "X-Repo-Commit": commit,
        "ETag": f'"{entry.etag}"',
        "Accept-Ranges": "bytes",
        "Content-Type": _TYPES.get(name[name.rfind(".") :].lower(), "application/octet-stream"),
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(name, safe='')}",
        # What a stranger uploaded must not run in a browser as a page of this server.
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    if entry.large:
        headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
    return headers


def _file(call: Call, entry: Entry, *, headers: Mapping[str, str]) -> Response:
    path = call.storage.files.path(entry.sha256)
    prefix = call.registry.settings.accel_prefix
    if prefix is not None:
        inner = path.relative_to(call.storage.root).as_posix()
        return Response(headers={**headers, "X-Accel-Redirect": f"{prefix.rstrip('/')}/{inner}"})
    return Whole(path, headers=headers, media_type=headers["Content-Type"], stat_result=path.stat())


def _elsewhere(call: Call, blob: Blob, *, headers: Mapping[str, str]) -> Response:
    """Bytes that only an extension can read."""
    source = call.registry.extensions[blob.stored]
    text, if_range = call.header(b"range"), call.header(b"if-range")
    wanted = parse_range(text, blob.size) if if_range in (None, headers["ETag"]) else None
    start, stop = wanted or (0, blob.size)
    sized = {**headers, "Content-Length": str(stop - start)}
    if wanted:
        sized["Content-Range"] = f"bytes {start}-{stop - 1}/{blob.size}"
    content: Iterator[bytes] = source.read(blob, start=start, stop=stop)
    return StreamingResponse(content, status_code=206 if wanted else 200, headers=sized)


RULES = [
    Rule(method="GET", pattern="/{repo}/resolve/{revision}/{path}", handler=resolve, kept=True)
]
