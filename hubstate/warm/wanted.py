"""What is to be in a cache: releases, as a lock file or a name says, and which tensors of them."""

from __future__ import annotations

from collections.abc import Iterable

from hubstate import settings
from hubstate.endpoints import Endpoint, open_endpoint
from hubstate.lock import LockFile, Pin, model_pin, reference_pin
from hubstate.reference import Reference, is_reference
from hubstate.values import frozen
from hubstate.zoo.catalogue import choose
from hubstate.zoo.create import find_builder

__all__ = ["Wanted", "locked", "named"]


@frozen
class Wanted:
    """A release that is to be in the cache."""

    reference: Reference
    pin: Pin | None = None
    registry: str | None = None

    @property
    def places(self) -> tuple[Reference, ...]:
        """The references by which the cache may know it."""
        return self.pin.places if self.pin else (self.reference,)

    @property
    def endpoints(self) -> list[Endpoint]:
        """The registries that it may be from."""
        named = [self.registry, self.pin.registry if self.pin else None]
        if self.pin or not self.registry:
            named.append(settings.registry())
        opened = [open_endpoint(name) for name in named if name]
        return list({endpoint.name: endpoint for endpoint in opened}.values())


def locked(lock: LockFile, *, registry: str | None = None) -> list[Wanted]:
    """Everything that a lock file pins; ``registry`` is asked first."""
    pins = lock.releases.values()
    return [Wanted(reference=pin.reference, pin=pin, registry=registry) for pin in pins]


def named(names: Iterable[str], *, registry: str | None = None) -> list[Wanted]:
    """References and models, as the lock file in force has them, or else as they are now.

    Raises:
        UnknownModel: no builder, or no weights of that tag.
        NotPinned: it is not in the lock file, and the settings allow pinned references only.
    """
    return [_named(name, registry) for name in dict.fromkeys(names)]


def _named(name: str, registry: str | None) -> Wanted:
    if is_reference(name):
        reference = Reference.parse(name)
        return Wanted(reference=reference, pin=reference_pin(reference), registry=registry)
    builder, colon, tag = name.partition(":")
    wanted = tag if colon else True
    if model := model_pin(builder, wanted):
        pin = reference_pin(model.reference)
        return Wanted(reference=model.reference, pin=pin, registry=registry)
    source = choose(builder, wanted, own=find_builder(builder).registration.weights)
    reference = Reference.parse(source.reference)
    place = registry or source.registry
    return Wanted(reference=reference, pin=reference_pin(reference), registry=place)
