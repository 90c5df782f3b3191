"""Builders: from a function that makes an architecture to one that also brings its weights.

    @register_model
    def my_net(*, num_classes: int = 10) -> nn.Module: ...

    my_net()                                   random weights
    my_net(pretrained=True)                    the catalogue's default weights
    my_net(pretrained="v2")                    the catalogue's weights of that tag
    my_net(pretrained="org/name@v2")           the weights of that release

Each registered function gains the same six arguments, ``pretrained``, ``filter``, ``strict``,
``adapt``, ``prefault`` and ``copy``; its own are passed on, by name only. A model remembers in
private attributes who built it, so that it can be published without saying so again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from hubstate.errors import InvalidSetting
from hubstate.migrating import check_migrations
from hubstate.reference import Reference
from hubstate.strictjson import Json
from hubstate.zoo.catalogue import CatalogueEntry
from hubstate.zoo.index import BUILTIN
from hubstate.zoo.inputs import FIELDS, input_problems
from hubstate.zoo.origin import builder_record, load_report, preprocessing_of
from hubstate.zoo.wrapper import RESERVED, Builder, Registration, call, wrap

if TYPE_CHECKING:
    from torch import nn

    from hubstate.transforms import Rules as Transforms

__all__ = [
    "BUILTIN",
    "RESERVED",
    "Builder",
    "Registration",
    "builder_record",
    "library_builder",
    "load_report",
    "preprocessing_of",
    "register_model",
    "registered",
    "unregistered",
]

M = TypeVar("M", bound="nn.Module")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")


_builders: dict[str, Builder[Any]] = {}


@overload
def register_model(function: Callable[..., M], /) -> Builder[M]: ...
@overload
def register_model(
    *,
    name: str | None = None,
    preprocessing: Mapping[str, Json] | None = None,
    weights: Mapping[str, str] | None = None,
    migrations: Mapping[str, Transforms] | None = None,
    head: str | Iterable[str] = (),
) -> Callable[[Callable[..., M]], Builder[M]]: ...
def register_model(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    preprocessing: Mapping[str, Json] | None = None,
    weights: Mapping[str, str] | None = None,
    migrations: Mapping[str, Transforms] | None = None,
    head: str | Iterable[str] = (),
) -> Any:
    """Make a builder of a function that returns a model, and register it by name.

    What the builder adds to the function's own arguments:

    - ``pretrained``: False for random weights, True for the catalogue's default, a tag of the
      catalogue, or a reference with a ``/`` such as ``"org/name@v1"``; torchvision's spelling
      ``weights=`` is understood too, see ``hubstate.zoo.spelling``;
    - ``filter``, ``strict``: which weights are taken, and whether all must fit, as in
      ``loadmodel``; parameters that get no weights are initialised as ever;
    - ``adapt``: with another ``num_classes``, ``in_chans`` or ``image_size`` than the release's,
      keep the head as it is initialised, fold or repeat the stem's channels, and interpolate
      embeddings of positions; the report names each such tensor;
    - ``prefault``, ``copy``: read the weights into memory at once; own them instead of mapping
      the file. The last five mean nothing without ``pretrained``.

    Args:
        function: takes any arguments by name; its defaults are recorded with the model.
        name: how ``create_model`` knows it; the function's own name if not given.
        preprocessing: what the inputs must be like: ``input_size``, ``mean``, ``std`` …
        weights: references by tag, such as ``{"v1": "org/name@v1"}``; the first is the default.
        migrations: after a refactor: the transforms that lead from what the architecture was to
            what it is, by the structure hash of what it was, or by ``has:`` and the name of a
            tensor that only the old one has. Old releases keep loading by them.
        head: dotted paths of the layers with an output for each class, for ``classifier`` and
            ``backbone``.

    Raises:
        InvalidSetting: a migration, or a field of the preprocessing, that means nothing.
        TypeError: an argument of the function has a reserved name, or cannot be given by name.
        ValueError: another builder has the name.
        InvalidReference: one of the weights is not a reference.

    >>> from torch import nn
    >>> @register_model(name="doc-tiny", weights={"v1": "org/tiny@v1"})
    ... def tiny(*, num_classes: int = 2) -> nn.Linear:
    ...     return nn.Linear(3, num_classes)
    >>> tiny(num_classes=5)
    Linear(in_features=3, out_features=5, bias=True)
    """

    def register(function: Callable[..., Any]) -> Builder[Any]:
        chosen = name or function.__name__
        _check_preprocessing(chosen, preprocessing or {})
        registration = Registration(
            name=chosen,
            function=function,
            source=_source(function),
            preprocessing=dict(preprocessing or {}),
            weights=tuple(_own_entries(chosen, weights or {})),
            migrations=check_migrations(migrations or {}),
            head=(head,) if isinstance(head, str) else tuple(head),
        )
        _check_name(registration)
        _builders[chosen] = builder = wrap(registration)
        return builder

    return register if function is None else register(function)


def registered() -> Mapping[str, Builder[Any]]:
    """The builders that have been registered in this process so far, by name."""
    return _builders


def _path(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


def _source(function: Callable[..., Any]) -> str | None:
    return None if "<" in _path(function) else _path(function)


def _own_entries(builder: str, weights: Mapping[str, str]) -> Iterable[CatalogueEntry]:
    for number, (tag, reference) in enumerate(weights.items()):
        yield CatalogueEntry(
            builder=builder, tag=tag, reference=Reference.parse(reference), default=number == 0
        )


def _check_preprocessing(name: str, stated: Mapping[str, Json]) -> None:
    """What is beside the known fields is the builder's own affair."""
    known = {field: stated[field] for field in FIELDS if field in stated}
    if problems := list(input_problems(known)):
        raise InvalidSetting(f"{name}: preprocessing: {'; '.join(problems)}")


def _check_name(registration: Registration) -> None:
    name, path = registration.name, _path(registration.function)
    if not _NAME.match(name):
        raise ValueError(
            f"a builder's name has letters, digits, '_', '.' and '-' only, not {name!r}"
        )
    module = registration.function.__module__
    if BUILTIN.get(name, module) != module:
        raise ValueError(f"{name} is a builder of {BUILTIN[name]}: pass name= to {path}")
    # The same function may come again: a reloaded module, a cell that is run twice.
    there = _builders[name].registration if name in _builders else registration
    if _path(there.function) != path:
        raise ValueError(
            f"{name} is a builder already, {_path(there.function)}: pass name= to {path}"
        )


def library_builder(name: str) -> Builder[Any]:
    """The builder of another library's architecture, such as ``timm:resnet50``.

    Raises:
        UnknownModel: the library cannot be imported, or has nothing of that name.
    """
    from hubstate.zoo.libraries import find_architecture  # here, as few models are of others

    function, preprocessing, head = find_architecture(name)
    registration = Registration(
        name=name, function=function, source=name, preprocessing=preprocessing, head=head
    )
    return wrap(registration)


def unregistered(function: Callable[..., Any], path: str) -> Builder[Any]:
    """A builder of a function that nobody registered: called as it is, and remembered."""
    registration = Registration(name=path, function=function, source=path)

    def builder(**arguments: Any) -> nn.Module:
        return call(registration, arguments)

    builder.__name__ = path
    cast(Any, builder).registration = registration
    return cast("Builder[Any]", builder)
