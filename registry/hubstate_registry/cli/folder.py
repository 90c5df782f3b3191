"""The folder argument that all commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from hubstate_registry.storage import Storage

__all__ = ["directory", "opened"]

directory = click.argument(
    "directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path)
)


@contextmanager
def opened(directory: Path, *, create: bool = False) -> Iterator[Storage]:
    """The registry in this folder.

    Raises:
        click.ClickException: there is none, and it may not be made.
    """
    if not create and not (directory / "registry.sqlite3").exists():
        raise click.ClickException(f"{directory} holds no registry; `serve` makes one")
    storage = Storage(directory)
    try:
        yield storage
    finally:
        storage.close()
