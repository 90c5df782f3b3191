"""What each rule does: from the names that there are to those that it leaves, and how to go back.

Nothing is computed here. A node says which tensors of the source it needs and what is to be done
with them; its form, on the meta device, has the shape and dtype that will come of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from hubstate.transforms.rules import (
    Channels,
    Drop,
    Fallback,
    Flip,
    Fold,
    Fuse,
    Rename,
    Reshape,
    Rule,
    Split,
    Transpose,
)

__all__ = ["Node", "Outcome", "apply_rule", "leaf"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Node:
    """A tensor of the source, or what is to be made of other nodes."""

    form: Tensor
    """On the meta device: shape and dtype."""
    name: str = ""
    """Of a tensor of the source."""
    parents: tuple[Node, ...] = ()
    make: Callable[..., Tensor] | None = None


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What came of one rule."""

    nodes: dict[str, Node]
    used: bool = False
    problems: list[tuple[str, str]] = field(default_factory=list)
    """(name, what is wrong)"""
    undo: list[Rule] | None = field(default_factory=list)
    """Rules that lead back, in the order to apply them; None where nothing does."""


def leaf(name: str, form: Tensor) -> Node:
    """A tensor of the source."""
    return Node(form=form, name=name)


def _made(make: Callable[..., Tensor], *parents: Node) -> Node:
    """What a function makes of nodes.

    Raises:
        RuntimeError, IndexError, ValueError: it does not take tensors of these forms.
    """
    return Node(form=make(*(node.form for node in parents)), parents=parents, make=make)


def _matches(pattern: str, names: Iterable[str]) -> Iterator[re.Match[str]]:
    regex = re.compile(pattern)
    return (match for name in names if (match := regex.fullmatch(name)))


def _literal(names: Iterable[str]) -> str:
    return "|".join(map(re.escape, names))


def _template(name: str) -> str:
    return name.replace("\\", r"\\")


def _put(
    old: Mapping[str, Node], changes: Mapping[str, Mapping[str, Node]]
) -> tuple[dict[str, Node], list[tuple[str, str]]]:
    """Each changed name replaced, where it stood, by what comes of it; and the collisions."""
    found: dict[str, Node] = {}
    problems = []
    for name, node in old.items():
        for new, made in changes.get(name, {name: node}).items():
            if new in found:
                problems.append((new, f"a tensor has this name already when {name} comes to it"))
            found[new] = made
    return found, problems


@singledispatch
def apply_rule(rule: Any, nodes: Mapping[str, Node]) -> Outcome:
    """The names that a rule leaves."""
    raise TypeError(f"no rule for {len(nodes)} tensors: {rule!r}")


@apply_rule.register
def _rename(rule: Rename, nodes: Mapping[str, Node]) -> Outcome:
    if isinstance(rule.rename, str):
        renamed = {m.string: m.expand(rule.to) for m in _matches(rule.rename, nodes)}
        absent = []
    else:
        renamed = {old: new for old, new in rule.rename.items() if old in nodes}
        absent = [(old, "not in the source") for old in rule.rename if old not in nodes]
    changes = {old: {new: nodes[old]} for old, new in renamed.items()}
    found, problems = _put(nodes, changes)
    back: list[Rule] = [Rename(rename={new: old for old, new in renamed.items()})]
    return Outcome(nodes=found, used=bool(renamed), problems=absent + problems, undo=back)


def _each(
    pattern: str, nodes: Mapping[str, Node], make: Callable[[Tensor], Tensor]
) -> tuple[Outcome, list[str]]:
    """The same done to each tensor that matches; and their names."""
    outcome = Outcome(nodes=dict(nodes))
    names = [match.string for match in _matches(pattern, nodes)]
    outcome.used = bool(names)
    for name in names:
        try:
            outcome.nodes[name] = _made(make, nodes[name])
        except (RuntimeError, IndexError, ValueError) as error:
            shape = tuple(nodes[name].form.shape)
            outcome.problems.append((name, f"{shape}: {str(error).splitlines()[0]}"))
    return outcome, names


@apply_rule.register
def _transpose(rule: Transpose, nodes: Mapping[str, Node]) -> Outcome:
    def make(tensor: Tensor) -> Tensor:
        return tensor.permute(rule.order or tuple(reversed(range(tensor.ndim))))

    outcome, names = _each(rule.transpose, nodes, make)
    back = tuple(sorted(range(len(rule.order)), key=lambda axis: rule.order[axis]))
    outcome.undo = [Transpose(transpose=_literal(names), order=back)]
    return outcome


@apply_rule.register
def _reshape(rule: Reshape, nodes: Mapping[str, Node]) -> Outcome:
    outcome, names = _each(rule.reshape, nodes, lambda tensor: tensor.reshape(rule.shape))
    shapes = {name: tuple(nodes[name].form.shape) for name in names}
    outcome.undo = [Reshape(reshape=re.escape(name), shape=shapes[name]) for name in names]
    return outcome


@apply_rule.register
def _flip(rule: Flip, nodes: Mapping[str, Node]) -> Outcome:
    outcome, names = _each(rule.flip, nodes, lambda tensor: tensor.flip(rule.axes))
    outcome.undo = [Flip(flip=_literal(names), axes=rule.axes)]
    return outcome


@apply_rule.register
def _split(rule: Split, nodes: Mapping[str, Node]) -> Outcome:
    changes: dict[str, dict[str, Node]] = {}
    undo: list[Rule] = []
    problems = []
    for match in _matches(rule.split, nodes):
        names, node = [match.expand(to) for to in rule.to], nodes[match.string]
        try:
            sizes = _sizes(rule, node.form)
        except (ValueError, IndexError) as error:
            problems.append((match.string, str(error)))
            continue
        parts = {name: _made(_Part(sizes, i, rule.axis), node) for i, name in enumerate(names)}
        changes[match.string] = parts
        patterns = tuple(map(re.escape, names))
        undo.append(Fuse(fuse=patterns, to=_template(match.string), axis=rule.axis))
    found, collisions = _put(nodes, changes)
    return Outcome(
        nodes=found, used=bool(changes or problems), problems=problems + collisions, undo=undo
    )


def _sizes(rule: Split, form: Tensor) -> tuple[int, ...]:
    length, count = form.shape[rule.axis], len(rule.to)
    sizes = rule.sizes or (length // count,) * count
    if sum(sizes) != length or len(sizes) != count:
        raise ValueError(f"{tuple(form.shape)}: axis {rule.axis} does not split into {sizes}")
    return sizes


@dataclass(frozen=True)
class _Part:
    sizes: tuple[int, ...]
    index: int
    axis: int

    def __call__(self, tensor: Tensor) -> Tensor:
        start = sum(self.sizes[: self.index])
        # A memory of its own: the parts are parameters of their own.
        return tensor.narrow(self.axis, start, self.sizes[self.index]).clone()


@apply_rule.register
def _fuse(rule: Fuse, nodes: Mapping[str, Node]) -> Outcome:
    groups: dict[str, dict[int, str]] = {}
    for index, pattern in enumerate(rule.fuse):
        for match in _matches(pattern, nodes):
            groups.setdefault(match.expand(rule.to), {})[index] = match.string
    changes: dict[str, dict[str, Node]] = {}
    undo: list[Rule] = []
    problems = []
    for target, members in groups.items():
        names = [members[index] for index in sorted(members)]
        if len(names) < len(rule.fuse):
            absent = [p for index, p in enumerate(rule.fuse) if index not in members]
            problems.append((target, f"nothing matches {', '.join(absent)}"))
            continue
        try:
            whole = _made(lambda *t: torch.cat(t, rule.axis), *(nodes[name] for name in names))
        except (RuntimeError, IndexError) as error:
            problems.append((target, str(error).splitlines()[0]))
            continue
        changes |= {name: {} for name in names}
        changes[names[0]] = {target: whole}
        undo.append(_fuse_back(target, names, nodes, rule.axis))
    found, collisions = _put(nodes, changes)
    return Outcome(nodes=found, used=bool(groups), problems=problems + collisions, undo=undo)


def _fuse_back(target: str, names: Sequence[str], nodes: Mapping[str, Node], axis: int) -> Split:
    sizes = tuple(nodes[name].form.shape[axis] for name in names)
    to = tuple(map(_template, names))
    return Split(split=re.escape(target), to=to, axis=axis, sizes=sizes)


@apply_rule.register
def _fold(rule: Fold, nodes: Mapping[str, Node]) -> Outcome:
    found = dict(nodes)
    outcome = Outcome(nodes=found, undo=None)
    regex = re.compile(rule.fold)
    for mean in [name for name in nodes if name.endswith(".running_mean")]:
        module = mean.removesuffix(".running_mean")
        if not (match := regex.fullmatch(module)):
            continue
        outcome.used = True
        layer = match.expand(rule.into)
        try:
            _fold_one(found, module, layer, rule.eps)
        except (KeyError, RuntimeError, ValueError) as error:
            outcome.problems.append((module, f"does not fold into {layer}: {error}"))
    return outcome


def _fold_one(found: dict[str, Node], module: str, layer: str, eps: float) -> None:
    mean, var = found[f"{module}.running_mean"], found[f"{module}.running_var"]
    weight = found[f"{layer}.weight"]
    if weight.form.shape[:1] != mean.form.shape:
        raise ValueError(f"{tuple(weight.form.shape)} has not {mean.form.numel()} outputs")
    ones = _made(torch.ones_like, mean)
    zeros = _made(torch.zeros_like, mean)
    gamma = found.get(f"{module}.weight", ones)
    beta, bias = found.get(f"{module}.bias", zeros), found.get(f"{layer}.bias", zeros)

    def scale(gamma: Tensor, var: Tensor) -> Tensor:
        return gamma.double() / (var.double() + eps).sqrt()

    def scaled(weight: Tensor, gamma: Tensor, var: Tensor) -> Tensor:
        shape = (-1, *(1,) * (weight.ndim - 1))
        return (weight.double() * scale(gamma, var).reshape(shape)).to(weight.dtype)

    def shifted(*given: Tensor) -> Tensor:
        bias, mean, gamma, var, beta = given
        moved = (bias.double() - mean.double()) * scale(gamma, var)
        return (moved + beta.double()).to(mean.dtype)

    found[f"{layer}.bias"] = _made(shifted, bias, mean, gamma, var, beta)
    found[f"{layer}.weight"] = _made(scaled, weight, gamma, var)
    for leaf_name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        found.pop(f"{module}.{leaf_name}", None)


@apply_rule.register
def _drop(rule: Drop, nodes: Mapping[str, Node]) -> Outcome:
    dropped = {match.string for match in _matches(rule.drop, nodes)}
    kept = {name: node for name, node in nodes.items() if name not in dropped}
    return Outcome(nodes=kept, used=bool(dropped), undo=None)


@apply_rule.register
def _fallback(rule: Fallback, nodes: Mapping[str, Node]) -> Outcome:
    found, added, used = dict(nodes), [], False
    for match in _matches(rule.fallback, nodes):
        used = True
        name, node = match.expand(rule.to), nodes[match.string]
        if name in found:
            continue
        added.append(name)
        found[name] = _made(torch.clone, node) if rule.value is None else _filled(node, rule.value)
    undo: list[Rule] = [Drop(drop=_literal(added))] if added else []
    return Outcome(nodes=found, used=used, undo=undo)


def _filled(node: Node, value: float) -> Node:
    return _made(lambda tensor: torch.full_like(tensor, value), node)


@apply_rule.register
def _channels(rule: Channels, nodes: Mapping[str, Node]) -> Outcome:
    def make(weight: Tensor) -> Tensor:
        if weight.ndim < 2 or rule.count < 1:
            raise ValueError(f"no channels, or not to be {rule.count}")
        if rule.count == 1:
            return weight.sum(1, keepdim=True)
        there = weight.shape[1]
        repeated = torch.cat([weight] * -(-rule.count // there), 1)[:, : rule.count]
        return repeated * (there / rule.count)

    outcome, _ = _each(rule.channels, nodes, make)
    outcome.undo = None
    return outcome
