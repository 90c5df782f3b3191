"""``hubstate import``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubstate.cli.output import Place, as_json, max_shard_size, pairs, show

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hubstate.convert import Foreign
    from hubstate.publishing import Publication
    from hubstate.strictjson import Json

__all__ = ["command"]

_PICKLE = "pytorch_model.bin"  # as transformers called it before there were safetensors
_NEEDS = {
    "arguments": ("--arg", "builder", "--builder"),
    "metrics": ("--metric", "repository", "--as"),
    "labels": ("--label", "repository", "--as"),
    "tag": ("--tag", "repository", "--as"),
}


@click.command("import")
@click.argument("source")
@click.option("--as", "repository", metavar="ORG/NAME", help="Publish the weights there.")
@click.option(
    "--output",
    type=Place(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write them to this .safetensors file.",
)
@click.option("--format", "format", metavar="FORMAT", help="torch, npz, hdf5, …; by the ending.")
@click.option("--key", metavar="KEY", help="Where the weights are, such as state_dict; '.': top.")
@click.option("--file", "file", metavar="NAME", help="Of a repository or folder: what to import.")
@click.option("--layout", default="torch", show_default=True, help="torch, flax, keras or flux.")
@click.option(
    "--transforms",
    "rules",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="JSON",
    help="Rules for names and shapes, after those of the layout.",
)
@click.option("--builder", help="Load into this, strictly: a name or package.module:function.")
@click.option("--arg", "arguments", multiple=True, metavar="NAME=VALUE", help="For the builder.")
@click.option("--license", "license_id", metavar="SPDX", help="Needed by --as.")
@click.option("--metric", "metrics", multiple=True, metavar="NAME=VALUE", help="A measured figure.")
@click.option("--label", "labels", multiple=True, help="A class name; repeat in output order.")
@click.option("--tag", help="A name that the release keeps for ever.")
@click.option("--registry", metavar="WHERE", help="A folder or URL. [HUBSTATE_REGISTRY]")
@click.option("--force", is_flag=True, help="Replace the file that --output names.")
@click.option("--allow-nonfinite", is_flag=True, help="Publish NaN and infinite values.")
@max_shard_size
@click.option("--dry-run", is_flag=True, help="Read and check everything; write nothing.")
@as_json
def command(source: str, as_json: bool, **options: Any) -> None:
    """Bring weights from elsewhere: .pth, .safetensors, .npz, .h5, .keras, .msgpack or .jld2.

    SOURCE is a file, the index of several, a folder with either, or a repository,
    org/name@revision. Nothing in it is executed: a pickle that asks for code is refused. Without
    --as and --output, what is found is shown.

    \b
    Example:
      hubstate import checkpoint.pth --builder resnet18 --arg num_classes=10 \\
          --as org/name --license apache-2.0
      hubstate import flax_model.msgpack --layout flax --output model.safetensors
    """
    from hubstate.convert.holder import hold

    _check_options(options)
    files = _locate(source, options["file"], options["registry"])
    foreign, tensors = _read(files, options)
    model = _built(tensors, options) if options["builder"] else None
    data: dict[str, Any] = {"source": source, **foreign.to_json()}
    lines = [f"{source}: {foreign}"]
    if model is not None:
        lines.append(f"  fits {options['builder']}: {len(tensors)} tensors")
    if options["output"]:
        lines.append(_write(options["output"], tensors if model is None else model, options))
        data["output"] = str(options["output"])
    if options["repository"]:
        published = hold(tensors) if model is None else model
        publication = _publish(files, foreign, published, options)
        lines.append(str(publication))
        data["publication"] = publication.to_json()
    show(data, "\n".join(lines), as_json=as_json)


def _check_options(options: Mapping[str, Any]) -> None:
    if options["repository"] and not options["license_id"]:
        raise click.UsageError("--as needs --license")
    for name, (option, needed, other) in _NEEDS.items():
        if options[name] and not options[needed]:
            raise click.UsageError(f"{option} needs {other}")


def _locate(source: str, file: str | None, registry: str | None) -> Mapping[str, Path]:
    """The file by what it is called, or the shards; those of a repository are fetched."""
    from hubstate.convert.reading import FORMATS
    from hubstate.hub import open_release
    from hubstate.shards import INDEX_SUFFIX, open_index

    path = Path(source)
    if path.is_dir():
        path = _in_folder(path, file)
    if path.name.endswith(INDEX_SUFFIX):
        return open_index(path)
    endings = tuple(ending for known in FORMATS.values() for ending in known)
    # A repository may have a dot, too.
    if path.is_file() or path.name.lower().endswith(endings):
        return {path.name: path}

    release = open_release(source, registry=registry)
    return release.fetch([file] if file else release.weights_headers())


def _in_folder(folder: Path, file: str | None) -> Path:
    """The weights of a folder, such as a copy of a repository without a manifest.

    Raises:
        NotFound: it has none, or several, and nothing says which.
    """
    from hubstate.convert.reading import FORMATS
    from hubstate.errors import NotFound
    from hubstate.release import WEIGHTS

    endings = tuple(ending for known in FORMATS.values() for ending in known)
    found = sorted(p.name for p in folder.iterdir() if p.name.lower().endswith(endings))
    usual = [file] if file else [WEIGHTS, f"{WEIGHTS}.index.json", _PICKLE]
    for name in usual:
        if (folder / name).is_file():
            return folder / name
    if file is None and len(found) == 1:
        return folder / found[0]
    names = ", ".join(found) or "none"
    raise NotFound(f"{folder}: expected {' or '.join(usual)}, found {names}; --file names one")


def _read(
    files: Mapping[str, Path], options: Mapping[str, Any]
) -> tuple[Foreign, dict[str, Tensor]]:
    from hubstate.convert import layout_rules, read_foreign, read_shards
    from hubstate.transforms import read_rules, resolve

    if len(files) > 1:
        foreign = read_shards(files.values())
    else:
        ((name, path),) = files.items()
        foreign = read_foreign(path, format=options["format"], key=options["key"], name=name)
    tensors = foreign.tensors
    rules = [*layout_rules(options["layout"], tensors)]
    if rules:
        tensors = resolve(rules, tensors).apply(tensors)
    if options["rules"]:
        tensors = resolve(read_rules(options["rules"]), tensors).apply(tensors)
    return foreign, tensors


def _built(tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> nn.Module:
    from hubstate.cli.rebuilding import rebuild
    from hubstate.convert.older import migrate
    from hubstate.loading import loadmodel
    from hubstate.manifest import BuilderRecord

    given = pairs("--arg", options["arguments"])
    model = rebuild(BuilderRecord(name=options["builder"], arguments=given))
    loadmodel(model, migrate(tensors, options["builder"]))
    return model


def _write(output: Path, weights: Any, options: Mapping[str, Any]) -> str:
    from hubstate.errors import Conflict
    from hubstate.walk import tensors_of
    from hubstate.weights import save_weights

    if output.exists() and not options["force"]:
        raise Conflict(f"{output}: there is something already; --force replaces it")
    if options["dry_run"]:
        return f"  would write {output}"
    output.parent.mkdir(parents=True, exist_ok=True)
    saved = save_weights(output, tensors_of(weights))
    return f"  wrote {output}, {saved.size:,} bytes"


def _publish(
    files: Mapping[str, Path], foreign: Foreign, model: nn.Module, options: Mapping[str, Any]
) -> Publication:
    from hubstate.publishing import publish

    bare = options["builder"] is None
    return publish(
        model,
        options["repository"],
        license=options["license_id"],
        builder=options["builder"],
        arguments=pairs("--arg", options["arguments"]),
        weights_only=bare,
        metrics=pairs("--metric", options["metrics"]),
        labels=options["labels"],
        preprocessing={} if bare else None,
        provenance={"imported": _origin(files, foreign, options)},
        tag=options["tag"],
        registry=options["registry"],
        allow_nonfinite=options["allow_nonfinite"],
        max_shard_size=options["max_shard_size"],
        dry_run=options["dry_run"],
    )


def _origin(
    files: Mapping[str, Path], foreign: Foreign, options: Mapping[str, Any]
) -> dict[str, Json]:
    """Where the weights are from, so that the import can be repeated."""
    from hubstate.digest import hash_file

    rules = json.loads(options["rules"].read_text()) if options["rules"] else []
    digests = {name: str(hash_file(path)) for name, path in files.items()}
    named: dict[str, Json] = {"files": digests}
    if len(digests) == 1:
        named = dict(zip(("file", "digest"), *digests.items(), strict=True))
    return {
        **named,
        "format": foreign.format,
        "key": foreign.key,
        "layout": options["layout"],
        "transforms": rules,
    }
