"""``hubstate lock``: which releases a project uses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hubstate.cli.output import Place, as_json, show, size, table

if TYPE_CHECKING:
    from hubstate.lock import LockFile
    from hubstate.pinning import Change, Verdict

__all__ = ["command"]

_FILE = click.option(
    "--lock",
    "path",
    type=Place(dir_okay=False, path_type=Path),
    help="Instead of the nearest hubstate.lock. [HUBSTATE_LOCK]",
)
_REGISTRY = click.option("--registry", metavar="WHERE", help="A folder or URL. [HUBSTATE_REGISTRY]")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Show what would change; write nothing.")


@click.group("lock")
def command() -> None:
    """Pin releases for a project, in a file that is kept with its code.

    NAME is a reference, such as org/name@v1, or a model, such as resnet18_small for what
    pretrained=True means, or resnet18_small:digits. The lock file is hubstate.lock in the
    working folder or the nearest above it.

    \b
    Example:
      hubstate lock add resnet18_small org/name@v1
      hubstate lock update --dry-run
      hubstate --frozen fetch org/name@v1
    """


@command.command("add")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_FILE
@_REGISTRY
@_DRY_RUN
@as_json
def _add(
    names: tuple[str, ...], path: Path | None, registry: str | None, dry_run: bool, as_json: bool
) -> None:
    """Pin each NAME to what it means now.

    \b
    Example:
      hubstate lock add resnet18_small org/name@v1
    """
    from hubstate.pinning import add_pins

    place, lock = _open(path, create=True)
    after, changes = add_pins(lock, names, registry=registry)
    _finish(place, lock, after, changes, dry_run=dry_run, as_json=as_json)


@command.command("update")
@click.argument("names", nargs=-1, metavar="[NAME...]")
@_FILE
@_DRY_RUN
@as_json
def _update(names: tuple[str, ...], path: Path | None, dry_run: bool, as_json: bool) -> None:
    """Pin each NAME, or all there are, to what it means now, and show what moves.

    \b
    Example:
      hubstate lock update org/name@main --dry-run
    """
    from hubstate.pinning import update_pins

    place, lock = _open(path)
    after, changes = update_pins(lock, names)
    _finish(place, lock, after, changes, dry_run=dry_run, as_json=as_json)


@command.command("remove")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_FILE
@_DRY_RUN
@as_json
def _remove(names: tuple[str, ...], path: Path | None, dry_run: bool, as_json: bool) -> None:
    """Forget each NAME; with a model, its reference too.

    \b
    Example:
      hubstate lock remove org/name@v1
    """
    from hubstate.pinning import remove_pins

    place, lock = _open(path)
    after, changes = remove_pins(lock, names)
    _finish(place, lock, after, changes, dry_run=dry_run, as_json=as_json)


@command.command("check")
@_FILE
@as_json
def _check(path: Path | None, as_json: bool) -> None:
    """See whether everything that is pinned can still be had, and is the same.

    The registries are asked; only where none answers is it enough that the cache has all of a
    release. Nothing larger than manifests is fetched. That a reference means something newer by
    now is shown, and is no fault. The exit code is that of the first problem.

    \b
    Example:
      hubstate lock check --json
    """
    from hubstate.pinning import check_pins

    place, lock = _open(path)
    verdicts = check_pins(lock)
    bad = [verdict for verdict in verdicts if verdict.problem]
    rows = [[v.name, size(lock.releases[v.name].size), _said(v)] for v in verdicts]
    data = {
        "lock": str(place),
        "sound": not bad,
        "releases": [
            {"name": v.name, "problem": str(v.problem) if v.problem else None, "moved": v.moved}
            for v in verdicts
        ],
    }
    good = f"{len(rows) - len(bad)} of {len(rows)} can be had, unchanged"
    text = f"{table(['RELEASE', 'SIZE', ''], rows)}\n{place}: {good}"
    show(data, text, as_json=as_json)
    if bad and bad[0].problem:
        sys.exit(bad[0].problem.exit_code)


def _said(verdict: Verdict) -> str:
    if verdict.problem:
        return str(verdict.problem)
    return f"means {verdict.moved[:12]} by now" if verdict.moved else ""


def _open(path: Path | None, *, create: bool = False) -> tuple[Path, LockFile]:
    from hubstate.errors import InvalidSetting
    from hubstate.lock import NAME, LockFile, find_lock, read_lock

    place = path or find_lock() or Path.cwd() / NAME
    if create and not place.exists():
        return place, LockFile()
    if path is None and not place.exists():
        raise InvalidSetting(
            f"there is no {NAME} in this folder or above it: 'hubstate lock add' makes one"
        )
    return place, read_lock(place)


def _finish(
    place: Path,
    before: LockFile,
    after: LockFile,
    changes: list[Change],
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    from hubstate.errors import Conflict
    from hubstate.lock import write_lock

    if changes and not dry_run:
        if _open(place, create=True)[1] != before:  # registries may have taken long to answer
            raise Conflict(f"{place} was changed by somebody else meanwhile: run this again")
        write_lock(place, after)
    verb = "would change" if dry_run else "changed"
    count = "1 pin" if len(changes) == 1 else f"{len(changes)} pins"
    lines = [f"{place}: {count} {verb}", *(f"  {change}" for change in changes)]
    data = {
        "lock": str(place),
        "written": bool(changes) and not dry_run,
        "changes": [change.to_json() for change in changes],
    }
    show(data, "\n".join(lines), as_json=as_json)
