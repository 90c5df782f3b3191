"""Bodies that are needed whole: many may arrive, or wait, at once, and memory is for the small."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import SpooledTemporaryFile

from hubstate_registry.bodies import hand_on
from hubstate_registry.storage.blobs import full_disk

__all__ = ["spool"]

_SMALL = 1 << 20


async def spool(blocks: AsyncIterator[bytearray], *, folder: Path) -> SpooledTemporaryFile[bytes]:
    """A body in a file of no name, which goes when it is closed, or with the process.

    Raises:
        Full: the disk is full.
    """
    with ExitStack() as stack:
        file: SpooledTemporaryFile[bytes] = stack.enter_context(
            SpooledTemporaryFile(max_size=_SMALL, dir=str(folder))
        )

        def take(block: bytearray) -> None:
            with full_disk():
                file.write(block)

        await hand_on(blocks, take)
        stack.pop_all()  # from here on it is the caller's
    return file
