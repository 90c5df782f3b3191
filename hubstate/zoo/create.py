"""Builders by name: the library's own, registered ones, and those of installed packages.

A package offers builders through the entry point group ``hubstate.models``; they are imported
when they are asked for, and not before.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from hubstate.errors import InvalidManifest, UnknownModel
from hubstate.manifest import BuilderRecord
from hubstate.zoo.builders import (
    BUILTIN,
    RESERVED,
    Builder,
    library_builder,
    register_model,
    registered,
    unregistered,
)
from hubstate.zoo.libraries import library_of
from hubstate.zoo.spelling import WEIGHTS

if TYPE_CHECKING:
    from torch import nn

__all__ = ["GROUP", "build", "create_model", "find_builder", "list_models", "maker_of"]

GROUP = "hubstate.models"


def list_models(pattern: str = "*") -> list[str]:
    """The names of the builders that match a glob, sorted; no architecture is imported.

    >>> list_models("wide_*")
    ['wide_resnet101_2', 'wide_resnet50_2']
    """
    names = {*BUILTIN, *registered(), *_offered()}
    return sorted(name for name in names if fnmatchcase(name, pattern))


def create_model(name: str, /, **arguments: Any) -> nn.Module:
    """Build a model by the name of its builder.

    Args:
        name: as in ``list_models()``, or ``package.module:function``; a function that is not
            registered is called with just the arguments given.
        arguments: the builder's own, and ``pretrained``, ``filter``, ``strict``, ``adapt``,
            ``prefault`` and ``copy``.

    Raises:
        UnknownModel: no builder has that name; the message has similar ones.
        TypeError: an argument that the builder does not have.

    >>> create_model("resnet18_small", width=8, num_classes=4).fc
    Linear(in_features=64, out_features=4, bias=True)
    """
    model: nn.Module = find_builder(name)(**arguments)
    return model


def build(record: BuilderRecord) -> nn.Module:
    """Build, with random weights, the model that a record describes.

    Raises:
        UnknownModel, InvalidManifest: see :func:`maker_of`.
        TypeError: the builder has another signature than it had.
    """
    return maker_of(record)()


def maker_of(record: BuilderRecord) -> Callable[[], nn.Module]:
    """What builds the model that a record describes; whatever it imports is imported now.

    A name that no builder has is looked up by the record's ``source``, which imports that module:
    so the record must be one's own, or trusted.

    Raises:
        UnknownModel: there is no such builder.
        InvalidManifest: the record has an argument that a record may not have.
    """
    known = record.source is None or record.name in list_models()
    builder = find_builder(record.name if known else str(record.source))
    reserved = {*RESERVED, WEIGHTS} & record.arguments.keys() - _own(builder)
    if reserved:
        raise InvalidManifest(f"builder {record.name}: arguments may not have {min(reserved)!r}")
    arguments: dict[str, Any] = dict(record.arguments)
    return lambda: builder(**arguments)


def _own(builder: Builder[Any]) -> set[str]:
    """The arguments of a builder's own function, whatever they are called."""
    registration = builder.registration
    if ":" in registration.name and not library_of(registration.name):
        return {*RESERVED, WEIGHTS}  # not registered: every argument is its own
    return set(inspect.signature(registration.function).parameters)


def find_builder(name: str) -> Builder[Any]:
    """The builder of a name, of another library's, or of ``package.module:function``.

    Raises:
        UnknownModel: there is none; the message has similar names.
    """
    if library_of(name):
        return library_builder(name)
    if ":" in name:
        return _import(name)
    if name in BUILTIN:
        builder: Builder[Any] = getattr(import_module(BUILTIN[name]), name)
        return builder
    if name in registered():
        return registered()[name]
    if entry_point := _offered().get(name):
        return _adopt(entry_point)
    raise UnknownModel(_unknown(name))


def _offered() -> dict[str, EntryPoint]:
    return {entry_point.name: entry_point for entry_point in entry_points(group=GROUP)}


def _adopt(entry_point: EntryPoint) -> Builder[Any]:
    where = f"the builder {entry_point.name}, {entry_point.value},"
    try:
        found = entry_point.load()
    except (ImportError, AttributeError) as error:
        raise UnknownModel(f"{where} cannot be imported: {error}") from error
    if not callable(found):
        raise UnknownModel(f"{where} is a {type(found).__name__}, not a function")
    if entry_point.name in registered():  # by the decorator, as the module was imported
        return registered()[entry_point.name]
    return register_model(name=entry_point.name)(getattr(found, "__wrapped__", found))


def _import(path: str) -> Builder[Any]:
    module, _, attribute = path.partition(":")
    try:
        found: Any = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UnknownModel(f"the builder {path} cannot be imported: {error}") from error
    if not callable(found):
        raise UnknownModel(f"the builder {path} is a {type(found).__name__}, not a function")
    return found if hasattr(found, "registration") else unregistered(found, path)


def _unknown(name: str) -> str:
    names = list_models()
    close = ", ".join(difflib.get_close_matches(name, names, n=4, cutoff=0.5))
    hint = f"did you mean {close}? " if close else ""
    return f"no builder is called {name!r}: {hint}hubstate.list_models() has all {len(names)}"
