"""The catalogue's weights on the public hub: their names and shapes lead to the builders' own.

The golden file has a line for each repository: how many tensors, and a digest of their names and
shapes. Here the builders are held to it; ``test_hub_sources_peers.py`` holds timm to it, whose
models the repositories are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from hubstate.building import skip_init
from hubstate.loading import transform_entries
from hubstate.manifest import Entry
from hubstate.zoo.catalogue import CatalogueEntry, entries
from hubstate.zoo.create import create_model

GOLDEN = Path(__file__).with_name("golden") / "hub-sources.tsv"
SOURCES = [entry for entry in entries() if entry.registry]

Shapes = Mapping[str, tuple[int, ...]]


def label(entry: CatalogueEntry) -> str:
    return f"{entry.builder}-{entry.tag}"


def line(entry: CatalogueEntry, shapes: Shapes) -> str:
    """What the golden file says of a repository with tensors of these names and shapes."""
    text = "".join(f"{name} {shapes[name]}\n" for name in sorted(shapes))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{entry.reference.repo}\t{len(shapes)}\t{digest}"


def golden(entry: CatalogueEntry) -> str:
    known = {text.split("\t")[0]: text for text in GOLDEN.read_text().splitlines()}
    return known[entry.reference.repo]


@cache
def own_shapes(builder: str, arguments: tuple[tuple[str, object], ...]) -> Shapes:
    with skip_init():
        model = create_model(builder, **dict(arguments))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def timm_shapes(builder: str, shapes: Shapes) -> Shapes:
    """What timm calls a builder's tensors, and what shapes it gives them."""
    if builder.startswith("vgg"):
        wide = {"classifier.0.weight": (4096, 512, 7, 7), "classifier.3.weight": (4096, 4096, 1, 1)}
        heads = {"0": "pre_logits.fc1", "3": "pre_logits.fc2", "6": "head.fc"}
        return {
            re.sub(r"classifier\.(\d)", lambda m: heads[m[1]], name): wide.get(name, shape)
            for name, shape in shapes.items()
        }
    if builder.startswith("regnet"):
        return {_timm_regnet(name): shape for name, shape in shapes.items()}
    return shapes


def _timm_regnet(name: str) -> str:
    layer = {"0": "conv", "1": "bn"}
    part = {"proj": "downsample", "f.a": "conv1", "f.b": "conv2", "f.c": "conv3"}
    name = re.sub(r"(stem|proj|f\.[abc])\.([01])\.", lambda m: f"{m[1]}.{layer[m[2]]}.", name)
    name = re.sub(r"proj|f\.[abc]", lambda m: part[m[0]], name).replace("f.se", "se")
    block = r"trunk_output\.block\d\.block(\d)-(\d+)"
    name = re.sub(block, lambda m: f"s{m[1]}.b{int(m[2]) + 1}", name)
    return re.sub(r"^fc", "head.fc", name)


@pytest.mark.parametrize("entry", SOURCES, ids=label)
def test_what_is_on_the_hub_fits_its_builder(entry: CatalogueEntry) -> None:
    expected = own_shapes(entry.builder, tuple(entry.arguments.items()))
    there = timm_shapes(entry.builder, expected)
    assert line(entry, there) == golden(entry)
    if entry.transforms:
        stored = [
            Entry(path=name, kind="param", shape=shape, dtype="float32")
            for name, shape in there.items()
        ]
        _, made = transform_entries(stored, entry.transforms)
        there = {each.path: each.shape or () for each in made}
    assert there == expected


def test_every_source_has_its_line_and_no_line_is_left_over() -> None:
    repositories = [text.split("\t")[0] for text in GOLDEN.read_text().splitlines()]
    assert repositories == sorted(entry.reference.repo for entry in SOURCES)
