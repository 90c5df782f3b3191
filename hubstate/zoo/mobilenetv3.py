"""MobileNet v3: inverted residuals with squeeze and excitation, found by a search.

Howard, Sandler, Chu, Chen, Chen, Tan, Wang, Zhu, Pang, Vasudevan, Le, Adam, "Searching for
MobileNetV3", 2019, https://arxiv.org/abs/1905.02244

Names, shapes and outputs are those of torchvision's models, so weights go both ways::

    images (N, in_chans, H, W)
    ├── features.0        3×3 of stride 2                              H/2 × W/2
    ├── features.1 …      inverted residuals, a row of the table each
    ├── features.-1       1×1 to six times the channels                H/32 × W/32
    └── classifier        after the mean over all positions: (N, num_classes)
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

from torch import Tensor, nn

from hubstate.values import frozen
from hubstate.zoo.blocks import (
    Make,
    SqueezeExcitation,
    conv_norm,
    divisible,
    he_fan_out,
    initialise,
    normal,
    relu,
)
from hubstate.zoo.builders import Builder
from hubstate.zoo.layers import BatchNorm2d, Dropout, Hardsigmoid, Hardswish, Linear, Sequential
from hubstate.zoo.variants import photographs, variant

__all__ = ["MobileNetV3", "mobilenet_v3_large", "mobilenet_v3_small"]

Row = tuple[int, int, int, bool, Literal["RE", "HS"], int]
"""Kernel size, channels inside, channels, squeeze and excitation, activation, stride."""

_conv_norm = partial(conv_norm, norm=partial(BatchNorm2d, eps=0.001, momentum=0.01))
_hardswish: Make = partial(Hardswish, inplace=True)
_ACTIVATIONS = {"RE": relu, "HS": _hardswish}


@frozen
class Plan:
    """What tells one MobileNet v3 from the other."""

    rows: tuple[Row, ...]
    """Table 1 or 2 without the convolutions at both ends."""
    hidden: int
    """Width of the classifier's hidden layer."""


class InvertedResidual(nn.Module):
    """Expand, a depthwise convolution, perhaps squeeze and excitation, reduce (figure 4)."""

    def __init__(self, inputs: int, row: Row) -> None:
        super().__init__()
        size, inner, outputs, excited, name, stride = row
        activation = _ACTIVATIONS[name]
        layers = [_conv_norm(inputs, inner, 1, activation=activation)] if inner != inputs else []
        self.block = Sequential(
            *layers,
            _conv_norm(inner, inner, size, stride=stride, groups=inner, activation=activation),
            *([_excitation(inner)] if excited else []),
            _conv_norm(inner, outputs, 1, activation=None),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.block(x)
        return x + branch if self.shortcut else branch


class MobileNetV3(nn.Module):
    """A MobileNet v3; ``classifier.3`` has an output for each class.

    Args:
        plan: the table of blocks.
        num_classes: outputs.
        in_chans: channels of the images.
        dropout: how much of the hidden layer of the classifier is dropped in training.
    """

    def __init__(
        self, plan: Plan, *, num_classes: int = 1000, in_chans: int = 3, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.features = Sequential(*_features(plan, in_chans))
        self.classifier = Sequential(
            Linear(6 * plan.rows[-1][2], plan.hidden),
            Hardswish(inplace=True),
            Dropout(dropout),
            Linear(plan.hidden, num_classes),
        )
        initialise(self, conv=he_fan_out, linear=normal(0.01))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps: (N, channels, height, width)."""
        features: Tensor = self.features(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, H, W)."""
        logits: Tensor = self.classifier(self.forward_features(x).mean((2, 3)))
        return logits


def _features(plan: Plan, in_chans: int) -> Iterator[nn.Module]:
    yield _conv_norm(in_chans, 16, 3, stride=2, activation=_hardswish)
    channels = 16
    for row in plan.rows:
        yield InvertedResidual(channels, row)
        channels = row[2]
    yield _conv_norm(channels, 6 * channels, 1, activation=_hardswish)


def _excitation(channels: int) -> SqueezeExcitation:
    return SqueezeExcitation(channels, divisible(channels / 4), gate=Hardsigmoid)


def _variant(name: str, plan: Plan, *, about: str) -> Builder[MobileNetV3]:
    return variant(MobileNetV3, plan, name=name, about=about, preprocessing=photographs())


mobilenet_v3_large = _variant(
    "mobilenet_v3_large",
    Plan(
        rows=(
            (3, 16, 16, False, "RE", 1),
            (3, 64, 24, False, "RE", 2),
            (3, 72, 24, False, "RE", 1),
            (5, 72, 40, True, "RE", 2),
            (5, 120, 40, True, "RE", 1),
            (5, 120, 40, True, "RE", 1),
            (3, 240, 80, False, "HS", 2),
            (3, 200, 80, False, "HS", 1),
            (3, 184, 80, False, "HS", 1),
            (3, 184, 80, False, "HS", 1),
            (3, 480, 112, True, "HS", 1),
            (3, 672, 112, True, "HS", 1),
            (5, 672, 160, True, "HS", 2),
            (5, 960, 160, True, "HS", 1),
            (5, 960, 160, True, "HS", 1),
        ),
        hidden=1280,
    ),
    about="MobileNet v3, large (Howard et al. 2019, table 1): 5.5 M parameters.",
)
mobilenet_v3_small = _variant(
    "mobilenet_v3_small",
    Plan(
        rows=(
            (3, 16, 16, True, "RE", 2),
            (3, 72, 24, False, "RE", 2),
            (3, 88, 24, False, "RE", 1),
            (5, 96, 40, True, "HS", 2),
            (5, 240, 40, True, "HS", 1),
            (5, 240, 40, True, "HS", 1),
            (5, 120, 48, True, "HS", 1),
            (5, 144, 48, True, "HS", 1),
            (5, 288, 96, True, "HS", 2),
            (5, 576, 96, True, "HS", 1),
            (5, 576, 96, True, "HS", 1),
        ),
        hidden=1024,
    ),
    about="MobileNet v3, small (Howard et al. 2019, table 2): 2.5 M parameters.",
)
