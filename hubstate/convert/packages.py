"""Packages that one format needs and the rest does not."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from hubstate.errors import HubstateError

__all__ = ["need"]

_EXTRAS = {"h5py": "hdf5", "msgpack": "flax"}


def need(package: str, *, what: str) -> Any:
    """Import a package that an extra brings.

    Raises:
        HubstateError: it is not installed; the message says how to get it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise HubstateError(
            f"{what} needs {package}, which is not installed: "
            f"pip install 'hubstate[{_EXTRAS[package]}]'"
        ) from error
