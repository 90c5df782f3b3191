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

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, overload

from hubstate.digest import Digest
from hubstate.errors import GateRefused, InvalidSetting
from hubstate.filters import Filter, check_filter
from hubstate.lock import model_pin
from hubstate.reference import Reference
from hubstate.strictjson import Json
from hubstate.zoo.catalogue import CatalogueEntry, Source, choose
from hubstate.zoo.index import BUILTIN
from hubstate.zoo.libraries import find_architecture
from hubstate.zoo.origin import (
    builder_record,
    load_report,
    preprocessing_of,
    remember,
    remember_report,
)
from hubstate.zoo.spelling import spelled

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
M_co = TypeVar("M_co", bound="nn.Module", covariant=True)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")


class Builder(Protocol[M_co]):
    """A function that makes a model, with pretrained weights where that is asked for."""

    __name__: str
    registration: Registration

    def __call__(
        self,
        *,
        pretrained: bool | str = False,
        filter: Filter | None = None,
        strict: bool = True,
        adapt: bool = False,
        prefault: bool = False,
        copy: bool = False,
        **arguments: Any,
    ) -> M_co: ...


RESERVED = {
    parameter.name: parameter
    for parameter in inspect.signature(Builder.__call__).parameters.values()
    if parameter.name not in ("self", "arguments")
}
"""The arguments that every builder has beside its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """What is known of a builder."""

    name: str
    function: Callable[..., nn.Module]
    source: str | None
    """``package.module:function``; None for a function inside a function."""
    preprocessing: Mapping[str, Json] = field(default_factory=dict)
    weights: tuple[CatalogueEntry, ...] = ()
    migrations: Mapping[str, Transforms] = field(default_factory=dict)
    head: tuple[str, ...] = ()
    """Dotted paths of the layers with an output for each class; the classifier's first."""


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
    - ``adapt``: with another ``num_classes`` or ``in_chans`` than the release's, keep the head as
      it is initialised and fold or repeat the stem's channels; the report names each such tensor;
    - ``prefault``, ``copy``: read the weights into memory at once; own them instead of mapping
      the file. The last five mean nothing without ``pretrained``.

    Args:
        function: takes any arguments by name; its defaults are recorded with the model.
        name: how ``create_model`` knows it; the function's own name if not given.
        preprocessing: what the inputs must be like: ``input_size``, ``mean``, ``std`` …
        weights: references by tag, such as ``{"v1": "org/name@v1"}``; the first is the default.
        migrations: after a refactor: the transforms that lead from what the architecture was to
            what it is, by the structure hash of what it was. Old releases keep loading by them.
        head: dotted paths of the layers with an output for each class, for ``classifier`` and
            ``backbone``.

    Raises:
        InvalidSetting: a migration that means nothing.
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
        registration = Registration(
            name=chosen,
            function=function,
            source=_source(function),
            preprocessing=dict(preprocessing or {}),
            weights=tuple(_own_entries(chosen, weights or {})),
            migrations=_checked(migrations or {}),
            head=(head,) if isinstance(head, str) else tuple(head),
        )
        _check_name(registration)
        _builders[chosen] = builder = _builder(registration)
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


def _checked(migrations: Mapping[str, Transforms]) -> Mapping[str, Transforms]:
    if not migrations:
        return {}
    from hubstate.transforms import parse_rules  # here, because few builders have any

    for digest in migrations:
        try:
            Digest.parse(digest)
        except ValueError as error:
            raise InvalidSetting(f"migrations: expected the hash of a structure: {error}") from None
    return {digest: parse_rules(rules) for digest, rules in migrations.items()}


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


def _builder(registration: Registration) -> Builder[Any]:
    function = registration.function
    signature = _keyword_signature(registration)

    @functools.wraps(function)
    def builder(
        *,
        pretrained: bool | str = False,
        filter: Filter | None = None,
        strict: bool = True,
        adapt: bool = False,
        prefault: bool = False,
        copy: bool = False,
        **arguments: Any,
    ) -> Any:
        pretrained = spelled(registration.name, pretrained, arguments, signature=signature)
        _check_pretrained(pretrained)
        check_filter(filter)
        if pretrained is False:
            return _make(registration, signature, arguments)
        source = _locked(registration, pretrained)
        options: dict[str, Any] = {"filter": filter, "strict": strict}
        options |= {"prefault": prefault, "copy": copy, "migrations": registration.migrations}
        options |= {"transforms": source.transforms}
        arguments = {**source.arguments, **arguments}
        make = functools.partial(_make, registration, signature, arguments)
        return _make_pretrained(make, source, options, adapt=adapt)

    public = cast(Any, builder)
    public.__signature__ = _public_signature(signature)
    public.registration = registration
    return cast("Builder[Any]", public)


def _locked(registration: Registration, pretrained: bool | str) -> Source:
    """Where the weights are: as a lock file says, or else the catalogue."""
    pin = model_pin(registration.name, pretrained)
    source = choose(registration.name, pin.tag if pin else pretrained, own=registration.weights)
    return replace(source, reference=str(pin.reference), registry=None) if pin else source


def _check_pretrained(value: object) -> None:
    if not isinstance(value, bool | str):
        found = type(value).__name__
        raise TypeError(f"pretrained is a bool, a tag or a reference, not {found}")


def _make_pretrained(
    make: Callable[[], nn.Module], source: Source, options: Mapping[str, Any], *, adapt: bool
) -> nn.Module:
    # Imported here: a list of the builders needs neither torch nor anything that loads.
    from hubstate.building import skip_init
    from hubstate.collector import collection_paused
    from hubstate.hub import open_release
    from hubstate.pretrained import load_release
    from hubstate.zoo.features import narrowed

    with collection_paused(), skip_init() as skipped:
        model = make()
    with collection_paused():
        release = open_release(source.reference, registry=source.registry)
        options = {**options, "filter": narrowed(model, options["filter"])}
        sizes = _sizes(model) if adapt else None
        report = load_release(model, release, adapt=sizes, **options)
    skipped.finish(model, loaded=frozenset(report.loaded))
    stated = release.manifest.preprocessing if release.manifest else {}
    remember_report(model, report, preprocessing=stated)
    return model


def _sizes(model: nn.Module) -> dict[str, int]:
    """The arguments of a model's builder to which weights can be adapted."""
    try:
        record = builder_record(model)
    except GateRefused:  # other arguments, which no manifest can hold
        record = None
    arguments = record.arguments if record else {}
    known = {name: arguments.get(name) for name in ("num_classes", "in_chans")}
    return {name: size for name, size in known.items() if isinstance(size, int)}


def _make(
    registration: Registration, signature: inspect.Signature, arguments: Mapping[str, Any]
) -> nn.Module:
    try:
        bound = signature.bind(**arguments)
    except TypeError as error:
        raise TypeError(f"{registration.name}(): {error}") from None
    bound.apply_defaults()
    return _call(registration, bound.kwargs)


def _call(registration: Registration, arguments: Mapping[str, Any]) -> nn.Module:
    from torch import nn

    model: object = registration.function(**arguments)
    if not isinstance(model, nn.Module):
        found = type(model).__name__
        raise TypeError(f"the builder {registration.name} returned {found}, not a Module")
    remember(
        model,
        arguments,
        name=registration.name,
        source=registration.source,
        preprocessing=registration.preprocessing,
    )
    return model


def library_builder(name: str) -> Builder[Any]:
    """The builder of another library's architecture, such as ``timm:resnet50``.

    Raises:
        UnknownModel: the library cannot be imported, or has nothing of that name.
    """
    function, preprocessing, head = find_architecture(name)
    registration = Registration(
        name=name, function=function, source=name, preprocessing=preprocessing, head=head
    )
    return _builder(registration)


def unregistered(function: Callable[..., Any], path: str) -> Builder[Any]:
    """A builder of a function that nobody registered: called as it is, and remembered."""
    registration = Registration(name=path, function=function, source=path)

    def builder(**arguments: Any) -> nn.Module:
        return _call(registration, arguments)

    builder.__name__ = path
    cast(Any, builder).registration = registration
    return cast("Builder[Any]", builder)


def _keyword_signature(registration: Registration) -> inspect.Signature:
    """The function's signature with every parameter by name only."""
    signature = inspect.signature(registration.function)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    parameters = []
    for parameter in signature.parameters.values():
        where = f"the argument {parameter.name} of the builder {registration.name}"
        if parameter.name in RESERVED:
            reserved = ", ".join(RESERVED)
            raise TypeError(f"{where} has a reserved name: {reserved} are added to every builder")
        if parameter.kind in positional:
            raise TypeError(f"{where} cannot be given by name")
        named = parameter.kind is inspect.Parameter.VAR_KEYWORD
        parameters.append(
            parameter if named else parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        )
    return signature.replace(parameters=parameters)


def _public_signature(signature: inspect.Signature) -> inspect.Signature:
    first, *last = RESERVED.values()
    own = list(signature.parameters.values())
    named = [p for p in own if p.kind is not inspect.Parameter.VAR_KEYWORD]
    return signature.replace(parameters=[first, *named, *last, *own[len(named) :]])
