"""``hubstate publish``."""

from __future__ import annotations

from pathlib import Path

import click

from hubstate.cli.output import as_json, max_shard_size, pairs, show

__all__ = ["command"]


@click.command("publish")
@click.argument("repository")
@click.option("--builder", required=True, help="A registered name or package.module:function.")
@click.option("--arg", "arguments", multiple=True, metavar="NAME=VALUE", help="For the builder.")
@click.option(
    "--weights",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The safetensors file, or index, to load, strictly, into what the builder makes.",
)
@click.option(
    "--transforms",
    "rules",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="JSON",
    help="Rules from the file's tensors, published as they are, to the builder's.",
)
@click.option("--license", "license_id", required=True, metavar="SPDX", help="Such as apache-2.0.")
@click.option("--metric", "metrics", multiple=True, metavar="NAME=VALUE", help="A measured figure.")
@click.option("--label", "labels", multiple=True, help="A class name; repeat in output order.")
@click.option("--probe", metavar="SHAPE", help="Input to record a probe with, such as 2,3,224,224.")
@click.option("--description", default="", help="The model card's first paragraph.")
@click.option("--branch", default="main", show_default=True)
@click.option("--tag", help="A name that this release keeps for ever.")
@click.option("--message", help="The commit's message.")
@click.option("--registry", metavar="WHERE", help="A folder or URL. [HUBSTATE_REGISTRY]")
@click.option("--allow-nonfinite", is_flag=True, help="Accept NaN and infinite values.")
@click.option("--allow-equal", is_flag=True, help="Accept tensors equal to the last release's.")
@max_shard_size
@click.option("--dry-run", is_flag=True, help="Show what would change; publish nothing.")
@as_json
def command(
    repository: str,
    builder: str,
    arguments: tuple[str, ...],
    weights: Path,
    rules: Path | None,
    license_id: str,
    metrics: tuple[str, ...],
    labels: tuple[str, ...],
    probe: str | None,
    description: str,
    branch: str,
    tag: str | None,
    message: str | None,
    registry: str | None,
    allow_nonfinite: bool,
    allow_equal: bool,
    max_shard_size: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Publish weights to REPOSITORY (org/name) as one release, after the gate.

    The model is rebuilt in a fresh process from what is about to be published; its structure,
    bytes and output must be the same there, or nothing is published. Running the same command
    again publishes nothing and exits with 0.

    \b
    Example:
      hubstate publish org/name --builder resnet18 --arg num_classes=10 \\
          --weights model.safetensors --license apache-2.0 --metric accuracy=0.93 --tag v1
    """
    from hubstate.cli.rebuilding import rebuild
    from hubstate.convert.older import migrate
    from hubstate.errors import StructureMismatch
    from hubstate.loading import loadmodel
    from hubstate.manifest import BuilderRecord
    from hubstate.publishing import publish
    from hubstate.rules import read_rules
    from hubstate.staging import preprocessing_of
    from hubstate.subject import open_subject
    from hubstate.weights import map_weights

    given = pairs("--arg", arguments)
    model = rebuild(BuilderRecord(name=builder, arguments=given))
    preprocessing = preprocessing_of(model)
    files = open_subject(str(weights)).files.values()
    tensors = {name: t for file in files for name, t in map_weights(file).items()}
    transforms = read_rules(rules) if rules else ()
    try:
        # Rules of one's own are published with the weights as they are; names that the builder
        # once gave its tensors become those of today.
        tensors = tensors if transforms else migrate(tensors, builder)
        loadmodel(model, tensors, transforms=transforms)
    except StructureMismatch as error:
        raise StructureMismatch(error.issues, where=str(weights)) from None
    if transforms:
        from hubstate.convert.holder import hold  # here, because few publish any

        model = hold(tensors)
    publication = publish(
        model,
        repository,
        license=license_id,
        builder=builder,
        arguments=given,
        transforms=transforms,
        preprocessing=preprocessing,
        metrics=pairs("--metric", metrics),
        labels=labels,
        probe=_shape(probe),
        description=description,
        branch=branch,
        tag=tag,
        message=message,
        registry=registry,
        allow_nonfinite=allow_nonfinite,
        allow_equal=allow_equal,
        max_shard_size=max_shard_size,
        dry_run=dry_run,
    )
    show(publication.to_json(), str(publication), as_json=as_json)


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(side) for side in text.split(","))
    except ValueError:
        raise click.BadParameter(
            f"expected 2,3,224,224, found {text!r}", param_hint="--probe"
        ) from None
