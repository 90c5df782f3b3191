"""What changed between two releases, tensor by tensor, from their manifests alone.

Digests tell whether a tensor changed without reading either of them, however large they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hubstate.manifest import Manifest, TensorRecord
from hubstate.values import frozen

__all__ = ["Difference", "compare", "tensor_records"]

_SHOWN = 20  # names listed of each kind before the text says how many more there are


@frozen
class Difference:
    """Names of tensors by what happened to them, each in sorted order."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    reshaped: Mapping[str, tuple[str, str]]
    """Name to (before, after), each as ``float32 (64, 3, 7, 7)``: shape or dtype differs."""
    changed: tuple[str, ...] = ()
    """Same shape and dtype, other bytes."""
    equal: tuple[str, ...] = ()
    meaning: tuple[str, ...] = ()
    """Fields beside the tensors that differ, such as ``metrics``."""

    @property
    def same_tensors(self) -> bool:
        """Whether every tensor has the same name, shape, dtype and bytes."""
        return not (self.added or self.removed or self.reshaped or self.changed)

    @property
    def empty(self) -> bool:
        """Whether nothing differs, provenance aside."""
        return self.same_tensors and not self.meaning

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "added": list(self.added),
            "removed": list(self.removed),
            "reshaped": {name: list(pair) for name, pair in self.reshaped.items()},
            "changed": list(self.changed),
            "equal": len(self.equal),
            "meaning": list(self.meaning),
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield (
            f"{len(self.added)} added, {len(self.removed)} removed, {len(self.reshaped)} reshaped, "
            f"{len(self.changed)} changed, {len(self.equal)} equal"
        )
        yield from _listed("+", self.added)
        yield from _listed("-", self.removed)
        yield from _listed("!", [f"{k}: {a} -> {b}" for k, (a, b) in self.reshaped.items()])
        yield from _listed("~", self.changed)
        if self.meaning:
            yield f"  also differs: {', '.join(self.meaning)}"


def compare(old: Manifest | None, new: Manifest) -> Difference:
    """What publishing ``new`` after ``old`` changes; all is added where there is no ``old``."""
    before = tensor_records(old) if old else {}
    after = tensor_records(new)
    both = sorted(before.keys() & after.keys())
    reshaped = {n: p for n in both if (p := (_form(before[n]), _form(after[n])))[0] != p[1]}
    kept = [name for name in both if name not in reshaped]
    return Difference(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        reshaped=reshaped,
        changed=tuple(n for n in kept if before[n].digests != after[n].digests),
        equal=tuple(n for n in kept if before[n].digests == after[n].digests),
        meaning=_meaning(old, new) if old else (),
    )


def tensor_records(manifest: Manifest) -> dict[str, TensorRecord]:
    """Every stored tensor of a release by name, from all of its files."""
    return {tensor.name: tensor for file in manifest.files for tensor in file.tensors}


def _places(manifest: Manifest) -> dict[str, str]:
    """The file that each tensor is in."""
    return {tensor.name: file.path for file in manifest.files for tensor in file.tensors}


def _meaning(old: Manifest, new: Manifest) -> tuple[str, ...]:
    names = ["builder", "preprocessing", "labels", "metrics", "license", "probe", "structure"]
    found = [name for name in (*names, "transforms") if getattr(old, name) != getattr(new, name)]
    before, after = _places(old), _places(new)
    moved = any(before[name] != after[name] for name in before.keys() & after.keys())
    return (*found, *(["files"] if moved else []))


def _form(record: TensorRecord) -> str:
    return f"{record.dtype} {record.shape}"


def _listed(sign: str, names: tuple[str, ...] | list[str]) -> Iterator[str]:
    yield from (f"  {sign} {name}" for name in names[:_SHOWN])
    if len(names) > _SHOWN:
        yield f"  {sign} … and {len(names) - _SHOWN} more"
