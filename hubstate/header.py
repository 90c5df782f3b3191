"""The header of a safetensors file, read strictly and without torch.

::

    file.safetensors
    ├── 8 bytes   n, the length of the header: unsigned, little endian
    ├── n bytes   JSON, padded with spaces
    │             {"__metadata__": {text: text, …},
    │              name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [start, stop]}, …}
    └── the rest  the tensors, each in row-major order, without a gap

``data_offsets`` count from the end of the header; everything here counts from the beginning of
the file. Source: the format's own description, https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from hubstate.errors import InvalidWeights
from hubstate.strictjson import loads
from hubstate.values import frozen

__all__ = [
    "ITEM_SIZES",
    "MAX_HEADER",
    "SAFETENSORS_NAMES",
    "Header",
    "HeaderTensor",
    "dump_header",
    "header_size",
    "is_sizes",
    "parse_header",
    "read_header",
]

MAX_HEADER = 100_000_000
"""The longest header that the format permits, in bytes."""

# safetensors' name -> (torch's name, bytes). The order is the order in which the safetensors
# library lays tensors out: reversed, so that larger items come first and all are aligned.
_DTYPES = {
    "BOOL": ("bool", 1),
    "U8": ("uint8", 1),
    "I8": ("int8", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 1),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 1),
    "I16": ("int16", 2),
    "U16": ("uint16", 2),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I32": ("int32", 4),
    "U32": ("uint32", 4),
    "F32": ("float32", 4),
    "C64": ("complex64", 8),
    "F64": ("float64", 8),
    "I64": ("int64", 8),
    "U64": ("uint64", 8),
}
SAFETENSORS_NAMES = {torch: name for name, (torch, _) in _DTYPES.items()}
"""torch's dtype name -> safetensors' name, for every dtype that a file can hold."""
ITEM_SIZES = dict(_DTYPES.values())
"""torch's dtype name -> bytes of one item."""


class HeaderTensor(NamedTuple):
    """One tensor of a safetensors file; a tuple, since each load makes one for each tensor."""

    name: str
    dtype: str
    """torch's name without the prefix, such as ``float32``."""
    shape: tuple[int, ...]
    start: int
    """The first byte, counted from the beginning of the file."""
    stop: int
    """The byte after the last."""


@frozen
class Header:
    """What the header of a safetensors file says."""

    size: int
    """The bytes before the first tensor: 8 and the length of the JSON text."""
    tensors: Mapping[str, HeaderTensor]
    """By name, in the order of their offsets."""
    metadata: Mapping[str, str]

    @property
    def stop(self) -> int:
        """The size that the file must have."""
        return max((tensor.stop for tensor in self.tensors.values()), default=self.size)


def header_size(prefix: bytes) -> int:
    """The number of bytes before the first tensor, from the first 8 bytes of a file.

    Raises:
        InvalidWeights: fewer than 8 bytes, or a length that no header has.

    >>> header_size((64).to_bytes(8, "little"))
    72
    """
    if len(prefix) < 8:
        raise InvalidWeights(f"bytes 0–8: expected the header's length, found {len(prefix)} bytes")
    length = int.from_bytes(prefix[:8], "little")
    if not 2 <= length <= MAX_HEADER:
        raise InvalidWeights(
            f"bytes 0–8: expected a header of 2 to {MAX_HEADER:,} bytes, found {length:,}"
        )
    return 8 + length


def parse_header(prefix: bytes, *, file_size: int | None) -> Header:
    """Read a header from the first bytes of a file; more bytes than it has do no harm.

    Args:
        prefix: the file's first ``header_size(prefix)`` bytes, or more.
        file_size: the size of the whole file in bytes; None if the size is not to be checked.

    Raises:
        InvalidWeights: the header is cut short, is not JSON of this form, has a dtype that
            torch cannot hold, or ranges that overlap, leave gaps, disagree with shape and
            dtype, or do not fit the file; the message names the tensor.
    """
    size = header_size(prefix)
    if len(prefix) < size:
        raise InvalidWeights(f"header: expected {size:,} bytes, the file ends at {len(prefix):,}")
    document = loads(
        prefix[8:size], what="header", max_bytes=MAX_HEADER, max_depth=3, error=InvalidWeights
    )
    if type(document) is not dict:
        raise InvalidWeights(f"header: expected an object, found {type(document).__name__}")
    metadata = _metadata(document.pop("__metadata__", {}))
    found = [_tensor(name, fields, size) for name, fields in document.items()]
    found.sort(key=attrgetter("start", "stop"))
    _check_ranges(found, size, file_size)
    return Header(size=size, tensors={tensor.name: tensor for tensor in found}, metadata=metadata)


def read_header(path: Path) -> Header:
    """Read the header of a file and hold it against the file's size.

    Raises:
        InvalidWeights: as `parse_header`; the message begins with the file's name.
        OSError: the file cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        prefix = file.read(1 << 16)
        try:
            if (missing := header_size(prefix) - len(prefix)) > 0:
                prefix += file.read(missing)
            return parse_header(prefix, file_size=file.seek(0, 2))
        except InvalidWeights as cause:
            raise InvalidWeights(f"{path.name}: {cause}") from None


def dump_header(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """The bytes before the first tensor, for tensors that follow in the order given.

    It writes what the safetensors library writes, but with the metadata in sorted order, so
    that equal input gives equal bytes.

    Args:
        tensors: name -> (torch's dtype name, shape).
        metadata: any text.

    >>> dump_header({"a": ("float32", (2,))}, {})[8:]
    b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  '
    """
    document: dict[str, object] = {}
    if metadata:
        document["__metadata__"] = dict(sorted(metadata.items()))
    offset = 0
    for name, (dtype, shape) in tensors.items():
        stop = offset + prod(shape) * ITEM_SIZES[dtype]
        document[name] = {
            "dtype": SAFETENSORS_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, stop],
        }
        offset = stop
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _metadata(value: Any) -> dict[str, str]:
    if type(value) is not dict or not all(type(text) is str for text in value.values()):
        raise InvalidWeights("header: __metadata__: expected text by name")
    return value


_FIELDS = {"dtype", "shape", "data_offsets"}


def _tensor(name: str, fields: Any, base: int) -> HeaderTensor:
    if type(fields) is not dict or fields.keys() != _FIELDS:
        raise InvalidWeights(
            f"{name}: expected dtype, shape and data_offsets, found {_short(fields)}"
        )
    dtype = _DTYPES.get(fields["dtype"]) if type(fields["dtype"]) is str else None
    if dtype is None:
        raise InvalidWeights(f"{name}: dtype: {_short(fields['dtype'])} is none that torch holds")
    shape, offsets = fields["shape"], fields["data_offsets"]
    if not is_sizes(shape):
        raise InvalidWeights(f"{name}: shape: expected sizes, found {_short(shape)}")
    if not is_sizes(offsets) or len(offsets) != 2:
        raise InvalidWeights(f"{name}: data_offsets: expected two, found {_short(offsets)}")
    start, stop = offsets
    if stop - start != prod(shape) * dtype[1]:
        raise InvalidWeights(
            f"{name}: expected {prod(shape) * dtype[1]:,} bytes for {dtype[0]} "
            f"{tuple(shape)}, found data_offsets {start}–{stop}"
        )
    return HeaderTensor(name, dtype[0], tuple(shape), base + start, base + stop)


def is_sizes(value: Any) -> bool:
    """Whether it is a list of integers from 0, at most 64 of them."""
    if type(value) is not list or len(value) > 64:
        return False
    for size in value:  # noqa: SIM110 - half the time of all() on the few items of a shape
        if type(size) is not int or size < 0:
            return False
    return True


def _check_ranges(tensors: list[HeaderTensor], position: int, file_size: int | None) -> None:
    for tensor in tensors:
        if tensor.start != position:
            word = "overlaps the tensor before it" if tensor.start < position else "leaves a gap"
            raise InvalidWeights(
                f"{tensor.name}: expected to start at byte {position:,}, "
                f"found {tensor.start:,}: it {word}"
            )
        position = tensor.stop
        if file_size is not None and position > file_size:
            raise InvalidWeights(
                f"{tensor.name}: expected bytes {tensor.start:,}–{tensor.stop:,}, "
                f"the file ends at {file_size:,}"
            )
    if file_size is not None and position < file_size:
        raise InvalidWeights(f"bytes {position:,}–{file_size:,} belong to no tensor")


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, dict) else f"an object with {sorted(value)[:8]}"
    return text if len(text) <= 80 else text[:79] + "…"
