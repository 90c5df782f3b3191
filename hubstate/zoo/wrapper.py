"""The wrapper that makes a builder of a function: six more arguments, and the weights they name.

The function's own arguments are passed on, by name only. Without ``pretrained`` the model is made
and remembered; with it, it is made without initialisation, and what gets no weights is initialised
afterwards.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from hubstate.errors import GateRefused
from hubstate.filters import Filter, Strict, check_filter, check_strict
from hubstate.lock import model_pin
from hubstate.strictjson import Json
from hubstate.values import frozen, replace
from hubstate.zoo.catalogue import CatalogueEntry, Source, choose
from hubstate.zoo.index import BUILTIN
from hubstate.zoo.inputs import check_sizes
from hubstate.zoo.origin import builder_record, preprocessing_of, remember, remember_report
from hubstate.zoo.spelling import spelled

if TYPE_CHECKING:
    from torch import nn

    from hubstate.transforms import Rules as Transforms

__all__ = ["RESERVED", "Builder", "Registration", "call", "wrap"]

M_co = TypeVar("M_co", bound="nn.Module", covariant=True)


class Builder(Protocol[M_co]):
    """A function that makes a model, with pretrained weights where that is asked for."""

    __name__: str
    registration: Registration

    def __call__(
        self,
        *,
        pretrained: bool | str = False,
        filter: Filter | None = None,
        strict: Strict = True,
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


_ABOUT = """\
    Args:
        pretrained, weights, filter, strict, adapt, prefault, copy: which weights, and how they are
            loaded; see ``hubstate.register_model``.
        num_classes, in_chans: outputs, and channels of the images.
        features_only: where it is there: maps of several sizes, the largest first, and no classes.

    Returns:
        A model in training mode that makes logits (N, num_classes) of float32 images
        (N, in_chans, height, width); ``hubstate.preprocess`` makes these.

    Raises:
        TypeError: an argument that there is not, or that is of another kind.
        ValueError: a size that is none.
        UnknownModel: no weights have that tag.
        StructureMismatch: the weights do not fit; nothing was loaded.
        HubstateError: see ``hubstate.open_release``.
"""


@frozen
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


def wrap(registration: Registration) -> Builder[Any]:
    """The builder of a function.

    Raises:
        TypeError: an argument of the function has a reserved name, or cannot be given by name.
    """
    function = registration.function
    signature = _keyword_signature(registration)

    @functools.wraps(function)
    def builder(
        *,
        pretrained: bool | str = False,
        filter: Filter | None = None,
        strict: Strict = True,
        adapt: bool = False,
        prefault: bool = False,
        copy: bool = False,
        **arguments: Any,
    ) -> Any:
        pretrained = spelled(registration.name, pretrained, arguments, signature=signature)
        _check_pretrained(pretrained, adapt)
        check_filter(filter)
        check_strict(strict)
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
    if registration.name in BUILTIN:
        public.__doc__ = f"{function.__doc__}\n\n{_ABOUT}"
    public.__signature__ = _public_signature(signature)
    public.registration = registration
    return cast("Builder[Any]", public)


def _locked(registration: Registration, pretrained: bool | str) -> Source:
    """Where the weights are: as a lock file says, or else the catalogue."""
    pin = model_pin(registration.name, pretrained)
    source = choose(registration.name, pin.tag if pin else pretrained, own=registration.weights)
    return replace(source, reference=str(pin.reference), registry=None) if pin else source


def _check_pretrained(value: object, adapt: object) -> None:
    if not isinstance(value, bool | str):
        found = type(value).__name__
        raise TypeError(f"pretrained is a bool, a tag or a reference, not {found}")
    if not isinstance(adapt, bool):
        found = type(adapt).__name__
        raise TypeError(f"adapt is a bool, not {found}: the builder's arguments say to what")


def _make_pretrained(
    make: Callable[[], nn.Module], source: Source, options: Mapping[str, Any], *, adapt: bool
) -> nn.Module:
    # Imported here: a list of the builders needs neither torch nor anything that loads.
    from hubstate.building import skip_init
    from hubstate.collector import collection_paused
    from hubstate.errors import StructureMismatch
    from hubstate.hub import open_release
    from hubstate.pretrained import adaptation_of, load_release

    with collection_paused(), skip_init() as skipped:
        model = make()
    with collection_paused():
        release = open_release(source.reference, registry=source.registry, outlined=True)
        try:
            report = load_release(model, release, adapt=_sizes(model) if adapt else None, **options)
        except StructureMismatch as error:
            if not adapt:
                error.advice = adaptation_of(model, release, _sizes(model)).advise(error)
            raise
    if report.is_complete:
        skipped.forget()
    else:
        skipped.finish(model, loaded=frozenset(report.loaded))
    stated = release.preprocessing
    if not stated and source.preprocessing:
        stated = {**preprocessing_of(model), **source.preprocessing}
    remember_report(model, report, preprocessing=stated)
    return model


def _sizes(model: nn.Module) -> dict[str, int]:
    """The arguments of a model's builder to which weights can be adapted."""
    try:
        record = builder_record(model)
    except GateRefused:  # other arguments, which no manifest can hold
        record = None
    return record.sizes if record else {}


def _make(
    registration: Registration, signature: inspect.Signature, arguments: Mapping[str, Any]
) -> nn.Module:
    try:
        bound = signature.bind(**arguments)
    except TypeError as error:
        hint = _similar(signature, arguments)
        raise TypeError(f"{registration.name}(): {error}{hint}") from None
    bound.apply_defaults()
    if registration.name in BUILTIN:
        check_sizes(registration.name, bound.arguments)
    return call(registration, bound.kwargs)


def _similar(signature: inspect.Signature, arguments: Iterable[str]) -> str:
    """What an argument may have been meant to be, or else what there is."""
    from difflib import get_close_matches  # here, because few calls are wrong

    own = list(signature.parameters)
    unknown = [name for name in arguments if name not in own]
    close = {match for name in unknown for match in get_close_matches(name, own)}
    if not unknown:
        return ""
    return f": did you mean {', '.join(sorted(close))}?" if close else f": it has {', '.join(own)}"


def call(registration: Registration, arguments: Mapping[str, Any]) -> nn.Module:
    """The model that a registered function makes; it remembers who made it."""
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
