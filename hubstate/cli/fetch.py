"""``hubstate fetch``."""

from __future__ import annotations

import filecmp
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubstate.cli.output import Place, as_json, frozen, moved, show, size, table
from hubstate.values import replace

if TYPE_CHECKING:
    from hubstate.hub import Release
    from hubstate.manifest import BuilderRecord

__all__ = ["command"]


@click.command("fetch")
@click.argument("reference")
@click.option("--file", "files", multiple=True, metavar="NAME", help="Only these; *.json works.")
@click.option(
    "--to",
    "folder",
    type=Place(file_okay=False, path_type=Path),
    help="Also copy the files into this folder; none that differs is overwritten.",
)
@click.option("--probe", is_flag=True, help="Rebuild the model and run the recorded probe.")
@click.option("--builder", metavar="NAME", help="What rebuilds it for --probe, if you trust it.")
@click.option("--registry", metavar="WHERE", help="A folder or URL. [HUBSTATE_REGISTRY]")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show what there is, and what of it is here; fetch the manifest only.",
)
@frozen
@as_json
def command(
    reference: str,
    files: tuple[str, ...],
    folder: Path | None,
    probe: bool,
    builder: str | None,
    registry: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Fetch the release that REFERENCE names into the cache, verified, and say where it is.

    REFERENCE is org/name@revision; a revision is a branch, a tag, a commit, or sha256: and the
    digest of the manifest. Without one it is the branch main.

    --probe rebuilds the model by a builder that is installed here. Nothing is imported on the
    word of a release: name a function of your own, package.module:function, with --builder.

    \b
    Example:
      hubstate fetch org/name@v1 --probe
      hubstate fetch org/name --file config.json --to ./here --json
    """
    from hubstate.hub import open_release

    release = open_release(reference, registry=registry)
    if dry_run:
        for name in release.commit.files:
            release.source.find(name)
    else:
        release.fetch(files or None)
        if folder:
            _copy(release, folder)
        if probe:
            _prove(release, builder)
    show(_facts(release), _text(release), as_json=as_json)


def _facts(release: Release) -> dict[str, Any]:
    return {
        "reference": str(release.reference),
        "pinned": str(release.pinned),
        "commit": release.commit.id,
        "downloaded": release.traffic.downloaded,
        "reused": release.traffic.reused,
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
    files = table(["FILE", "SIZE", "PATH"], rows)
    return f"{release.reference} is {release.pinned}\n{files}\n{moved(release.traffic)}"


def _copy(release: Release, folder: Path) -> None:
    from hubstate.blobs import reachable

    targets = {folder / name: path for name, path in release.paths.items()}
    with reachable(f"the copy in {folder} is not complete"):
        for target, path in targets.items():
            if target.exists() and not filecmp.cmp(target, path, shallow=False):
                raise click.ClickException(
                    f"{target} exists and is another file: move it away first"
                )
        for target, path in targets.items():
            _put(path, target)


def _put(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        shutil.copyfile(path, temporary)  # a file of its own, which may be written
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _prove(release: Release, builder: str | None) -> None:
    from hubstate.cli.rebuilding import rebuild
    from hubstate.errors import GateRefused, InvalidManifest
    from hubstate.pretrained import load_release
    from hubstate.probe import check_probe

    manifest = release.manifest
    if manifest is None or manifest.probe is None or manifest.builder is None:
        raise InvalidManifest(f"{release.pinned}: it has no probe, or no builder to run one on")
    model = rebuild(_trusted(manifest.builder, builder, where=str(release.pinned)))
    load_release(model, release)
    if problems := check_probe(model, manifest.probe):
        raise GateRefused(problems)
    click.echo("the model computes what was published", err=True)


def _trusted(record: BuilderRecord, builder: str | None, *, where: str) -> BuilderRecord:
    """The record without anything that would import a module because a release says so.

    Raises:
        UnknownModel: the release names a function, and the caller did not name one.
    """
    from hubstate.errors import UnknownModel
    from hubstate.zoo.create import list_models

    if builder is None and record.name not in list_models():
        raise UnknownModel(
            f"{where}: its builder {record.name!r} is none of those installed here, and nothing is "
            "imported on the word of a release: if you trust that function, name it with --builder"
        )
    return replace(record, name=builder or record.name, source=None)
