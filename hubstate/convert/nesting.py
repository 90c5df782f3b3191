"""Where in a checkpoint the weights are: by the keys under which people keep them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hubstate.errors import InvalidWeights
from hubstate.values import frozen
from hubstate.walk import tensors_of

__all__ = ["Found", "find_weights"]

_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "params", "weights")
_BESIDE = ("optimizer", "optim", "opt_state", "scheduler", "lr_scheduler", "scaler", "rng")
_DEEPEST = 8


@frozen
class Found:
    """The weights in a checkpoint."""

    tensors: dict[str, Tensor]
    key: str
    """Where they were, such as ``state_dict``; empty at the top."""
    left_out: tuple[str, ...]
    """What else the checkpoint holds."""


def find_weights(tree: Any, *, key: str | None = None, name: str = "the file") -> Found:
    """The tensors of a checkpoint by dotted name, from under ``state_dict``, ``model`` … if there.

    Args:
        tree: what the file holds.
        key: where they are, such as ``state_dict`` or ``ema.model``; ``.`` for the top.
        name: of the file, for messages.

    Raises:
        InvalidWeights: there is no such key, or no tensor.

    >>> import torch
    >>> found = find_weights({"epoch": 3, "state_dict": {"w": torch.zeros(2)}})
    >>> found.key, list(found.tensors), found.left_out
    ('state_dict', ['w'], ('epoch',))
    """
    if key is not None:
        return _taken(_at(tree, key, name), "" if key == "." else key, (), name)
    path: list[str] = []
    left: list[str] = []
    while len(path) < _DEEPEST and (inner := _nested(tree)) is not None:
        left += [".".join([*path, str(other)]) for other in tree if other != inner]
        path.append(inner)
        tree = tree[inner]
    return _taken(tree, ".".join(path), tuple(left), name)


def _nested(tree: Any) -> str | None:
    """The key under which the weights are, where they are not here."""
    if not isinstance(tree, Mapping):
        return None
    return next((name for name in _KEYS if _has_tensors(tree.get(name))), None)


def _has_tensors(tree: Any) -> bool:
    return isinstance(tree, Mapping) and bool(_tensors(tree))


def _tensors(tree: Any) -> dict[str, Tensor]:
    try:
        return tensors_of(tree)
    except (TypeError, ValueError):  # no tree at all, or one that is no state
        return {}


def _at(tree: Any, key: str, where: str) -> Any:
    """What is under a key; names with dots in them are tried as they are first."""
    if key == ".":
        return tree
    if not isinstance(tree, Mapping):
        found = type(tree).__name__
        raise InvalidWeights(f"{where}: {key}: the checkpoint is a {found}, without keys")
    if key in tree:
        return tree[key]
    first, dot, rest = key.partition(".")
    if first in tree and dot:
        return _at(tree[first], rest, where)
    known = ", ".join(map(str, list(tree)[:20]))
    raise InvalidWeights(f"{where}: {key}: not in the checkpoint; its keys are {known}")


def _taken(tree: Any, key: str, left: tuple[str, ...], where: str) -> Found:
    beside: list[str] = []
    if isinstance(tree, Mapping):
        beside = [str(name) for name in tree if str(name) in _BESIDE]
        tree = {name: value for name, value in tree.items() if str(name) not in _BESIDE}
    found = _tensors(tree)
    if not found:
        place = f"{where}: {key}" if key else where
        raise InvalidWeights(f"{place}: expected tensors by name, found none")
    if isinstance(tree, Mapping):
        tops = {name.partition(".")[0] for name in found}
        beside += [str(name) for name in tree if str(name).partition(".")[0] not in tops]
    prefix = f"{key}." if key else ""
    return Found(tensors=found, key=key, left_out=(*left, *(prefix + name for name in beside)))
