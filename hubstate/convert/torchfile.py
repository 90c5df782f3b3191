"""torch's checkpoints, ``.pth`` and its like: pickles, read by the weights_only loader alone.

A pickle is a program. The weights_only loader runs a small part of the language, which can make
tensors and plain data and call nothing else; whatever asks for more is refused here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hubstate.errors import InvalidWeights

__all__ = ["load_pickle", "save_pickle"]

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_SLACK = 1 << 20  # bytes of tensors that any file may hold, however small it is
_VIEWS = 4  # a file may hold several views of one memory, which become tensors of their own


def load_pickle(path: Path) -> Any:
    """What a checkpoint holds: tensors, and plain data around them, on the CPU.

    Raises:
        InvalidWeights: it asks for code, or is no checkpoint, or holds tensors far larger than
            the file.
        OSError: it cannot be read.
    """
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:
        raise InvalidWeights(f"{path.name}: {_reason(error)}") from None
    _refuse_swollen(tree, path)
    return tree


def _reason(error: Exception) -> str:
    text = str(error)
    names = sorted(set(_GLOBAL.findall(text)))
    if names:
        return (
            f"refused: the pickle asks for {', '.join(names)}, which is code; expected tensors and "
            "plain data alone (save the state_dict() of the model, and nothing else)"
        )
    if "TorchScript" in text:
        return "refused: a TorchScript program; expected the state_dict() of the model"
    line = text.splitlines()[0][:200] if text else ""
    return f"no checkpoint that the weights_only loader reads: {type(error).__name__}: {line}"


def _refuse_swollen(tree: Any, path: Path) -> None:
    """A few bytes can claim a tensor of any size, by repeating one element."""
    distinct = {(t.data_ptr(), t.shape, t.stride()): t.nbytes for t in _tensors(tree, 0)}
    total = sum(distinct.values())
    limit = _VIEWS * path.stat().st_size + _SLACK
    if total > limit:
        raise InvalidWeights(
            f"{path.name}: refused: its tensors would take {total:,} bytes, "
            f"and the file has {path.stat().st_size:,}"
        )


def _tensors(tree: Any, depth: int) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree] if tree.layout is torch.strided else []
    items = tree.values() if isinstance(tree, dict) else tree
    if not isinstance(tree, dict | list | tuple | set) or depth > 100:
        return []
    return [tensor for item in items for tensor in _tensors(item, depth + 1)]


def save_pickle(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a ``state_dict()`` as torch does; ties stay ties."""
    with path.open("wb") as file:  # by a path, torch would put its name into the archive
        torch.save(tensors, file)
