"""Tensors as memory, and files that take their name once they are whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

__all__ = ["bytes_of", "dtype_name", "read_into", "replacing", "tensor_bytes"]


def dtype_name(tensor: Tensor) -> str:
    """torch's name of the dtype, without the prefix: ``float32``."""
    return str(tensor.dtype).removeprefix("torch.")


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of any tensor in row-major order; a copy only where it is not laid out so."""
    dense = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return tensor_bytes(dense)


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU, to read and to write."""
    if tensor.numel() == 0:
        return memoryview(b"")
    flat = tensor.as_strided((tensor.numel(),), (1,))  # a lone item may have any stride
    array: Any = flat.view(torch.uint8).numpy()
    return memoryview(array)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the name ``path`` once it is whole and on the disk.

    ::

        folder/
        ├── .<32 hex digits>.tmp   while it is written; left behind only by a kill
        └── path                   the old content, then the new; never a mixture
    """
    import secrets  # here, as a load writes nothing

    temporary = path.with_name(f".{secrets.token_hex(16)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(temporary, flags, 0o666)  # less the umask
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some network file systems refuse it; the rename is done
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_into(descriptor: int, view: memoryview, position: int) -> int:
    """Fill memory from a position of a file; fewer bytes come only where the file ends."""
    done = 0
    while done < len(view):
        block = view[done : done + (1 << 30)]  # one call moves at most 2 GiB
        if hasattr(os, "preadv"):
            count = os.preadv(descriptor, [block], position + done)
        else:
            data = os.pread(descriptor, len(block), position + done)
            count = len(data)
            block[:count] = data
        if count == 0:
            break
        done += count
    return done
