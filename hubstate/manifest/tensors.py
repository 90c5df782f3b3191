"""The list of a file's tensors, from JSON: ranges that tile the file, and chunks that tile them."""

from __future__ import annotations

from math import prod
from typing import Any

from hubstate.digest import Digest
from hubstate.header import ITEM_SIZES, is_sizes
from hubstate.manifest.fields import Wrong
from hubstate.manifest.files import CHUNK, TensorRecord, make_tensor_record
from hubstate.strictjson import at

__all__ = ["read_tensors"]

_KEYS = {"name", "dtype", "shape", "start", "stop", "digests"}
_SHORTEST_HEADER = 10  # bytes: the length, and {}


def read_tensors(
    items: list[Any], place: str, *, size: int, newer: bool
) -> tuple[TensorRecord, ...]:
    """The records of a file of ``size`` bytes.

    Raises:
        InvalidManifest: an item is malformed, or the tensors leave gaps, overlap, or do not
            end where the file ends.
    """
    tensors: list[TensorRecord] = []
    position = -1
    try:
        for item in items:
            tensor = _tensor(item, newer)
            if tensor.start != position and position >= 0:
                raise Wrong("start", f"{position}, where the tensor before it stops", tensor.start)
            position = tensor.stop
            tensors.append(tensor)
    except Wrong as wrong:
        raise wrong.within(at(place, len(tensors))) from None
    if tensors and tensors[0].start < _SHORTEST_HEADER:
        raise Wrong("start", "room for a header", tensors[0].start).within(at(place, 0))
    if tensors and position != size:
        raise Wrong("stop", f"{size}, the size of the file", position).within(at(place, -1))
    return tuple(tensors)


def _tensor(item: Any, newer: bool) -> TensorRecord:
    if type(item) is not dict:
        raise Wrong("", "an object", item)
    if item.keys() != _KEYS and not (newer and item.keys() > _KEYS):
        raise Wrong("", f"the keys {sorted(_KEYS)}", sorted(item.keys())[:8])
    name, dtype, shape = item["name"], item["dtype"], item["shape"]
    start, stop = item["start"], item["stop"]
    if type(name) is not str or len(name) > 4096:
        raise Wrong("name", "text of at most 4096 characters", name)
    if type(dtype) is not str or dtype not in ITEM_SIZES:
        raise Wrong("dtype", "a dtype of safetensors files", dtype)
    if not is_sizes(shape):
        raise Wrong("shape", "a list of sizes", shape)
    if type(start) is not int or start < 0:
        raise Wrong("start", "an integer from 0", start)
    if type(stop) is not int or stop - start != prod(shape) * ITEM_SIZES[dtype]:
        raise Wrong("stop", f"{start + prod(shape) * ITEM_SIZES[dtype]}", stop)
    return make_tensor_record(
        name,
        dtype,
        tuple(shape),
        start=start,
        stop=stop,
        digests=_digests(item["digests"], stop - start),
    )


def _digests(items: Any, size: int) -> tuple[Digest, ...]:
    count = max(1, -(-size // CHUNK))
    if type(items) is not list or len(items) != count:
        raise Wrong("digests", f"{count} for {size} bytes", items)
    try:
        return tuple([Digest.parse(text) for text in items])
    except (ValueError, AttributeError, TypeError):
        raise Wrong("digests", "sha256: and 64 hex digits each", items) from None
