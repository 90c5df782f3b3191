"""``hubstate export``."""

from __future__ import annotations

from pathlib import Path

import click

from hubstate.cli.output import Place, as_json, show

__all__ = ["command"]


@click.command("export")
@click.argument("subject")
@click.argument("path", type=Place(path_type=Path))
@click.option(
    "--to",
    required=True,
    type=click.Choice(["folder", "pth", "npz", "hdf5", "safetensors"]),
    help="folder is what timm (local-dir:) and PyTorchModelHubMixin load.",
)
@click.option(
    "--transforms",
    "rules",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="JSON",
    help="Rules for the names and shapes that are written.",
)
@click.option(
    "--like",
    metavar="OLD",
    help="Under the names that this older release or .safetensors file has: what leads from it to "
    "SUBJECT's, as its builder's migrations and the rules of --transforms, is undone.",
)
@click.option("--widen", is_flag=True, help="Write bfloat16 and float8 as float32.")
@click.option("--force", is_flag=True, help="Replace what is there.")
@click.option("--registry", metavar="WHERE", help="A folder or URL. [HUBSTATE_REGISTRY]")
@as_json
def command(
    subject: str,
    path: Path,
    to: str,
    rules: Path | None,
    like: str | None,
    widen: bool,
    force: bool,
    registry: str | None,
    as_json: bool,
) -> None:
    """Write the weights of SUBJECT to PATH in another format; they are read back and compared.

    SUBJECT is org/name@revision or a .safetensors file.

    \b
    Example:
      hubstate export org/name@v1 --to pth weights.pth
      hubstate export org/name@v1 --to folder ./model
      hubstate export org/name@v2 --to pth old.pth --like org/name@v1
    """
    from hubstate.convert import export_weights
    from hubstate.subject import open_subject
    from hubstate.transforms import read_rules

    tensors = export_weights(
        open_subject(subject, registry=registry),
        path,
        to=to,
        transforms=read_rules(rules) if rules else None,
        like=open_subject(like, registry=registry) if like else None,
        widen=widen,
        force=force,
    )
    count = sum(tensor.nbytes for tensor in tensors.values())
    data = {"path": str(path), "format": to, "tensors": len(tensors), "bytes": count}
    show(data, f"{path}: {len(tensors)} tensors, {count:,} bytes, as {to}", as_json=as_json)
