"""A release found at its source: its manifest, and the registry's list held against that."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from hubstate.blobs import check_info
from hubstate.cache import Source
from hubstate.cache.outlines import OUTLINED
from hubstate.digest import Digest
from hubstate.endpoints import MANIFEST, FileInfo
from hubstate.errors import DigestMismatch, FileNotInRelease
from hubstate.manifest import FileRecord, Manifest
from hubstate.outline import Outline, OutlinedFile, outline_of
from hubstate.progress import quiet
from hubstate.release import Document, Release, check_size
from hubstate.values import replace

__all__ = ["read_release"]


def read_release(source: Source, *, outlined: bool = False) -> Release:
    """The release at a source, with its manifest if it has one.

    Args:
        source: where its files come from.
        outlined: where the outline of the manifest is known and all weights are in the cache,
            read the manifest only once it is asked for.

    Raises:
        InvalidManifest: the manifest breaks its schema.
        DigestMismatch: the manifest is not the one that the reference names, or a file is
            listed with another size or digest than the manifest states.
        Offline: the manifest is not in the cache, and no request is allowed.
        Unreachable: the registry does not answer.
    """
    wanted = source.reference.manifest
    if MANIFEST not in source.infos:
        check_info(FileInfo(size=None, digest=wanted), FileInfo(size=None), what=source.where)
        return _release(source, None)
    check_size(source, MANIFEST)
    path = source.obtain(MANIFEST, progress=quiet)
    digest = source.infos[MANIFEST].digest
    what = f"{MANIFEST} of {source.where}"
    check_info(FileInfo(size=None, digest=wanted), FileInfo(size=None, digest=digest), what=what)
    document = Document(path.read_bytes())
    large = len(document.text) >= OUTLINED
    if outlined and large and digest and (outline := _outline(source, digest)):
        return _release(source, document, outline)
    manifest = document.manifest
    _hold_against(source, {file.path: file for file in manifest.files})
    source.records.update({file.path: file for file in manifest.files})
    _learn(source)
    if digest and large:
        source.cache.keep_outline(digest, partial(_made_outline, source, manifest))
    return _release(source, document)


def _learn(source: Source) -> None:
    """Remember the digests that the manifest alone states: what they name is kept in the cache."""
    commit = source.commit
    files = {path: source.infos[path] for path in commit.files}
    if files != commit.files:
        source.cache.learn(source.endpoint.name, source.reference, replace(commit, files=files))


def _release(source: Source, document: Document | None, outline: Outline | None = None) -> Release:
    return Release(
        reference=source.reference,
        commit=source.commit,
        manifest_digest=source.infos[MANIFEST].digest if document else None,
        source=source,
        document=document,
        outline=outline,
    )


def _outline(source: Source, digest: Digest) -> Outline | None:
    """The outline of the manifest, if all that it leaves to be done is to map the weights."""
    outline = source.cache.outline(digest)
    if outline is None:
        return None
    _hold_against(source, outline.files)
    source.seals.update({name: file.seal for name, file in outline.files.items() if file.seal})
    return outline if all(map(source.find, outline.weights)) else None


def _made_outline(source: Source, manifest: Manifest) -> Outline | None:
    return outline_of(manifest, {file.path: source.seal(file.path) for file in manifest.files})


def _hold_against(source: Source, stated: Mapping[str, FileRecord | OutlinedFile]) -> None:
    """Hold what the registry lists against what the manifest states, and keep the more exact.

    A registry that lists no digests is thereby held to those of the manifest.
    """
    problems = []
    for path, record in stated.items():
        info = FileInfo(size=record.size, digest=record.digest)
        try:
            listed = source.info(path)
            found = FileInfo(size=listed.size, digest=listed.digest or record.digest)
            check_info(info, found, what=f"{path} of {source.where}, against {MANIFEST}")
            source.infos[path] = info
        except (DigestMismatch, FileNotInRelease) as error:
            problems.append(str(error))
    if problems:
        raise DigestMismatch("; ".join(problems))
