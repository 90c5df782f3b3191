"""A xorb on its way in: each byte is checked, and written, when it comes.

It has no name until all of it is here, is what its name says, and is flushed to the disk.
"""

from __future__ import annotations

import os
from pathlib import Path

from hubstate_registry.storage.blobs import full_disk
from hubstate_registry.xet.digests import Growth
from hubstate_registry.xet.errors import XetError
from hubstate_registry.xet.hashes import Hash, format_hash
from hubstate_registry.xet.xorb import Scanner, Xorb

__all__ = ["Arrival"]


class Arrival:
    """A xorb on its way in: checked and written as it comes."""

    def __init__(self, path: Path, growth: Growth | None = None) -> None:
        self.path = path
        self._growth = growth
        self._scanner = Scanner(growth.take if growth is not None else None)
        self._file = path.open("xb", buffering=0)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Check and keep the next bytes.

        Raises:
            XetError: they are no part of a xorb.
            Full: the disk is full.
        """
        self._scanner.feed(data)
        view = memoryview(data)
        with full_disk():
            while view:
                view = view[self._file.write(view) :]

    def land(self, hash: Hash) -> Xorb:
        """The xorb, once all of it is here, flushed and without its footer.

        Raises:
            XetError: it is not whole, or not the one that was named.
        """
        xorb = self._scanner.finish()
        if xorb.hash != hash:
            problem = f"expected content named {format_hash(hash)}, found {format_hash(xorb.hash)}"
            raise XetError(problem, where="xorb")
        with full_disk():
            self._file.truncate(xorb.stored)
            os.fsync(self._file.fileno())
        if self._growth is not None:
            self._growth.finish(xorb.hash)
        return xorb

    def close(self) -> None:
        """Remove what got no name."""
        self._file.close()
        self.path.unlink(missing_ok=True)
