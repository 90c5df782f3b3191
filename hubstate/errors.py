"""Every error that hubstate raises on purpose, in one tree, split by who can mend it.

::

    HubstateError                    exit code of the command line
    ├── InvalidReference             2   the caller: a reference that cannot be read
    ├── InvalidSetting               2   the caller: an environment variable or an option
    ├── StructureMismatch            4   model and weights differ (ValueError); `.issues` has all
    ├── NotFound                     3   nothing has that name (LookupError)
    │   ├── RepositoryNotFound
    │   ├── RevisionNotFound
    │   ├── FileNotInRelease
    │   ├── NotPinned                    … in the lock file, and nothing else is allowed
    │   └── UnknownModel                 … in the catalogue or among the builders
    ├── Damaged                      5   bytes that are not what they must be (ValueError)
    │   ├── InvalidManifest              … hubstate.json
    │   ├── InvalidWeights               … a safetensors header, a tensor, a range
    │   └── DigestMismatch               … content that does not hash to its name
    ├── Unreachable                  6   network, server, or a folder that cannot be read
    │   └── Offline                      … and no request was allowed
    ├── Conflict                     7   somebody else published first; read again and retry
    └── GateRefused                  8   the release is not fit to be published; `.problems`

Each message says what, where, expected and found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "Conflict",
    "Damaged",
    "DigestMismatch",
    "FileNotInRelease",
    "GateRefused",
    "HubstateError",
    "InvalidManifest",
    "InvalidReference",
    "InvalidSetting",
    "InvalidWeights",
    "Issue",
    "NotFound",
    "NotPinned",
    "Offline",
    "RepositoryNotFound",
    "RevisionNotFound",
    "StructureMismatch",
    "UnknownModel",
    "Unreachable",
    "reason",
]


class HubstateError(Exception):
    """The root of every error that hubstate raises on purpose."""

    exit_code = 1


class InvalidReference(HubstateError, ValueError):
    """A reference such as ``org/name@revision`` that cannot be read."""

    exit_code = 2


class InvalidSetting(HubstateError, ValueError):
    """An environment variable or an option with a value that means nothing."""

    exit_code = 2


class Issue(NamedTuple):
    """One difference between a model and a source of weights.

    >>> print(Issue("fc.weight", "shape", "source (1000, 512), model (10, 512)"))
    fc.weight: shape: source (1000, 512), model (10, 512)
    """

    path: str
    """The dotted path of the tensor, as in ``state_dict()``."""
    kind: str
    """One word: missing, unexpected, shape, dtype, tie, absent, structure …"""
    detail: str
    """What was expected and what was found."""

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}: {self.detail}"


class StructureMismatch(HubstateError, ValueError):
    """A model and a source of weights differ, and nothing was loaded.

    ``issues`` holds every difference in the order of the model; the text stops after
    ``SHOWN`` lines and says how many more there are. ``advice`` is its last line, where whoever
    passes the error on knows what may be done.

    >>> print(StructureMismatch([Issue("fc.bias", "missing", "not in the source")]))
    1 difference, nothing was loaded:
      fc.bias: missing: not in the source
    """

    exit_code = 4
    SHOWN = 40

    def __init__(self, issues: Sequence[Issue], *, where: str | None = None) -> None:
        self.issues: tuple[Issue, ...] = tuple(issues)
        self.where = where
        self.advice = ""
        super().__init__(self.issues, where)

    def __str__(self) -> str:
        return self.tell(rest="all of them are in .issues")

    def tell(self, *, rest: str) -> str:
        """The text, with where the rest is if there are more than it shows."""
        count = len(self.issues)
        head = f"{count} difference{'s' if count != 1 else ''}"
        head += f" from {self.where}" if self.where else ""
        lines = [f"{head}, nothing was loaded:"]
        lines += [f"  {issue}" for issue in self.issues[: self.SHOWN]]
        if count > self.SHOWN:
            lines.append(f"  … and {count - self.SHOWN} more ({rest})")
        if count and all(issue.kind == "structure" for issue in self.issues):
            lines.append("every tensor fits; strict='tensors' compares nothing else")
        if self.advice:
            lines.append(self.advice)
        return "\n".join(lines)


class NotFound(HubstateError, LookupError):
    """Nothing has that name."""

    exit_code = 3


class RepositoryNotFound(NotFound):
    """The registry has no repository of that name (or hides it)."""


class RevisionNotFound(NotFound):
    """The repository has no branch, tag, commit or manifest of that name."""


class FileNotInRelease(NotFound):
    """The commit has no file of that name."""


class NotPinned(NotFound):
    """The lock file has no such reference, and the settings allow pinned ones only."""


class UnknownModel(NotFound):
    """No builder, or no catalogue entry, of that name; the message lists the valid ones."""


class Damaged(HubstateError, ValueError):
    """Bytes that are not what they must be."""

    exit_code = 5


class InvalidManifest(Damaged):
    """A ``hubstate.json`` that breaks its schema; the message names the place."""


class InvalidWeights(Damaged):
    """A safetensors file that breaks its format; the message names the tensor or the range."""


class DigestMismatch(Damaged):
    """Content that does not hash to the digest it is named by."""


class Unreachable(HubstateError):
    """A registry that does not answer, or a folder that cannot be read or written."""

    exit_code = 6


class Offline(Unreachable):
    """Something is not in the cache, and the settings forbid any request for it."""


class Conflict(HubstateError):
    """Somebody else moved the reference first; nothing of this publish is visible."""

    exit_code = 7


class GateRefused(HubstateError):
    """The release is not fit to be published, and nothing was.

    ``problems`` holds a line for each reason.

    >>> print(GateRefused(["fc.weight: 3 of 512 values are NaN"]))
    not published, 1 problem:
      fc.weight: 3 of 512 values are NaN
    """

    exit_code = 8

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        count = len(self.problems)
        head = f"not published, {count} problem{'s' if count != 1 else ''}:"
        return "\n".join([head, *(f"  {problem}" for problem in self.problems)])


def reason(error: Exception) -> str:
    """Why something was not what it must be, to stand in a message; not quoted a second time.

    >>> reason(KeyError("size")), reason(ValueError("size 'x'")), reason(RecursionError())
    ("no 'size'", "size 'x'", 'RecursionError')
    """
    return f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
