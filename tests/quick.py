"""Releases for tests that are not about publishing: complete, and made without the gate."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hubstate.endpoints import Commit
from hubstate.hub import publish_files
from hubstate.loading import describe
from hubstate.manifest import Manifest, dump, hash_weights
from hubstate.staging import Description
from hubstate.weights import save_weights

__all__ = ["described", "publish_quickly", "release_of"]


def described(**meaning: Any) -> Description:
    """What a release says of itself: nothing but its licence, and what is given."""
    plain: dict[str, Any] = {
        "builder": None,
        "license": "mit",
        "metrics": {},
        "labels": (),
        "preprocessing": {},
        "provenance": {},
        "text": "",
        "probe": None,
        "probe_dtype": "float32",
        "weights_only": False,
    }
    return Description(**(plain | meaning))


def release_of(model: nn.Module, **meaning: Any) -> dict[str, bytes]:
    """The files of a release of a model; what else its manifest says."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        tensors = {name: t.detach() for name, t in model.state_dict().items()}
        save_weights(path, tensors)
        manifest = Manifest(
            structure=tuple(describe(model)), files=(hash_weights(path),), license="mit", **meaning
        )
        return {
            "README.md": b"# A model\n",
            "hubstate.json": dump(manifest),
            "model.safetensors": path.read_bytes(),
        }


def publish_quickly(
    model: nn.Module,
    repo: str,
    *,
    seed: int | None = None,
    registry: Path | str | None = None,
    **meaning: Any,
) -> Commit:
    """Publish a model; with a seed, its weights are random ones of that seed."""
    if seed is not None:
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
    return publish_files(
        repo, release_of(model, **meaning), message=f"seed {seed}", registry=registry
    )
