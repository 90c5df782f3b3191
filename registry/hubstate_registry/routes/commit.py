"""Commits: which way each file should come, and the commit itself."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile

import anyio.to_thread
from starlette.responses import JSONResponse, Response

from hubstate_registry.advice import is_large
from hubstate_registry.auth import Role
from hubstate_registry.cards import InvalidCard, parse_card, tags_of
from hubstate_registry.context import Call
from hubstate_registry.dispatch import Rule, parse_json
from hubstate_registry.errors import BadRequest, ContentMismatch, TooLarge, Unauthorized
from hubstate_registry.gitignore import Ignore
from hubstate_registry.names import parse_digest, parse_path, parse_text
from hubstate_registry.reach import take_hold
from hubstate_registry.routes import render
from hubstate_registry.settings import Limits
from hubstate_registry.spooling import spool
from hubstate_registry.storage import accounts, blobs, commits, repositories
from hubstate_registry.storage.blobs import Landed
from hubstate_registry.storage.commits import Change, Removal
from hubstate_registry.storage.database import Connection
from hubstate_registry.storage.repositories import Repository
from hubstate_registry.storage.trees import Entry, Tree, large_entry, small_entry

__all__ = ["RULES"]

_CARD_BYTES = 4 << 20
_PREUPLOAD_FILES = 1000


@dataclass(slots=True, kw_only=True)
class Draft:
    """A commit body as far as it has been read."""

    header: Mapping[str, object] | None = None
    changes: list[Change | LargeFile] = field(default_factory=list)
    landed: dict[str, Landed] = field(default_factory=dict)
    card: bytes | None = None
    lines: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeFile:
    """A file whose bytes came, or will be found, another way; a copy names no size."""

    path: str
    sha256: str
    size: int | None


def preupload(call: Call) -> Response:
    """For each file: inside the commit or by LFS/Xet, ignored or not, and what is there now."""
    files = call.fields().get("files")
    if not isinstance(files, list) or len(files) > _PREUPLOAD_FILES:
        raise BadRequest(f"files is a list of at most {_PREUPLOAD_FILES} files")
    _no_pull_request(call)
    with call.read() as connection:
        repository = call.repository(connection, role=Role.WRITE)
        commit = call.commit(connection, repository)
        tree = call.tree(connection, repository, commit=commit)
    ignore = _ignore(call, tree)
    limits = call.registry.settings.limits
    return JSONResponse({"files": [_advice(f, tree, ignore=ignore, limits=limits) for f in files]})


async def commit(call: Call) -> Response:
    """Receive all operations; then commit all of them or none."""
    _no_pull_request(call)
    await anyio.to_thread.run_sync(_check_access, call)
    body = call.stream(call.registry.settings.limits.commit_bytes)
    file = await spool(body, folder=call.storage.files.uploads)
    id = await anyio.to_thread.run_sync(_take, call, file)
    call.registry.metrics.commits += 1
    url = call.url(f"/{call.params['repo']}/commit/{id}")
    return JSONResponse({"success": True, "commitOid": id, "commitUrl": url})


def _check_access(call: Call) -> None:
    with call.read() as connection:
        call.repository(connection, role=Role.WRITE)


def _take(call: Call, file: SpooledTemporaryFile[bytes]) -> str:
    draft = Draft()
    with file, ExitStack() as stack:
        file.seek(0)
        for line in _lines(file, call.registry.settings.limits):
            _read_line(call, draft, line, stack)
        return _store(call, draft)


def _lines(file: SpooledTemporaryFile[bytes], limits: Limits) -> Iterator[bytes]:
    longest = limits.inline_bytes * 4 // 3 + 65536
    while line := file.readline(longest + 1):
        if len(line) > longest:
            raise TooLarge(
                f"one file inside a commit may have {limits.inline_bytes} bytes; use LFS"
            )
        yield line


def _read_line(call: Call, draft: Draft, line: bytes, stack: ExitStack) -> None:
    draft.lines += 1
    if draft.lines > call.registry.settings.limits.commit_operations:
        raise TooLarge("the commit has too many operations")
    if not line.strip():
        return
    item = parse_json(line)
    value = item.get("value") if isinstance(item, dict) else None
    if not isinstance(item, dict) or not isinstance(value, dict):
        raise BadRequest(f"line {draft.lines} of the commit is not an object with key and value")
    key = item.get("key")
    if (key == "header") != (draft.header is None):
        raise BadRequest("the first line of a commit, and no other, is its header")
    if key == "header":
        draft.header = value
    elif key == "file":
        _read_file(call, draft, value, stack)
    elif key == "lfsFile":
        draft.changes.append(_large(value))
    elif key in ("deletedFile", "deletedFolder"):
        path = (
            str(value.get("path")).removesuffix("/")
            if key == "deletedFolder"
            else value.get("path")
        )
        draft.changes.append(Removal(path=parse_path(path), folder=key == "deletedFolder"))
    else:
        raise BadRequest(f"line {draft.lines} of the commit has an unknown key")


def _read_file(call: Call, draft: Draft, value: Mapping[str, object], stack: ExitStack) -> None:
    path = parse_path(value.get("path"))
    content = _content(value)
    if len(content) > call.registry.settings.limits.inline_bytes:
        raise TooLarge(f"{path} is too large for a commit body; upload it by LFS")
    entry = small_entry(path, content)
    draft.changes.append(entry)
    if path == "README.md":
        draft.card = content[:_CARD_BYTES]
    if entry.sha256 not in draft.landed:
        incoming = stack.enter_context(call.storage.files.incoming())
        incoming.write(content)
        draft.landed[entry.sha256] = incoming.land()


def _content(value: Mapping[str, object]) -> bytes:
    content, encoding = value.get("content"), value.get("encoding", "utf-8")
    if not isinstance(content, str) or encoding not in ("base64", "utf-8"):
        raise BadRequest("a file has content, as base64 or utf-8")
    try:
        return (
            base64.b64decode(content, validate=True) if encoding == "base64" else content.encode()
        )
    except (ValueError, binascii.Error) as error:
        raise BadRequest("a file's content is not what its encoding says") from error


def _large(value: Mapping[str, object]) -> LargeFile:
    size = value.get("size")
    if value.get("algo", "sha256") != "sha256" or not isinstance(size, int | None):
        raise BadRequest("an lfsFile has algo sha256 and a size in bytes")
    sha256 = parse_digest(value.get("oid"))
    return LargeFile(path=parse_path(value.get("path")), sha256=sha256, size=size)


def _store(call: Call, draft: Draft) -> str:
    if draft.header is None:
        raise BadRequest("the commit has no header")
    header = draft.header
    title = parse_text(header.get("summary") or "Update", what="summary", limit=2000)
    message = parse_text(header.get("description") or "", what="description")
    parent = header.get("parentCommit")
    if parent is not None:
        parent = parse_text(parent, what="parentCommit", limit=40)
    with call.write() as connection:
        _recall(connection, call)
        repository = call.repository(connection, role=Role.WRITE)
        for landed in draft.landed.values():
            call.storage.files.place(landed)
            blobs.record(connection, landed.sha256, size=landed.size)
            blobs.hold(connection, repository.number, sha256=landed.sha256)
        branch = call.params["revision"].removeprefix("refs/heads/")
        id, tree = commits.append(
            connection,
            repository,
            branch=branch,
            changes=[_change(connection, call, repository, c) for c in draft.changes],
            title=title,
            message=message,
            parent=parent,
            actor=call.actor,
            limit=call.registry.settings.limits.files,
        )
        if branch == "main":
            _update_card(connection, repository, draft=draft, tree=tree)
    return id


def _recall(connection: Connection, call: Call) -> None:
    """Who is calling, as of now: a body may take so long that its token is revoked meanwhile."""
    caller = accounts.recall(connection, call.principal.token)
    if caller is None:
        raise Unauthorized("The token was revoked, or has expired, while the commit arrived")
    call.principal = caller


def _change(
    connection: Connection, call: Call, repository: Repository, change: Change | LargeFile
) -> Change:
    if not isinstance(change, LargeFile):
        return change
    blob = take_hold(connection, call, repository=repository, sha256=change.sha256)
    if blob is None:
        raise BadRequest(f"the content of {change.path}, sha256:{change.sha256}, was not uploaded")
    if change.size not in (None, blob.size):
        raise ContentMismatch(f"{change.path}: expected {change.size} bytes, found {blob.size}")
    return large_entry(change.path, sha256=blob.sha256, size=blob.size)


def _update_card(
    connection: Connection, repository: Repository, *, draft: Draft, tree: Tree
) -> None:
    """Keep the search in step with main's README.md."""
    if "README.md" in tree and draft.card is None:
        return
    try:
        card = parse_card((draft.card or b"").decode("utf-8", "replace"))
    except InvalidCard:
        card = {}  # the file is kept as it is; only the search knows nothing of it
    if card != repository.card:
        repositories.set_card(connection, repository, card=card, tags=tags_of(card))


def _advice(file: object, tree: Tree, *, ignore: Ignore, limits: Limits) -> dict[str, object]:
    fields = file if isinstance(file, dict) else {}
    path, size = parse_path(fields.get("path")), fields.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise BadRequest(f"{path}: size is a number of bytes")
    if size > limits.object_bytes:
        raise TooLarge(f"{path}: a file may have {limits.object_bytes} bytes")
    large = is_large(path, size, limits=limits)
    known: Entry | None = tree.get(path)
    row: dict[str, object] = {
        "path": path,
        "uploadMode": "lfs" if large else "regular",
        "shouldIgnore": ignore.matches(path),
    }
    if known is not None and known.large == large:
        row["oid"] = known.etag
    return row


def _ignore(call: Call, tree: Tree) -> Ignore:
    given = call.fields().get("gitIgnore")
    if given is not None:
        return Ignore(parse_text(given, what="gitIgnore"))
    entry = tree.get(".gitignore")
    if entry is None or entry.large or entry.size > 65536:
        return Ignore("")
    return Ignore(call.storage.files.path(entry.sha256).read_text("utf-8", "replace"))


def _no_pull_request(call: Call) -> None:
    if render.flag(call.query.get("create_pr")):
        raise BadRequest("This registry has no pull requests; commit to a branch instead")


RULES = [
    Rule(
        method="POST",
        pattern="/api/models/{repo}/preupload/{revision}",
        handler=preupload,
        body="json",
    ),
    Rule(
        method="POST",
        pattern="/api/models/{repo}/commit/{revision}",
        handler=commit,
        waits=True,
    ),
]
