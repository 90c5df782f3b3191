"""Registries: a folder, or a server that speaks the hub protocol, behind one interface."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from hubstate.endpoints.base import (
    MANIFEST,
    TIP,
    Changes,
    Commit,
    Endpoint,
    FileInfo,
    Refs,
    Stream,
)
from hubstate.errors import InvalidSetting

__all__ = [
    "MANIFEST",
    "TIP",
    "Changes",
    "Commit",
    "Endpoint",
    "FileInfo",
    "Refs",
    "Stream",
    "open_endpoint",
]


def open_endpoint(text: str | Path) -> Endpoint:
    """The registry in a folder or behind a URL; nothing is asked of it yet.

    Raises:
        InvalidSetting: a URL that names none.

    >>> open_endpoint("file:///srv/models")
    FolderEndpoint('/srv/models')
    """
    if isinstance(text, Path) or "://" not in text:
        return _folder(Path(text).expanduser())
    url = urlsplit(text)
    if url.scheme == "file" and url.netloc in ("", "localhost") and url.path:
        return _folder(Path(unquote(url.path)))
    raise InvalidSetting(f"registry {text!r}: expected a folder or file:///folder")


def _folder(root: Path) -> Endpoint:
    from hubstate.endpoints.folder import FolderEndpoint

    return FolderEndpoint(root)
