"""The bytes of a release: each file, and each tensor within it, by size and digest."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from hubstate.digest import Digest
from hubstate.header import Header, HeaderTensor
from hubstate.values import frozen

__all__ = ["CHUNK", "FileRecord", "TensorRecord", "chunks", "header_of", "make_tensor_record"]

CHUNK = 8 << 20
"""The bytes that one digest of a tensor covers; the last chunk of a tensor may be shorter."""


@frozen
class TensorRecord:
    """Where a tensor lies in its file, and the digests of its chunks of 8 MiB."""

    name: str
    dtype: str
    """torch's name without the prefix, such as ``float32``."""
    shape: tuple[int, ...]
    start: int
    """The first byte, counted from the beginning of the file."""
    stop: int
    """The byte after the last."""
    digests: tuple[Digest, ...]
    """One for each chunk; an empty tensor has one, of no bytes."""


class _OpenTensorRecord:
    __slots__ = ("digests", "dtype", "name", "shape", "start", "stop")


def make_tensor_record(
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    *,
    start: int,
    stop: int,
    digests: tuple[Digest, ...],
) -> TensorRecord:
    """A TensorRecord in a third of the time; see `hubstate.manifest.structure.make_entry`."""
    record: Any = _OpenTensorRecord()
    record.name = name
    record.dtype = dtype
    record.shape = shape
    record.start = start
    record.stop = stop
    record.digests = digests
    record.__class__ = TensorRecord
    return record  # type: ignore[no-any-return]


@frozen
class FileRecord:
    """One file of a release."""

    path: str
    """Relative to the release, with ``/`` between its parts."""
    size: int
    digest: Digest
    header: Digest | None = None
    """safetensors files only: the digest of the bytes before the first tensor."""
    tensors: tuple[TensorRecord, ...] = ()
    """In the order of their offsets."""


def header_of(file: FileRecord) -> Header:
    """What the header of a weights file says, as the record of the file has it, less metadata."""
    fields = ("name", "dtype", "shape", "start", "stop")
    tensors = map(HeaderTensor._make, map(attrgetter(*fields), file.tensors))
    return Header(
        size=file.tensors[0].start if file.tensors else file.size,
        tensors={tensor.name: tensor for tensor in tensors},
        metadata={},
    )


def chunks(start: int, stop: int) -> list[tuple[int, int]]:
    """The ``(start, stop)`` byte ranges that the digests of a tensor cover, one at least.

    >>> chunks(100, 100 + CHUNK + 1)
    [(100, 8388708), (8388708, 8388709)]
    """
    return [(at, min(at + CHUNK, stop)) for at in range(start, max(stop, start + 1), CHUNK)]
