"""A file of any known format to tensors by name, and an account of what was found in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hubstate.convert.arrays import load_npz
from hubstate.convert.flax import load_msgpack
from hubstate.convert.isolated import read_isolated
from hubstate.convert.nesting import Found, find_weights
from hubstate.errors import InvalidSetting, InvalidWeights, NotFound
from hubstate.naming import find_naming
from hubstate.strictjson import Json
from hubstate.values import frozen
from hubstate.weights import map_weights

__all__ = ["FORMATS", "Foreign", "read_foreign", "read_shards"]

FORMATS: Mapping[str, tuple[str, ...]] = {
    "torch": (".pth", ".pt", ".bin", ".ckpt", ".tar"),
    "safetensors": (".safetensors",),
    "npz": (".npz",),
    "hdf5": (".h5", ".hdf5", ".keras"),
    "jld2": (".jld2",),
    "flax": (".msgpack",),
}
"""The endings of each format."""

_HERE: Mapping[str, Callable[[Path], Any]] = {
    "safetensors": map_weights,
    "npz": load_npz,
    "flax": load_msgpack,
}


@frozen
class Foreign:
    """The weights of a file from elsewhere."""

    tensors: dict[str, Tensor]
    """By dotted name, in the order of the file."""
    format: str
    key: str
    """Where in the file they were, such as ``state_dict``; empty at the top."""
    left_out: tuple[str, ...]
    """What else is in the file."""
    cut: str
    """The prefix that every name had, such as ``module.``; cut off."""

    def to_json(self) -> dict[str, Json]:
        """What was found, without the tensors."""
        return {
            "format": self.format,
            "key": self.key,
            "left_out": list(self.left_out),
            "cut": self.cut,
            "tensors": len(self.tensors),
            "bytes": sum(tensor.nbytes for tensor in self.tensors.values()),
        }

    def __str__(self) -> str:
        size = sum(tensor.nbytes for tensor in self.tensors.values())
        lines = [f"{self.format}: {len(self.tensors)} tensors, {size:,} bytes"]
        if self.key:
            lines.append(f"  found under {self.key!r}")
        if self.left_out:
            names = ", ".join(self.left_out[:10]) + (" …" if len(self.left_out) > 10 else "")
            lines.append(f"  left out: {names}")
        if self.cut:
            lines.append(f"  cut off the front of names: {self.cut!r}")
        return "\n".join(lines)


def read_foreign(
    path: Path, *, format: str | None = None, key: str | None = None, name: str | None = None
) -> Foreign:
    """The weights in a file of any known format; nothing of it is executed.

    Pickles and HDF5 are read in a process of their own. Names become dotted: ``a/b`` is ``a.b``.

    Args:
        path: the file.
        format: one of ``FORMATS``; by the ending of the name if not given.
        key: where in the file the weights are; looked for under the usual names if not given,
            and ``.`` for the top.
        name: what the file is called, where its path does not say.

    Raises:
        NotFound: there is no such file.
        InvalidSetting: the ending tells no format, or the format is unknown.
        InvalidWeights: the file is refused, or damaged, or holds no tensors.
        HubstateError: a package for the format is missing; the message says which.
    """
    format = format or _format_of(name or path.name)
    if format not in FORMATS:
        raise InvalidSetting(f"format: expected one of {', '.join(FORMATS)}, found {format!r}")
    if not path.is_file():
        raise NotFound(f"{path}: no such file")
    return _foreign(_read(path, format, key), format)


def read_shards(paths: Iterable[Path]) -> Foreign:
    """The weights in several safetensors files, as :func:`read_foreign` has those of one.

    Raises:
        InvalidWeights: a file breaks the format.
    """
    tensors = {name: t for path in paths for name, t in map_weights(path).items()}
    return _foreign(Found(tensors=tensors, key="", left_out=()), "safetensors")


def _foreign(found: Found, format: str) -> Foreign:
    dotted = _dotted(found)
    tensors, cut = _bare(dotted.tensors)
    return Foreign(
        tensors=tensors, format=format, key=dotted.key, left_out=dotted.left_out, cut=cut
    )


def _read(path: Path, format: str, key: str | None) -> Found:
    if format not in _HERE:
        return read_isolated(path, format, key=key)
    return find_weights(_HERE[format](path), key="." if key is None else key, name=path.name)


def _format_of(name: str) -> str:
    for format, endings in FORMATS.items():
        if name.lower().endswith(endings):
            return format
    known = ", ".join(ending for endings in FORMATS.values() for ending in endings)
    raise InvalidSetting(f"{name}: its ending tells no format; known are {known}")


def _dotted(found: Found) -> Found:
    tensors: dict[str, Tensor] = {}
    for old, tensor in found.tensors.items():
        new = old.replace("/", ".")
        if new in tensors:
            raise InvalidWeights(f"{old}: another tensor is called {new} already")
        tensors[new] = tensor
    return Found(tensors=tensors, key=found.key, left_out=found.left_out)


def _bare(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Without the prefixes of wrappers, and the first that was cut."""
    naming, _ = find_naming(list(tensors), [], None, set())
    if naming is None:
        return tensors, ""
    bare = {naming(name): tensor for name, tensor in tensors.items()}
    if len(bare) != len(tensors):
        return tensors, ""  # the load tells which names meet
    changed = next((n for n in tensors if naming(n) != n), "")
    return bare, changed.removesuffix(naming(changed)) if changed else ""
