"""The error of this package."""

from __future__ import annotations

__all__ = ["OutOfRange", "XetError"]


class XetError(ValueError):
    """Bytes that break the Xet protocol, or that are not what they claim to be.

    >>> print(XetError("a chunk of 0 bytes", where="xorb, chunk 3"))
    xorb, chunk 3: a chunk of 0 bytes
    """

    def __init__(self, problem: str, *, where: str) -> None:
        self.problem = problem
        self.where = where
        super().__init__(problem, where)

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


class OutOfRange(XetError):
    """A range that holds no byte of the file it was asked of."""
