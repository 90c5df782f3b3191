"""torch's checkpoints, ``.pth`` and its like: pickles, read by the weights_only loader alone.

A pickle is a program. The weights_only loader runs a small part of the language, which can make
tensors and plain data and call nothing else; whatever asks for more is refused here.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hubstate.convert.limits import refuse_many, refuse_swollen
from hubstate.errors import InvalidWeights

__all__ = ["load_pickle", "save_pickle"]

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_OTHER = re.compile(r"WeightsUnpickler error:\s+(.+)")
# Several views of one memory become tensors of their own; and torch compresses nothing.
_LIMITS = {"times": 4, "slack": 1 << 20}


def load_pickle(path: Path) -> Any:
    """What a checkpoint holds: tensors, and plain data around them, on the CPU.

    Raises:
        InvalidWeights: it asks for code, or is no checkpoint, or holds tensors far larger than
            the file.
        OSError: it cannot be read.
    """
    _refuse_compressed(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the error says
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
    said = _OTHER.findall(text) or text.splitlines() or [""]
    line = f"{type(error).__name__}: {said[0][:200]}"
    return f"no checkpoint that the weights_only loader reads: {line}"


def _refuse_compressed(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(member.file_size for member in archive.infolist())
    except OSError:
        raise
    except Exception:  # no zip, or a damaged one: torch's own reader says what is wrong
        return
    refuse_swollen(claimed, path, **_LIMITS)


def _refuse_swollen(tree: Any, path: Path) -> None:
    """A few bytes can claim a tensor of any size, by repeating one element, and any number of
    names, by repeating what holds them."""
    survey = _Survey()
    refuse_many(survey.look(tree), path)
    refuse_swollen(sum(survey.nbytes.values()), path, **_LIMITS)


class _Survey:
    """What a tree holds; each of its containers is looked into once."""

    def __init__(self) -> None:
        self.nbytes: dict[object, int] = {}
        self._values: dict[int, int] = {}

    def look(self, tree: Any) -> int:
        """How many values a walk through all of it would come by."""
        if isinstance(tree, Tensor):
            if tree.layout is torch.strided:
                self.nbytes[tree.data_ptr(), tree.shape, tree.stride()] = tree.nbytes
            return 1
        if not isinstance(tree, dict | list | tuple | set):
            return 1
        if id(tree) not in self._values:
            self._values[id(tree)] = 0  # within itself, where a walk ends
            items = tree.values() if isinstance(tree, dict) else tree
            self._values[id(tree)] = 1 + sum(map(self.look, items))
        return self._values[id(tree)]


def save_pickle(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a ``state_dict()`` as torch does; ties stay ties."""
    with path.open("wb") as file:  # by a path, torch would put its name into the archive
        torch.save(tensors, file)
