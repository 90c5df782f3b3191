"""The bytes of a file at a revision: whole, in ranges, or by nginx."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import quote

from starlette.responses import FileResponse, Response, StreamingResponse

from hubstate_registry.context import Call
from hubstate_registry.dispatch import Rule
from hubstate_registry.errors import EntryNotFound
from hubstate_registry.ranges import parse_range
from hubstate_registry.storage.blobs import Blob
from hubstate_registry.storage.trees import Entry

__all__ = ["RULES"]

_TYPES = {".json": "application/json", ".md": "text/plain", ".txt": "text/plain"}


class Whole(FileResponse):
    """Starlette's own file response, in larger steps."""

    chunk_size = 1 << 20
    repeats = True


def resolve(call: Call) -> Response:
    """A file; HEAD answers from the database alone."""
    path = call.params["path"]
    with call.read() as connection:
        repository = call.repository(connection)
        call.need_files(repository)
        commit, tree = call.tree(connection, repository)
        entry = tree.get(path)
        if entry is None:
            missing = f"{path} does not exist on {call.params['revision']}"
            raise EntryNotFound(missing, commit=commit)
        # where the bytes of a large file are; those of a small one are always in a file
        blob = call.blobs(connection, [entry.sha256]).get(entry.sha256) if entry.large else None
        headers = _headers(entry, commit=commit)
        if blob is not None:
            for extension in call.registry.extensions.values():
                headers |= extension.resolve_headers(call, repository, commit=commit, blob=blob)
    if call.request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    if call.request.method == "HEAD":
        return Response(headers={**headers, "Content-Length": str(entry.size)})
    if blob is not None and blob.stored != "file":
        return _elsewhere(call, blob, headers=headers)
    return _file(call, entry, headers=headers)


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
    text = call.request.headers.get("range")
    if_range = call.request.headers.get("if-range")
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
