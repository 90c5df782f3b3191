"""A checkpoint, read back with every byte verified, or as much of it as is intact."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from hubstate.checkpoint.saving import CONTENT, SCHEMA, SEAL, UNSEALED, sealed
from hubstate.checkpoint.tree import LOST, decode
from hubstate.errors import InvalidWeights, Issue, reason
from hubstate.header import MAX_HEADER, Header, HeaderTensor, header_size, parse_header
from hubstate.manifest import Entry, chunks, read_structure
from hubstate.strictjson import loads
from hubstate.values import frozen
from hubstate.weights.memory import read_into, tensor_bytes
from hubstate.weights.reading import empty

__all__ = ["Checkpoint", "CheckpointReport", "load"]

KEYS = {"schema", "structure", "model", "optimizer", "plain", "digests"}


@frozen
class CheckpointReport:
    """Which tensors of a checkpoint are intact, and what is wrong with the others."""

    intact: tuple[str, ...]
    """Names in the file, such as ``model.fc.weight``."""
    problems: tuple[Issue, ...]
    """Empty unless the checkpoint was salvaged."""

    @property
    def lost(self) -> tuple[str, ...]:
        """The tensors that are not intact, each once."""
        intact = set(self.intact)
        return tuple(dict.fromkeys(p.path for p in self.problems if p.path not in intact))

    def __str__(self) -> str:
        lines = [f"{len(self.intact)} tensors are intact"]
        return "\n  ".join([*lines, *map(str, self.problems)])


@frozen
class Checkpoint:
    """What ``save`` was given, as state."""

    model: dict[str, Any] | None
    """For ``loadmodel`` or ``load_state_dict``: tensors and extra states by key."""
    optimizer: Any
    """For the optimizer's ``load_state_dict``; in a mapping or a list if they were saved so."""
    plain: dict[str, Any]
    """All else, by name."""
    structure: tuple[Entry, ...]
    """The model's names, with its plain data and classes as records."""
    report: CheckpointReport


def load(path: str | os.PathLike[str], *, salvage: bool = False) -> Checkpoint:
    """Read a checkpoint into memory and verify every byte of it.

    All tensors come to the CPU; ``load_state_dict`` moves them on.

    Args:
        path: the file.
        salvage: return what is intact of a file that is damaged or cut off, with a report of
            the rest. A mapping then lacks what is lost, and a list or tuple has None for it.
            Nothing can be salvaged if the header is damaged, which is at most a few percent
            of the file.

    Raises:
        InvalidWeights: the file is no checkpoint, or is damaged; each damaged tensor and byte
            range is named.
        OSError: the file cannot be read.

    >>> import torch
    >>> from hubstate import save
    >>> save("run.safetensors", model={"w": torch.ones(2)}, epoch=3)
    >>> found = load("run.safetensors")
    >>> found.model["w"], found.plain
    (tensor([1., 1.]), {'epoch': 3})
    """
    path = Path(path)
    with path.open("rb", buffering=0) as file:
        size = file.seek(0, 2)
        header = _header(path.name, file.fileno(), size)
        content = _content(path.name, header)
        problems = _sizes(header, size)
        if problems and not salvage:
            raise _damaged(path.name, problems)
        whole = [tensor for tensor in header.tensors.values() if tensor.stop <= size]
        tensors, wrong = _read(file.fileno(), whole, content["digests"])
    problems += wrong
    if problems and not salvage:
        raise _damaged(path.name, problems)
    return _checkpoint(path.name, content, header, tensors, problems)


def _prefix(descriptor: int, size: int) -> bytes:
    data = bytearray(min(8, size))
    read_into(descriptor, memoryview(data), 0)
    if size >= 8:
        data = bytearray(min(header_size(bytes(data)), size))
        read_into(descriptor, memoryview(data), 0)
    return bytes(data)


def _header(file: str, descriptor: int, size: int) -> Header:
    """The header, if it is what was written.

    Raises:
        InvalidWeights: it is not; nothing else can be believed then, so nothing is salvaged.
    """
    try:
        prefix = _prefix(descriptor, size)
        header = parse_header(prefix, file_size=None)
    except InvalidWeights as cause:
        raise InvalidWeights(f"{file}: {cause} (so nothing can be salvaged)") from None
    if CONTENT not in header.metadata:
        raise InvalidWeights(f"{file}: no checkpoint: its header has no {CONTENT}")
    seal = header.metadata.get(SEAL, "")
    if len(seal) != 64 or sealed(prefix.replace(seal.encode(), UNSEALED.encode())) != prefix:
        raise InvalidWeights(
            f"{file}: header: bytes 0–{header.size:,} differ (so nothing can be salvaged)"
        )
    return header


def _content(file: str, header: Header) -> dict[str, Any]:
    what = f"{file}: {CONTENT}"
    text = header.metadata[CONTENT].encode()
    content = loads(text, what=what, max_bytes=MAX_HEADER, max_depth=256, error=InvalidWeights)
    if type(content) is not dict or not content.keys() >= KEYS:
        raise InvalidWeights(f"{what}: expected the keys {sorted(KEYS)}")
    major = str(content["schema"]).partition(".")[0]
    if major != SCHEMA.partition(".")[0]:
        raise InvalidWeights(
            f"{what}: schema: expected {SCHEMA} (a newer hubstate may read this one), "
            f"found {content['schema']!r}"
        )
    digests = content["digests"]
    if type(digests) is not dict or digests.keys() != header.tensors.keys():
        raise InvalidWeights(f"{what}: digests: expected those of the tensors of the file")
    for name, tensor in header.tensors.items():
        count = len(chunks(tensor.start, tensor.stop))
        if type(digests[name]) is not list or len(digests[name]) != count:
            raise InvalidWeights(f"{what}: digests: {name}: expected {count}")
    return content


def _sizes(header: Header, size: int) -> list[Issue]:
    """What of the file is missing at its end, or too much."""
    problems = [
        Issue(
            tensor.name,
            "cut off",
            f"expected bytes {tensor.start:,}–{tensor.stop:,}, the file ends at {size:,}",
        )
        for tensor in header.tensors.values()
        if tensor.stop > size
    ]
    if size > header.stop:
        detail = f"bytes {header.stop:,}–{size:,} belong to no tensor"
        problems.append(Issue("end of the file", "unexpected", detail))
    return problems


def _read(
    descriptor: int, wanted: list[HeaderTensor], digests: Mapping[str, list[str]]
) -> tuple[dict[str, Tensor], list[Issue]]:
    """The tensors that are intact, and an issue for each chunk that is not; on all cores."""
    tensors = {tensor.name: empty(tensor) for tensor in wanted}
    parts = [
        (tensor.name, bounds, tensor_bytes(tensors[tensor.name])[start - tensor.start :], digest)
        for tensor in wanted
        for bounds, digest in zip(
            chunks(tensor.start, tensor.stop), digests[tensor.name], strict=True
        )
        for start in bounds[:1]
    ]

    def differs(part: tuple[str, tuple[int, int], memoryview, str]) -> bool:
        _, (start, stop), memory, digest = part
        view = memory[: stop - start]
        read_into(descriptor, view, start)
        return hashlib.sha256(view).hexdigest() != digest

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        wrong = [part for part, bad in zip(parts, pool.map(differs, parts), strict=True) if bad]
    issues = [
        Issue(name, "digest", f"bytes {start:,}–{stop:,} differ")
        for name, (start, stop), _, _ in wrong
    ]
    for issue in issues:
        tensors.pop(issue.path, None)
    return tensors, issues


def _damaged(file: str, problems: list[Issue]) -> InvalidWeights:
    lines = [f"{file}: damaged, nothing was loaded (salvage=True returns what is intact):"]
    return InvalidWeights("\n  ".join([*lines, *map(str, problems)]))


def _checkpoint(
    file: str,
    content: dict[str, Any],
    header: Header,
    tensors: dict[str, Tensor],
    problems: list[Issue],
) -> Checkpoint:
    found = {name: tensors.get(name, LOST) for name in header.tensors}
    try:
        return Checkpoint(
            structure=read_structure(content["structure"]),
            model=decode(content["model"], found),
            optimizer=decode(content["optimizer"], found),
            plain=decode(content["plain"], found),
            report=CheckpointReport(intact=tuple(tensors), problems=tuple(problems)),
        )
    except (KeyError, TypeError, ValueError, RecursionError) as cause:
        raise InvalidWeights(
            f"{file}: {CONTENT}: nothing that save() wrote: {reason(cause)}"
        ) from None
