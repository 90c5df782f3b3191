"""hubstate: a hub client and registry for pretrained PyTorch weights.

Every public name is reached from here; the module that holds it is imported on first use, so that
``import hubstate`` costs next to nothing and brings no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubstate.lazy import importing

if TYPE_CHECKING:
    from hubstate.checkpoint import load, save
    from hubstate.digest import Digest
    from hubstate.errors import (
        Conflict,
        Damaged,
        GateRefused,
        HubstateError,
        InvalidReference,
        NotFound,
        Offline,
        StructureMismatch,
        Unreachable,
    )
    from hubstate.fetching import fetch
    from hubstate.filters import Filter, only, without
    from hubstate.hub import Release, open_release
    from hubstate.loading import LoadReport, check, describe, loadmodel, state
    from hubstate.manifest import Manifest
    from hubstate.pretrained import load_pretrained
    from hubstate.probe import check_probe
    from hubstate.publishing import Publication, publish
    from hubstate.reference import Reference
    from hubstate.zoo.builders import load_report, register_model
    from hubstate.zoo.create import create_model, list_models
    from hubstate.zoo.heads import backbone, classifier, head_of
    from hubstate.zoo.images import Preprocessing
    from hubstate.zoo.preprocessing import ModelInfo, model_info, preprocess

_HOMES = {
    "checkpoint": ("load", "save"),
    "digest": ("Digest",),
    "errors": (
        "Conflict",
        "Damaged",
        "GateRefused",
        "HubstateError",
        "InvalidReference",
        "NotFound",
        "Offline",
        "StructureMismatch",
        "Unreachable",
    ),
    "filters": ("Filter", "only", "without"),
    "fetching": ("fetch",),
    "hub": ("Release", "open_release"),
    "loading": ("LoadReport", "check", "describe", "loadmodel", "state"),
    "manifest": ("Manifest",),
    "pretrained": ("load_pretrained",),
    "probe": ("check_probe",),
    "publishing": ("Publication", "publish"),
    "reference": ("Reference",),
    "zoo.builders": ("load_report", "register_model"),
    "zoo.create": ("create_model", "list_models"),
    "zoo.heads": ("backbone", "classifier", "head_of"),
    "zoo.images": ("Preprocessing",),
    "zoo.preprocessing": ("ModelInfo", "model_info", "preprocess"),
}

__version__ = "0.1.0"

__all__ = [
    "Conflict",
    "Damaged",
    "Digest",
    "Filter",
    "GateRefused",
    "HubstateError",
    "InvalidReference",
    "LoadReport",
    "Manifest",
    "ModelInfo",
    "NotFound",
    "Offline",
    "Preprocessing",
    "Publication",
    "Reference",
    "Release",
    "StructureMismatch",
    "Unreachable",
    "__version__",
    "backbone",
    "check",
    "check_probe",
    "classifier",
    "create_model",
    "describe",
    "fetch",
    "head_of",
    "list_models",
    "load",
    "load_pretrained",
    "load_report",
    "loadmodel",
    "model_info",
    "only",
    "open_release",
    "preprocess",
    "publish",
    "register_model",
    "save",
    "state",
    "without",
]


__getattr__ = importing(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
