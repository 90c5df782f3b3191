"""Making and moving pins: what names mean now, at the registry, into a lock file.

A name is a reference, which has a ``/`` or an ``@``, or else a model: ``resnet18_small`` for what
``pretrained=True`` means, ``resnet18_small:digits`` for what ``pretrained="digits"`` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from hubstate.cache import Cache
from hubstate.endpoints import open_endpoint
from hubstate.errors import DigestMismatch, HubstateError, InvalidSetting, NotPinned
from hubstate.hub import open_pinned, open_release
from hubstate.lock import LockFile, ModelPin, Pin
from hubstate.reference import Reference, is_reference
from hubstate.values import frozen
from hubstate.workers import at_once
from hubstate.zoo.catalogue import Source, choose
from hubstate.zoo.create import find_builder

__all__ = ["Change", "Verdict", "add_pins", "check_pins", "remove_pins", "update_pins"]


@frozen
class Change:
    """What a name meant before and what it means now; None where it was not, or is no more."""

    name: str
    before: Pin | ModelPin | None
    after: Pin | ModelPin | None

    def __str__(self) -> str:
        return f"{self.name}: {_shown(self.before)} → {_shown(self.after)}{self._files()}"

    def _files(self) -> str:
        if not isinstance(self.before, Pin) or not isinstance(self.after, Pin):
            return ""
        old, new = self.before.files, self.after.files
        moved = [path for path in sorted({*old, *new}) if old.get(path) != new.get(path)]
        grown = self.after.size - self.before.size
        return f" ({', '.join(moved) or 'the same files'}; {grown:+,} bytes)"

    def to_json(self) -> dict[str, object]:
        """The change as plain data."""
        return {
            "name": self.name,
            "before": _plain(self.before),
            "after": _plain(self.after),
        }


def _shown(pin: Pin | ModelPin | None) -> str:
    if isinstance(pin, ModelPin):
        return f"{pin.reference} ({pin.tag})"
    return pin.commit[:12] if pin else "not pinned"


def _plain(pin: Pin | ModelPin | None) -> dict[str, object] | None:
    if isinstance(pin, ModelPin):
        return {"reference": str(pin.reference), "tag": pin.tag}
    if pin is None:
        return None
    manifest = str(pin.manifest) if pin.manifest else None
    return {"commit": pin.commit, "manifest": manifest, "size": pin.size}


@frozen
class Verdict:
    """Whether a pinned release can be had, and whether its name means something else by now."""

    name: str
    problem: HubstateError | None
    moved: str | None
    """The commit that the reference means now, if that is another; None too if nobody can tell."""


def add_pins(
    lock: LockFile,
    names: Sequence[str],
    *,
    registry: str | None = None,
    cache: Cache | None = None,
) -> tuple[LockFile, list[Change]]:
    """Pin names to what they mean now; those that are pinned already move.

    Args:
        lock: is not changed.
        names: references and models.
        registry: a folder or URL instead of the configured registry.
        cache: instead of the configured cache.

    Returns:
        The lock file with them, and what is different in it.

    Raises:
        UnknownModel: no builder, or no weights of that tag.
        HubstateError: a reference cannot be resolved; see :func:`hubstate.hub.open_release`.
    """
    models, wanted = {}, {}
    for name in dict.fromkeys(names):
        if is_reference(name):
            wanted[Reference.parse(name)] = registry
            continue
        models[name], place = _choose(name)
        wanted[models[name].reference] = place or registry
    pins = at_once(lambda item: _pin(*item, cache=cache or Cache()), wanted.items())
    after = lock.having(models=models, releases={str(pin.reference): pin for pin in pins})
    after = after.without(*_orphans(lock, after))
    return after, list(_changes(lock, after))


def _choose(name: str) -> tuple[ModelPin, str | None]:
    builder, colon, tag = name.partition(":")
    own = find_builder(builder).registration.weights
    source: Source = choose(builder, tag if colon else True, own=own)
    assert source.tag, "an entry of a catalogue has one"
    pin = ModelPin(reference=Reference.parse(source.reference), tag=source.tag)
    return pin, source.registry


def _pin(reference: Reference, registry: str | None, *, cache: Cache) -> Pin:
    release = open_release(reference, registry=registry, cache=cache, refresh=True)
    for name, info in list(release.source.infos.items()):
        if info.digest is None or info.size is None:
            release.path(name)  # the registry does not state it: measure it
    return Pin(
        reference=reference,
        commit=release.commit.id,
        files=dict(release.source.infos),
        registry=open_endpoint(registry).name if registry else None,
    )


def _orphans(before: LockFile, after: LockFile) -> Iterator[str]:
    """References that a model has left, and no other model means."""
    meant = {pin.reference for pin in after.models.values()}
    for name, pin in before.models.items():
        now = after.models.get(name)
        if now and now.reference != pin.reference and pin.reference not in meant:
            yield str(pin.reference)


def _changes(before: LockFile, after: LockFile) -> Iterator[Change]:
    for old, new in ((before.models, after.models), (before.releases, after.releases)):
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                yield Change(name=name, before=old.get(name), after=new.get(name))


def update_pins(
    lock: LockFile, names: Iterable[str] = (), *, cache: Cache | None = None
) -> tuple[LockFile, list[Change]]:
    """Pin names, or all of them, to what they mean now.

    Raises:
        NotPinned: a name that is not in the lock file.
        HubstateError: a reference cannot be resolved; see :func:`hubstate.hub.open_release`.
    """
    chosen = _known(lock, names) or [*lock.models, *lock.releases]
    after = lock
    for registry in {_registry(lock, name) for name in chosen}:
        group = [name for name in chosen if _registry(lock, name) == registry]
        after, _ = add_pins(after, group, registry=registry, cache=cache)
    return after, list(_changes(lock, after))


def _registry(lock: LockFile, name: str) -> str | None:
    model = lock.models.get(name)
    return lock.releases[str(model.reference) if model else name].registry


def remove_pins(lock: LockFile, names: Iterable[str]) -> tuple[LockFile, list[Change]]:
    """Forget names; with a model, its reference, unless another model means that as well.

    Raises:
        NotPinned: a name that is not in the lock file.
        InvalidSetting: a reference that a model means.
    """
    chosen = _known(lock, names)
    left = {name: pin for name, pin in lock.models.items() if name not in chosen}
    needed = {str(pin.reference) for pin in left.values()}
    needless = {str(lock.models[name].reference) for name in chosen if name in lock.models}
    gone = {*chosen, *needless} - needed
    if kept := sorted(needed & {*chosen}):
        raise InvalidSetting(f"{kept[0]}: a model in the lock file means it: remove the model")
    after = lock.without(*gone, *chosen)
    return after, list(_changes(lock, after))


def _known(lock: LockFile, names: Iterable[str]) -> list[str]:
    found = [str(Reference.parse(n)) if "/" in n or "@" in n else n for n in names]
    for name in found:
        if name not in lock.models and name not in lock.releases:
            there = ", ".join([*lock.models, *lock.releases][:20]) or "nothing"
            raise NotPinned(f"{name} is not in the lock file, which has {there}")
    return found


def check_pins(lock: LockFile, *, cache: Cache | None = None) -> list[Verdict]:
    """Whether every pinned release is still where it can be had, with the very same files.

    The registries are asked; what the cache has counts only where none of them answers. Nothing is
    fetched but manifests. What a reference means by now is told as well; that it means something
    else is no fault.
    """
    return at_once(lambda pin: _verdict(pin, cache or Cache()), lock.releases.values())


def _verdict(pin: Pin, cache: Cache) -> Verdict:
    name = str(pin.reference)
    try:
        open_pinned(pin, cache=cache, refresh=True)
    except HubstateError as error:
        return Verdict(name=name, problem=error, moved=None)
    return Verdict(name=name, problem=None, moved=_moved(pin, cache))


def _moved(pin: Pin, cache: Cache) -> str | None:
    if pin.reference.pinned:
        return None
    try:
        now = open_release(pin.reference, registry=pin.registry, cache=cache, refresh=True)
    except HubstateError:
        return None
    if now.commit.id == pin.commit:
        return None
    try:
        pin.check(now.commit)
    except DigestMismatch:
        return now.commit.id
    return None if pin.manifest and pin.manifest == now.manifest_digest else now.commit.id
