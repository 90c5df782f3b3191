"""What hub servers answer, as values: read at this edge, and plain JSON nowhere else.

::

    GET /api/models/ID/revision/REV?blobs=true     a commit and its files
        {"id": …, "sha": "<40 hex>", "lastModified": "<date>", "author": …,
         "siblings": [{"rfilename": …, "size": …, "blobId": "<40 hex>",
                       "lfs": {"sha256": …, "size": …}}]}
    GET /api/models/ID/refs                        {"branches": [{"name", "targetCommit"}], "tags"}
    GET /api/models/ID/commits/REV                 [{"id", "title", "message", "authors", "date"}]
    GET /api/models                                [{"id": "org/name"}]
    a line of POST /api/hubstate/releases          {"info": {…}, "files": {…}}, see .ahead

A file that is kept in git itself has no sha256 there, only git's own SHA-1 of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from hubstate.blobs import FileInfo
from hubstate.digest import Digest
from hubstate.endpoints.base import Commit, Refs, check_path
from hubstate.endpoints.records import parse_date
from hubstate.errors import Damaged, InvalidReference, reason
from hubstate.values import frozen

__all__ = [
    "Listing",
    "Row",
    "Told",
    "parse_history",
    "parse_listing",
    "parse_names",
    "parse_refs",
    "parse_told",
]

T = TypeVar("T")
_ID = re.compile(r"[0-9a-f]{40}\Z")
_EPOCH = datetime.fromtimestamp(0, UTC)


@frozen
class Listing:
    """A commit, and git's SHA-1 of each file whose sha256 the server does not state."""

    commit: Commit
    oids: Mapping[str, str]


@frozen
class Told:
    """A listing, and the content of small files of it by their paths."""

    listing: Listing
    files: Mapping[str, bytes]


@frozen
class Row:
    """A commit of a history, without its files."""

    id: str
    message: str
    author: str
    date: datetime


def parse_listing(data: bytes, *, repo: str, what: str) -> Listing:
    """Read the info of a model at a revision.

    Raises:
        Damaged: it is anything else, or names a file whose path climbs out of its folder.
    """
    return _parse(data, what, "the files of a commit", lambda info: _listing(info, repo))


def parse_told(data: bytes, *, repo: str, what: str) -> Told | None:
    """Read what is said of one of many releases; None where that is a refusal.

    Raises:
        Damaged: it is anything else.
    """
    return _parse(data, what, "a commit with files", lambda line: _told(line, repo))


def _told(line: Any, repo: str) -> Told | None:
    if "info" not in line and type(line["status"]) is int:
        return None
    listing, files = _listing(line["info"], repo), line["files"]
    if not listing.commit.files.keys() >= files.keys():
        raise ValueError("files that the commit does not have")
    return Told(listing=listing, files={path: text.encode() for path, text in files.items()})


def _listing(info: Any, repo: str) -> Listing:
    siblings = {check_path(row["rfilename"]): row for row in info["siblings"]}
    date = info.get("lastModified")
    commit = Commit(
        repo=repo,
        id=_id(info["sha"]),
        parent=None,
        message="",
        author=_text(info.get("author")),
        date=parse_date(date) if date else _EPOCH,
        files={path: _info(row) for path, row in siblings.items()},
    )
    return Listing(commit=commit, oids=_oids(siblings, commit))


def _info(row: Mapping[str, Any]) -> FileInfo:
    lfs = row.get("lfs") or {}
    size, hex = lfs.get("size", row.get("size")), lfs.get("sha256", row.get("sha256"))
    if size is not None and (type(size) is not int or size < 0):
        raise ValueError(f"size {size!r}")
    return FileInfo(size=size, digest=Digest(hex) if hex else None)


def _oids(siblings: Mapping[str, Mapping[str, Any]], commit: Commit) -> Mapping[str, str]:
    stated = {path: row["blobId"] for path, row in siblings.items() if row.get("blobId")}
    return {path: _id(oid) for path, oid in stated.items() if commit.files[path].digest is None}


def parse_refs(data: bytes, *, what: str) -> Refs:
    """Read the branches and tags of a repository.

    Raises:
        Damaged: it is anything else.
    """
    return _parse(
        data,
        what,
        "branches and tags",
        lambda refs: Refs(branches=_targets(refs["branches"]), tags=_targets(refs["tags"])),
    )


def _targets(rows: Any) -> Mapping[str, str]:
    return {_text(row["name"]): _id(row["targetCommit"]) for row in rows}


def parse_history(data: bytes, *, what: str) -> list[Row]:
    """Read one page of a history.

    Raises:
        Damaged: it is anything else.
    """
    return _parse(data, what, "a list of commits", lambda rows: [_row(row) for row in rows])


def _row(row: Mapping[str, Any]) -> Row:
    title, text = _text(row.get("title")), _text(row.get("message"))
    authors = (_text(author.get("user")) for author in row.get("authors") or ())
    return Row(
        id=_id(row["id"]),
        message=text if text.startswith(title) else f"{title}\n\n{text}".strip(),
        author=", ".join(filter(None, authors)),
        date=parse_date(row["date"]),
    )


def parse_names(data: bytes, *, what: str) -> list[str]:
    """Read one page of a list of models.

    Raises:
        Damaged: it is anything else.
    """
    return _parse(data, what, "a list of models", lambda rows: [_text(row["id"]) for row in rows])


def _parse(data: bytes, what: str, expected: str, read: Callable[[Any], T]) -> T:
    try:
        return read(json.loads(data))
    except (
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        RecursionError,
        InvalidReference,
    ) as error:
        raise Damaged(
            f"{what}: expected {expected}, found {data[:60]!r}: {reason(error)}"
        ) from error


def _text(value: Any) -> str:
    """What can be written and shown: JSON can have halves of characters, and UTF-8 cannot."""
    return str(value or "").encode(errors="replace").decode()


def _id(value: Any) -> str:
    if not isinstance(value, str) or not _ID.match(value):
        raise ValueError(f"{value!r} is not 40 hex digits")
    return value
