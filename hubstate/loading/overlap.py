"""Tensors that share memory: which do, and what a write through one of them does to the others."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = [
    "Span",
    "conflicts",
    "groups",
    "is_expanded",
    "is_folded",
    "is_same_view",
    "same_bits",
    "span_of",
    "uncovered",
]

Span: TypeAlias = tuple[int, int, int]
"""A device, and the addresses that a tensor's elements lie between."""


def span_of(tensor: Tensor) -> Span:
    """Where a tensor's elements are; one without an address has a place of its own."""
    try:
        start = tensor.data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse, fake
        start = 0
    if not start:  # … or meta, or empty
        return -1, id(tensor), id(tensor) + 1
    device = 0 if tensor.is_cpu else hash(tensor.device)
    if tensor.is_contiguous():
        return device, start, start + tensor.nbytes
    reach = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return device, start, start + (reach + 1) * tensor.element_size()


def groups(spans: Sequence[Span]) -> list[list[int]]:
    """The indices of the spans that overlap, directly or through others, two or more to a group.

    >>> groups([(0, 0, 8), (0, 8, 16), (0, 4, 6), (1, 0, 8)])
    [[0, 2]]
    """
    found: list[list[int]] = []
    where, reach = None, 0
    for (device, start, stop), index in sorted(zip(spans, range(len(spans)), strict=True)):
        if device == where and start < reach:
            found[-1].append(index)
            reach = max(reach, stop)
        else:
            found.append([index])
            where, reach = device, stop
    return [sorted(group) for group in found if len(group) > 1]


def is_expanded(tensor: Tensor) -> bool:
    """Whether one element stands at several indices, as ``expand()`` makes it."""
    if tensor.layout is not torch.strided or tensor.is_contiguous():
        return False
    return any(n > 1 and not step for n, step in zip(tensor.shape, tensor.stride(), strict=True))


def is_folded(tensor: Tensor) -> bool:
    """Whether elements of a tensor may share memory with each other, as ``unfold()`` makes them."""
    if tensor.layout is not torch.strided or tensor.is_contiguous():
        return False
    axes = sorted((step, n) for n, step in zip(tensor.shape, tensor.stride(), strict=True) if n > 1)
    return any((n - 1) * step >= wider for (step, n), (wider, _) in pairwise(axes))


def is_same_view(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same elements of memory in the same order."""
    if a is b:
        return True
    if a.layout is not torch.strided or b.layout is not torch.strided:
        return False
    if (a.dtype, a.device, a.shape, a.stride()) != (b.dtype, b.device, b.shape, b.stride()):
        return False
    return a.data_ptr() == b.data_ptr() != 0


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape and dtype are equal bit by bit; NaN is NaN."""
    if a.layout is not torch.strided or b.layout is not torch.strided:
        a, b = a.to_dense(), b.to_dense()
    return is_same_view(a, b) or torch.equal(_bytes(a), _bytes(b))


def conflicts(views: Sequence[Tensor], sources: Sequence[Tensor]) -> list[int]:
    """The indices of the views that would not read back their own source.

    Every source is written through its view, in order, into a copy of the memory that the views
    lie on; neither the views nor their memory change.
    """
    memory = _Memory(views)
    values = [_cast(source, view) for view, source in zip(views, sources, strict=True)]
    for view, value in zip(views, values, strict=True):
        memory.window(view).copy_(value)
    pairs = enumerate(zip(views, values, strict=True))
    return [index for index, (view, value) in pairs if not memory.window(view).equal(value)]


def uncovered(views: Sequence[Tensor], given: Sequence[Tensor]) -> list[int]:
    """The indices of the views with elements that no write through the given tensors reaches."""
    memory = _Memory([*views, *given])
    for tensor in given:
        memory.window(tensor).fill_(1)
    return [index for index, view in enumerate(views) if not bool(memory.window(view).all())]


class _Memory:
    """As many zero bytes as the tensors lie on, seen through the same strides."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        spans = [span_of(tensor) for tensor in tensors]
        self.start = min(start for _, start, _ in spans)
        self.bytes = torch.zeros(max(stop for *_, stop in spans) - self.start, dtype=torch.uint8)

    def window(self, tensor: Tensor) -> Tensor:
        """The bytes of a tensor: its shape and one more axis."""
        size = tensor.element_size()
        strides = (*(step * size for step in tensor.stride()), 1)
        offset = tensor.data_ptr() - self.start
        return self.bytes.as_strided((*tensor.shape, size), strides, offset)


def _cast(source: Tensor, view: Tensor) -> Tensor:
    """A source's bytes once it is cast to the dtype of a view."""
    value = torch.empty(source.shape, dtype=view.dtype).copy_(source)
    return _bytes(value).reshape(*source.shape, view.element_size())


def _bytes(tensor: Tensor) -> Tensor:
    values = tensor.detach().contiguous()
    # One element is contiguous whatever its stride, but bytes can be seen at a stride of 1 only.
    return values.as_strided((values.numel(),), (1,)).view(torch.uint8)
