"""What rules say, as values: read from plain data, checked, and written back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, get_args

from hubstate.errors import Damaged, InvalidSetting
from hubstate.strictjson import Json, loads
from hubstate.values import frozen

__all__ = [
    "Channels",
    "Drop",
    "Fallback",
    "Flip",
    "Fold",
    "Fuse",
    "Interpolate",
    "Rename",
    "Reshape",
    "Rule",
    "Rules",
    "Split",
    "Transpose",
    "brief",
    "dump_rules",
    "names_in",
    "parse_rules",
    "problems_of",
    "read_rules",
]

Names: TypeAlias = Mapping[str, str]


@frozen
class Rename:
    """Another name: by a pattern and a template, or one by one."""

    verb: ClassVar = "rename"
    rename: str | Names
    to: str = ""
    shift: tuple[int, ...] = ()
    """Added to the pattern's groups in turn, which must be numbers where it is not 0."""


@frozen
class Transpose:
    """Axes in another order: axis ``i`` of the result is axis ``order[i]`` of what was there."""

    verb: ClassVar = "transpose"
    transpose: str
    order: tuple[int, ...] = ()


@frozen
class Reshape:
    """Another shape for the same elements in the same order; -1 is what is left."""

    verb: ClassVar = "reshape"
    reshape: str
    shape: tuple[int, ...]


@frozen
class Flip:
    """Axes read backwards: what is a convolution there is a correlation here."""

    verb: ClassVar = "flip"
    flip: str
    axes: tuple[int, ...]


@frozen
class Split:
    """One tensor into several along an axis, of equal sizes unless given."""

    verb: ClassVar = "split"
    split: str
    to: tuple[str, ...]
    axis: int = 0
    sizes: tuple[int, ...] = ()


@frozen
class Fuse:
    """Several tensors into one, one after another along an axis; all of them must be there."""

    verb: ClassVar = "fuse"
    fuse: tuple[str, ...]
    to: str
    axis: int = 0


@frozen
class Fold:
    """A batch normalisation into the layer before it, which gains a bias where it has none."""

    verb: ClassVar = "fold"
    fold: str
    """Matches the module of the normalisation; its weight and bias may be absent (1 and 0)."""
    into: str
    eps: float = 1e-5


@frozen
class Drop:
    """Not in the model, and not missed."""

    verb: ClassVar = "drop"
    drop: str


@frozen
class Fallback:
    """For a name that the source lacks: a copy of another tensor, or one filled with a value."""

    verb: ClassVar = "fallback"
    fallback: str
    to: str
    value: float | None = None


@frozen
class Channels:
    """Another number of input channels (axis 1): summed to one, or repeated in turn and scaled."""

    verb: ClassVar = "channels"
    channels: str
    count: int


@frozen
class Interpolate:
    """Another grid of positions for their embeddings, (1, prefix + height · width, channels)."""

    verb: ClassVar = "interpolate"
    interpolate: str
    grid: tuple[int, ...]
    """Height and width; the grid that is there is a square."""
    prefix: int = 0
    """How many tokens come before those of the grid, and stay as they are."""


Rule: TypeAlias = (
    Rename
    | Transpose
    | Reshape
    | Flip
    | Split
    | Fuse
    | Fold
    | Drop
    | Fallback
    | Channels
    | Interpolate
)
Rules: TypeAlias = Sequence[Rule | Mapping[str, Json]]
"""What the public functions take: rules, or the plain data that says them."""

_KINDS: Mapping[str, Any] = {kind.verb: kind for kind in get_args(Rule)}
_LITERAL = r"(?:[^\\.^$*+?{}\[\]()|]|\\[^0-9A-Za-z])+"
_EXACT = re.compile(rf"{_LITERAL}(?:\|{_LITERAL})*\Z")
_FORMS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "str": ("text", lambda v: isinstance(v, str)),
    "int": ("an integer", lambda v: type(v) is int),
    "float": ("a number", lambda v: type(v) in (int, float)),
    "float | None": ("a number", lambda v: v is None or type(v) in (int, float)),
    "str | Names": ("text, or names by name", lambda v: isinstance(v, str) or _is_names(v)),
    "tuple[int, ...]": ("a list of integers", lambda v: _is_list(v, int)),
    "tuple[str, ...]": ("a list of text", lambda v: _is_list(v, str)),
}


def _is_list(value: object, kind: type) -> bool:
    return isinstance(value, list | tuple) and all(type(item) is kind for item in value)


def _is_names(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(text, str) for text in (*value, *value.values())
    )


def parse_rules(rules: Rules) -> tuple[Rule, ...]:
    """Rules from plain data; those that are values already stay what they are.

    Raises:
        InvalidSetting: a rule that means nothing; every problem is named.

    >>> parse_rules([{"drop": "epoch"}])
    (Drop(drop='epoch'),)
    """
    given: object = rules
    if not isinstance(given, list | tuple):
        raise InvalidSetting(f"transforms: expected a list of rules, found {given!r:.80}")
    problems = [
        f"transforms[{number}]: {problem}"
        for number, rule in enumerate(rules)
        for problem in problems_of(rule)
    ]
    if problems:
        raise InvalidSetting("\n  ".join(problems))
    return tuple(_parse(rule) if isinstance(rule, Mapping) else rule for rule in rules)


def read_rules(path: Path) -> tuple[Rule, ...]:
    """Rules from a JSON file.

    Raises:
        InvalidSetting: it is no JSON, or a rule means nothing.
        OSError: it cannot be read.
    """
    try:
        document: Any = loads(path.read_bytes(), what=path.name)
    except Damaged as error:
        raise InvalidSetting(str(error)) from None
    return parse_rules(document)


def _parse(data: Mapping[str, Any]) -> Rule:
    verb = next(key for key in data if key in _KINDS)
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
    rule: Rule = _KINDS[verb](**values)
    return rule


def problems_of(rule: object) -> Iterator[str]:
    """Why a rule, as plain data or as a value, means nothing."""
    if isinstance(rule, tuple(_KINDS.values())):
        rule = _dump(rule)
    verbs = [key for key in rule if key in _KINDS] if isinstance(rule, Mapping) else []
    if not isinstance(rule, Mapping) or len(verbs) != 1:
        yield f"expected one of {', '.join(_KINDS)}, found {rule!r:.80}"
        return
    known = {item.name: item for item in fields(_KINDS[verbs[0]])}
    for key in rule.keys() - known.keys():
        yield f"{key!s:.80}: unknown; a {verbs[0]} has {', '.join(known)}"
    for name, item in known.items():
        meaning, fits = _FORMS[str(item.type)]
        if name not in rule:
            if _is_required(verbs[0], name, rule):
                yield f"{name}: missing"
        elif not fits(rule[name]):
            yield f"{name}: expected {meaning}, found {rule[name]!r:.80}"
        elif name == verbs[0] and not isinstance(rule[name], Mapping):
            yield from _pattern_problems(rule[name])


def _is_required(verb: str, name: str, rule: Mapping[str, Any]) -> bool:
    optional = {"order", "axis", "sizes", "eps", "value", "prefix", "shift"}
    if verb == "rename" and isinstance(rule["rename"], Mapping):
        optional.add("to")
    return name not in optional


def _pattern_problems(patterns: str | Iterable[str]) -> Iterator[str]:
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if names_in(pattern) is None:
            try:
                re.compile(pattern)
            except (re.error, RecursionError, OverflowError) as error:
                yield f"{pattern!r:.80} is no regular expression: {error}"


def names_in(pattern: str) -> tuple[str, ...] | None:
    """The names that a pattern matches, where it is nothing but names; None for any other.

    Such a pattern need not be tried on each name, which for others may take for ever.

    >>> names_in(r"fc\\.weight|fc\\.bias"), names_in(r"fc\\..*")
    (('fc.weight', 'fc.bias'), None)
    """
    if not _EXACT.match(pattern):
        return None
    parts = re.findall(r"(?:[^\\|]|\\.)+", pattern, re.DOTALL)
    return tuple(re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL) for part in parts)


def dump_rules(rules: Iterable[Rule]) -> list[dict[str, Json]]:
    """Rules as plain data, which ``parse_rules`` reads back.

    >>> dump_rules([Transpose(transpose="w", order=(1, 0))])
    [{'transpose': 'w', 'order': [1, 0]}]
    """
    return [_dump(rule) for rule in rules]


def _dump(rule: Any) -> dict[str, Json]:
    values = {item.name: getattr(rule, item.name) for item in fields(rule)}
    optional = {"order": (), "sizes": (), "shift": (), "to": "", "value": None}
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
        if key not in optional or value != optional[key]
    }


def brief(rule: Mapping[str, Json]) -> str:
    """A rule, as plain data, in few words, however many names it has.

    >>> brief({"drop": r"fc\\..*"}), brief({"rename": {"a": "b", "c": "d"}})
    ('drop fc\\\\..*', 'rename 2 names')
    """
    verb = next(iter(rule.keys() & _KINDS))
    subject = rule[verb]
    names = (names_in(subject) or ()) if isinstance(subject, str) else tuple(subject)  # type: ignore[arg-type]
    if len(names) > 1:
        return f"{verb} {len(names)} names"
    return f"{verb} {names[0] if names else subject!s:.60}"
