"""Rules against the names, shapes and dtypes of a source: everything is known before a byte is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from hubstate.errors import Issue, StructureMismatch
from hubstate.rules import Rule, Rules, dump_rules, parse_rules
from hubstate.transforms.nodes import Node, Outcome, leaf
from hubstate.transforms.resizing import apply_rule
from hubstate.values import frozen

__all__ = ["Transformation", "resolve"]

_GROWTH = 1 << 24  # elements; a small source may grow, and none without bound


@frozen
class Transformation:
    """What rules make of one source; nothing has been computed yet."""

    nodes: Mapping[str, Node]
    exact: tuple[Rule, ...]
    """Rules that do the same to this source by the names of its tensors, without a pattern."""
    undo: tuple[Rule, ...]
    lost: tuple[Rule, ...]
    """Rules that cannot be undone, since values are lost."""

    @property
    def forms(self) -> dict[str, Tensor]:
        """Name to shape and dtype of what comes out, as tensors on the meta device."""
        return {name: node.form for name, node in self.nodes.items()}

    def keeps(self, names: Iterable[str]) -> bool:
        """Whether the names are those of the source, each for its own tensor or one made of it."""
        nodes = self.nodes
        return nodes.keys() == set(names) and all(
            _is_of(node, name) for name, node in nodes.items()
        )

    def needs(self, names: Iterable[str]) -> tuple[str, ...]:
        """The tensors of the source that these names are made of; other names stay themselves."""
        given = list(names)
        found = dict.fromkeys(name for name in given if name not in self.nodes)
        pending = [self.nodes[name] for name in given if name in self.nodes]
        seen: set[int] = set()
        while pending:
            node = pending.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            pending += node.parents
            if node.make is None:
                found[node.name] = None
        return tuple(found)

    def apply(
        self, tensors: Mapping[str, Tensor], *, names: Iterable[str] | None = None
    ) -> dict[str, Tensor]:
        """The tensors that come out: all, or those named.

        What no rule touches is the same object as in the source.

        Args:
            tensors: by their names in the source, at least those that ``needs(names)`` lists.
            names: what is wanted.

        Raises:
            KeyError: a tensor that is needed is not there.
        """
        made: dict[int, Tensor] = {}
        return {
            name: _evaluate(self.nodes[name], tensors, made)
            if name in self.nodes
            else tensors[name]
            for name in (self.nodes if names is None else names)
        }

    def inverse(self, *, lossy: bool = False) -> tuple[Rule, ...]:
        """Rules that lead from what comes out back to the source.

        Args:
            lossy: leave out what cannot be undone, such as what was dropped.

        Raises:
            ValueError: there are such rules; each is named.

        >>> forms = {"a.w": torch.empty(2, 3, device="meta")}
        >>> there = resolve([{"transpose": "a.*"}, {"rename": "a(.*)", "to": r"b\\1"}], forms)
        >>> dump_rules(there.inverse())
        [{'rename': {'b.w': 'a.w'}}, {'transpose': 'a\\\\.w'}]
        """
        if self.lost and not lossy:
            rules = ", ".join(map(_text, self.lost))
            raise ValueError(f"these rules cannot be undone: {rules}")
        return self.undo


def resolve(rules: Rules, forms: Mapping[str, Tensor]) -> Transformation:
    """Apply rules to the names, shapes and dtypes of a source.

    Args:
        rules: in the order to apply them.
        forms: the tensors of the source, or tensors like them on the meta device.

    Raises:
        InvalidSetting: a rule that means nothing.
        StructureMismatch: a rule that matches nothing or does not fit what it matches, or two
            tensors with one name; every problem is there.

    >>> forms = {"qkv": torch.empty(6, 2, device="meta")}
    >>> list(resolve([{"split": "qkv", "to": ["q", "k", "v"]}], forms).forms)
    ['q', 'k', 'v']
    """
    nodes = {name: leaf(name, _form(tensor)) for name, tensor in forms.items()}
    most = _GROWTH + 2 * sum(node.form.numel() for node in nodes.values())
    issues: list[Issue] = []
    exact: list[Rule] = []
    undo: list[Rule] = []
    lost: list[Rule] = []
    for rule in parse_rules(rules):
        outcome = _applied(rule, nodes)
        issues += _issues(rule, outcome, nodes, most)
        nodes = outcome.nodes
        exact += outcome.exact
        if outcome.undo is None:
            lost.append(rule)
        else:
            undo[:0] = outcome.undo
    if issues:
        raise StructureMismatch(issues)
    return Transformation(nodes=nodes, exact=tuple(exact), undo=tuple(undo), lost=tuple(lost))


def _applied(rule: Rule, nodes: dict[str, Node]) -> Outcome:
    try:
        return apply_rule(rule, nodes)
    except (re.error, IndexError) as error:  # a name is made of a group that the pattern lacks
        return Outcome(nodes=nodes, used=True, problems=[(_text(rule), str(error))])


def _issues(rule: Rule, outcome: Outcome, before: Mapping[str, Node], most: int) -> Iterator[Issue]:
    if not outcome.used:
        yield Issue(_text(rule), "transform", "matches no tensor")
    for name, why in outcome.problems:
        yield Issue(name, rule.verb, why)
    for name, node in outcome.nodes.items():
        if before.get(name) is not node and node.form.numel() > most:
            yield Issue(name, rule.verb, f"{tuple(node.form.shape)}: larger than all of the source")


def _is_of(node: Node, name: str) -> bool:
    while len(node.parents) == 1:
        (node,) = node.parents
    return not node.parents and node.name == name


def _text(rule: Rule) -> str:
    return json.dumps(dump_rules([rule])[0], ensure_ascii=False)[:200]


def _form(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _evaluate(node: Node, tensors: Mapping[str, Tensor], made: dict[int, Tensor]) -> Tensor:
    """The tensor of a node. By a list, since rules may follow one another thousands of times."""
    pending = [node]
    while pending:
        top = pending[-1]
        if waiting := [parent for parent in top.parents if id(parent) not in made]:
            pending += waiting
            continue
        pending.pop()
        if id(top) not in made:
            parents = (made[id(parent)] for parent in top.parents)
            made[id(top)] = tensors[top.name] if top.make is None else top.make(*parents)
    return made[id(node)]
