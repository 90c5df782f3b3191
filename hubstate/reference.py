"""References: which repository, and which revision of it.

::

    org/name@v1
    └──┬───┘ └┬┘
       │      └ revision: a branch, a tag, a commit (40 hex digits, or at least 7 of them),
       │        or sha256:<64 hex digits> of the release's manifest; without it, main
       └ repository: one or two segments

>>> Reference.parse("org/name@v1")
Reference(repo='org/name', revision='v1')
>>> str(Reference(repo="org/name"))
'org/name@main'
"""

from __future__ import annotations

import re

from hubstate.digest import Digest
from hubstate.errors import InvalidReference
from hubstate.values import frozen

__all__ = [
    "Reference",
    "check_repo",
    "check_revision",
    "is_reference",
    "quote_name",
    "unquote_name",
]

_REPO = re.compile(r"(?:(?P<org>[^/]+)/)?(?P<name>[^/]+)\Z")
_SEGMENT = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?\Z")
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_PREFIX = re.compile(r"[0-9a-f]{7,40}\Z")
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-+=,")
_QUOTED = re.compile(r"%([0-9a-f]{2})")
_LONGEST = 240  # the longest file name is 255 bytes nearly everywhere; ".json" must fit behind

_REPO_RULE = (
    "a repository is 'name' or 'org/name'; each part has 1 to 96 of A-Z a-z 0-9 . _ -, begins "
    "and ends with a letter, a digit or _, has no '..' and no '--', and does not end in .git"
)
_REVISION_RULE = (
    "a revision is a branch, a tag, a commit (hex digits) or sha256:<64 hex digits>; names "
    "follow git's rules: printable ASCII, no space, none of ~ ^ : ? * [ \\, no '..', '//' or "
    "'@{', no part that begins with '.' or ends in .lock, no '-' or '/' in front, no '/' or "
    f"'.' at the end, and at most {_LONGEST} characters once quoted"
)


@frozen
class Reference:
    """A repository and a revision of it; ``str()`` gives ``repo@revision``.

    Raises:
        InvalidReference: one of them breaks the rules; the message states the rules.
    """

    repo: str
    revision: str = "main"

    def __post_init__(self) -> None:
        check_repo(self.repo)
        check_revision(self.revision)

    @classmethod
    def parse(cls, text: str | Reference) -> Reference:
        """Read ``repo`` or ``repo@revision``; a Reference passes through.

        Raises:
            InvalidReference: the text is anything else.
        """
        if isinstance(text, Reference):
            return text
        if not isinstance(text, str):
            raise InvalidReference(f"a reference is a string, not {type(text).__name__}")
        repo, at, revision = text.partition("@")
        return cls(repo=repo, revision=revision if at else "main")

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"

    @property
    def commit(self) -> str | None:
        """The commit that the revision spells out in full, if it does."""
        return self.revision if _COMMIT.match(self.revision) else None

    @property
    def prefix(self) -> str | None:
        """The revision, if it can be the beginning of a commit (7 to 40 hex digits)."""
        return self.revision if _PREFIX.match(self.revision) else None

    @property
    def manifest(self) -> Digest | None:
        """The digest of the manifest that the revision names, if it does."""
        return Digest.parse(self.revision) if self.revision.startswith("sha256:") else None

    @property
    def pinned(self) -> bool:
        """Whether the reference can only ever mean one release."""
        return self.commit is not None or self.manifest is not None

    def at(self, revision: str) -> Reference:
        """The same repository at another revision."""
        return Reference(repo=self.repo, revision=revision)


def is_reference(name: str) -> bool:
    """Whether a name that somebody gives is a reference, and not the name of a model.

    >>> is_reference("org/name"), is_reference("name@v1"), is_reference("resnet50:tag")
    (True, True, False)
    """
    return "/" in name or "@" in name


def check_repo(repo: str) -> str:
    """The name of a repository, unchanged, once it is known to follow the rules.

    Raises:
        InvalidReference: it does not; the message states the rules.
    """
    match = _REPO.match(repo)
    parts = [part for part in match.groups() if part is not None] if match else []
    if not parts or not all(map(_is_segment, parts)):
        raise InvalidReference(f"repository {_shown(repo)}: {_REPO_RULE}")
    return repo


def _is_segment(part: str) -> bool:
    # "_" alone is kept free: it is the organisation of repositories that have none.
    taboo = ".." in part or "--" in part or part.lower().endswith(".git") or part == "_"
    return _SEGMENT.match(part) is not None and not taboo


def check_revision(revision: str) -> str:
    """A revision, unchanged, once it is known to follow the rules (git-check-ref-format).

    Raises:
        InvalidReference: it does not; the message states the rules.
    """
    if not (_is_digest(revision) if revision.startswith("sha256:") else _is_name(revision)):
        raise InvalidReference(f"revision {_shown(revision)}: {_REVISION_RULE}")
    return revision


def _is_digest(revision: str) -> bool:
    try:
        Digest.parse(revision)
    except ValueError:
        return False
    return True


def _is_name(name: str) -> bool:
    if not name or not all("!" <= char <= "~" and char not in "~^:?*[\\" for char in name):
        return False
    if name == "@" or name[0] == "-" or name[-1] == "." or ".." in name or "@{" in name:
        return False
    parts = name.split("/")
    fits = len(name) <= _LONGEST and len(quote_name(name)) <= _LONGEST
    return fits and all(part and part[0] != "." and part[-5:] != ".lock" for part in parts)


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 120 else f"{text[:120]!r}…"


def quote_name(name: str) -> str:
    """A branch, a tag or another revision as the name of one file.

    Capitals are quoted as well, so that no two names differ in case only, which macOS and
    Windows could not keep apart.

    >>> quote_name("fix/BN")
    'fix%2f%42%4e'
    """
    return "".join(char if char in _PLAIN else f"%{ord(char):02x}" for char in name)


def unquote_name(quoted: str) -> str:
    """What :func:`quote_name` was given.

    >>> unquote_name("fix%2f%42%4e")
    'fix/BN'
    """
    return _QUOTED.sub(lambda match: chr(int(match[1], 16)), quoted)
