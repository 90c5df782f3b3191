"""Whether the parts of a manifest agree: names, ties, files, tensors and the structure's hash."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from hubstate.digest import Digest
from hubstate.manifest.document import Manifest
from hubstate.manifest.fields import fail
from hubstate.manifest.files import FileRecord, TensorRecord
from hubstate.manifest.structure import Entry
from hubstate.strictjson import at

__all__ = ["check_agreement"]


def check_agreement(manifest: Manifest, stated: Digest) -> None:
    """Hold the parts of a manifest against each other.

    Raises:
        InvalidManifest: two entries have one path; a tie leads nowhere, or to something else;
            two files or tensors have one name; a stored tensor is not in the structure, or is
            of another shape or dtype; a tensor of the structure is stored nowhere; or the
            structure does not hash to ``stated``.
    """
    entries = _by_path(manifest.structure)
    _check_ties(manifest.structure, entries)
    _check_file_paths(manifest.files)
    _check_storage(manifest.files, entries)
    if (found := manifest.structure_hash) != stated:
        fail("structure_hash", f"{found}, the hash of the structure", str(stated))


def _by_path(structure: tuple[Entry, ...]) -> dict[str, Entry]:
    entries = {entry.path: entry for entry in structure}
    if len(entries) != len(structure):
        seen: set[str] = set()
        for index, entry in enumerate(structure):
            if entry.path in seen:
                fail(f"structure[{index}].path", "a path that no other entry has", entry.path)
            seen.add(entry.path)
    return entries


def _check_ties(structure: tuple[Entry, ...], entries: dict[str, Entry]) -> None:
    for index, entry in enumerate(structure):
        if entry.tied_to is None:
            continue
        first = entries.get(entry.tied_to)
        if first is None or first.tied_to is not None:
            fail(f"structure[{index}].tied_to", "the first path of the group", entry.tied_to)
        if _what(first) != _what(entry):
            fail(f"structure[{index}].tied_to", f"a {_what(entry)}", _what(first))


def _what(entry: Entry) -> str:
    return f"tensor {entry.dtype} {entry.shape}" if entry.is_tensor else entry.kind


def _check_file_paths(files: tuple[FileRecord, ...]) -> None:
    seen: set[str] = set()
    for index, file in enumerate(files):
        if file.path in seen:
            fail(f"files[{index}].path", "a path that no other file has", file.path)
        seen.add(file.path)
    for index, file in enumerate(files):
        for parent in _parents(file.path):
            if parent in seen:
                fail(f"files[{index}].path", f"no file below the file {parent}", file.path)


def _parents(path: str) -> Iterable[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _check_storage(files: tuple[FileRecord, ...], entries: dict[str, Entry]) -> None:
    stored: set[str] = set()
    roots: set[str] = set()
    for index, file in enumerate(files):
        for number, tensor in enumerate(file.tensors):
            entry = entries.get(tensor.name)
            if entry is None or entry.shape != tensor.shape or entry.dtype != tensor.dtype:
                _fail_tensor(at(f"files[{index}].tensors", number), tensor, entry)
            if tensor.name in stored:
                place = at(f"files[{index}].tensors", number)
                fail(f"{place}.name", "a tensor that is stored nowhere else", tensor.name)
            stored.add(tensor.name)
            roots.add(tensor.name if entry.tied_to is None else entry.tied_to)
    for entry in entries.values():
        if entry.shape is not None and (entry.tied_to or entry.path) not in roots:
            fail("files", f"one that holds the tensor {entry.path!r} of the structure", None)


def _fail_tensor(place: str, tensor: TensorRecord, entry: Entry | None) -> NoReturn:
    if entry is None or not entry.is_tensor:
        fail(f"{place}.name", "a tensor of the structure", tensor.name)
    if entry.shape != tensor.shape:
        fail(f"{place}.shape", f"{entry.shape}, as in the structure", tensor.shape)
    fail(f"{place}.dtype", f"{entry.dtype}, as in the structure", tensor.dtype)
