"""SqueezeNet: few parameters, by squeezing channels before they are expanded.

Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer, "SqueezeNet: AlexNet-level accuracy with 50x fewer
parameters and <0.5MB model size", 2016, https://arxiv.org/abs/1602.07360. Version 1.1 is the
authors' later one, with 2.4 times less computation.

Names, shapes and outputs are those of torchvision's models, so weights go both ways::

    images (N, in_chans, H, W)
    ├── features     a convolution, eight fire modules, three pools   (N, 512, H/16, W/16)
    └── classifier   a 1×1 convolution and the mean of its maps       (N, num_classes)
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hubstate.values import frozen
from hubstate.zoo.blocks import initialise, normal
from hubstate.zoo.builders import Builder
from hubstate.zoo.layers import AdaptiveAvgPool2d, Conv2d, Dropout, MaxPool2d, ReLU, Sequential
from hubstate.zoo.variants import photographs, variant

__all__ = ["SqueezeNet", "squeezenet1_0", "squeezenet1_1"]

# Channels of the eight fire modules: squeezed, and each half of what they are expanded to.
_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))


@frozen
class Plan:
    """What tells one SqueezeNet from the other."""

    width: int
    """Channels of the first convolution."""
    size: int
    """Height and width of its kernel."""
    pools: tuple[int, int, int]
    """Before which fire modules the pools are, counted from 0."""


class Fire(nn.Module):
    """1×1 to squeeze; 1×1 and 3×3 beside each other to expand (section 3.2)."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = Conv2d(inputs, squeezed, 1)
        self.expand1x1 = Conv2d(squeezed, expanded, 1)
        self.expand3x3 = Conv2d(squeezed, expanded, 3, padding=1)
        self.relu = ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.squeeze(x))
        return torch.cat([self.relu(self.expand1x1(x)), self.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """A SqueezeNet; ``classifier.1`` has an output for each class.

    Args:
        plan: the first convolution and the places of the pools.
        num_classes: outputs.
        in_chans: channels of the images.
        dropout: how much of the last feature maps is dropped in training.
    """

    def __init__(
        self, plan: Plan, *, num_classes: int = 1000, in_chans: int = 3, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.features = Sequential(*_features(plan, in_chans))
        self.classifier = Sequential(
            Dropout(dropout),
            Conv2d(512, num_classes, 1),
            ReLU(inplace=True),
            AdaptiveAvgPool2d(1),
        )
        initialise(self.features, conv=nn.init.kaiming_uniform_)
        initialise(self.classifier, conv=normal(0.01))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps: (N, 512, height, width)."""
        features: Tensor = self.features(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes), none below 0, of images (N, in_chans, H, W)."""
        logits: Tensor = self.classifier(self.forward_features(x))
        return logits.flatten(1)


def _features(plan: Plan, in_chans: int) -> Iterator[nn.Module]:
    yield Conv2d(in_chans, plan.width, plan.size, stride=2)
    yield ReLU(inplace=True)
    inputs = plan.width
    for index, (squeezed, expanded) in enumerate(_FIRES):
        if index in plan.pools:
            yield MaxPool2d(3, stride=2, ceil_mode=True)
        yield Fire(inputs, squeezed, expanded)
        inputs = 2 * expanded


def _variant(name: str, plan: Plan, *, about: str) -> Builder[SqueezeNet]:
    return variant(SqueezeNet, plan, name=name, about=about, preprocessing=photographs())


squeezenet1_0 = _variant(
    "squeezenet1_0",
    Plan(width=96, size=7, pools=(0, 3, 7)),
    about="SqueezeNet 1.0 (Iandola et al. 2016, table 1): 1.25 M parameters.",
)
squeezenet1_1 = _variant(
    "squeezenet1_1",
    Plan(width=64, size=3, pools=(0, 2, 4)),
    about="SqueezeNet 1.1 (Iandola et al. 2016, the authors' second): 1.24 M parameters.",
)
