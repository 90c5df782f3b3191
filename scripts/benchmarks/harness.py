"""Contenders in turn, A B C A B C …, each in a process of its own; medians and ratios."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Row = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A claim about two contenders: ``left[figure] / right[figure]`` is at least or at most."""

    text: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool:
        low = self.at_least is None or self.value >= self.at_least
        return low and (self.at_most is None or self.value <= self.at_most)

    def __str__(self) -> str:
        sign, bound = ("≥", self.at_least) if self.at_most is None else ("≤", self.at_most)
        mark = "met   " if self.met else "MISSED"
        return f"  {mark} {self.text}: {self.value:.3g} (target {sign} {bound:g})"


def run(code: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Row:
    """Run Python code in a new process; the last line that it prints is a JSON object."""
    answer = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    if answer.returncode != 0:
        raise SystemExit(f"a benchmark failed:\n{code}\n{answer.stderr}")
    row: Row = json.loads(answer.stdout.splitlines()[-1])
    return row


def interleave(
    contenders: Mapping[str, tuple[str, Sequence[str]]],
    *,
    rounds: int,
    environment: Mapping[str, str] | None = None,
) -> dict[str, list[Row]]:
    """Every contender once in each round, after one round that is not counted."""
    rows: dict[str, list[Row]] = {name: [] for name in contenders}
    for index in range(rounds + 1):
        for name, (code, arguments) in contenders.items():
            row = run(code, *arguments, environment=environment)
            if index:
                rows[name].append(row)
    return rows


def medians(rows: Mapping[str, Sequence[Row]]) -> dict[str, Row]:
    """The median of every figure of every contender."""
    return {
        name: {figure: statistics.median(row[figure] for row in many) for figure in many[0]}
        for name, many in rows.items()
    }


def report(title: str, rows: Mapping[str, Sequence[Row]], targets: Sequence[Target]) -> None:
    """Print a table of medians and the targets, and save every figure."""
    middle = medians(rows)
    figures = list(dict.fromkeys(figure for row in middle.values() for figure in row))
    width = max(len(name) for name in middle)
    print(f"\n{title} (median of {max(len(many) for many in rows.values())})")
    print("  " + " " * width + "".join(f"{figure:>22}" for figure in figures))
    for name, row in middle.items():
        cells = "".join(f"{row[f]:>22.4g}" if f in row else " " * 22 for f in figures)
        print(f"  {name:<{width}}{cells}")
    for target in targets:
        print(target)
    folder = Path("bench-results")
    folder.mkdir(exist_ok=True)
    content = {
        "title": title,
        "runs": rows,
        "medians": middle,
        "targets": [{**vars(target), "met": target.met} for target in targets],
    }
    (folder / f"{title.split(':')[0].replace(' ', '-')}.json").write_text(
        json.dumps(content, indent=2) + "\n"
    )
