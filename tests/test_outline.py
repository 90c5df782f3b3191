"""Outlines: a warm load reads no manifest, and is the load that it would have been."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hubs import Hub, serving
from quick import publish_quickly, release_of
from torch import Tensor, nn
from toys import Tied

import hubstate
from hubstate.building import skip_init
from hubstate.cache import Cache, prune
from hubstate.errors import Damaged, InvalidManifest, StructureMismatch
from hubstate.loading import describe
from hubstate.outline import arrange, dump_outline, names_digest, outline_of, parse_outline
from hubstate.rules import parse_rules
from hubstate.walk.outline import outlined
from hubstate.zoo.create import create_model
from hubstate.zoo.index import FAMILIES

NAME = "org/deep"


class Extra(nn.Linear):
    """A layer with an extra state."""

    def get_extra_state(self) -> Any:
        return {"version": 3}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"version": 3}


class Odd(nn.Module):
    """Plain data of every kind, what is none, and what is not there."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = {"sizes": (1, 2), "bound": float("-inf"), "names": ["a", ("b",)], "z": 2j}
        self.flag, self.count, self.ratio, self.huge = True, 1, 1.0, 2**80
        self.activation, self.empty, self.nothing = torch.relu, (), None
        self.register_parameter("absent", None)
        self.register_buffer("blank", None)
        self.register_buffer("scratch", torch.zeros(3), persistent=False)
        self.register_buffer("mask", torch.ones(2, dtype=torch.bool))
        self.child: nn.Module | None = None
        self.add_module("gone", None)
        self.parts = nn.ModuleDict({"left": nn.Identity(), "right": nn.Sequential()})


def deep(*last: nn.Module, width: int = 8) -> nn.Sequential:
    """A model of enough names for its manifest to have an outline."""
    layers = [nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width)) for _ in range(12)]
    return nn.Sequential(*layers, *last)


def fill(model: nn.Module, value: float) -> nn.Module:
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)
    return model


def kept() -> list[Path]:
    return list(Path(os.environ["HUBSTATE_CACHE"]).glob("outlines/*/*"))


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, it makes reading any manifest an error."""

    def refuse(text: bytes) -> None:
        raise AssertionError("a manifest is read")

    return lambda: monkeypatch.setattr("hubstate.release.parse", refuse)


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize("names", FAMILIES.values(), ids=FAMILIES)
def test_a_network_and_its_manifest_have_one_digest(names: tuple[str, ...]) -> None:
    with skip_init():
        model = create_model(names[0])
    arranged, found = arrange(describe(model)), outlined(model)
    assert arranged and found
    assert names_digest(arranged[0]) == names_digest(found[0])
    assert arranged[1] == [path for path, *_ in found[1]]


def test_whatever_an_attribute_is_the_digest_is_the_same() -> None:
    arranged, found = arrange(describe(deep(Odd()))), outlined(deep(Odd()))
    assert arranged and found
    assert arranged[0] == found[0]
    assert names_digest(arranged[0]) == names_digest(found[0])


def changed(path: str, value: object) -> Callable[[nn.Module], object]:
    owner, _, name = path.rpartition(".")
    return lambda model: setattr(model.get_submodule(owner), name, value)


@pytest.mark.parametrize(
    "change",
    [
        changed("3.1.eps", 1e-4),
        changed("3.1.momentum", None),
        changed("3.0.in_features", 8.0),
        changed("3.0.in_features", True),
        changed("3.0.weight", nn.Parameter(torch.zeros(8, 9))),
        changed("3.0.weight", nn.Parameter(torch.zeros(8, 8, dtype=torch.float64))),
        changed("3.0.bias", None),
        changed("3", nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 8))),
        changed("3.2", nn.Identity()),
        changed("3.0", None),
        changed("more", 1),
        lambda model: model.eval(),
    ],
)
def test_any_change_is_another_digest(change: Callable[[nn.Module], object]) -> None:
    model, other = deep(), deep()
    change(other)
    ours, theirs = outlined(model), outlined(other)
    assert ours and theirs and names_digest(ours[0]) != names_digest(theirs[0])


class Marked(nn.Parameter):
    """A parameter of a class of its own."""


def test_what_an_outline_cannot_tell_has_none() -> None:
    looped = deep()
    looped.add_module("again", looped)
    special = deep()
    special[0][0].weight = Marked(torch.zeros(8, 8))
    assert outlined(deep(Extra(2, 2))) is None
    assert outlined(looped) is None
    assert outlined(special) is None
    assert arrange(describe(deep(Tied()))) is None
    assert arrange(describe(deep(Extra(2, 2)))) is None


@pytest.mark.parametrize("options", [{}, {"prefault": True}, {"copy": True}, {"strict": False}])
def test_a_warm_load_reads_no_manifest(unread: Callable[[], None], options: dict[str, Any]) -> None:
    model = deep()
    publish_quickly(model, NAME, seed=1)
    cold, warm = deep(), deep()
    first = hubstate.load_pretrained(cold, NAME)
    assert len(kept()) == 1
    unread()
    assert hubstate.load_pretrained(warm, NAME, **options) == first
    assert same(warm, model) and same(cold, model)
    assert warm[0][0].weight.requires_grad and warm.training


def test_a_warm_load_keeps_dtypes_modes_and_frozen_parameters(unread: Callable[[], None]) -> None:
    publish_quickly(deep(), NAME, seed=1)
    hubstate.load_pretrained(deep(), NAME)
    unread()
    model = deep()
    model[2].requires_grad_(False)
    hubstate.load_pretrained(model, NAME)
    assert not model[2][0].weight.requires_grad and not model[2][0].weight.is_meta
    with torch.device("meta"):
        bare = deep()
    hubstate.load_pretrained(bare, NAME)
    assert same(bare, model)


def test_a_load_hook_is_called_as_ever(unread: Callable[[], None]) -> None:
    publish_quickly(deep(), NAME, seed=1)
    hubstate.load_pretrained(deep(), NAME)
    unread()
    model, seen = deep(), deep()
    weight = model[0][0].weight
    model[0][0].register_load_state_dict_post_hook(lambda module, keys: None)
    hubstate.load_pretrained(model, NAME)
    hubstate.load_pretrained(seen, NAME)
    assert model[0][0].weight is weight  # what somebody may watch is written in place
    assert same(model, seen)


def test_a_tie_that_the_release_does_not_have_is_refused_as_before() -> None:
    publish_quickly(deep(), NAME, seed=1)
    for _ in range(2):
        model = deep()
        model[1][0].weight = model[0][0].weight
        with pytest.raises(StructureMismatch, match="shares memory"):
            hubstate.load_pretrained(model, NAME)


def test_a_misfit_says_what_differs_warm_as_cold() -> None:
    publish_quickly(deep(nn.Linear(8, 4)), NAME, seed=1)
    messages = []
    for _ in range(2):
        with pytest.raises(StructureMismatch) as caught:
            hubstate.load_pretrained(deep(nn.Linear(8, 5)), NAME)
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and "12.weight" in messages[0]


def test_drift_and_casts_are_reported_warm_as_cold() -> None:
    publish_quickly(deep(), NAME, seed=1)
    reports = []
    for _ in range(2):
        model = deep()
        model[4][1].eps = 0.5
        model[5].double()
        reports.append(hubstate.load_pretrained(model, NAME))
    assert reports[0] == reports[1]
    assert reports[0].drift == {"4.1.eps": (0.5, 1e-5)} and "5.0.weight" in reports[0].cast


def test_a_filter_and_a_rename_are_heeded_warm_as_cold() -> None:
    publish_quickly(deep(nn.Linear(8, 4)), NAME, seed=1)
    for _ in range(2):
        left = fill(deep(nn.Linear(8, 4)), 7.0)
        report = hubstate.load_pretrained(left, NAME, filter=hubstate.without("12"))
        assert report.skipped == ("12.weight", "12.bias")
        assert bool((left[12].weight == 7).all())
        with pytest.raises(StructureMismatch, match="matches no name"):
            hubstate.load_pretrained(deep(nn.Linear(8, 4)), NAME, rename={"^x": "y"})


def test_a_migration_for_this_very_release_is_heeded() -> None:
    publish_quickly(deep(), NAME, seed=1)
    hubstate.load_pretrained(deep(), NAME)
    twice = parse_rules([{"rename": r"^99\.", "to": "98."}])
    migrations = {"has:3.0.weight": twice}
    with pytest.raises(StructureMismatch, match="matches no"):
        hubstate.load_pretrained(deep(), NAME, migrations=migrations)
    assert hubstate.load_pretrained(deep(), NAME, migrations={"has:old.weight": twice}).is_complete


@pytest.mark.parametrize("kind", ["torn", "other", "text", "newer", "empty"])
def test_a_damaged_outline_costs_reading_the_manifest_and_nothing_else(kind: str) -> None:
    model = deep()
    publish_quickly(model, NAME, seed=1)
    hubstate.load_pretrained(deep(), NAME)
    (path,) = kept()
    data = path.read_bytes()
    stated, _, body = data.partition(b"\n")
    texts = {
        "torn": data[:-40],
        "other": stated + b"\n" + body.replace(b"[0,", b"[1,", 1),
        "text": b"\xff\xfe",
        "newer": dump_of(body.replace(b'"schema":1', b'"schema":9')),
        "empty": b"",
    }
    path.write_bytes(texts[kind])
    with pytest.raises((Damaged, ValueError, KeyError)):
        parse_outline(texts[kind])
    fresh = deep()
    hubstate.load_pretrained(fresh, NAME)
    assert same(fresh, model)


def dump_of(body: bytes) -> bytes:
    return str(hubstate.digest.Digest.of(body)).encode() + b"\n" + body


def test_an_outline_is_read_as_it_was_written() -> None:
    files = release_of(deep())
    manifest = hubstate.manifest.parse(files["hubstate.json"])
    seal = hubstate.digest.Digest.of(b"seal")
    outline = outline_of(manifest, {"model.safetensors": seal})
    assert outline and parse_outline(dump_outline(outline)) == outline
    assert outline.weights == ("model.safetensors",)
    assert outline_of(manifest, {}) is None


def test_weights_that_are_gone_are_fetched_again(unread: Callable[[], None]) -> None:
    model = deep()
    publish_quickly(model, NAME, seed=1)
    hubstate.load_pretrained(deep(), NAME)
    hubstate.open_release(NAME).path("model.safetensors").unlink()
    fresh = deep()
    hubstate.load_pretrained(fresh, NAME)
    assert same(fresh, model)
    unread()
    hubstate.load_pretrained(deep(), NAME)


def test_a_manifest_that_is_damaged_is_not_taken_for_its_outline() -> None:
    publish_quickly(deep(), NAME, seed=1)
    hubstate.load_pretrained(deep(), NAME)
    path = hubstate.open_release(NAME).path("hubstate.json")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"mit", b"gpl"))
    release = hubstate.open_release(NAME, outlined=True)
    assert release.manifest and release.manifest.license == "mit"


def test_an_outline_in_a_layer_that_cannot_be_written_is_used(
    unread: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = deep()
    publish_quickly(model, NAME, seed=1)
    hubstate.load_pretrained(deep(), NAME)
    shared = os.environ["HUBSTATE_CACHE"]
    own = tmp_path / "own"
    monkeypatch.setenv("HUBSTATE_CACHE", f"{own}{os.pathsep}{shared}")
    unread()
    fresh = deep()
    hubstate.load_pretrained(fresh, NAME)
    assert same(fresh, model) and not (own / "outlines").exists()


def test_a_file_that_came_in_chunks_is_known_by_its_seal(
    unread: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fill(deep(width=300), 2.0)
    hub = Hub(release_of(model))
    with serving(hub) as url:
        monkeypatch.setenv("HUBSTATE_REGISTRY", url)
        hubstate.load_pretrained(deep(width=300), "org/name")
        sent = hub.sent("model.safetensors")
        unread()
        monkeypatch.setattr("hubstate.cache.layers.hash_file", lambda *_, **__: None)
        fresh = deep(width=300)
        hubstate.load_pretrained(fresh, "org/name")
    assert same(fresh, model) and hub.sent("model.safetensors") == sent


def test_what_is_listed_is_held_against_the_outline_too(tmp_path: Path) -> None:
    publish_quickly(deep(), NAME, seed=1)
    hubstate.load_pretrained(deep(), NAME)
    files = {**release_of(deep()), "model.safetensors": b"other weights"}
    files["hubstate.json"] = hubstate.open_release(NAME).read("hubstate.json")
    hubstate.hub.publish_files(NAME, files, message="the manifest of other weights")
    with pytest.raises(hubstate.errors.DigestMismatch, match=r"model\.safetensors"):
        hubstate.load_pretrained(deep(), NAME)


def test_outlines_go_with_their_manifests() -> None:
    publish_quickly(deep(), NAME, seed=1)
    hubstate.load_pretrained(deep(), NAME)
    prune(Cache(), age=0)
    assert len(kept()) == 1
    prune(Cache(), unused=-1, age=0, dry_run=True)
    assert len(kept()) == 1
    prune(Cache(), unused=-1, age=0)
    assert kept() == []


def test_small_manifests_have_none() -> None:
    publish_quickly(nn.Linear(2, 2), NAME, seed=1)
    hubstate.load_pretrained(nn.Linear(2, 2), NAME)
    assert kept() == []


def test_a_broken_manifest_is_refused_before_it_has_an_outline() -> None:
    files = release_of(deep())
    files["hubstate.json"] = files["hubstate.json"].replace(b"float32", b"float64")
    hubstate.hub.publish_files(NAME, files, message="wrong")
    for _ in range(2):
        with pytest.raises(InvalidManifest):
            hubstate.open_release(NAME, outlined=True)
    assert kept() == []


def test_two_tensors_of_one_memory_are_not_apart() -> None:
    publish_quickly(deep(), NAME, seed=1)
    hubstate.load_pretrained(deep(), NAME)
    memory = torch.zeros(16)
    model = deep()
    model[0][0].bias = nn.Parameter(memory[:8])
    model[1][0].bias = nn.Parameter(memory[8:])
    hubstate.load_pretrained(model, NAME)  # side by side is no tie
    overlap: Tensor = torch.zeros(12)
    model[0][0].bias = nn.Parameter(overlap[:8])
    model[1][0].bias = nn.Parameter(overlap[4:])
    with pytest.raises(StructureMismatch, match="shares memory"):
        hubstate.load_pretrained(model, NAME)
