"""The Range header of RFC 9110, one range of bytes; several are answered as one would be: whole."""

from __future__ import annotations

import re

from hubstate_registry.errors import RegistryError

__all__ = ["Unsatisfiable", "parse_range"]

_RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*\Z", re.ASCII | re.IGNORECASE)


class Unsatisfiable(RegistryError):
    """The range begins past the end."""

    status = 416


def parse_range(text: str | None, size: int) -> tuple[int, int] | None:
    """``(start, stop)``, or None if the whole is to be sent.

    >>> parse_range("bytes=2-4", 10), parse_range("bytes=-3", 10), parse_range("lines=1", 10)
    ((2, 5), (7, 10), None)

    Raises:
        Unsatisfiable: the range begins past the end.
    """
    match = _RANGE.match(text or "")
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1 if last else size)
    if first and last and int(last) < int(first):
        return None
    if start >= size:
        raise Unsatisfiable(
            "the range begins past the end", headers={"Content-Range": f"bytes */{size}"}
        )
    return start, stop
