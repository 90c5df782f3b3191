"""Models to load into, and what a refused load says of them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hubstate.errors import StructureMismatch
from hubstate.loading import loadmodel
from hubstate.walk import as_tensor, rows


class Holder(nn.Module):
    """A module with the given attributes: parameters, children and plain data."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)


def net() -> nn.Sequential:
    """A small model with parameters, buffers and children without either."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2), act=nn.ReLU(), fc=nn.Linear(2, 3)
        )
    )


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def tied() -> nn.Sequential:
    model = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 3, bias=False))
    model[1].weight = model[0].weight
    return model


def known(model: Any) -> dict[str, Tensor]:
    """The tensors of a model that have values."""
    found = ((path, t) for path, kind, t, _ in rows(model) if kind in ("param", "buffer"))
    return {path: as_tensor(t).detach().to_dense() for path, t in found}


def bits(model: Any) -> dict[str, bytes]:
    return {
        path: t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for path, t in known(model).items()
        if not t.is_meta
    }


def issues(dst: Any, src: Any, **options: Any) -> list[tuple[str, str]]:
    """The differences that a refused load names, after checking that it changed nothing."""
    before = bits(dst)
    with pytest.raises(StructureMismatch) as caught:
        loadmodel(dst, src, **options)
    assert bits(dst) == before
    return [(issue.path, issue.kind) for issue in caught.value.issues]


def both(dst: Any, src: Any, **options: Any) -> list[tuple[str, str]]:
    """The differences that are errors whether or not the load is strict."""
    found = issues(dst, src, **options)
    assert issues(dst, src, strict=False, **options) == found
    return found
