"""A model's names and shapes in a few lines, so that a golden file of them can be read.

::

    == resnet18
    . conv1(64,3,7,7) bn1[64] fc<1000,512>
    layer1.0-1 conv1(64,64,3,3) bn1[64] conv2(64,64,3,3) bn2[64]

A line is a block, or a run of equal blocks; the first is the model itself. ``(…)`` is a weight
alone; ``<…>`` a weight and a bias of as many elements as it has rows; ``[n]`` what a batch
normalisation of n channels holds. Anything else is spelt out, ``name{tensor(…) …}``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby

import torch

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def outline(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """The lines of a model whose blocks are named ``stage.number``."""
    blocks: dict[tuple[str, int], dict[str, dict[str, tuple[int, ...]]]] = {}
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        stage, number, module = _split(owner)
        block = blocks.setdefault((stage, number), {})
        block.setdefault(module, {})[leaf] = tuple(tensor.shape)
    texts = {key: " ".join(map(_module, block, block.values())) for key, block in blocks.items()}
    return [
        f"{_label(stage, [number for (_, number), _ in run])} {text}"
        for (stage, text), run in _runs(texts)
    ]


def _split(owner: str) -> tuple[str, int, str]:
    first, *rest = owner.split(".")
    if rest and rest[0].isdigit():
        return first, int(rest[0]), ".".join(rest[1:])
    return "", -1, owner


def _runs(
    texts: Mapping[tuple[str, int], str],
) -> Iterator[tuple[tuple[str, str], list[tuple[tuple[str, int], str]]]]:
    for (stage, text), run in groupby(texts.items(), key=lambda item: (item[0][0], item[1])):
        yield (stage, text), list(run)


def _label(stage: str, numbers: list[int]) -> str:
    if numbers == [-1]:
        return "."
    last = f"-{numbers[-1]}" if len(numbers) > 1 else ""
    return f"{stage}.{numbers[0]}{last}"


def _module(name: str, leaves: Mapping[str, tuple[int, ...]]) -> str:
    weight = leaves.get("weight", ())
    if tuple(leaves) == _NORM and list(leaves.values()) == [weight] * 4 + [()]:
        return f"{name}[{_sizes(weight)}]"
    if tuple(leaves) == ("weight",):
        return f"{name}({_sizes(weight)})"
    if tuple(leaves) == ("weight", "bias") and leaves["bias"] == weight[:1]:
        return f"{name}<{_sizes(weight)}>"
    return f"{name}{{{' '.join(f'{leaf}({_sizes(shape)})' for leaf, shape in leaves.items())}}}"


def _sizes(shape: tuple[int, ...]) -> str:
    return ",".join(map(str, shape))
