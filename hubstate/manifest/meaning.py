"""What a release means: how to build the model, and a probe of what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from hubstate.strictjson import Json
from hubstate.values import frozen

__all__ = ["BuilderRecord", "Probe", "ProbeOutput"]


@frozen
class BuilderRecord:
    """The function that makes the architecture, and its arguments."""

    name: str
    arguments: Mapping[str, Json] = field(default_factory=dict)
    source: str | None = None
    """``package.module:function``; informative, never imported on a manifest's word."""

    @property
    def sizes(self) -> dict[str, int]:
        """``num_classes``, ``in_chans`` and ``image_size``, as far as the arguments say them.

        What timm calls ``img_size`` is an ``image_size`` too, and so is a pair of equal sides.

        >>> BuilderRecord(name="timm:vit", arguments={"img_size": [384, 384]}).sizes
        {'image_size': 384}
        """
        side = self.arguments.get("image_size", self.arguments.get("img_size"))
        if isinstance(side, list) and len(side) == 2 and side[0] == side[1]:
            side = side[0]
        named = {name: self.arguments.get(name) for name in ("num_classes", "in_chans")}
        return {n: v for n, v in (named | {"image_size": side}).items() if type(v) is int}


@frozen
class ProbeOutput:
    """One output tensor of a probe."""

    path: str
    """Where it is in the output; ``""`` if the output is one tensor."""
    shape: tuple[int, ...]
    stride: int
    """Every ``stride``-th value of the flat output is kept."""
    values: tuple[float, ...]


@frozen
class Probe:
    """A seeded input and the outputs expected of it."""

    seed: int
    shape: tuple[int, ...]
    dtype: str
    outputs: tuple[ProbeOutput, ...]
    rtol: float
    atol: float
