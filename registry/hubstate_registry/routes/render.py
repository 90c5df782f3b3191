"""Values as the hub spells them in JSON."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from starlette.responses import JSONResponse, Response

from hubstate_registry.cards import tags_of
from hubstate_registry.context import Call
from hubstate_registry.errors import BadRequest
from hubstate_registry.storage.commits import Commit
from hubstate_registry.storage.repositories import Repository
from hubstate_registry.storage.trees import Entry, Tree, pointer

__all__ = [
    "answer",
    "cursor",
    "date",
    "file_row",
    "flag",
    "link",
    "model",
    "page",
    "read_cursor",
    "sibling",
]


_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
).encode


class Json(JSONResponse):
    """An answer in JSON, which can be given again; by one encoder for all."""

    repeats = True

    def render(self, content: object) -> bytes:
        """The body."""
        return _encode(content).encode()


class Page(Json):
    """A part of a list, which says how this very caller asks for the next."""

    repeats = False


def answer(content: object, *, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON."""
    return Json(content, headers=headers)


def page(
    call: Call,
    rows: Sequence[object],
    *,
    after: str | None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A list, or a part of one that goes on ``after`` a place."""
    if after is None:
        return answer(rows, headers=headers)
    return Page(rows, headers={**(headers or {}), **link(call, after)})


def link(call: Call, after: str) -> Mapping[str, str]:
    """The header with the address of the page after a place."""
    return {"Link": f'<{call.page_url(cursor=cursor(after))}>; rel="next"'}


def date(seconds: float) -> str:
    """ISO 8601 in UTC with milliseconds.

    >>> date(0.5)
    '1970-01-01T00:00:00.500Z'
    """
    moment = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return moment.removesuffix("+00:00") + "Z"


def flag(text: str | None) -> bool:
    """A boolean of a query or form, in any client's spelling."""
    return (text or "").lower() in ("true", "1", "yes")


def cursor(text: str) -> str:
    """A place in a list, opaque to the client."""
    return base64.urlsafe_b64encode(text.encode()).decode()


def read_cursor(text: str) -> str:
    """The place that a cursor names.

    Raises:
        BadRequest: it is none of ours.
    """
    try:
        return base64.urlsafe_b64decode(text.encode()).decode()
    except (ValueError, binascii.Error) as error:
        raise BadRequest("the cursor is not one of this registry's") from error


def model(repository: Repository, *, sha: str) -> dict[str, object]:
    """What is known of a repository without its files."""
    card = repository.card
    return {
        "_id": f"{repository.number:024x}",
        "id": str(repository.id),
        "modelId": str(repository.id),
        "author": repository.id.namespace or None,
        "sha": sha,
        "createdAt": date(repository.created),
        "lastModified": date(repository.modified),
        "private": repository.private,
        "gated": repository.gated or False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": tags_of(card),
        "pipeline_tag": card.get("pipeline_tag"),
        "library_name": card.get("library_name"),
    }


def siblings(tree: Tree, *, blobs: bool) -> list[dict[str, object]]:
    """The files of a model info."""
    return [sibling(entry, blobs=blobs) for entry in tree.values()]


def sibling(entry: Entry, *, blobs: bool) -> dict[str, object]:
    """One file of a model info; its size and ids only where they are asked for.

    ``sha256`` is an addition, as in :func:`file_row`.
    """
    row: dict[str, object] = {"rfilename": entry.path}
    if blobs:
        row |= {"size": entry.size, "blobId": entry.oid, "sha256": entry.sha256}
        if entry.large:
            row["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": _size(entry)}
    return row


def file_row(entry: Entry, *, xet: str | None = None) -> dict[str, object]:
    """One file of a tree. ``sha256`` is an addition: other servers hide it for small files."""
    row: dict[str, object] = {
        "type": "file",
        "oid": entry.oid,
        "size": entry.size,
        "path": entry.path,
        "sha256": entry.sha256,
    }
    if entry.large:
        row["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": _size(entry)}
    if xet:
        row["xetHash"] = xet
    return row


def last_commit(commit: Commit) -> Mapping[str, object]:
    """The commit beside a row of a tree."""
    return {"id": commit.id, "title": commit.title, "date": date(commit.created)}


def commit_row(commit: Commit) -> Mapping[str, object]:
    """One commit of a history."""
    authors: Sequence[Mapping[str, str]] = [{"user": commit.author}]
    return {
        "id": commit.id,
        "title": commit.title,
        "message": commit.message,
        "authors": authors,
        "date": date(commit.created),
    }


def _size(entry: Entry) -> int:
    return len(pointer(entry.sha256, entry.size))
