"""Registries: a folder, or a server that speaks the hub protocol, behind one interface."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from hubstate.endpoints.base import (
    MANIFEST,
    OWN,
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
    "OWN",
    "TIP",
    "Changes",
    "Commit",
    "Endpoint",
    "FileInfo",
    "Refs",
    "Registry",
    "Stream",
    "open_endpoint",
]


Registry = str | Path | Endpoint
"""What names a registry: a folder, a URL, or the endpoint itself."""


def open_endpoint(registry: Registry) -> Endpoint:
    """The registry in a folder or behind a URL; nothing is asked of it yet.

    Raises:
        InvalidSetting: a URL that names none.

    >>> open_endpoint("file:///srv/models")
    FolderEndpoint('/srv/models')
    """
    if not isinstance(registry, str | Path):
        return registry
    if isinstance(registry, Path) or "://" not in registry:
        return _folder(Path(registry).expanduser())
    url = urlsplit(registry)
    if url.scheme == "file" and url.netloc in ("", "localhost") and url.path:
        return _folder(Path(unquote(url.path)))
    if url.scheme in ("http", "https") and url.netloc:
        from hubstate.endpoints.http import HttpEndpoint

        return HttpEndpoint(registry)
    raise InvalidSetting(
        f"registry {registry!r}: expected a folder, file:///folder, http://… or https://…"
    )


def _folder(root: Path) -> Endpoint:
    from hubstate.endpoints.folder import FolderEndpoint

    return FolderEndpoint(root)
