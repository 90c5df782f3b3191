"""Loading by reference from a server: what is not wanted is not fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hubs import Hub, serving
from torch import nn

import hubstate
from hubstate.errors import StructureMismatch
from hubstate.loading import describe
from hubstate.manifest import NAME, Manifest, dump, hash_weights
from hubstate.staging import WEIGHTS
from hubstate.walk import tensors_of
from hubstate.weights import save_weights


class Net(nn.Module):
    """A small body and a head that is most of the bytes."""

    def __init__(self, classes: int = 30_000) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32))
        self.head = nn.Linear(32, classes)


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def hub(model: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    path = tmp_path / WEIGHTS
    save_weights(path, tensors_of(model))
    manifest = Manifest(structure=describe(model), files=(hash_weights(path),), license="mit")
    hub = Hub({WEIGHTS: path.read_bytes(), NAME: dump(manifest)})
    with serving(hub) as url:
        monkeypatch.setenv("HUBSTATE_REGISTRY", url)
        yield hub


def test_a_server_is_a_source_like_any_other(hub: Hub, model: Net) -> None:
    fresh = Net()
    hubstate.load_pretrained(fresh, "org/name")
    assert all(
        torch.equal(a, b) for a, b in zip(fresh.parameters(), model.parameters(), strict=True)
    )


def test_a_misfit_moves_no_byte_of_the_weights(hub: Hub) -> None:
    with pytest.raises(StructureMismatch):
        hubstate.load_pretrained(Net(classes=7), "org/name")
    assert hub.sent(WEIGHTS) == 0


@pytest.mark.parametrize("stated", [True, False], ids=["manifest", "header"])
def test_a_filter_moves_its_own_bytes_alone(hub: Hub, model: Net, stated: bool) -> None:
    if not stated:
        del hub.files[NAME]
    whole = len(hub.files[WEIGHTS])
    fresh = Net(classes=7)
    report = hubstate.load_pretrained(fresh, "org/name", filter=hubstate.without("head"))
    assert report.skipped == ("head.weight", "head.bias")
    assert torch.equal(fresh.body[0].weight, model.body[0].weight)
    assert hub.sent(WEIGHTS) < 0.05 * whole
    hubstate.load_pretrained(Net(), "org/name")
    assert hub.sent(WEIGHTS) <= 1.1 * whole, "a later full load fetches the rest"


def test_a_warm_load_asks_for_no_file(hub: Hub) -> None:
    hubstate.load_pretrained(Net(), "org/name")
    before = hub.sent(WEIGHTS) + hub.sent(NAME)
    hubstate.load_pretrained(Net(), "org/name")
    assert hub.sent(WEIGHTS) + hub.sent(NAME) == before
