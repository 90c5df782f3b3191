"""The model card: a README.md whose front-matter hubs and search engines read.

The front-matter follows the Hugging Face Hub's model card fields: ``license``,
``library_name``, ``tags``, ``pipeline_tag`` and ``model-index`` for measured metrics.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from hubstate.manifest import Json, Manifest

__all__ = ["config_json", "model_card"]

_TIMM = {"mobilenet_v1": "mobilenetv1_100", "xception": "legacy_xception"}


def model_card(repository: str, manifest: Manifest, *, description: str = "") -> str:
    """A model card in Markdown, with YAML front-matter.

    Values are written as JSON scalars, which YAML reads as they are, so that no label or
    licence can break out of its field.
    """
    return "\n".join(
        [*_front_matter(repository, manifest), *_body(repository, manifest, description)]
    )


def _front_matter(repository: str, manifest: Manifest) -> Iterator[str]:
    yield "---"
    yield f"license: {json.dumps(manifest.license.lower())}"
    yield 'library_name: "hubstate"'
    yield "tags:"
    yield '- "hubstate"'
    yield '- "pytorch"'
    if manifest.preprocessing:
        yield 'pipeline_tag: "image-classification"'
    yield from _model_index(repository, manifest.metrics)
    yield "---"


def _model_index(repository: str, metrics: Mapping[str, object]) -> Iterator[str]:
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    if not numbers:
        return
    yield "model-index:"
    yield f"- name: {json.dumps(repository)}"
    yield "  results:"
    yield "  - task:"
    yield '      type: "other"'
    yield "    dataset:"
    yield '      name: "see the card"'
    yield '      type: "other"'
    yield "    metrics:"
    for name, value in sorted(numbers.items()):
        yield f"    - type: {json.dumps(name)}"
        yield f"      value: {json.dumps(value)}"


def _body(repository: str, manifest: Manifest, description: str) -> Iterator[str]:
    yield ""
    yield f"# {repository}"
    yield ""
    if description:
        yield description.strip()
        yield ""
    yield from _facts(manifest)
    yield ""
    yield "## Use"
    yield ""
    yield "```python"
    yield from _use(repository, manifest)
    yield "```"
    yield ""


def _facts(manifest: Manifest) -> Iterator[str]:
    tensors = [entry for entry in manifest.structure if entry.kind in ("param", "buffer")]
    size = sum(file.size for file in manifest.files)
    yield f"- {len(tensors)} tensors, {size:,} bytes, structure `{manifest.structure_hash}`"
    if manifest.builder:
        arguments = ", ".join(f"{k}={v!r}" for k, v in manifest.builder.arguments.items())
        yield f"- built by `{manifest.builder.name}({arguments})`"
    if manifest.transforms:
        count = len(manifest.transforms)
        yield f"- {count} rules in the manifest make that model's tensors of those that are stored"
    for name, value in sorted(manifest.metrics.items()):
        yield f"- {name}: {value}"
    if manifest.labels:
        yield f"- {len(manifest.labels)} labels"
    if manifest.probe is None:
        yield "- no probe: nothing in this release proves what the model computes"


def _use(repository: str, manifest: Manifest) -> Iterator[str]:
    yield "import hubstate"
    builder = manifest.builder
    module = (builder.source or "").partition(":")[0] if builder else ""
    if builder and ":" not in builder.name and module.partition(".")[0] not in ("", "hubstate"):
        yield f"import {module}  # it registers {builder.name}"
    yield ""
    if builder is None:
        yield f"hubstate.load_pretrained(model, {repository!r})  # model: your own architecture"
        return
    given = "".join(f", {name}={value!r}" for name, value in builder.arguments.items())
    if ":" in builder.name:  # a function that nobody registered knows nothing of pretrained=
        yield f"model = hubstate.create_model({builder.name!r}{given})"
        yield f"hubstate.load_pretrained(model, {repository!r})"
    else:
        yield f"model = hubstate.create_model({builder.name!r}, pretrained={repository!r}{given})"


def config_json(manifest: Manifest) -> dict[str, Json]:
    """The ``config.json`` that timm's and the mixin's loaders read beside the weights.

    timm reads ``architecture``, ``num_classes``, ``model_args`` and ``pretrained_cfg``;
    ``PyTorchModelHubMixin`` takes the names that its class's ``__init__`` has.
    """
    config: dict[str, Json] = {"library_name": "hubstate"}
    if manifest.builder is None:
        return config
    arguments = dict(manifest.builder.arguments)
    config |= arguments
    config["architecture"] = _architecture(manifest.builder.name)
    if side := manifest.builder.sizes.get("image_size"):
        config["model_args"] = {"img_size": side}
    cfg: dict[str, Json] = {
        name: manifest.preprocessing[name]
        for name in ("input_size", "mean", "std", "interpolation", "crop_pct")
        if name in manifest.preprocessing
    }
    cfg |= _ends(manifest)
    if manifest.labels:
        cfg["label_names"] = list(manifest.labels)
    cfg["license"] = manifest.license
    config["pretrained_cfg"] = cfg
    return config


def _architecture(builder: str) -> str:
    """What timm calls a builder, where the two have the same tensors under another name."""
    library, _, name = builder.partition(":")
    return name if library in ("timm", "torchvision") else _TIMM.get(builder, builder)


def _ends(manifest: Manifest) -> dict[str, Json]:
    """The first and the last layer with a weight, and the number of classes: timm asks."""
    weights = [
        e for e in manifest.structure if e.path.endswith(".weight") and len(e.shape or ()) > 1
    ]
    if not weights:
        return {}
    first, last = (entry.path.removesuffix(".weight") for entry in (weights[0], weights[-1]))
    classes = (weights[-1].shape or (0,))[0]
    return {"first_conv": first, "classifier": last, "num_classes": classes}
