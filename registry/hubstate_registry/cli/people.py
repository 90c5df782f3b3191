"""Users, organisations and tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
import sqlalchemy as sa

from hubstate_registry.auth import Role
from hubstate_registry.cli.folder import directory, opened
from hubstate_registry.storage import accounts
from hubstate_registry.storage.schema import memberships, namespaces

__all__ = ["org", "token", "user"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@click.group()
def user() -> None:
    """Add, list and disable users."""


@user.command("add")
@directory
@click.argument("name")
@click.option("--admin", is_flag=True, help="May do everything, everywhere.")
def add_user(directory: Path, name: str, admin: bool) -> None:
    """Add a user, who owns the namespace of the same name."""
    with opened(directory) as storage, storage.database.write() as connection:
        accounts.add_namespace(connection, name, admin=admin)
    click.echo(f"added user {name}; give them a token with `hubstate-registry token create`")


@user.command("list")
@directory
def list_users(directory: Path) -> None:
    """List users and organisations, and who belongs to which."""
    with opened(directory) as storage, storage.database.read() as connection:
        rows = connection.execute(sa.select(namespaces).order_by(namespaces.c.name)).all()
        members = connection.execute(sa.select(memberships)).all()
    for row in rows:
        marks = ["admin"] * row.admin + ["disabled"] * row.disabled
        marks += [f"{m.organisation}={m.role}" for m in members if m.user == row.name]
        click.echo("\t".join([row.name, row.kind, " ".join(marks)]))


@user.command("disable")
@directory
@click.argument("name")
@click.option("--undo", is_flag=True, help="Enable again.")
def disable(directory: Path, name: str, undo: bool) -> None:
    """Turn all tokens of a user off."""
    with opened(directory) as storage, storage.database.write() as connection:
        accounts.disable_user(connection, name, disabled=not undo)
    click.echo(f"{'enabled' if undo else 'disabled'} {name}")


@click.group()
def org() -> None:
    """Add organisations and their members."""


@org.command("add")
@directory
@click.argument("name")
def add_org(directory: Path, name: str) -> None:
    """Add an organisation."""
    with opened(directory) as storage, storage.database.write() as connection:
        accounts.add_namespace(connection, name, kind="organisation")
    click.echo(f"added organisation {name}")


@org.command("member")
@directory
@click.argument("organisation")
@click.argument("name")
@click.argument("role", type=click.Choice(["none", "read", "write", "admin"]))
def member(directory: Path, organisation: str, name: str, role: str) -> None:
    """Give a user a role in an organisation, or take it away with 'none'."""
    with opened(directory) as storage, storage.database.write() as connection:
        accounts.set_member(connection, name, organisation=organisation, role=Role.parse(role))
    click.echo(f"{name} has the role {role} in {organisation}")


@click.group()
def token() -> None:
    """Create, list and revoke tokens."""


@token.command("create")
@directory
@click.argument("name")
@click.option("--label", default="token", show_default=True, help="What it is for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=["*=write"],
    show_default=True,
    help="NAMESPACE=read|write|admin; '*' is every namespace of the user. Repeatable.",
)
@click.option("--expires", metavar="TIME", help="Such as 12h, 30d or 8w; never if not given.")
def create(
    directory: Path, name: str, label: str, scopes: Sequence[str], expires: str | None
) -> None:
    """Make a token for user NAME and print it, once, on standard output."""
    seconds = None if expires is None else _seconds(expires)
    with opened(directory) as storage, storage.database.write() as connection:
        secret = accounts.create_token(
            connection, name, name=label, scopes=dict(map(_scope, scopes)), seconds=seconds
        )
    click.echo(secret)


@token.command("list")
@directory
@click.argument("name", required=False)
def list_tokens(directory: Path, name: str | None) -> None:
    """List tokens, without their secrets."""
    with opened(directory) as storage, storage.database.read() as connection:
        found = accounts.list_tokens(connection, name)
    for item in found:
        scopes = json.dumps({k: str(v) for k, v in item.scopes.items()})
        state = "revoked" if item.revoked else _until(item.expires)
        click.echo("\t".join([item.id, item.user, item.name, scopes, state]))


@token.command("revoke")
@directory
@click.argument("id")
def revoke(directory: Path, id: str) -> None:
    """Turn a token off; ID is the first column of `token list`."""
    with opened(directory) as storage, storage.database.write() as connection:
        accounts.revoke_token(connection, id)
    click.echo(f"revoked {id}")


def _scope(text: str) -> tuple[str, Role]:
    namespace, _, role = text.partition("=")
    if not namespace or Role.parse(role) is Role.NONE:
        raise click.BadParameter(f"{text!r} is not NAMESPACE=read|write|admin")
    return namespace, Role.parse(role)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no time such as 12h, 30d or 8w")
    return int(match[1]) * _UNITS[match[2]]


def _until(expires: float | None) -> str:
    if expires is None:
        return "no end"
    return "until " + datetime.fromtimestamp(expires, UTC).isoformat(timespec="seconds")
