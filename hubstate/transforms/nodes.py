"""What rules work on: tensors of a source, and what is to be made of them, by name.

Nothing is computed here. A node says which tensors of the source it needs and what is to be done
with them; its form, on the meta device, has the shape and dtype that will come of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hubstate.errors import reason
from hubstate.rules import Rule, names_in
from hubstate.values import replace

__all__ = [
    "MISFITS",
    "Node",
    "Outcome",
    "each",
    "expand",
    "leaf",
    "literal",
    "made",
    "matches",
    "put",
    "said",
    "template",
]

MISFITS = (RuntimeError, IndexError, ValueError, TypeError, OverflowError, ZeroDivisionError)
"""What torch raises where tensors of these forms cannot be taken."""
_WHOLE = re.compile(".*", re.DOTALL)


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
    exact: list[Rule] = field(default_factory=list)
    """Rules that do the same by the names that were matched, without a pattern."""
    undo: list[Rule] | None = field(default_factory=list)
    """Rules that lead back, in the order to apply them; None where nothing does."""


def leaf(name: str, form: Tensor) -> Node:
    """A tensor of the source."""
    return Node(form=form, name=name)


def made(make: Callable[..., Tensor], *parents: Node) -> Node:
    """What a function makes of nodes.

    Raises:
        One of MISFITS: it does not take tensors of these forms.
    """
    return Node(form=make(*(node.form for node in parents)), parents=parents, make=make)


def matches(pattern: str, names: Iterable[str]) -> Iterator[re.Match[str]]:
    """Each name that a pattern matches as a whole."""
    known = names_in(pattern)
    regex = _WHOLE if known else re.compile(pattern)
    wanted = names if known is None else filter(set(known).__contains__, names)
    return (match for name in wanted if (match := regex.fullmatch(name)))


def expand(match: re.Match[str], to: str, shift: tuple[int, ...] = ()) -> str:
    """A template with the match's groups in it, some of them as other numbers.

    Raises:
        re.error: a group that there is not, or that is to be shifted and is no number.

    >>> expand(re.fullmatch(r"block(\\d+)", "block12"), r"layer\\1", (-1,))
    'layer11'
    """
    to = re.sub(r"\\(\d+)", r"\\g<\1>", to) if shift else to
    for group, added in enumerate(shift, 1):
        text = match[group] if group <= match.re.groups else None
        if added and not re.fullmatch(r"[0-9]{1,18}", text or ""):
            raise re.error(f"shift: expected a number in group {group}, found {text!r}")
        if added:
            to = to.replace(rf"\g<{group}>", str(int(text or 0) + added))
    return match.expand(to)


def literal(names: Iterable[str]) -> str:
    """The pattern that matches these names and no others."""
    return "|".join(map(re.escape, names))


def template(name: str) -> str:
    """What a rule says to make just this name."""
    return name.replace("\\", r"\\")


def put(
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


def each(
    rule: Rule, nodes: Mapping[str, Node], make: Callable[[Tensor], Tensor]
) -> tuple[Outcome, list[str]]:
    """The same done to each tensor that a rule matches; and their names."""
    outcome = Outcome(nodes=dict(nodes))
    names = [match.string for match in matches(getattr(rule, rule.verb), nodes)]
    outcome.used = bool(names)
    by_name: dict[str, Any] = {rule.verb: literal(names)}
    outcome.exact = [replace(rule, **by_name)]
    for name in names:
        try:
            outcome.nodes[name] = made(make, nodes[name])
        except MISFITS as error:
            shape = tuple(nodes[name].form.shape)
            outcome.problems.append((name, f"{shape}: {said(error)}"))
    return outcome, names


def said(error: Exception) -> str:
    """The first line of an error of torch's."""
    return reason(error).splitlines()[0]
