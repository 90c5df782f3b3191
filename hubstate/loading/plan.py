"""The plan of a load: everything that will be written, or every reason not to write anything.

A plan is made from the names, shapes and dtypes of a source alone, so that the same plan serves a
load from memory, a check against a manifest before any weight is here, and the load that follows.
What needs values (an all-zero bias, two names of one tensor) is looked at once they are here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hubstate.errors import Issue, StructureMismatch
from hubstate.loading.overlap import conflicts, is_same_view, same_bits
from hubstate.loading.source import Given, Promise
from hubstate.report import LoadReport
from hubstate.values import frozen, replace
from hubstate.walk import Row, rows

__all__ = ["Extra", "Move", "Plan", "show"]


class Move(NamedTuple):
    """One tensor of the model and what is to be written into it."""

    path: str
    target: Tensor
    given: Given | None
    """None writes zeros: the source says that it has no such bias."""
    owner: nn.Module | None
    """The module that holds the target; None in a plain container."""


class Extra(NamedTuple):
    """One module and the extra state that it is to be given."""

    path: str
    owner: nn.Module
    value: Any


@frozen
class Plan:
    """What a load writes, in the order of the model, and the report that it will be."""

    moves: tuple[Move, ...]
    extras: tuple[Extra, ...]
    blanks: Mapping[str, Given]
    """Biases that the model does not have, and which must therefore be all zero."""
    ties: tuple[tuple[int, ...], ...]
    """Indices of moves into the same memory."""
    entangled: frozenset[int]
    """Identities of the model's tensors that overlap others, and may not be replaced."""
    report: LoadReport
    dst: Any
    """What is written."""
    found: Sequence[Row]
    """Every name of it but those of plain data."""
    issues: tuple[Issue, ...] = ()

    @property
    def wanted(self) -> tuple[str, ...]:
        """The names, in the source, of the promised tensors that the load will read."""
        given = [*(move.given for move in self.moves), *self.blanks.values()]
        given += [extra.value for extra in self.extras]
        return tuple(item.name for item in given if isinstance(item, Promise))

    def bind(self, tensors: Mapping[str, Tensor]) -> Plan:
        """The same plan with its promised tensors, by their names in the source.

        A name that is tied to another may be left out.

        Raises:
            StructureMismatch: a tensor that is not there, or not as promised.
        """
        issues: list[Issue] = []

        def keep(item: Any) -> Any:
            return _kept(item, tensors, issues) if isinstance(item, Promise) else item

        moves = tuple(Move(path, target, keep(g), owner) for path, target, g, owner in self.moves)
        bound = replace(
            self,
            moves=moves,
            blanks={path: keep(given) for path, given in self.blanks.items()},
            extras=tuple(Extra(path, owner, keep(value)) for path, owner, value in self.extras),
            issues=tuple(issues),
        )
        return bound.agreed()

    def agreed(self) -> Plan:
        """This plan, if nothing speaks against it.

        Raises:
            StructureMismatch: with every difference, in the order of the model.
        """
        issues = [*self.issues, *self._value_issues()]
        if issues:
            order = {row[0]: place for place, row in enumerate(rows(self.dst, records=True))}
            issues.sort(key=lambda issue: order.get(issue.path, len(order)))
            raise StructureMismatch(issues)
        return self

    def _value_issues(self) -> Iterator[Issue]:
        for path, given in self.blanks.items():
            if isinstance(given, Tensor) and not _is_zero(given):
                yield Issue(path, "absent", f"the model has None, the source {show(given)}, not 0")
        for tie in self.ties:
            yield from _tie_issues([self.moves[index] for index in tie])


def _kept(promise: Promise, tensors: Mapping[str, Tensor], issues: list[Issue]) -> Given:
    tensor = tensors.get(promise.name)
    if tensor is None and promise.tied_to is not None:
        tensor = tensors.get(promise.tied_to)
    if tensor is None:
        issues.append(Issue(promise.name, "missing", f"promised {show(promise)}, not there"))
    elif tensor.shape != promise.shape or tensor.dtype is not promise.dtype:
        detail = f"promised {show(promise)}, found {show(tensor)}"
        issues.append(Issue(promise.name, "shape", detail))
    else:
        return tensor
    return promise


def _is_zero(tensor: Tensor) -> bool:
    if tensor.is_meta:
        return False
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.is_floating_point():
        tensor = tensor.double()  # float8 has no comparison
    return not bool((tensor != 0).any())


def _tie_issues(moves: list[Move]) -> Iterable[Issue]:
    """Every name must read back its own source once all of them are written."""
    if any(isinstance(move.given, Promise) for move in moves):
        return
    first, *rest = moves
    views = [move.target for move in moves]
    if rest and all(is_same_view(first.target, move.target) for move in rest):
        broken = [move for move in rest if not _agree(first, move)]
    else:
        broken = [moves[index] for index in conflicts(views, [_values(move) for move in moves])]
    for move in broken:
        others = ", ".join(other.path for other in moves if other is not move)[:200]
        yield Issue(move.path, "tie", f"shares memory with {others or 'itself'}, gets other values")


def _agree(a: Move, b: Move) -> bool:
    if a.given is b.given:
        return True
    dtype = a.target.dtype
    return same_bits(_values(a).to("cpu", dtype), _values(b).to("cpu", dtype))


def _values(move: Move) -> Tensor:
    if isinstance(move.given, Tensor):
        return move.given
    return move.target.new_zeros(()).expand(move.target.shape)


def show(given: Given) -> str:
    """A tensor's shape and dtype, never its values.

    >>> show(torch.zeros(2, 3))
    '(2, 3) float32'
    """
    return f"{tuple(given.shape)} {str(given.dtype).removeprefix('torch.')}"
