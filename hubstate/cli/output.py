"""How the command line speaks: text for people, JSON for programs, sizes in readable units."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from hubstate import settings
from hubstate.errors import InvalidSetting
from hubstate.strictjson import MAX_INTEGER, Json

if TYPE_CHECKING:
    from hubstate.cache import Traffic

__all__ = [
    "Place",
    "as_json",
    "frozen",
    "max_shard_size",
    "moved",
    "pairs",
    "printable",
    "show",
    "size",
    "table",
]


class Place(click.Path):
    """A path. What an unset variable leaves is none, and does not mean the working folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("expected a path, found nothing.", param, ctx)
        return super().convert(value, param, ctx)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def _freeze(_context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        settings.freeze()


frozen = click.option(
    "--frozen",
    is_flag=True,
    expose_value=False,
    callback=_freeze,
    help="Allow pinned references only; see hubstate lock. [HUBSTATE_FROZEN]",
)


max_shard_size = click.option(
    "--max-shard-size",
    metavar="SIZE",
    help="Of one weights file, before there are several: 500MB. [HUBSTATE_MAX_SHARD_SIZE, 5GB]",
)


def show(data: object, text: str, *, as_json: bool) -> None:
    """Print an answer in the form that was asked for."""
    click.echo(json.dumps(data, indent=2) if as_json else printable(text))


def printable(text: str) -> str:
    """A text that cannot steer a terminal, whatever a release calls its tensors and labels.

    >>> print(printable("a label\\x1b[2J, and\\nanother"))
    a label\\x1b[2J, and
    another
    """
    if text.replace("\n", "").isprintable():
        return text
    return "".join(
        char if char == "\n" or char.isprintable() else ascii(char)[1:-1] for char in text
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows in aligned columns.

    >>> print(table(["NAME", "SIZE"], [["resnet18", "44.7 MiB"]]))
    NAME      SIZE
    resnet18  44.7 MiB
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def size(count: float) -> str:
    """A number of bytes in binary units.

    >>> size(46_827_520)
    '44.7 MiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def moved(traffic: Traffic) -> str:
    """Where the bytes came from.

    >>> from hubstate.cache import Traffic
    >>> moved(Traffic(downloaded=8_200_000, reused=94_000_000))
    '7.8 MiB downloaded, 89.6 MiB reused from the cache'
    """
    return f"{size(traffic.downloaded)} downloaded, {size(traffic.reused)} reused from the cache"


def pairs(option: str, words: Sequence[str]) -> Mapping[str, Json]:
    """``name=value`` words as a mapping; a value is read as JSON where it is JSON.

    Raises:
        InvalidSetting: a word without ``=``, a name that is given twice, a number that is not
            finite, an integer beyond 63 bits.

    >>> pairs("--arg", ["num_classes=10", "stem=small"])
    {'num_classes': 10, 'stem': 'small'}
    """
    found: dict[str, Json] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise InvalidSetting(f"{option} expects name=value, found {word!r}")
        if name in found:
            raise InvalidSetting(f"{option} names {name!r} twice")
        found[name] = _value(option, word, value)
    return found


def _value(option: str, word: str, text: str) -> Json:
    def refuse(expected: str) -> InvalidSetting:
        return InvalidSetting(f"{option} expects {expected}, found {word[:80]!r}")

    def constant(_: str) -> NoReturn:
        raise refuse("finite numbers")

    def integer(digits: str) -> int:
        if len(digits) > 20 or abs(int(digits)) > MAX_INTEGER:
            raise refuse("integers of at most 63 bits")
        return int(digits)

    def real(digits: str) -> float:
        return float(digits) if math.isfinite(float(digits)) else constant(digits)

    try:
        value: Json = json.loads(text, parse_constant=constant, parse_int=integer, parse_float=real)
    except InvalidSetting:
        raise
    except (ValueError, RecursionError):
        return text
    return value
