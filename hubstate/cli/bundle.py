"""``hubstate bundle``: releases across an air gap."""

from __future__ import annotations

from pathlib import Path

import click

from hubstate.cli.output import Place, as_json, show, size
from hubstate.errors import InvalidSetting

__all__ = ["command"]

_FILE = Place(dir_okay=False, path_type=Path)


@click.group("bundle")
def command() -> None:
    """Carry what a lock file pins to machines that no network reaches, in one tar file.

    \b
    Example:
      hubstate bundle export --lock hubstate.lock models.tar
      hubstate bundle import models.tar --registry /shared/models
    """


@command.command("export")
@click.argument("target", type=_FILE)
@click.option("--lock", "path", type=_FILE, help="Instead of the nearest hubstate.lock.")
@as_json
def _export(target: Path, path: Path | None, as_json: bool) -> None:
    """Write exactly what the lock file pins to the tar file TARGET.

    The same lock file gives the same bytes. Unpacked by any means, the file is a folder registry.

    \b
    Example:
      hubstate bundle export --lock hubstate.lock models.tar
    """
    from hubstate.bundle import export_bundle
    from hubstate.lock import NAME, find_lock, read_lock

    place = path or find_lock()
    if place is None:
        raise InvalidSetting(f"there is no {NAME} here or above: 'hubstate lock add' makes one")
    made = export_bundle(read_lock(place), target)
    data = {
        "path": str(made.path),
        "size": made.size,
        "digest": str(made.digest),
        "releases": list(made.releases),
    }
    text = f"{made.path}: {len(made.releases)} releases, {size(made.size)}, {made.digest}"
    show(data, text, as_json=as_json)


@command.command("import")
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--registry", metavar="FOLDER", help="Where to. [HUBSTATE_REGISTRY]")
@as_json
def _import(source: Path, registry: str | None, as_json: bool) -> None:
    """Verify the tar file SOURCE, and add what is in it to a folder registry.

    It must be exactly what its lock file says, or nothing of it can be seen there.

    \b
    Example:
      hubstate bundle import models.tar --registry /shared/models
    """
    from hubstate import settings
    from hubstate.bundle import import_bundle
    from hubstate.endpoints import open_endpoint
    from hubstate.endpoints.folder import FolderEndpoint

    endpoint = open_endpoint(registry or settings.registry())
    if not isinstance(endpoint, FolderEndpoint):
        raise InvalidSetting(f"{endpoint.name} is a server: name a folder with --registry")
    brought = import_bundle(source, endpoint.root)
    names = sorted(brought.lock.releases)
    data = {"registry": str(brought.registry), "size": brought.size, "releases": names}
    text = f"{brought.registry}: {len(names)} releases, {size(brought.size)}, all verified"
    show(data, text, as_json=as_json)
