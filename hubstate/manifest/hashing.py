"""Records of files on disk, and files on disk held against their records, on all cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hubstate.digest import Digest, hash_file, hash_ranges
from hubstate.header import HeaderTensor, read_header
from hubstate.manifest.files import FileRecord, TensorRecord, chunks

__all__ = ["hash_plain", "hash_weights", "verify_file"]

Progress = Callable[[int], object]


def hash_plain(
    path: Path, *, name: str | None = None, progress: Progress | None = None
) -> FileRecord:
    """The record of any file: its size and its digest, called ``name`` or as the file is.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    return FileRecord(path=name or path.name, size=size, digest=hash_file(path, progress=progress))


def hash_weights(
    path: Path, *, name: str | None = None, progress: Progress | None = None
) -> FileRecord:
    """The record of a safetensors file, with the digests of its header and of each tensor.

    The file is hashed twice, as a whole and in chunks; the chunks are shared out among the
    cores that the whole leaves free.

    Args:
        path: the file.
        name: its path in the release; by default its name on disk.
        progress: is told of the bytes as they are hashed, 2 × the file's size in all.

    Raises:
        InvalidWeights: the header breaks the format.
        OSError: the file cannot be read.
    """
    header = read_header(path)
    tensors = list(header.tensors.values())
    ranges = [(0, header.size)]
    for tensor in tensors:
        ranges += chunks(tensor.start, tensor.stop)
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(hash_file, path, progress=progress)
        digests = iter(hash_ranges(path, ranges, threads=_cores() - 1, progress=progress))
        return FileRecord(
            path=name or path.name,
            size=header.stop,
            header=next(digests),
            tensors=tuple([_record(tensor, digests) for tensor in tensors]),
            digest=whole.result(),
        )


def _record(tensor: HeaderTensor, digests: Iterator[Digest]) -> TensorRecord:
    count = len(chunks(tensor.start, tensor.stop))
    return TensorRecord(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        start=tensor.start,
        stop=tensor.stop,
        digests=tuple([next(digests) for _ in range(count)]),
    )


def verify_file(path: Path, record: FileRecord, *, progress: Progress | None = None) -> list[str]:
    """Hash a file again; each part that is not as recorded is one line.

    The header and the tensors of a record tile its file, so that every byte is hashed once,
    on all cores; a file without tensors is hashed as a whole.

    Raises:
        OSError: the file is there, but cannot be read.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return [f"{record.path}: expected {record.size:,} bytes, found no such file"]
    problems = []
    if size != record.size:
        problems = [f"{record.path}: expected {record.size:,} bytes, found {size:,}"]
    if not _tiled(record):
        whole = size == record.size and hash_file(path, progress=progress) == record.digest
        return problems or ([] if whole else [f"{record.path}: bytes 0–{size:,} differ"])
    return problems + _differing(path, record, size, progress)


def _tiled(record: FileRecord) -> bool:
    if record.header is None or not record.tensors:
        return False
    stops = [record.tensors[0].start, *(tensor.stop for tensor in record.tensors)]
    return stops == [*(tensor.start for tensor in record.tensors), record.size]


def _differing(path: Path, record: FileRecord, size: int, progress: Progress | None) -> list[str]:
    parts = list(_parts(record))
    ranges = [bounds for _, bounds, _ in parts]
    found = hash_ranges(path, ranges, threads=_cores(), progress=progress)
    return [
        f"{record.path}: {name}: bytes {start:,}–{stop:,} "
        + (f"are cut off, the file ends at {size:,}" if stop > size else "differ")
        for (name, (start, stop), digest), other in zip(parts, found, strict=True)
        if digest != other
    ]


def _parts(record: FileRecord) -> Iterator[tuple[str, tuple[int, int], Digest | None]]:
    yield "header", (0, record.tensors[0].start), record.header
    for tensor in record.tensors:
        for bounds, digest in zip(chunks(tensor.start, tensor.stop), tensor.digests, strict=True):
            yield tensor.name, bounds, digest


def _cores() -> int:
    return os.cpu_count() or 1
