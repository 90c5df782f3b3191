"""Outlines of manifests, kept so that a warm load need not read the manifests again.

::

    FOLDER/outlines/ab/<64 hex of the digest of the manifest>

Small manifests have none: reading one takes no longer. A lost or torn outline costs reading its
manifest once, so that it is written without waiting for the disk. See :mod:`hubstate.outline`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from hubstate.blobs import write_file
from hubstate.digest import Digest
from hubstate.errors import Damaged
from hubstate.outline import Outline, dump_outline, parse_outline

__all__ = ["OUTLINED", "discard_outlines", "find_outline", "has_outline", "write_outline"]

OUTLINED = 16 << 10
"""Bytes of a manifest from which on it has an outline."""


def find_outline(folder: Path, manifest: Digest) -> Outline | None:
    """The outline of a manifest, if one folder has it and it is sound."""
    try:
        with open(_path(folder, manifest), "rb") as file:  # noqa: PTH123 - half the time
            return parse_outline(file.read())
    except (OSError, Damaged, KeyError, TypeError, ValueError):
        return None


def write_outline(folder: Path, manifest: Digest, outline: Outline) -> None:
    """Keep an outline, if it can be kept."""
    path = Path(_path(folder, manifest))
    with contextlib.suppress(OSError):
        write_file(path, dump_outline(outline), temporaries=folder / "tmp", durable=False)


def has_outline(folder: Path, manifest: Digest) -> bool:
    """Whether there is one, sound or not."""
    return os.path.exists(_path(folder, manifest))  # noqa: PTH110 - half the time


def discard_outlines(folder: Path, needed: Callable[[Digest], bool]) -> None:
    """Remove the outlines of manifests that are not needed."""
    for path in (folder / "outlines").glob("[0-9a-f][0-9a-f]/*"):
        with contextlib.suppress(OSError, ValueError):
            if not needed(Digest(path.name)):
                path.unlink()


def _path(folder: Path, manifest: Digest) -> str:
    return f"{folder}/outlines/{manifest.hex[:2]}/{manifest.hex}"
