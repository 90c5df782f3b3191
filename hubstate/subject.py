"""A release or a weights file of one's own, looked at in the same way, without torch.

A file is read as the release that it would make: its tensors are its structure, and nothing else
is known of it. So is a repository without a manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from pathlib import Path

from hubstate.errors import InvalidWeights, NotFound
from hubstate.header import Header, read_header
from hubstate.hub import Release, open_release
from hubstate.manifest import Entry, Manifest, hash_weights
from hubstate.shards import INDEX_SUFFIX, open_index
from hubstate.strictjson import loads
from hubstate.values import frozen, replace

__all__ = ["Subject", "entries_of_header", "is_file", "open_subject"]

_SUFFIX = ".safetensors"
_TIES = "hubstate.ties"  # as hubstate.weights writes it


@frozen
class Subject:
    """What was named, and what is known of it before a tensor is read."""

    name: str
    manifest: Manifest
    """Of a bare one: a structure of tensors, and no more."""
    bare: bool
    """Whether there is no manifest, and so nothing but tensors to look at."""
    sizes: Mapping[str, int | None]
    """Every file by name, in bytes; None where the registry does not tell."""
    weights: tuple[str, ...]
    """The names of the files that hold tensors."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """Weights files of one's own, by name."""
    release: Release | None = field(default=None, repr=False)

    def hashed(self) -> Manifest:
        """The manifest with the digests of every tensor; a bare file is read for that.

        Raises:
            InvalidWeights: the file breaks the format.
            HubstateError: a file cannot be fetched; see ``Release.path``.
        """
        if not self.bare:
            return self.manifest
        records = tuple(hash_weights(path, name=name) for name, path in self.paths().items())
        return replace(self.manifest, files=records)

    def paths(self) -> Mapping[str, Path]:
        """The weights files on this machine, by name; a release's are fetched.

        Raises:
            HubstateError: see ``Release.path``.
        """
        if self.release is None:
            return self.files
        return {name: self.release.path(name) for name in self.weights}


def is_file(text: str) -> bool:
    """Whether a text names a file here, and no release.

    >>> is_file("model.safetensors"), is_file("org/name@v1")
    (True, False)
    """
    return text.endswith((_SUFFIX, INDEX_SUFFIX)) or Path(text).is_file()


def open_subject(text: str, *, registry: str | None = None) -> Subject:
    """Open what ``org/name@revision``, or the path of a safetensors file or index, names.

    Raises:
        NotFound: no such file, repository, revision, or weights in it.
        InvalidWeights: a file is not in safetensors format, or an index not one of its files.
        HubstateError: see ``open_release``.
    """
    if is_file(text):
        return _open_file(Path(text))
    release = open_release(text, registry=registry)
    manifest, bare = release.manifest, release.manifest is None
    if manifest is None:
        headers = release.weights_headers()
        weights, manifest = tuple(headers), _manifest(headers.values())
    else:
        weights = tuple(file.path for file in manifest.files if file.tensors)
    return Subject(
        name=text,
        manifest=manifest,
        bare=bare,
        sizes={name: info.size for name, info in sorted(release.commit.files.items())},
        weights=weights,
        release=release,
    )


def _open_file(path: Path) -> Subject:
    try:
        files = open_index(path) if path.name.endswith(INDEX_SUFFIX) else {path.name: path}
        headers = {name: read_header(file) for name, file in files.items()}
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror or error}") from error
    except InvalidWeights as error:
        if path.suffix in (_SUFFIX, ".json"):
            raise
        raise InvalidWeights(f"{error} (hubstate import reads other formats)") from None
    return Subject(
        name=str(path),
        manifest=_manifest(headers.values()),
        bare=True,
        sizes={name: header.stop for name, header in headers.items()},
        weights=tuple(headers),
        files=files,
    )


def _manifest(headers: Iterable[Header]) -> Manifest:
    return Manifest(structure=tuple(e for header in headers for e in entries_of_header(header)))


def entries_of_header(header: Header) -> Iterator[Entry]:
    """The tensors that a header names, and the names that its metadata ties to them.

    Raises:
        InvalidWeights: a tie that leads nowhere.
    """
    for tensor in header.tensors.values():
        yield Entry(path=tensor.name, kind="param", shape=tensor.shape, dtype=tensor.dtype)
    for alias, name in _ties(header).items():
        first = header.tensors.get(str(name))
        if first is None or alias in header.tensors:
            raise InvalidWeights(f"{_TIES}: {alias}: expected a tensor's name, found {name!r}")
        yield Entry(
            path=alias, kind="param", shape=first.shape, dtype=first.dtype, tied_to=first.name
        )


def _ties(header: Header) -> Mapping[str, object]:
    text = header.metadata.get(_TIES, "{}")
    ties = loads(text.encode(), what=_TIES, error=InvalidWeights)
    return ties if isinstance(ties, Mapping) else {}
