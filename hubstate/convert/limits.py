"""How much a file from elsewhere may hold: a few compressed bytes can claim any number.

============= ====================================================================
bytes          100 times those of the file, and 256 MiB beside
values         16 million in a pickle and a million in HDF5, where each takes longer;
               counted as often as the file refers to them
============= ====================================================================

Weights hardly compress, and the largest networks have some thousands of tensors.
"""

from __future__ import annotations

from pathlib import Path

from hubstate.errors import InvalidWeights

__all__ = ["Budget", "refuse_many", "refuse_swollen"]

_TIMES = 100
_SLACK = 1 << 28
_MOST_VALUES = 1 << 24
_MOST_ITEMS = 1 << 20


def refuse_swollen(claimed: int, path: Path, *, times: int = _TIMES, slack: int = _SLACK) -> None:
    """Refuse a file that would take far more memory than it has bytes.

    Raises:
        InvalidWeights: it would.
        OSError: it cannot be looked at.
    """
    size = path.stat().st_size
    if claimed > times * size + slack:
        raise InvalidWeights(
            f"{path.name}: refused: its tensors would take {claimed:,} bytes, "
            f"and the file has {size:,}"
        )


def refuse_many(values: int, path: Path, *, most: int = _MOST_VALUES) -> None:
    """Refuse a file that refers to itself so often that nobody could read it all.

    Raises:
        InvalidWeights: it does.
    """
    if values > most:
        raise InvalidWeights(f"{path.name}: refused: more than {most:,} values in it")


class Budget:
    """What may still be read of an HDF5 file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._claimed = self._values = 0

    def spend(self, nbytes: int = 0) -> None:
        """Count a value, and the bytes that it would take.

        Raises:
            InvalidWeights: it is one too many.
        """
        self._values += 1
        refuse_many(self._values, self._path, most=_MOST_ITEMS)
        if nbytes:
            self._claimed += nbytes
            refuse_swollen(self._claimed, self._path)
