"""Names at the edge: repositories, references, paths and digests, read once and then trusted."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hubstate_registry.errors import BadRequest

__all__ = [
    "RESERVED",
    "RepoId",
    "parse_branch",
    "parse_commit",
    "parse_digest",
    "parse_namespace",
    "parse_path",
    "parse_repo",
    "parse_text",
]

RESERVED = frozenset(
    {
        "auth-check",
        "branch",
        "commit",
        "commits",
        "duplicate",
        "lfs-files",
        "paths-info",
        "preupload",
        "refs",
        "resolve",
        "revision",
        "settings",
        "super-squash",
        "tag",
        "tree",
        "xet-read-token",
        "xet-write-token",
    }
)
"""Words that follow an id in a path. No repository is called one: so ids of one segment work."""

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?\Z")
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_BRANCH = re.compile(r"[^\x00-\x20\x7f~^:?*\[\\]{1,200}\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_DEPTH = 64  # of folders: each of them costs something for each file below it


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoId:
    """``namespace/name``; the namespace is empty for an id of one segment."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @property
    def key(self) -> str:
        """What must be unique: two ids that differ by case alone would confuse file systems."""
        return str(self).lower()


def parse_name(text: object, *, what: str) -> str:
    """A namespace or the last segment of an id.

    Raises:
        BadRequest: it is anything else.
    """
    if not isinstance(text, str) or not _NAME.match(text) or "--" in text or ".." in text:
        raise BadRequest(
            f"{what} must be 1 to 96 letters, digits, '-', '_' or '.', without '--' or '..', "
            f"and neither start nor end with '-' or '.'; found {shorten(text)}"
        )
    if text.lower().endswith(".git") or text.lower() in RESERVED:
        raise BadRequest(f"{what} may not end in '.git' or be a word of the protocol: {text}")
    return text


def parse_namespace(text: object) -> str:
    """The name of a user or an organisation.

    Raises:
        BadRequest: it is anything else.
    """
    return parse_name(text, what="a namespace")


def parse_repo(text: object) -> RepoId:
    """An id of one or two segments.

    >>> str(parse_repo("org/name"))
    'org/name'

    Raises:
        BadRequest: it is anything else.
    """
    if not isinstance(text, str):
        raise BadRequest(f"a repository id is a string, not {shorten(text)}")
    namespace, slash, name = text.rpartition("/")
    if slash:
        namespace = parse_name(namespace, what="the namespace of a repository")
    return RepoId(namespace=namespace, name=parse_name(name, what="the name of a repository"))


def parse_branch(text: object, *, what: str = "a branch") -> str:
    """A branch or tag, by the rules of git, and nothing that reads as a commit.

    Raises:
        BadRequest: it is anything else.
    """
    parts = text.split("/") if isinstance(text, str) else []
    if (
        not isinstance(text, str)
        or not _BRANCH.match(text)
        or text.startswith(("refs/", "-"))
        or ".." in text
        or "@{" in text
        or any(not p or p.startswith(".") or p.endswith((".", ".lock")) for p in parts)
        or _COMMIT.match(text)
        or not encodes(text)
    ):
        raise BadRequest(f"Invalid reference for {what}: {shorten(text)}")
    return text


def parse_commit(text: object) -> str:
    """A full commit id, 40 hex digits.

    Raises:
        BadRequest: it is anything else.
    """
    if not isinstance(text, str) or not _COMMIT.match(text):
        raise BadRequest(f"a commit is 40 lower-case hex digits, not {shorten(text)}")
    return text


def parse_digest(text: object) -> str:
    """A SHA-256 digest, 64 hex digits.

    Raises:
        BadRequest: it is anything else.
    """
    if not isinstance(text, str) or not _DIGEST.match(text):
        raise BadRequest(f"a SHA-256 digest is 64 lower-case hex digits, not {shorten(text)}")
    return text


def parse_path(text: object, *, what: str = "path") -> str:
    """The path of a file within a repository: relative, plain, and safe to write anywhere.

    Raises:
        BadRequest: it is empty, climbs, is too long, or holds a control character.
    """
    if not isinstance(text, str) or not text or not encodes(text):
        raise BadRequest(f"{what} must be a non-empty string, not {shorten(text)}")
    parts = text.split("/")
    if len(text.encode()) > 1024 or any(len(part.encode()) > 255 for part in parts):
        raise BadRequest(f"{what} is longer than 1024 bytes, or a part of it than 255: {text[:80]}")
    if len(parts) > _DEPTH:
        raise BadRequest(f"{what} is deeper than {_DEPTH} folders: {text[:80]}")
    if any(part in ("", ".", "..") for part in parts) or _CONTROL.search(text):
        raise BadRequest(f"{what} must be relative, without '.', '..' or '\\': {shorten(text)}")
    if any(part.lower() == ".git" for part in parts):
        raise BadRequest(f"{what} may not enter a '.git' folder: {shorten(text)}")
    return text


def parse_text(text: object, *, what: str, limit: int = 65536) -> str:
    """Free text: any Unicode but NUL, up to ``limit`` characters.

    Raises:
        BadRequest: it is anything else.
    """
    if not isinstance(text, str) or len(text) > limit or "\0" in text or not encodes(text):
        raise BadRequest(f"{what} must be text of at most {limit} characters: {shorten(text)}")
    return text


def encodes(text: str) -> bool:
    """Whether this is Unicode at all: JSON can smuggle in half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shorten(value: object) -> str:
    """A value as an error may show it."""
    return ascii(value)[:100]
