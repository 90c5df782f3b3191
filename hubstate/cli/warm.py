"""``hubstate warm``: fill a cache ahead of time, and prove it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hubstate.cli.output import Place, as_json, frozen, moved, show, size, table
from hubstate.errors import InvalidSetting

if TYPE_CHECKING:
    from hubstate.cache import Cache, Traffic
    from hubstate.filters import Filter
    from hubstate.warm import Proof, Wanted

__all__ = ["command"]


@click.command("warm")
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option(
    "--lock",
    "path",
    type=Place(dir_okay=False, path_type=Path),
    help="Everything that this lock file pins; without NAME, the nearest hubstate.lock.",
)
@click.option(
    "--cache",
    "folder",
    type=Place(file_okay=False, path_type=Path),
    help="The folder to fill, instead of the configured ones. [HUBSTATE_CACHE]",
)
@click.option(
    "--filter",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Only the tensors of that name or glob; with ! in front, all but those.",
)
@click.option("--registry", metavar="WHERE", help="A folder or URL. [HUBSTATE_REGISTRY]")
@click.option("--check", "checking", is_flag=True, help="Fetch nothing, hash everything again.")
@frozen
@as_json
def command(
    names: tuple[str, ...],
    path: Path | None,
    folder: Path | None,
    patterns: tuple[str, ...],
    registry: str | None,
    checking: bool,
    as_json: bool,
) -> None:
    """Fetch each NAME, a reference or a model, into the cache, and prove that all of it is there.

    The exit code is 0 only if every file is in the cache, verified; running it again fetches what
    is missing, if anything. --check takes no network.

    \b
    Example:
      hubstate warm --lock hubstate.lock --json
      hubstate warm resnet18_small org/name@v1 --filter '!fc'
      hubstate warm --check
    """
    from hubstate import warm
    from hubstate.cache import Cache

    wanted = _wanted(names, path, registry)
    cache = Cache([folder] if folder else None)
    work = warm.check if checking else warm.warm
    proofs = work(wanted, cache=cache, filter=_filter(patterns))
    show(_data(proofs, cache), _text(proofs), as_json=as_json)
    if error := next((proof.error for proof in proofs if proof.error), None):
        sys.exit(error.exit_code)


def _wanted(names: tuple[str, ...], path: Path | None, registry: str | None) -> list[Wanted]:
    from hubstate.lock import NAME, find_lock, read_lock
    from hubstate.warm import locked, named

    wanted: list[Wanted] = []
    if path or not names:
        place = path or find_lock()
        if place is None:
            raise InvalidSetting(f"nothing is named, and there is no {NAME} here or above")
        lock = read_lock(place)
        wanted = locked(lock, registry=registry)
        names = tuple(name for name in names if not lock.has(name))
    wanted += named(names, registry=registry)
    return list({str(one.reference): one for one in reversed(wanted)}.values())[::-1]


def _filter(patterns: tuple[str, ...]) -> Filter | None:
    from hubstate.filters import only, without

    excluded = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    included = [pattern for pattern in patterns if not pattern.startswith("!")]
    if included and excluded:
        raise InvalidSetting("--filter: expected patterns that are all with or all without a !")
    try:
        if excluded:
            return without(*excluded)
        return only(*included) if included else None
    except ValueError as error:
        raise InvalidSetting(f"--filter: {error}") from None


def _data(proofs: list[Proof], cache: Cache) -> dict[str, object]:
    files = [file for proof in proofs for file in proof.files]
    traffic = _traffic(proofs)
    return {
        "complete": all(proof.complete for proof in proofs),
        "cache": [str(folder) for folder in cache.folders],
        "files": len(files),
        "size": sum(file.size or 0 for file in files),
        "downloaded": traffic.downloaded,
        "reused": traffic.reused,
        "releases": [proof.to_json() for proof in proofs],
    }


def _text(proofs: list[Proof]) -> str:
    rows = [
        [
            str(proof.wanted.reference),
            f"{sum(not file.problem for file in proof.files)}/{len(proof.files)}",
            size(sum(file.size or 0 for file in proof.files)),
            str(proof.error or _state(proof)),
        ]
        for proof in proofs
    ]
    return f"{table(['RELEASE', 'FILES', 'SIZE', 'STATE'], rows)}\n{moved(_traffic(proofs))}"


def _state(proof: Proof) -> str:
    part = any(file.state in ("partial", "unwanted") for file in proof.files)
    return "complete, as filtered" if part else "complete"


def _traffic(proofs: list[Proof]) -> Traffic:
    from hubstate.cache import Traffic

    return sum((file.traffic for proof in proofs for file in proof.files), Traffic())
