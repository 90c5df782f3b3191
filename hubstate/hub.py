"""Opening and publishing releases by reference.

A reference is resolved by the registry, unless it is pinned (a full commit, or ``sha256:`` of
the manifest) and the cache knows it. What it meant is kept in the cache, so that it also works
with no registry in reach:

* offline (``HUBSTATE_OFFLINE`` or ``HF_HUB_OFFLINE``): a server is not asked at all; a
  reference means what it meant last. A folder registry takes no network, and is still read.
* the registry does not answer: the same, with a warning that says so.

What a lock file pins means what the lock file says, wherever it is found: see
:mod:`hubstate.lock`.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hubstate import settings
from hubstate.cache import Cache, KnownRelease, Source, offline_error
from hubstate.endpoints import OWN, TIP, Changes, Commit, Endpoint, Registry, open_endpoint
from hubstate.errors import (
    InvalidReference,
    NotFound,
    Offline,
    RevisionNotFound,
    Unreachable,
)
from hubstate.lock import reference_pin
from hubstate.opening import read_release
from hubstate.reference import Reference
from hubstate.release import Release
from hubstate.values import replace

if TYPE_CHECKING:
    from hubstate.lock import Pin

__all__ = [
    "Release",
    "is_here",
    "open_pinned",
    "open_registry",
    "open_release",
    "publish_files",
    "tag_commit",
    "target_of",
]


def open_release(
    reference: str | Reference,
    *,
    registry: Registry | None = None,
    cache: Cache | None = None,
    refresh: bool = False,
    outlined: bool = False,
) -> Release:
    """A release with its manifest, before anything larger is fetched.

    Args:
        reference: ``org/name@revision``; see :class:`hubstate.reference.Reference`.
        registry: a folder or URL instead of the configured registry.
        cache: instead of the configured cache.
        refresh: take the registry's answer, or none; a lock file is not asked.
        outlined: as for :func:`hubstate.release.read_release`.

    Raises:
        InvalidReference: the reference cannot be read.
        NotFound: the registry has no such repository or revision.
        NotPinned: no lock file pins it, and the settings allow pinned references only.
        Damaged: the manifest or a record is not what it must be.
        Offline: it is not in the cache, and no request is allowed.
        Unreachable: the registry does not answer, and the cache knows no answer.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = Cache([Path(folder, "cache")])
    ...     _ = publish_files("org/name", {"a.txt": b"1"}, message="First", registry=folder + "/r")
    ...     release = open_release("org/name", registry=folder + "/r", cache=cache)
    ...     release.path("a.txt").read_text()
    '1'
    """
    reference = Reference.parse(reference)
    if not refresh and (pin := reference_pin(reference)):
        return open_pinned(pin, registry=registry, cache=cache, outlined=outlined)
    endpoint = open_endpoint(registry or settings.registry())
    cache = cache or Cache()
    commit = _resolve(endpoint, cache, reference, refresh=refresh)
    return read_release(_source(endpoint, cache, reference, commit), outlined=outlined)


def open_pinned(
    pin: Pin,
    *,
    registry: Registry | None = None,
    cache: Cache | None = None,
    refresh: bool = False,
    outlined: bool = False,
) -> Release:
    """The release that a lock file pins, from whichever registry has it.

    ``registry`` is asked first, then the one in the lock file, then the configured one, but folders
    before servers, for which one would wait in vain behind an air gap; each of them only if none is
    known, from the cache, to have the release, and the cache has not all of its files from another
    one. With ``refresh`` they are asked whatever the cache knows; all the files in it count only
    where no registry answers.

    Raises:
        DigestMismatch: a registry has other files there.
        HubstateError: as for :func:`open_release`; what the first of the registries said.
    """
    cache = cache or Cache()
    named: list[Registry | None] = [registry, pin.registry, settings.registry()]
    endpoints: dict[str, Endpoint] = {}
    for opened in (open_endpoint(place) for place in named if place is not None):
        endpoints.setdefault(opened.name, opened)
    endpoint, place, commit = _locate(pin, list(endpoints.values()), cache, refresh=refresh)
    pin.check(commit)
    commit = replace(commit, files=dict(pin.files))
    release = read_release(_source(endpoint, cache, place, commit), outlined=outlined)
    return replace(release, reference=pin.reference)


def _locate(
    pin: Pin, endpoints: list[Endpoint], cache: Cache, *, refresh: bool
) -> tuple[Endpoint, Reference, Commit]:
    """Where a pinned release is: first where the cache knows it to be."""
    here = endpoints[0], pin.places[0], pin.release
    if not refresh:
        for endpoint, place in itertools.product(endpoints, pin.places):
            if known := cache.known(endpoint.name, place):
                commit = cache.record(endpoint.name, place, known.commit, known=known)
                return endpoint, place, commit
        if is_here(pin, cache):
            return here
    errors: dict[str, Exception] = {}
    for endpoint in sorted(endpoints, key=lambda endpoint: endpoint.remote):
        try:
            return (endpoint, *_ask(endpoint, pin, cache, refresh=refresh))
        except (NotFound, Unreachable) as error:
            errors[endpoint.name] = error
    gone = refresh and any(isinstance(error, NotFound) for error in errors.values())
    if not gone and is_here(pin, cache, part=not refresh):
        return here
    raise errors[endpoints[0].name]


def is_here(pin: Pin, cache: Cache, *, part: bool = False) -> bool:
    """Whether a cache has what is pinned, from whichever registry; ``part``: its manifest, and
    so maybe the tensors that are wanted of it."""
    wanted = [pin.manifest] if part and pin.manifest else [i.digest for i in pin.files.values()]
    return all(digest and cache.find(digest).path for digest in wanted)


def _ask(endpoint: Endpoint, pin: Pin, cache: Cache, *, refresh: bool) -> tuple[Reference, Commit]:
    absent: NotFound | None = None
    for place in pin.places:
        try:
            return place, _resolve(endpoint, cache, place, refresh=refresh)
        except RevisionNotFound as error:
            absent = absent or error
    assert absent, "there is always a commit to ask for"
    raise absent


def _source(endpoint: Endpoint, cache: Cache, reference: Reference, commit: Commit) -> Source:
    return Source(
        endpoint=endpoint,
        cache=cache,
        reference=reference,
        commit=commit,
        infos=dict(commit.files),
    )


def _resolve(endpoint: Endpoint, cache: Cache, reference: Reference, *, refresh: bool) -> Commit:
    known = cache.known(endpoint.name, reference)
    offline = settings.offline()
    if known and not refresh and (reference.pinned or (offline and endpoint.remote)):
        return cache.record(endpoint.name, reference, known.commit, known=known)
    if offline and endpoint.remote:
        raise offline_error("what it means", reference, endpoint, cache)
    try:
        commit = endpoint.resolve(reference)
    except (Unreachable, NotFound) as error:
        # A folder that is not mounted looks like one in which nothing was published yet.
        if known is None or refresh or not (offline or isinstance(error, Unreachable)):
            raise
        _warn_of_last_answer(known, error)
        commit = known.commit
    return cache.record(endpoint.name, reference, commit, known=known)


def _warn_of_last_answer(known: KnownRelease, error: Exception) -> None:
    date = known.resolved.isoformat(timespec="minutes")
    warnings.warn(
        f"{known.reference} is taken to mean commit {known.commit.id}, as of {date}, because "
        f"the registry gives no answer now: {error}",
        stacklevel=4,
    )


def publish_files(
    repo: str | Reference,
    files: Mapping[str, Path | bytes],
    *,
    message: str,
    branch: str = "main",
    tag: str | None = None,
    parent: str | None = TIP,
    keep: bool = False,
    author: str | None = None,
    registry: Registry | None = None,
) -> Commit:
    """Publish files as one atomic commit.

    The release has the files that are given and no others. Where it would equal the branch's
    last one, nothing is published and that commit is returned, so that an interrupted publish
    is completed by running it again.

    Args:
        repo: ``org/name``; it is made where there is none.
        files: content by path in the repository, in files or in memory.
        message: what this release is.
        branch: the branch that moves.
        tag: a name that this commit keeps for ever.
        parent: the commit that the branch must still name; None where it must not exist yet;
            without it, whatever it names when the publish begins.
        keep: keep the last release's other files.
        author: who publishes; without it, as :func:`hubstate.settings.author` says.
        registry: a folder or URL instead of the configured registry.

    Raises:
        Conflict: the branch was moved by somebody else, or the tag names another commit.
        InvalidReference: a name or a path that cannot be stored.
        Offline: the registry is a server, and no request is allowed.
        Unreachable: the registry cannot be reached or written, or a file not be read.
    """
    target = target_of(repo, branch)
    endpoint = open_registry(registry)
    changes: Changes = dict(files)
    if not keep:
        parent = _parent(endpoint, target) if parent == TIP else parent
        changes = {**_removals(endpoint, target, parent), **files}
    return endpoint.commit(
        target.repo,
        changes,
        message=message,
        author=author or settings.author(),
        branch=target.revision,
        parent=parent,
        tag=tag,
    )


def target_of(repo: str | Reference, branch: str) -> Reference:
    """The branch of a repository, as what is to be published to.

    Raises:
        InvalidReference: the repository's name cannot be read, or it has a revision.
    """
    if isinstance(repo, str) and "@" in repo:
        raise InvalidReference(f"{repo!r}: expected a repository alone; the branch is an argument")
    return Reference.parse(repo).at(branch)


def _parent(endpoint: Endpoint, target: Reference) -> str | None:
    try:
        return endpoint.resolve(target).id
    except NotFound:
        return None


def _removals(endpoint: Endpoint, target: Reference, parent: str | None) -> Mapping[str, None]:
    files = endpoint.resolve(target.at(parent)).files if parent else ()
    return dict.fromkeys(path for path in files if path not in OWN)


def tag_commit(
    repo: str, tag: str, *, commit: str, author: str | None = None, registry: Registry | None = None
) -> None:
    """Name a commit for ever; nothing happens where the tag names it already.

    Raises:
        Conflict: the tag names another commit.
        NotFound: there is no such commit.
        Offline: the registry is a server, and no request is allowed.
        Unreachable: the registry cannot be reached or written.
    """
    endpoint = open_registry(registry)
    endpoint.tag(repo, tag, commit=commit, author=author or settings.author())


def open_registry(registry: Registry | None = None) -> Endpoint:
    """The registry, to ask for what is in it or to change it: the cache has no part in that.

    Raises:
        Offline: it is a server, and no request is allowed.
    """
    endpoint = open_endpoint(registry or settings.registry())
    if endpoint.remote and settings.offline():
        raise Offline(
            f"{endpoint.name}: HUBSTATE_OFFLINE or HF_HUB_OFFLINE forbids every request to it"
        )
    return endpoint
