"""What a builder, a release or a model wants its images to be, looked up by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from torch import nn

from hubstate.errors import InvalidManifest
from hubstate.hub import open_release
from hubstate.strictjson import Json
from hubstate.values import frozen
from hubstate.zoo.builders import Registration
from hubstate.zoo.catalogue import CatalogueEntry, entries, find_entry
from hubstate.zoo.create import find_builder
from hubstate.zoo.images import Preprocessing
from hubstate.zoo.inputs import FIELDS
from hubstate.zoo.origin import preprocessing_of

__all__ = ["ModelInfo", "model_info", "preprocess"]


@frozen
class ModelInfo:
    """What is known of a builder, or of a release, before anything is built or fetched.

    >>> model_info("vit_b_16").arguments["image_size"]
    224
    """

    name: str
    """The builder's name, or the reference that was asked for."""
    builder: str | None
    """Who builds it; None for a release of weights alone."""
    arguments: Mapping[str, Json] = field(default_factory=dict)
    """The builder's own arguments: their defaults, or those of the release."""
    preprocessing: Preprocessing | None = None
    """None where nothing is stated, as of a builder for images of any size."""
    labels: tuple[str, ...] = ()
    """Class names in the order of the output; a release has them, a builder has none."""
    weights: tuple[str, ...] = ()
    """The tags of the catalogue's weights; the default first."""
    license: str | None = None
    metrics: Mapping[str, Json] = field(default_factory=dict)


def model_info(
    name: str, *, tag: bool | str | None = None, registry: str | None = None
) -> ModelInfo:
    """What a builder's inputs must be like, or a release's, with its labels and metrics.

    Args:
        name: a builder's name as in ``list_models()``, or a reference, which has a ``/``.
        tag: weights of the catalogue, for which a builder is asked; True for the default ones.
        registry: a folder or URL instead of the configured registry, for a reference.

    Raises:
        UnknownModel: no builder has that name.
        InvalidManifest: the preprocessing that is stated means nothing.
        HubstateError: see ``open_release``.

    >>> info = model_info("resnet18")
    >>> info.preprocessing.input_size, info.preprocessing.crop_pct, info.arguments["in_chans"]
    ((3, 224, 224), 0.875, 3)
    """
    _check_tag(name, tag)
    return _release_info(name, registry) if "/" in name else _builder_info(name, tag)


def _builder_info(name: str, tag: bool | str | None) -> ModelInfo:
    registration = find_builder(name).registration
    parameters = inspect.signature(registration.function).parameters.values()
    known = sorted(
        (entry for entry in (*registration.weights, *entries()) if entry.builder == name),
        key=lambda entry: not entry.default,
    )
    entry = _entry(registration, tag)
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return ModelInfo(
        name=name,
        builder=registration.name,
        arguments={**defaults, **(entry.arguments if entry else {})},
        preprocessing=_parsed(_stated(name, tag)),
        weights=tuple(dict.fromkeys(entry.tag for entry in known)),
        license=entry.license if entry else None,
        metrics=entry.metrics if entry else {},
    )


def _entry(registration: Registration, tag: bool | str | None) -> CatalogueEntry | None:
    if tag is None or tag is False:
        return None
    return find_entry(registration.name, tag, own=registration.weights)


def _check_tag(what: object, tag: bool | str | None) -> None:
    if tag is not None and not (isinstance(what, str) and "/" not in what):
        raise TypeError(f"tag: it goes with a builder's name, not with {what!r:.80}")


def _release_info(reference: str, registry: str | None) -> ModelInfo:
    manifest = open_release(reference, registry=registry).manifest
    if manifest is None:
        raise InvalidManifest(f"{reference}: it has no manifest, which would state its input")
    builder = manifest.builder
    return ModelInfo(
        name=reference,
        builder=builder.name if builder else None,
        arguments=dict(builder.arguments) if builder else {},
        preprocessing=_parsed(manifest.preprocessing),
        labels=manifest.labels,
        license=manifest.license,
        metrics=dict(manifest.metrics),
    )


def preprocess(
    what: str | nn.Module | Mapping[str, Json], *, tag: bool | str | None = None, **changes: Any
) -> Preprocessing:
    """The function that makes images into a model's input.

    Args:
        what: a builder's name; a reference; a model that a registered builder made; or the
            preprocessing itself as a mapping.
        tag: weights of the catalogue, for which a builder is asked; True for the default ones. A
            model with such weights needs none.
        changes: fields of :class:`Preprocessing` that replace what is stated, such as
            ``input_size=(3, 288, 288)``.

    Raises:
        InvalidManifest: nothing is stated and no ``changes`` say it, as of ``resnet18_small``,
            which takes images of any size; or what is stated means nothing.
        TypeError: a change of something else.
        UnknownModel: no builder has that name.
        HubstateError: see ``open_release``.

    >>> import torch
    >>> photograph = torch.rand(3, 480, 640)
    >>> preprocess("resnet18")(photograph).shape
    torch.Size([3, 224, 224])
    """
    _check_tag(what, tag)
    if isinstance(what, nn.Module):
        stated = preprocessing_of(what)
    elif isinstance(what, str):
        stated = _stated(what, tag)
    else:
        stated = what
    if unknown := changes.keys() - set(FIELDS):
        raise TypeError(
            f"preprocess() has {', '.join(FIELDS)}, and no {', '.join(sorted(unknown))}"
        )
    if not stated and not changes:
        raise InvalidManifest(_unstated(what))
    return Preprocessing.parse({**stated, **changes})


def _unstated(what: object) -> str:
    who = repr(what) if isinstance(what, str | Mapping) else f"this {type(what).__name__}"
    return (
        f"{who}: nothing states how its input is to be made: say it here, as in input_size=(3, 32, "
        "32), with mean= and std= unless values from 0 to 1 are wanted; register_model("
        "preprocessing=…) and publish(…, preprocessing=…) state it for good"
    )


def _stated(name: str, tag: bool | str | None) -> Mapping[str, Json]:
    if "/" not in name:
        registration = find_builder(name).registration
        entry = _entry(registration, tag)
        return {**registration.preprocessing, **(entry.preprocessing if entry else {})}
    manifest = open_release(name).manifest
    return manifest.preprocessing if manifest else {}


def _parsed(data: Mapping[str, Json]) -> Preprocessing | None:
    return Preprocessing.parse(data) if data else None
