"""fsck, gc, backup, import-folder and log."""

from __future__ import annotations

import json
from pathlib import Path

import click
import sqlalchemy as sa

from hubstate_registry.cli.folder import directory, opened, show_first_token
from hubstate_registry.operations import backup as backups
from hubstate_registry.operations import check, collect, importing
from hubstate_registry.routes.render import date
from hubstate_registry.storage.schema import audit

__all__ = ["backup", "fsck", "gc", "import_folder", "log"]


@click.command()
@directory
@click.option("--fast", is_flag=True, help="Compare sizes; do not read and hash the bytes.")
def fsck(directory: Path, fast: bool) -> None:
    """Check that everything the registry promises is there and unharmed.

    Ends with 1 if anything is missing or damaged. Changes nothing.
    """
    with opened(directory) as storage:
        report = check.check(storage, hash_bytes=not fast)
    for problem in report.problems:
        click.echo(problem)
    click.echo(
        f"{report.repositories} repositories, {report.commits} commits, {report.blobs} blobs"
    )
    click.echo(f"{len(report.problems)} problems, {report.orphans} unknown files")
    raise SystemExit(1 if report.problems else 0)


@click.command()
@directory
@click.option("--grace", default=24.0, show_default=True, help="Hours that unused bytes are kept.")
@click.option(
    "--copies", is_flag=True, help="Also whole files of what came by Xet; plain reads remake them."
)
@click.option("--dry-run", is_flag=True, help="Say what would go.")
def gc(directory: Path, grace: float, copies: bool, dry_run: bool) -> None:
    """Remove commits that nothing leads to, and bytes that no commit needs.

    Safe while the server runs: what an upload that is under way has brought, or was told is
    there already, is younger than the grace and stays.
    """
    with opened(directory) as storage:
        report = collect.collect(storage, grace=grace * 3600, dry_run=dry_run, plain_copies=copies)
    verb = "would remove" if dry_run else "removed"
    click.echo(f"{verb} {report.commits} commits, {report.blobs} blobs ({report.bytes} bytes)")
    if copies:
        click.echo(f"{verb} {report.copies} plain copies ({report.copied_bytes} bytes)")
    click.echo(f"{verb} {report.uploads} abandoned uploads, {report.orphans} unknown files")


@click.command()
@directory
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
def backup(directory: Path, target: Path) -> None:
    """Copy the registry to TARGET while it runs; run it again to bring TARGET up to date.

    TARGET is itself a registry: to restore, serve it, or copy it back.
    """
    with opened(directory) as storage:
        report = backups.backup(storage, target)
    click.echo(f"copied {report.copied} files ({report.bytes} bytes), {report.kept} were there")


@click.command("import-folder")
@directory
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--private", is_flag=True, help="Make new repositories private.")
def import_folder(directory: Path, folder: Path, private: bool) -> None:
    """Take over everything that was published to a folder registry.

    Makes the registry in DIR if it is not there, and then prints its administrator's token, once.
    Namespaces that are unknown become organisations. Run it again to take over what is new.
    """
    importing.check_folder(folder)
    with opened(directory, create=True) as storage:
        show_first_token(storage)
        report = importing.import_folder(storage, folder, private=private)
    for line in report.lines:
        click.echo(line)


@click.command()
@directory
@click.option("--repo", help="Only this repository.")
@click.option("--limit", default=100, show_default=True)
def log(directory: Path, repo: str | None, limit: int) -> None:
    """Show who moved which reference, newest first, a line of JSON each."""
    statement = sa.select(audit).order_by(audit.c.id.desc()).limit(limit)
    if repo is not None:
        statement = statement.where(audit.c.repository == repo)
    with opened(directory) as storage, storage.database.read() as connection:
        rows = connection.execute(statement).all()
    for row in rows:
        click.echo(json.dumps({**row._mapping, "at": date(row.at)}))
