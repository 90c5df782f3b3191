"""``hubstate fetch``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubstate.cli.output import as_json, frozen, show, size, table

if TYPE_CHECKING:
    from hubstate.hub import Release

__all__ = ["command"]


@click.command("fetch")
@click.argument("reference")
@click.option("--file", "files", multiple=True, metavar="NAME", help="Only these; *.json works.")
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Also copy the files into this folder; none that differs is overwritten.",
)
@click.option("--probe", is_flag=True, help="Rebuild the model and run the recorded probe.")
@click.option("--registry", metavar="WHERE", help="A folder or URL. [HUBSTATE_REGISTRY]")
@click.option("--dry-run", is_flag=True, help="Show what there is; fetch the manifest only.")
@frozen
@as_json
def command(
    reference: str,
    files: tuple[str, ...],
    folder: Path | None,
    probe: bool,
    registry: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Fetch the release that REFERENCE names into the cache, verified, and say where it is.

    REFERENCE is org/name@revision; a revision is a branch, a tag, a commit, or sha256: and the
    digest of the manifest. Without one it is the branch main.

    \b
    Example:
      hubstate fetch org/name@v1 --probe
      hubstate fetch org/name --file config.json --to ./here --json
    """
    from hubstate.hub import open_release

    release = open_release(reference, registry=registry)
    if not dry_run:
        release.fetch(files or None)
        if folder:
            _copy(release, folder)
        if probe:
            _prove(release)
    show(_facts(release), _text(release), as_json=as_json)


def _facts(release: Release) -> dict[str, Any]:
    return {
        "reference": str(release.reference),
        "pinned": str(release.pinned),
        "commit": release.commit.id,
        "files": {
            name: {
                "size": info.size,
                "digest": str(info.digest) if info.digest else None,
                "path": str(release.paths[name]) if name in release.paths else None,
            }
            for name, info in sorted(release.commit.files.items())
        },
    }


def _text(release: Release) -> str:
    rows = [
        [name, size(info.size or 0), str(release.paths.get(name, "not fetched"))]
        for name, info in sorted(release.commit.files.items())
    ]
    return f"{release.reference} is {release.pinned}\n{table(['FILE', 'SIZE', 'PATH'], rows)}"


def _copy(release: Release, folder: Path) -> None:
    targets = {folder / name: path for name, path in release.paths.items()}
    for target, path in targets.items():
        if target.exists() and target.read_bytes() != path.read_bytes():
            raise click.ClickException(f"{target} exists and is another file: move it away first")
    for target, path in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.part")
        shutil.copyfile(path, temporary)  # a file of its own, which may be written
        temporary.replace(target)


def _prove(release: Release) -> None:
    from hubstate.errors import GateRefused, InvalidManifest
    from hubstate.pretrained import load_release
    from hubstate.probe import check_probe
    from hubstate.zoo.create import create_model

    manifest = release.manifest
    if manifest is None or manifest.probe is None or manifest.builder is None:
        raise InvalidManifest(f"{release.pinned}: it has no probe, or no builder to run one on")
    model = create_model(manifest.builder.name, **dict(manifest.builder.arguments))
    load_release(model, release)
    if problems := check_probe(model, manifest.probe):
        raise GateRefused(problems)
    click.echo("the model computes what was published", err=True)
