"""The guide to the zoo has every builder, where its head is and what feature maps it has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hubstate.zoo.index import FAMILIES
from hubstate.zoo.parts import HEADS, STAGES

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "zoo.md"


def table() -> Iterator[str]:
    yield "| Family | Builders | Head | Feature maps |"
    yield "|---|---|---|---|"
    for family, names in FAMILIES.items():
        builders, heads = (", ".join(f"`{e}`" for e in each) for each in (names, HEADS[names[0]]))
        sizes = ", ".join(f"1/{reduction}" for reduction in STAGES.get(names[0], ()))
        yield f"| {family} | {builders} | {heads} | {sizes or '–'} |"


def test_the_table_of_families_is_the_index() -> None:
    """If it is not: the text after the mark is to be these lines."""
    _, _, found = GUIDE.read_text().partition("<!-- families -->\n")
    assert found.splitlines() == list(table())
