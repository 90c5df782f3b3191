"""Making a plan: the names of a model against the names of a source, each asked about once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from hubstate.errors import Issue
from hubstate.filters import Filter, Strict, check_strict
from hubstate.loading.matching import Matcher
from hubstate.loading.plan import Extra, Plan, show
from hubstate.loading.selection import BEARING, Selection, children_of, leaf_of, parents_of
from hubstate.loading.source import Given, Source, refuse_scalar
from hubstate.naming import Rules, find_naming
from hubstate.records import same
from hubstate.report import LoadReport
from hubstate.walk import Row, rows

__all__ = ["make_plan"]

_NOTHING: Any = object()
_RECORDS = frozenset({"data", "opaque", "none"})


def make_plan(
    dst: Any,
    source: Source,
    *,
    filter: Filter | None = None,
    strict: Strict = True,
    rename: Rules | None = None,
    fresh: bool = False,
) -> Plan:
    """Match a source with a model; the plan's ``agreed()`` raises what speaks against it.

    Args:
        dst: the module, or container, that is to be written.
        source: what there is to write.
        filter: asked once for each name; what it excludes is exempt from every check.
        strict: a tensor on one side only is a difference, and so is a child without tensors,
            unless it is "tensors".
        rename: regular expression to replacement, for the source's names.
        fresh: the model's tensors are to be replaced, so that they may be on the meta device.

    Raises:
        TypeError: ``dst`` is neither a module nor a container.
    """
    refuse_scalar(dst)
    check_strict(strict)
    found = rows(dst, records=bool(source.records) or filter is not None)
    modules = {row[0] for row in found if row[1] == "module"}
    source, issues = _translate(source, rename, modules, strict)
    planner = _Planner(dst, found, source, Selection(filter, found), strict)
    planner.issues += issues
    planner.match(fresh)
    return planner.plan()


def _translate(
    source: Source, rename: Rules | None, modules: set[str], strict: Strict
) -> tuple[Source, list[Issue]]:
    tensors, others = [*source.tensors, *source.extras], [*source.children, *source.records]
    naming, unused = find_naming(tensors, others, rename, modules)
    source, issues = source.renamed(naming) if naming else (source, [])
    if strict:
        issues += [Issue(rule, "rename", "matches no name of the source") for rule in unused]
    return source, issues


class _Planner:
    def __init__(
        self, dst: Any, found: list[Row], source: Source, wants: Selection, strict: Strict
    ) -> None:
        self.dst = dst
        self.everything = found
        # Most rows are plain data, which only one step looks at.
        self.found = [row for row in found if row[1] != "data"]
        self.source = source
        self.wants = wants
        self.strict = strict
        self.issues: list[Issue] = []
        self.missing: list[str] = []
        self.skipped: list[str] = []
        self.unexpected: list[str] = []
        self.blanks: dict[str, Given] = {}
        self.extras: list[Extra] = []
        self.places: dict[str, Row] = {}

    def match(self, fresh: bool) -> None:
        """Every step that looks for differences."""
        self.matcher = Matcher(self.source, self.wants, fresh=fresh)
        self.matcher.match(self.found)
        self.skipped += self.matcher.skipped
        self.issues += self.matcher.issues
        for path, detail in self.matcher.missing.items():
            self.lacks(path, detail)
        self.match_extras()
        self.match_leftovers()
        self.issues += self.refusals()
        if self.strict:
            if self.strict != "tensors":
                self.issues += self.structure()
            if self.wants.is_empty:
                detail = f"{self.wants.filter!r} selects none of {self.wants.tensors} tensors"
                self.issues.append(Issue("(filter)", "filter", detail))

    def lacks(self, path: str, detail: str) -> None:
        if self.strict:
            self.issues.append(Issue(path, "missing", detail))
        else:
            self.missing.append(path)

    def brings(self, path: str, detail: str) -> None:
        if self.strict:
            self.issues.append(Issue(path, "unexpected", detail))
        else:
            self.unexpected.append(path)

    def refusals(self) -> Iterator[Issue]:
        """Whatever has a state that cannot be told, on either side."""
        for path, kind, value, _ in self.found:
            if kind == "refused" and self.wants(path, ()):
                yield Issue(path or "(model)", *value)
        for path, (kind, detail) in self.source.refused.items():
            if self.wants(path, ()):
                yield Issue(path or "(source)", kind, f"in the source: {detail}")

    def match_extras(self) -> None:
        given = self.source.extras
        known = set()
        for row in self.found:
            path, kind, _, owner = row
            if kind == "extra" and owner is not None:
                known.add(path)
                if not self.wants(path, ()):
                    self.skipped.append(path)
                elif type(owner).set_extra_state is not nn.Module.set_extra_state:
                    self.match_extra(Extra(path, owner, given.get(path, ())))
        for path, value in given.items():
            if path not in known and self.wants(path, value):
                self.brings(path, "the model has no extra state there")

    def match_extra(self, extra: Extra) -> None:
        if isinstance(extra.value, tuple) and not extra.value:
            self.lacks(extra.path, "an extra state, not in the source")
        else:
            self.extras.append(extra)

    def match_leftovers(self) -> None:
        """The tensors of the source for which the model has no tensor."""
        mine = self.matcher.seen
        for path, value in self.source.tensors.items():
            if path in mine:
                continue
            row = self.place(path)
            if not self.wants(path, value if row is None else leaf_of(row)):
                self.skipped.append(path)
            elif row is not None and row[2] is None:
                self.match_blank(path, value)
            elif row is None or row[1] != "refused":
                self.brings(path, _leftover(value, row))

    def match_blank(self, path: str, value: Given) -> None:
        if path.rpartition(".")[2].startswith("bias") and not value.is_meta:
            self.blanks[path] = value
            self.skipped.append(path)
        else:
            detail = f"the model has None, the source {show(value)}"
            self.issues.append(Issue(path, "absent", detail))

    def place(self, path: str) -> Row | None:
        """What the model has at a path, plain attributes included."""
        if not self.places:
            self.places = {row[0]: row for row in rows(self.dst, records=True)}
        return self.places.get(path)

    def structure(self) -> Iterator[Issue]:
        """Children without parameters that only one side has."""
        if not self.source.structured:
            return
        mine, theirs = self.source.records, self.source.children
        bearing = parents_of(row[0] for row in self.found if row[1] in BEARING)
        here = children_of(self.found)
        free = [row[0] for row in self.found if row[0] in here and row[0] not in bearing]
        for path in free:
            named = path in theirs or _stands_for_child(mine.get(path, _NOTHING))
            if not named and self.wants(path, ()):
                yield Issue(path, "structure", "a child of the model only")
        bearing = parents_of([*self.source.tensors, *self.source.extras, *self.source.refused])
        for path, was_module in theirs.items():
            if was_module and path and path not in bearing and path not in here:
                row = self.place(path)
                if (row is None or not _stands_for_child(row[2])) and self.wants(path, ()):
                    yield Issue(path, "structure", "a child of the source only")

    def drift(self) -> Iterator[tuple[str, tuple[object, object]]]:
        """Plain data that differs; ``training`` is the mode, and the model keeps its own."""
        theirs = dict(self.source.records)
        for path, kind, value, _ in self.everything:
            other = theirs.pop(path, _NOTHING)
            if other is value or kind not in _RECORDS or _is_mode(path, value):
                continue
            if other is _NOTHING:
                if kind != "data" or not self.source.structured or self.has(path):
                    continue
                other = ()
            if not same(value, other) and self.wants(path, value):
                yield path, (value, other)
        for path, other in theirs.items():
            told = other is not None and other != () and not _is_mode(path, other)
            if told and self.wants(path, other):
                yield path, ((), other)

    def has(self, path: str) -> bool:
        source = self.source
        return any(path in names for names in (source.tensors, source.children, source.refused))

    def plan(self) -> Plan:
        matcher = self.matcher
        loaded = [move.path for move in matcher.moves]
        loaded += [*matcher.covered, *(extra.path for extra in self.extras)]
        if len(loaded) > len(matcher.moves):
            order = {row[0]: index for index, row in enumerate(self.found)}
            loaded.sort(key=order.__getitem__)
        report = LoadReport(
            loaded=tuple(loaded),
            skipped=tuple(self.skipped),
            missing=tuple(self.missing),
            unexpected=tuple(self.unexpected),
            cast=matcher.cast,
            drift=dict(self.drift()) if self.source.records and not self.issues else {},
        )
        return Plan(
            moves=tuple(matcher.moves),
            extras=tuple(self.extras),
            blanks=self.blanks,
            ties=tuple(matcher.ties),
            entangled=frozenset(matcher.entangled),
            report=report,
            issues=tuple(self.issues),
            dst=self.dst,
            found=self.found,
        )


def _leftover(value: Given, row: Row | None) -> str:
    if row is None:
        return f"not in the model, source {show(value)}"
    return f"no tensor in the model but {row[1]}, source {show(value)}"


def _stands_for_child(value: Any) -> bool:
    """Whether there is a name, at least, where the other side has a child without parameters."""
    return isinstance(value, Mapping | nn.Module) or (isinstance(value, tuple) and not value)


def _is_mode(path: str, value: object) -> bool:
    return isinstance(value, bool) and path.rpartition(".")[2] == "training"
