"""A state in one weights file, or in several with an index where it is larger than a limit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from hubstate.shards import INDEX_SUFFIX, dump_index, shard_name, split
from hubstate.weights.memory import replacing
from hubstate.weights.saving import check_storable, save_weights, ties_of

__all__ = ["save_sharded"]


def save_sharded(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    *,
    limit: int,
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write tensors to ``path``, or to shards beside it and an index.

    Shards are filled in the order of the tensors. One that is larger than the limit has a shard of
    its own. Names of one and the same tensor are in one shard, where the first of them holds its
    bytes; the index has that name only. The memory taken is that of one tensor at most.

    Args:
        path: the file, should one be enough: ``model.safetensors``.
        tensors: by name; see :func:`save_weights`.
        limit: bytes of tensors in a file.
        metadata: text by name, for each file.

    Returns:
        The files that were written; where there are several, the last one is the index.

    Raises:
        InvalidWeights: tensors that no safetensors file can hold, each with its name and why.
        OSError: a file cannot be written.

    >>> import torch
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     state = {"a": torch.ones(3), "b": torch.ones(2)}
    ...     for path in save_sharded(f"{folder}/model.safetensors", state, limit=12):
    ...         print(path.name)
    model-00001-of-00002.safetensors
    model-00002-of-00002.safetensors
    model.safetensors.index.json
    """
    path = Path(path)
    check_storable(tensors, what=path.name)
    ties = ties_of(tensors)
    sizes = {name: tensor.nbytes for name, tensor in tensors.items() if name not in ties}
    groups = split(sizes, limit)
    if len(groups) == 1:
        return [save_weights(path, tensors, metadata=metadata).path]
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        file = shard_name(path.name, number, len(groups))
        weight_map |= dict.fromkeys(group, file)
        held = {n: t for n, t in tensors.items() if weight_map.get(ties.get(n, n)) == file}
        save_weights(path.with_name(file), held, metadata=metadata)
    index = path.with_name(path.name.removesuffix(".safetensors") + INDEX_SUFFIX)
    with replacing(index) as stream:
        stream.write(dump_index(weight_map, total_size=sum(sizes.values())))
    return [*(path.with_name(file) for file in dict.fromkeys(weight_map.values())), index]
