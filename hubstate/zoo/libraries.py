"""Builders of other libraries by name, ``timm:resnet50`` and ``torchvision:resnet50``.

The architecture is theirs; random weights, a release's weights and the account of a load are as
with any builder of this library. Nothing of theirs is imported before such a name is asked for.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, NamedTuple

from hubstate.errors import UnknownModel
from hubstate.strictjson import Json
from hubstate.zoo.parts import HEADS

__all__ = ["Architecture", "find_architecture", "library_of"]

_NAMES = {"timm": re.compile(r"[A-Za-z0-9_.]+\Z"), "torchvision": re.compile(r"[A-Za-z0-9_]+\Z")}


class Architecture(NamedTuple):
    """What another library has under a name."""

    function: Callable[..., Any]
    """Makes it with random weights."""
    preprocessing: dict[str, Json]
    head: tuple[str, ...]


def library_of(name: str) -> str | None:
    """The library of a name such as ``timm:resnet50``; None of any other name.

    >>> library_of("timm:resnet50"), library_of("timm.models:resnet50"), library_of("resnet50")
    ('timm', None, None)
    """
    library, _, architecture = name.partition(":")
    names = _NAMES.get(library)
    return library if names and names.match(architecture) else None


def find_architecture(name: str) -> Architecture:
    """What a name such as ``timm:resnet50`` stands for.

    Raises:
        UnknownModel: the library cannot be imported, or has nothing of that name.
    """
    library, _, architecture = name.partition(":")
    models: Any = _import("torchvision.models" if library == "torchvision" else "timm", name)
    return (_from_timm if library == "timm" else _from_torchvision)(models, architecture, name)


def _import(module: str, name: str) -> Any:
    library = module.partition(".")[0]
    try:
        import_module(library)
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise UnknownModel(f"{name}: {library} cannot be imported: {error}") from error
        raise UnknownModel(
            f"{name} is an architecture of {library}, which is not installed: pip install {library}"
        ) from None
    except (ImportError, RuntimeError) as error:  # a build for another torch
        raise UnknownModel(f"{name}: {library} cannot be imported: {error}") from error


def _from_timm(timm: Any, architecture: str, name: str) -> Architecture:
    if not timm.is_model(architecture):
        raise UnknownModel(_unknown(name, architecture, timm.list_models()))

    def build(**arguments: Any) -> Any:
        if "image_size" in arguments:
            raise TypeError(f"{name}(): image_size is img_size in timm")
        return timm.create_model(architecture, pretrained=False, **arguments)

    known = timm.get_pretrained_cfg(architecture)
    stated = known.to_dict() if known else {}
    head = stated.get("classifier") or ()
    return Architecture(build, _preprocessing(stated), (head,) if isinstance(head, str) else head)


def _preprocessing(stated: dict[str, Any]) -> dict[str, Json]:
    plain = {"interpolation": stated.get("interpolation"), "crop_pct": stated.get("crop_pct")}
    lists = {key: list(stated.get(key) or ()) for key in ("input_size", "mean", "std")}
    return {key: value for key, value in {**lists, **plain}.items() if value}


def _from_torchvision(models: Any, architecture: str, name: str) -> Architecture:
    if architecture not in models.list_models():
        raise UnknownModel(_unknown(name, architecture, models.list_models()))
    function = models.get_model_builder(architecture)
    # Some would fetch the weights of a part, unless told not to.
    parameters = inspect.signature(function).parameters
    none = {key: None for key in ("weights", "weights_backbone") if key in parameters}

    def build(**arguments: Any) -> Any:
        return function(**{**none, **arguments})

    # Networks of one name have the same modules there and here.
    return Architecture(build, _stated(models, architecture), HEADS.get(architecture, ()))


def _stated(models: Any, architecture: str) -> dict[str, Json]:
    """The images that torchvision's weights are for; empty where they are not for classes."""
    found = [weights.transforms() for weights in models.get_model_weights(architecture)]
    ready = [each for each in found if type(each).__name__ == "ImageClassification"]
    if not ready:
        return {}
    # The first, unless it wants more of the network than its builder makes by default.
    images = min(ready, key=lambda each: each.crop_size)
    (side,), (resize,) = images.crop_size, images.resize_size
    return {
        "input_size": [3, side, side],
        "mean": list(images.mean),
        "std": list(images.std),
        "interpolation": images.interpolation.value,
        "crop_pct": side / resize,
    }


def _unknown(name: str, architecture: str, names: Iterable[str]) -> str:
    library = name.partition(":")[0]
    close = difflib.get_close_matches(architecture, list(names), n=4, cutoff=0.5)
    hint = f": did you mean {', '.join(f'{library}:{each}' for each in close)}?" if close else ""
    return f"{library} has no architecture {architecture!r}{hint}"
