"""``hubstate cache``: what has been fetched, and whether it is still sound."""

from __future__ import annotations

import sys

import click

from hubstate.cache import Cache, Freed, entries, prune, remove, total_size, verify
from hubstate.cli.output import as_json, show, size, table
from hubstate.progress import bar
from hubstate.reference import Reference

__all__ = ["command"]

_DAY = 86_400.0


@click.group("cache")
def command() -> None:
    """See and look after the cache.

    \b
    Example:
      hubstate cache ls
      hubstate cache verify
      hubstate cache prune --unused 30 --dry-run
    """


@command.command("path")
@as_json
def _path(as_json: bool) -> None:
    """Print the cache folders, the one that is written to first.

    \b
    Example:
      hubstate cache path
    """
    cache = Cache()
    folders = [str(folder) for folder in cache.folders]
    data = {"folders": folders, "writable": str(cache.writable) if cache.writable else None}
    show(data, "\n".join(folders), as_json=as_json)


@command.command("ls")
@as_json
def _ls(as_json: bool) -> None:
    """List the releases that the cache knows.

    \b
    Example:
      hubstate cache ls --json
    """
    cache = Cache()
    found = entries(cache)
    data = [
        {
            "reference": str(entry.reference),
            "commit": entry.commit,
            "registry": entry.endpoint,
            "size": entry.size,
            "present": sorted(entry.present),
            "missing": sorted(set(entry.files) - entry.present),
            "used": entry.used.isoformat(),
        }
        for entry in found
    ]
    rows = [
        [
            str(entry.reference),
            entry.commit[:12],
            f"{len(entry.present)}/{len(entry.files)}",
            size(entry.size),
            f"{entry.used:%Y-%m-%d}",
        ]
        for entry in found
    ]
    text = table(["REFERENCE", "COMMIT", "FILES", "SIZE", "USED"], rows)
    total = total_size(cache)
    show({"releases": data, "size": total}, f"{text}\n{size(total)} in all", as_json=as_json)


@command.command("verify")
@click.option("--repair", is_flag=True, help="Remove what is damaged, so that it is fetched again.")
@as_json
def _verify(repair: bool, as_json: bool) -> None:
    """Hash every cached file again, on all cores. Exit code 5 if one is damaged.

    \b
    Example:
      hubstate cache verify --repair
    """
    cache = Cache()
    with bar("verify", total=total_size(cache)) as advance:
        result = verify(cache, repair=repair, progress=advance)
    lines = [f"{result.blobs} files, {size(result.size)}: {len(result.damaged)} damaged"]
    for path, needs in result.damaged.items():
        lines.append(f"  {path}{' is needed by ' + ', '.join(needs) if needs else ''}")
    damaged = {str(path): list(needs) for path, needs in result.damaged.items()}
    data = {"files": result.blobs, "size": result.size, "damaged": damaged, "repaired": repair}
    show(data, "\n".join(lines), as_json=as_json)
    if damaged:
        sys.exit(5)


@command.command("rm")
@click.argument("reference")
@click.option("--all", "every", is_flag=True, help="Every release of the repository.")
@as_json
def _rm(reference: str, every: bool, as_json: bool) -> None:
    """Forget the release that REFERENCE names, and the files that only it needs.

    \b
    Example:
      hubstate cache rm org/name@v1
      hubstate cache rm org/name --all
    """
    freed = remove(Cache(), Reference.parse(reference), every=every)
    _show_freed("removed", freed, as_json=as_json)


@command.command("prune")
@click.option(
    "--unused",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    help="Also what was not used for so long.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed.")
@as_json
def _prune(unused: float | None, dry_run: bool, as_json: bool) -> None:
    """Remove files that no known release names, and what killed processes left behind.

    What came within the last hour stays: somebody may be about to use it.

    \b
    Example:
      hubstate cache prune --unused 30 --dry-run
    """
    seconds = None if unused is None else unused * _DAY
    freed = prune(Cache(), unused=seconds, dry_run=dry_run)
    _show_freed("would remove" if dry_run else "removed", freed, as_json=as_json)


def _show_freed(verb: str, freed: Freed, *, as_json: bool) -> None:
    data = {"paths": [str(path) for path in freed.paths], "size": freed.size}
    show(data, f"{verb} {len(freed.paths)} files, {size(freed.size)}", as_json=as_json)
