"""``fetch()``: a release into the cache, or the part of it that a filter wants.

Of weights files a filter chooses tensors; other files are wanted whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from hubstate.errors import HubstateError, NotFound
from hubstate.filters import Filter, check_filter
from hubstate.header import HeaderTensor
from hubstate.hub import Release, open_release
from hubstate.manifest import Manifest, TensorRecord
from hubstate.reference import Reference
from hubstate.transport.chunks import tensors_of

if TYPE_CHECKING:
    from hubstate.cache import Cache
    from hubstate.endpoints import Registry
    from hubstate.progress import Hook

__all__ = ["Stored", "fetch", "portion_size", "wanted_tensors"]

Stored = TensorRecord | HeaderTensor
"""A tensor as a file has it, of which a manifest or the file's own header tells."""


def fetch(
    reference: str | Reference,
    *,
    files: Iterable[str] | None = None,
    filter: Filter | None = None,
    registry: Registry | None = None,
    cache: Cache | None = None,
    progress: Hook | None = None,
) -> Release:
    """A release with its files verified in the cache; ``.paths`` says where they are.

    With a filter, a weights file of which only a part is wanted is not among ``.paths``, since the
    rest of it is not there: ``load_pretrained`` with the same filter finds that part, and so does
    :meth:`Release.tensors_path`.

    Args:
        reference: ``org/name@revision``.
        files: names, or patterns such as ``*.json``; all files if not given.
        filter: of the weights, only the tensors whose names pass; its second argument is None.
        registry: a folder or URL instead of the configured registry.
        cache: instead of the configured cache.
        progress: told of bytes as they arrive; without it, a terminal shows a bar.

    Raises:
        FileNotInRelease: a name or pattern that nothing in the release has.
        NotFound: of the weights, the filter selects nothing.
        DigestMismatch: the registry has other content under a file's name.
        HubstateError: see :func:`hubstate.hub.open_release`.

    >>> import hubstate
    >>> from torch import nn
    >>> _ = hubstate.publish(nn.Linear(3, 2), "org/tiny", license="mit", weights_only=True)
    >>> sorted(hubstate.fetch("org/tiny", files=["*.json"], filter=hubstate.only("bias")).paths)
    ['config.json', 'hubstate.json']
    """
    check_filter(filter)
    release = open_release(reference, registry=registry, cache=cache)
    wanted = {name: wanted_tensors(release, name, filter) for name in release.select(files)}
    weights = [wanted[name] for name in wanted if name.endswith(".safetensors")]
    if files is None and weights and not any(some is None or some for some in weights):
        raise NotFound(f"{release.reference}: {filter} selects none of its tensors")
    absent = [name for name in wanted if filter and release.source.find(name) is None]
    release.source.check_room({name: _size(release, name, wanted[name]) for name in absent})
    for name, tensors in wanted.items():
        if tensors:
            release.tensors_path(name, [tensor.name for tensor in tensors], progress=progress)
        elif tensors is not None:
            release.keep_header(name)
    release.fetch([name for name, tensors in wanted.items() if tensors is None], progress=progress)
    return release


def wanted_tensors(release: Release, name: str, filter: Filter | None) -> Sequence[Stored] | None:
    """The tensors that are wanted of a file; None for the whole of it.

    A tensor that has several names is wanted if one of them passes. Without a manifest the names
    are those in the file's header, which takes a request if nothing of the file is cached.

    Args:
        release: that has the file.
        name: of the file; one that does not end in ``.safetensors`` is wanted whole.
        filter: is given the path of each leaf, and None.

    Raises:
        InvalidWeights: there is no manifest, and the file's header breaks the format.
        Offline: there is no manifest, and no request for the header is allowed.
        Unreachable: the registry does not answer.
    """
    if filter is None or not name.endswith(".safetensors"):
        return None
    record = release.source.records.get(name)
    if release.manifest and record and record.tensors:
        stored: list[Stored] = list(record.tensors)
        passing = _passing(release.manifest, filter)
    else:
        stored = list(tensors_of(release.weights_header(name)))
        passing = {tensor.name for tensor in stored if filter(tensor.name, None)}
    wanted = [tensor for tensor in stored if tensor.name in passing]
    return wanted if len(wanted) < len(stored) else None


def _passing(manifest: Manifest, filter: Filter) -> set[str]:
    """The stored tensors that a filter of the model's names lets pass."""
    entries = manifest.structure
    ties: Mapping[str, str] = {e.path: e.tied_to for e in entries if e.tied_to}
    names: Iterable[str] = [entry.path for entry in entries if filter(entry.path, None)]
    if manifest.transforms:
        from hubstate.loading import transform_entries  # here, because few releases have any

        there, offered = transform_entries(entries, manifest.transforms)
        names = there.needs(entry.path for entry in offered if filter(entry.path, None))
    return {ties.get(name, name) for name in names}


def portion_size(release: Release, name: str, filter: Filter | None) -> int:
    """The bytes that are wanted of a file; 0 where nothing can tell."""
    try:
        return _size(release, name, wanted_tensors(release, name, filter))
    except HubstateError:
        return 0


def _size(release: Release, name: str, wanted: Sequence[Stored] | None) -> int:
    if wanted is None:
        return release.source.info(name).size or 0
    return sum(tensor.stop - tensor.start for tensor in wanted)
