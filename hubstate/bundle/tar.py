"""Tar files as bundles use them: regular files and nothing else.

::

    header │ content, filled up to 512 bytes │ header │ …  │ zeros
    └ 512 bytes, "ustar"; a name or size that does not fit has a pax header before it

The reader takes much less than the format allows, since whoever sends a bundle may mean harm: no
links, devices, folders or sparse files, no name that climbs or comes twice, no header that is
longer than need be, and no compression. Sizes are known before anything is read.
https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from hubstate.blobs import Stream
from hubstate.endpoints.base import check_path
from hubstate.errors import Damaged, InvalidReference
from hubstate.values import frozen

__all__ = ["Member", "TarWriter", "read_tar"]

_BLOCK = 512
_LONGEST = 4096  # bytes of a pax header: a path and a size
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"5": "a folder",
    b"6": "a pipe",
    b"S": "a sparse file",
}


class TarWriter:
    """Writes a tar file whose bytes depend on names and contents only."""

    def __init__(self, file: BinaryIO) -> None:
        self._tar = tarfile.TarFile(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, name: str, content: bytes | BinaryIO, *, size: int) -> None:
        """Add a file."""
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o444
        self._tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else content)

    def close(self) -> None:
        """Write the end."""
        self._tar.close()


@frozen
class Member:
    """A file in a tar file; its content is there until the next one is asked for."""

    name: str
    size: int
    stream: Stream


def read_tar(file: BinaryIO) -> Iterator[Member]:
    """The files of a tar file, in order.

    Raises:
        Damaged: it is cut off, or holds anything but regular files with names of their own.
    """
    seen: set[str] = set()
    while (header := _read(file, _BLOCK)) != bytes(_BLOCK):
        extended: dict[str, str] = {}
        if _kind(header) == b"x":
            extended = _extended(_read_extended(file, _size(header)))
            header = _read(file, _BLOCK)
        if (kind := _kind(header)) not in (b"0", b"\0"):
            shown = header[:100].rstrip(b"\0").decode(errors="replace")
            raise Damaged(f"{shown!r} is {_KINDS.get(kind, 'of another kind')}, no file")
        name = _name(header, extended)
        if name in seen:
            raise Damaged(f"{name!r} is there twice")
        seen.add(name)
        size = _number(extended["size"].encode(), 10) if "size" in extended else _size(header)
        window = _Window(file, size)
        yield Member(name=name, size=size, stream=window)
        window.skip()
        _read_filling(file, size)
    _check_end(file)


def _check_end(file: BinaryIO) -> None:
    while block := file.read(1 << 20):
        if block.count(0) != len(block):
            raise Damaged("there is something after the end")


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise Damaged("it is cut off")
    return data


def _read_extended(file: BinaryIO, size: int) -> bytes:
    if size > _LONGEST:
        raise Damaged(f"a header of {size} bytes, expected at most {_LONGEST}")
    data = _read(file, size)
    _read_filling(file, size)
    return data


def _read_filling(file: BinaryIO, size: int) -> None:
    filling = _read(file, -size % _BLOCK)
    if filling.count(0) != len(filling):
        raise Damaged("there is something between the files")


def _kind(header: bytes) -> bytes:
    """The kind of a member, once its header is known to be one."""
    total = sum(header[:148]) + 256 + sum(header[156:])
    if header[257:265] != b"ustar\x0000" or _number(header[148:156], 8) != total:
        raise Damaged("a header that is none: expected a tar file as 'hubstate bundle' makes it")
    return header[156:157]


def _size(header: bytes) -> int:
    return _number(header[124:136], 8)


def _number(digits: bytes, base: int) -> int:
    text = digits.strip(b"\0 ")
    if not text.isdigit() or len(text) > 18:
        raise Damaged(f"expected a number, found {digits!r}")
    try:
        return int(text, base)
    except ValueError:
        raise Damaged(f"expected a number, found {digits!r}") from None


def _name(header: bytes, extended: dict[str, str]) -> str:
    name, prefix = header[:100].split(b"\0")[0], header[345:500].split(b"\0")[0]
    try:
        text = (prefix + b"/" + name if prefix else name).decode()
        return check_path(extended.get("path", text))
    except (UnicodeDecodeError, InvalidReference) as error:
        raise Damaged(f"a name that is not harmless: {error}") from None


def _extended(data: bytes) -> dict[str, str]:
    """Read the records of a pax header: ``<length> <key>=<value>\\n``."""
    fields: dict[str, str] = {}
    while data:
        digits, _, _ = data.partition(b" ")
        length = _number(digits, 10)
        record, data = data[len(digits) + 1 : length], data[length:]
        key, equals, value = record[:-1].partition(b"=")
        known = key in (b"path", b"size") and key.decode() not in fields
        if not known or not equals or record[-1:] != b"\n":
            raise Damaged(f"a pax header with {record[:60]!r}, expected a path or a size")
        try:
            fields[key.decode()] = value.decode()
        except UnicodeDecodeError as error:
            raise Damaged(f"a pax header with {record[:60]!r}: {error}") from None
    return fields


class _Window:
    """The content of one member."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    def readinto(self, buffer: memoryview, /) -> int | None:
        data = self._file.read(min(len(buffer), self._left))
        if self._left and not data:
            raise Damaged("it is cut off")
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)

    def skip(self) -> None:
        block = memoryview(bytearray(1 << 16))
        while self._left:
            self.readinto(block)
