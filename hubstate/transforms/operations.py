"""What each rule does: from the names that there are to those that it leaves, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from hubstate.rules import (
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
from hubstate.transforms.nodes import (
    MISFITS,
    Node,
    Outcome,
    each,
    expand,
    literal,
    made,
    matches,
    put,
    said,
    template,
)
from hubstate.values import replace

__all__ = ["apply_rule"]


@singledispatch
def apply_rule(rule: Any, nodes: Mapping[str, Node]) -> Outcome:
    """The names that a rule leaves."""
    raise TypeError(f"no rule for {len(nodes)} tensors: {rule!r}")


@apply_rule.register
def _rename(rule: Rename, nodes: Mapping[str, Node]) -> Outcome:
    if isinstance(rule.rename, str):
        renamed = {m.string: expand(m, rule.to, rule.shift) for m in matches(rule.rename, nodes)}
        absent = []
    else:
        renamed = {old: new for old, new in rule.rename.items() if old in nodes}
        absent = [(old, "not in the source") for old in rule.rename if old not in nodes]
    changes = {old: {new: nodes[old]} for old, new in renamed.items()}
    found, problems = put(nodes, changes)
    return Outcome(
        nodes=found,
        used=bool(renamed),
        problems=absent + problems,
        exact=[Rename(rename=renamed)],
        undo=[Rename(rename={new: old for old, new in renamed.items()})],
    )


@apply_rule.register
def _transpose(rule: Transpose, nodes: Mapping[str, Node]) -> Outcome:
    def make(tensor: Tensor) -> Tensor:
        return tensor.permute(rule.order or tuple(reversed(range(tensor.ndim))))

    outcome, names = each(rule, nodes, make)
    count = len(rule.order)
    back = tuple(sorted(range(count), key=lambda axis: rule.order[axis] % count))
    outcome.undo = [Transpose(transpose=literal(names), order=back)]
    return outcome


@apply_rule.register
def _reshape(rule: Reshape, nodes: Mapping[str, Node]) -> Outcome:
    outcome, names = each(rule, nodes, lambda tensor: tensor.reshape(rule.shape))
    shapes = {name: tuple(nodes[name].form.shape) for name in names}
    outcome.undo = [Reshape(reshape=re.escape(name), shape=shapes[name]) for name in names]
    return outcome


@apply_rule.register
def _flip(rule: Flip, nodes: Mapping[str, Node]) -> Outcome:
    outcome, names = each(rule, nodes, lambda tensor: tensor.flip(rule.axes))
    outcome.undo = [Flip(flip=literal(names), axes=rule.axes)]
    return outcome


@apply_rule.register
def _split(rule: Split, nodes: Mapping[str, Node]) -> Outcome:
    changes: dict[str, dict[str, Node]] = {}
    exact: list[Rule] = []
    undo: list[Rule] = []
    problems = []
    for match in matches(rule.split, nodes):
        name, names = match.string, [match.expand(to) for to in rule.to]
        try:
            changes[name] = _parts(rule, nodes[name], names)
        except MISFITS as error:
            problems.append((name, said(error)))
            continue
        to = tuple(map(template, names))
        exact.append(replace(rule, split=re.escape(name), to=to))
        patterns = tuple(map(re.escape, names))
        undo.append(Fuse(fuse=patterns, to=template(name), axis=rule.axis))
    found, collisions = put(nodes, changes)
    return Outcome(
        nodes=found,
        used=bool(changes or problems),
        problems=problems + collisions,
        exact=exact,
        undo=undo,
    )


def _parts(rule: Split, node: Node, names: Sequence[str]) -> dict[str, Node]:
    if len(set(names)) < len(names):
        raise ValueError(f"several parts are to be called {names[0]}")
    shape = tuple(node.form.shape)
    if not -len(shape) <= rule.axis < len(shape):
        raise ValueError(f"{shape}: there is no axis {rule.axis}")
    length, count = shape[rule.axis], len(names)
    sizes = rule.sizes or (length // count,) * count
    if sum(sizes) != length or len(sizes) != count:
        raise ValueError(f"{shape}: axis {rule.axis} does not split into {sizes}")
    return {name: made(_Part(sizes, index, rule.axis), node) for index, name in enumerate(names)}


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
        for match in matches(pattern, nodes):
            groups.setdefault(match.expand(rule.to), {})[index] = match.string
    changes: dict[str, dict[str, Node]] = {}
    exact: list[Rule] = []
    undo: list[Rule] = []
    problems = []
    for target, members in groups.items():
        names = [members[index] for index in sorted(members)]
        if len(names) < len(rule.fuse):
            absent = [p for index, p in enumerate(rule.fuse) if index not in members]
            problems.append((target, f"nothing matches {', '.join(absent)}"))
            continue
        try:
            whole = made(lambda *t: _cat(t, rule.axis), *(nodes[name] for name in names))
        except MISFITS as error:
            problems.append((target, said(error)))
            continue
        changes |= {name: {} for name in names}
        changes[names[0]] = {target: whole}
        exact.append(Fuse(fuse=tuple(map(re.escape, names)), to=template(target), axis=rule.axis))
        undo.append(_fuse_back(target, names, nodes, rule.axis))
    found, collisions = put(nodes, changes)
    return Outcome(
        nodes=found,
        used=bool(groups),
        problems=problems + collisions,
        exact=exact,
        undo=undo,
    )


def _cat(tensors: Sequence[Tensor], axis: int) -> Tensor:
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
    if len(dtypes) > 1:  # torch would widen them, and nobody would hear of it
        raise ValueError(f"of several dtypes: {', '.join(dtypes)}")
    return torch.cat(list(tensors), axis)


def _fuse_back(target: str, names: Sequence[str], nodes: Mapping[str, Node], axis: int) -> Split:
    sizes = tuple(nodes[name].form.shape[axis] for name in names)
    to = tuple(map(template, names))
    return Split(split=re.escape(target), to=to, axis=axis, sizes=sizes)


@apply_rule.register
def _fold(rule: Fold, nodes: Mapping[str, Node]) -> Outcome:
    found = dict(nodes)
    outcome = Outcome(nodes=found, undo=None)
    ends = ".running_mean"
    modules = [name.removesuffix(ends) for name in nodes if name.endswith(ends)]
    for match in matches(rule.fold, modules):
        outcome.used = True
        module, layer = match.string, match.expand(rule.into)
        outcome.exact.append(replace(rule, fold=re.escape(module), into=template(layer)))
        try:
            _fold_one(found, module, layer, rule.eps)
        except (KeyError, *MISFITS) as error:
            outcome.problems.append((module, f"does not fold into {layer}: {said(error)}"))
    return outcome


def _fold_one(found: dict[str, Node], module: str, layer: str, eps: float) -> None:
    mean, var = found[f"{module}.running_mean"], found[f"{module}.running_var"]
    weight = found[f"{layer}.weight"]
    if weight.form.shape[:1] != mean.form.shape:
        raise ValueError(f"{tuple(weight.form.shape)} has not {mean.form.numel()} outputs")
    ones = made(torch.ones_like, mean)
    zeros = made(torch.zeros_like, mean)
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

    found[f"{layer}.bias"] = made(shifted, bias, mean, gamma, var, beta)
    found[f"{layer}.weight"] = made(scaled, weight, gamma, var)
    for leaf_name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        found.pop(f"{module}.{leaf_name}", None)


@apply_rule.register
def _drop(rule: Drop, nodes: Mapping[str, Node]) -> Outcome:
    dropped = {match.string for match in matches(rule.drop, nodes)}
    kept = {name: node for name, node in nodes.items() if name not in dropped}
    exact: list[Rule] = [Drop(drop=literal(n for n in nodes if n in dropped))]
    return Outcome(nodes=kept, used=bool(dropped), exact=exact, undo=None)


@apply_rule.register
def _fallback(rule: Fallback, nodes: Mapping[str, Node]) -> Outcome:
    outcome = Outcome(nodes=dict(nodes))
    added = []
    for match in matches(rule.fallback, nodes):
        outcome.used = True
        name, node = match.expand(rule.to), nodes[match.string]
        if name in outcome.nodes:
            continue
        added.append(name)
        outcome.exact.append(replace(rule, fallback=re.escape(match.string), to=template(name)))
        try:
            outcome.nodes[name] = _filled(node, rule.value)
        except MISFITS as error:
            outcome.problems.append((name, said(error)))
    outcome.undo = [Drop(drop=literal(added))] if added else []
    return outcome


def _filled(node: Node, value: float | None) -> Node:
    if value is None:
        return made(torch.clone, node)
    torch.full((), value, dtype=node.form.dtype)  # a form takes any number, and memory does not
    return made(lambda tensor: torch.full_like(tensor, value), node)
