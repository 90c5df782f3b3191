"""Weights for elsewhere: written beside their name, read back, and only then given the name.

::

    folder/                    what timm (local-dir:) and PyTorchModelHubMixin load
    ├── model.safetensors      every tensor under its name
    ├── config.json            architecture, arguments, preprocessing
    └── README.md              the model card, of a release that has one
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from hubstate.card import config_json
from hubstate.convert.arrays import load_npz, save_npz, to_array
from hubstate.convert.hdf5 import load_hdf5, save_hdf5
from hubstate.convert.torchfile import load_pickle, save_pickle
from hubstate.errors import Conflict, HubstateError, InvalidSetting, InvalidWeights
from hubstate.staging import WEIGHTS
from hubstate.subject import Subject
from hubstate.transforms import Rules, resolve
from hubstate.weights import map_weights, save_weights

__all__ = ["TARGETS", "export_weights"]

TARGETS = ("folder", "pth", "npz", "hdf5", "safetensors")


def export_weights(
    subject: Subject,
    path: Path,
    *,
    to: str,
    transforms: Rules | None = None,
    like: Subject | None = None,
    widen: bool = False,
    force: bool = False,
) -> dict[str, Tensor]:
    """Write the weights of a release or file in another format, and check that they read back.

    Args:
        subject: see ``hubstate.subject.open_subject``.
        path: the file, or the folder for ``to="folder"``.
        to: folder, pth, npz, hdf5 or safetensors.
        transforms: rules for the names and shapes that are written, after the release's own,
            which make them those of its builder.
        like: an older release or file whose names and axes are to be written, for programs that
            know no others: what leads from it to the builder of today, its own rules, the
            builder's migrations and then ``transforms``, is undone.
        widen: bfloat16 and float8, which NumPy and HDF5 lack, as float32.
        force: replace what is there.

    Returns:
        The tensors as they were written, by name.

    Raises:
        InvalidSetting: an unknown format, or a rule that means nothing or cannot be undone.
        Conflict: there is something at the path.
        InvalidWeights: a tensor that the format cannot hold, or that does not read back.
        StructureMismatch: a rule that does not fit, or ``like`` is of another architecture.
        HubstateError: a package is missing, or the weights cannot be fetched.
    """
    if to not in TARGETS:
        raise InvalidSetting(f"format: expected one of {', '.join(TARGETS)}, found {to!r}")
    if path.exists() and not force:
        raise Conflict(f"{path}: there is something already; force=True (--force) replaces it")
    tensors = _tensors(subject)
    if like is not None:
        tensors = _restored(subject, tensors, like, transforms)
    elif transforms:
        tensors = resolve(transforms, tensors).apply(tensors)
    if to in ("npz", "hdf5"):
        tensors = _for_numpy(tensors, widen=widen)
    write = _folder(subject) if to == "folder" else _FILES[to]
    _replace(path, lambda temporary: write(temporary, tensors))
    return tensors


def _tensors(subject: Subject) -> dict[str, Tensor]:
    stored = {n: t for file in subject.paths().values() for n, t in map_weights(file).items()}
    ties = {e.path: e.tied_to for e in subject.manifest.structure if e.is_tensor and e.tied_to}
    named = {**stored, **{name: stored[first] for name, first in ties.items() if first in stored}}
    order = [entry.path for entry in subject.manifest.structure if entry.path in named]
    found = {name: named[name] for name in dict.fromkeys([*order, *named])}
    return resolve(subject.manifest.transforms, found).apply(found)


def _restored(
    subject: Subject, tensors: dict[str, Tensor], like: Subject, transforms: Rules | None
) -> dict[str, Tensor]:
    from hubstate.convert.older import restore_names  # here, because few exports want old names

    builder = subject.manifest.builder or like.manifest.builder
    name = builder.name if builder else None
    return restore_names(tensors, like, builder=name, transforms=transforms)


def _for_numpy(tensors: Mapping[str, Tensor], *, widen: bool) -> dict[str, Tensor]:
    """What NumPy can hold; every tensor that it cannot is named."""
    problems, found = [], {}
    for name, tensor in tensors.items():
        try:
            found[name] = torch.from_numpy(to_array(tensor, name=name, widen=widen))
        except InvalidWeights as error:
            problems.append(str(error))
    if problems:
        raise InvalidWeights("\n  ".join(problems))
    return found


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{secrets.token_hex(16)}")
    aside.mkdir()
    temporary = aside / path.name  # under its own name, which errors say
    try:
        write(temporary)
        if path.is_dir():
            _exchange(temporary, path)
        else:
            temporary.replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(temporary: Path, path: Path) -> None:
    """A folder takes the place of another, which is put back where that fails."""
    old = path.with_name(f".{secrets.token_hex(16)}.old")
    path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)


def _write_pth(path: Path, tensors: dict[str, Tensor]) -> None:
    save_pickle(path, tensors)
    _hold(load_pickle(path), tensors)


def _write_npz(path: Path, tensors: dict[str, Tensor]) -> None:
    save_npz(path, {name: tensor.numpy() for name, tensor in tensors.items()})
    _hold(load_npz(path), tensors)


def _write_hdf5(path: Path, tensors: dict[str, Tensor]) -> None:
    save_hdf5(path, {name: tensor.numpy() for name, tensor in tensors.items()})
    _hold(load_hdf5(path), tensors)


def _write_safetensors(path: Path, tensors: dict[str, Tensor]) -> None:
    save_weights(path, tensors)
    _hold(map_weights(path), tensors)


_FILES: Mapping[str, Callable[[Path, dict[str, Tensor]], None]] = {
    "pth": _write_pth,
    "npz": _write_npz,
    "hdf5": _write_hdf5,
    "safetensors": _write_safetensors,
}


def _hold(found: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Hold what was written against what was meant.

    Raises:
        InvalidWeights: they differ.
    """
    absent = tensors.keys() ^ found.keys()
    wrong = [n for n, t in tensors.items() if n in found and not _same(t, found[n])]
    if names := sorted(absent) + wrong:
        raise InvalidWeights(f"{', '.join(names[:20])}: does not read back as it was written")


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    flat_a, flat_b = a.contiguous().reshape(-1), b.contiguous().reshape(-1)
    return torch.equal(flat_a.view(torch.uint8), flat_b.view(torch.uint8))


def _folder(subject: Subject) -> Callable[[Path, dict[str, Tensor]], None]:
    def write(folder: Path, tensors: dict[str, Tensor]) -> None:
        folder.mkdir()
        _write_safetensors(folder / WEIGHTS, tensors)
        (folder / "config.json").write_bytes(_config(subject))
        if subject.release is not None and "README.md" in subject.sizes:
            (folder / "README.md").write_bytes(subject.release.read("README.md"))

    return write


def _config(subject: Subject) -> bytes:
    """The release's own config.json, or else what its manifest says of the builder.

    Raises:
        HubstateError: neither is there, and nothing could build the model.
    """
    if subject.release is not None and "config.json" in subject.sizes:
        return subject.release.read("config.json")
    if subject.manifest.builder is None:
        raise HubstateError(
            f"{subject.name}: a folder that timm or a mixin loads needs to say who builds the "
            "model, and this does not: export it as a file"
        )
    return (json.dumps(config_json(subject.manifest), indent=2, sort_keys=True) + "\n").encode()
