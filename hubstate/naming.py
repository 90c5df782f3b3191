"""Names of a source in the words of a model: wrappers' prefixes cut off, then renamed by rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

__all__ = ["Rules", "find_naming"]

Rules: TypeAlias = Mapping[str, str]
"""Regular expression to replacement, as for ``re.sub``."""

_MARKS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_MARK = re.compile(rf"(?:(?<=\.)|^)(?:{'|'.join(_MARKS)})(?:\.|$)")
_PARALLEL = "module."

_Naming: TypeAlias = Callable[[str], str]


def find_naming(
    tensors: Sequence[str], others: Iterable[str], rules: Rules | None, modules: Collection[str]
) -> tuple[_Naming | None, list[str]]:
    """How to call the names of a source in a model.

    ``_orig_mod.``, ``_fsdp_wrapped_module.`` and ``_checkpoint_wrapped_module.`` are cut wherever
    they stand; ``module.`` at the front, where every tensor has it and the model has no child of
    that name. Then each rule is applied, in turn, wherever it matches. (Rules that match only the
    uncut names are applied before the cut instead.)

    Args:
        tensors: the names of the tensors in the source.
        others: its other names, which count as matches of a rule.
        rules: what to rename.
        modules: the paths of the modules in the model.

    Returns:
        The function from old to new name, None where names stay; and the rules that match nothing.

    Raises:
        TypeError: the rules are no mapping.
        ValueError: a rule that is no regular expression.

    >>> naming, unused = find_naming(["module.net.w"], [], {"^net": "body", "^x": ""}, {"body"})
    >>> naming("module.net.w"), unused
    ('body.w', ['^x'])
    """
    cut = _find_cut(tensors, modules)
    if not rules:
        return cut, []
    rename = _Rename(rules)
    names = [*tensors, *others]
    if cut is None:
        return rename, rename.unused(names)
    after, before = rename.unused(map(cut, names)), rename.unused(names)
    if len(before) < len(after):
        return (lambda name: cut(rename(name))), before
    return (lambda name: rename(cut(name))), after


def _find_cut(names: Sequence[str], modules: Collection[str]) -> _Naming | None:
    """The function that cuts prefixes off the names; None where none has any."""
    text = "\n".join(names)
    marked = any(mark in text for mark in _MARKS)
    bare = [_MARK.sub("", name) for name in names] if marked else names
    depth = 0
    if "module" not in modules:
        while bare and all(name.startswith(_PARALLEL, depth) for name in bare):
            depth += len(_PARALLEL)
    if not marked and not depth:
        return None
    prefix = _PARALLEL * (depth // len(_PARALLEL))
    return lambda name: f"{_MARK.sub('', name)}.".removeprefix(prefix).rstrip(".")


class _Rename:
    def __init__(self, rules: object) -> None:
        if not isinstance(rules, Mapping):
            found = type(rules).__name__
            raise TypeError(f"rename: expected a mapping, pattern to replacement, found a {found}")
        self.rules = [(_compile(rule), replacement) for rule, replacement in rules.items()]

    def __call__(self, name: str) -> str:
        for rule, replacement in self.rules:
            name, _ = _replaced(rule, replacement, name)
        return name

    def unused(self, names: Iterable[str]) -> list[str]:
        """The rules that match none of the names."""
        used = set()
        for name in names:
            for rule, replacement in self.rules:
                name, count = _replaced(rule, replacement, name)
                if count:
                    used.add(rule)
        return [rule.pattern for rule, _ in self.rules if rule not in used]


def _replaced(rule: re.Pattern[str], replacement: str, name: str) -> tuple[str, int]:
    try:
        return rule.subn(replacement, name)
    except (re.error, IndexError) as error:  # a group that the rule does not have
        raise ValueError(f"rename: {rule.pattern!r} to {replacement!r}: {error}") from error


def _compile(rule: str | re.Pattern[str]) -> re.Pattern[str]:
    try:
        return re.compile(rule)
    except re.error as error:
        raise ValueError(f"rename: {rule!r} is no regular expression: {error}") from error
