"""The folder argument that all commands share, and how a registry in it begins."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import sqlalchemy as sa

from hubstate_registry.auth import Role
from hubstate_registry.storage import Storage, accounts
from hubstate_registry.storage.schema import namespaces

__all__ = ["directory", "opened", "show_first_token"]

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


def show_first_token(storage: Storage) -> None:
    """Make user ``admin`` with a token, and print it, if the registry has no user yet."""
    with storage.database.write() as connection:
        if connection.execute(sa.select(namespaces.c.name).limit(1)).first():
            return
        accounts.add_namespace(connection, "admin", admin=True)
        secret = accounts.create_token(
            connection, "admin", name="first start", scopes={"*": Role.ADMIN}
        )
    click.echo(f"administrator's token (shown this once): {secret}")
    sys.stdout.flush()
