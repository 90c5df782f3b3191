"""The catalogue's entries on the public hub, against what timm knows of the same repositories.

Run by ``scripts/test-peers``. Nothing is fetched: timm's configurations name the repositories, and
its architectures have the tensors that were saved there.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_families import build
from test_peers import theirs  # noqa: F401 (a fixture)

from hubstate.zoo.catalogue import CatalogueEntry, entries

pytestmark = pytest.mark.peer

HUB = [entry for entry in entries() if entry.reference.repo.startswith("timm/")]


@pytest.mark.parametrize("entry", HUB, ids=lambda entry: entry.reference.repo)
def test_a_repository_has_the_builder_s_tensors(
    entry: CatalogueEntry,
    theirs: Any,  # noqa: F811
) -> None:
    timm = pytest.importorskip("timm")
    name = entry.reference.repo.removeprefix("timm/")
    stated = timm.get_pretrained_cfg(name).to_dict()
    assert (stated["hf_hub_id"], stated["license"]) == (entry.reference.repo, entry.license)
    ours = build(entry.builder, **entry.arguments)
    with torch.device("meta"):
        expected = timm.create_model(name, num_classes=stated["num_classes"])
    assert tensors(ours) == tensors(expected)


def tensors(model: torch.nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {key: (tensor.shape, tensor.dtype) for key, tensor in model.state_dict().items()}
