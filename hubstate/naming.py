"""Names of a source in the words of a model: wrappers' prefixes cut off, then renamed by rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias

from hubstate.errors import Issue
from hubstate.source import Source

__all__ = ["Rules", "translate"]

Rules: TypeAlias = Mapping[str, str]
"""Regular expression to replacement, as for ``re.sub``."""

_MARKS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_MARK = re.compile(rf"(?:(?<=\.)|^)(?:{'|'.join(_MARKS)})(?:\.|$)")
_PARALLEL = "module."


def translate(
    source: Source, rules: Rules | None, *, modules: Collection[str], strict: bool
) -> tuple[Source, list[Issue]]:
    """A source whose names are those that the model would have for them.

    ``_orig_mod.``, ``_fsdp_wrapped_module.`` and ``_checkpoint_wrapped_module.`` are cut wherever
    they stand; ``module.`` at the front, where every tensor has it and the model has no child of
    that name. Then each rule is applied, in turn, wherever it matches. (Rules that match only the
    uncut names are applied before the cut instead.)

    Args:
        source: the names as they are.
        rules: what to rename.
        modules: the paths of the modules in the model.
        strict: a rule that matches nothing is a difference.

    Raises:
        ValueError: a rule that is no regular expression.
    """
    cut = _cutter([*source.tensors, *source.extras], modules)
    if not rules:
        return _renamed(source, cut) if cut else (source, [])
    renamer = _Renamer(rules)
    names = [*source.tensors, *source.extras, *source.children, *source.records]
    late = renamer.unused(map(cut, names) if cut else names)
    if cut and late and len(renamer.unused(names)) < len(late):
        late = renamer.unused(names)
        source, issues = _renamed(source, lambda name: cut(renamer(name)))
    else:
        source, issues = _renamed(source, lambda name: renamer(cut(name) if cut else name))
    if strict:
        issues += [Issue(rule, "rename", "the rule matches no name of the source") for rule in late]
    return source, issues


def _cutter(names: list[str], modules: Collection[str]) -> Callable[[str], str] | None:
    """The function that cuts prefixes off the names; None where none has any."""
    marked = any(mark in name for mark in _MARKS for name in names)
    bare = [_MARK.sub("", name) for name in names] if marked else names
    depth = 0
    if "module" not in modules:
        while bare and all(name.startswith(_PARALLEL, depth) for name in bare):
            depth += len(_PARALLEL)
    if not marked and not depth:
        return None
    prefix = _PARALLEL * (depth // len(_PARALLEL))
    return lambda name: f"{_MARK.sub('', name)}.".removeprefix(prefix).rstrip(".")


class _Renamer:
    def __init__(self, rules: Rules) -> None:
        self.rules = [(_compile(rule), replacement) for rule, replacement in rules.items()]

    def __call__(self, name: str) -> str:
        for rule, replacement in self.rules:
            name = rule.sub(replacement, name)
        return name

    def unused(self, names: Iterable[str]) -> list[str]:
        """The rules that match none of the names."""
        used = set()
        for name in names:
            for rule, replacement in self.rules:
                name, count = rule.subn(replacement, name)
                if count:
                    used.add(rule)
        return [rule.pattern for rule, _ in self.rules if rule not in used]


def _compile(rule: str | re.Pattern[str]) -> re.Pattern[str]:
    try:
        return re.compile(rule)
    except re.error as error:
        raise ValueError(f"rename: {rule!r} is no regular expression: {error}") from error


def _renamed(source: Source, name: Callable[[str], str]) -> tuple[Source, list[Issue]]:
    issues: list[Issue] = []
    renamed = Source(
        tensors=_keys(source.tensors, name, issues),
        extras=_keys(source.extras, name, issues),
        records=_keys(source.records, name),
        children=_children(source.children, name),
        refused=_keys(source.refused, name),
        structured=source.structured,
    )
    return renamed, issues


def _keys(
    items: Mapping[str, Any], name: Callable[[str], str], issues: list[Issue] | None = None
) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    first: dict[str, str] = {}
    for old, item in items.items():
        new = name(old)
        if issues is not None and new in renamed:
            issues.append(Issue(new, "rename", f"{first[new]} and {old} both become this name"))
        first.setdefault(new, old)
        renamed.setdefault(new, item)
    return renamed


def _children(items: Mapping[str, bool], name: Callable[[str], str]) -> dict[str, bool]:
    """A rule such as ``^old\\.`` is meant for the child ``old`` too."""
    renamed: dict[str, bool] = {}
    for old, was_module in items.items():
        inside = name(f"{old}.").rstrip(".") if old else old
        new = inside if inside != old else name(old)
        renamed[new] = renamed.get(new, False) or was_module
    return renamed
