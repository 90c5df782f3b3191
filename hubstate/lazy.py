"""Names of a package that are imported when they are first asked for, and not before (PEP 562).

A warm load takes some ten milliseconds; importing what it does not use would double that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

__all__ = ["importing"]


def importing(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """The ``__getattr__`` of a package: each name in ``homes`` comes from the module above it.

    Args:
        package: its ``__name__``.
        homes: names by the module, below the package, that defines them.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def __getattr__(name: str) -> object:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(import_module(f"{package}.{home_of[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return __getattr__
