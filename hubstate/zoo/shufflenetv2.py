"""ShuffleNet v2: half of the channels pass a block untouched, and then all are shuffled.

Ma, Zhang, Zheng, Sun, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design",
2018, https://arxiv.org/abs/1807.11164

Names, shapes and outputs are those of torchvision's models, so weights go both ways::

    images (N, in_chans, H, W)
    ├── conv1, maxpool      stem, 24 channels          H/4 × W/4
    ├── stage2 … stage4     4, 8 and 4 units           H/32 × W/32
    ├── conv5               1×1
    └── fc                  after the mean over all positions: (N, num_classes)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hubstate.values import frozen
from hubstate.zoo.blocks import conv_norm, conv_norm_layers
from hubstate.zoo.builders import Builder
from hubstate.zoo.layers import Linear, MaxPool2d, Sequential
from hubstate.zoo.variants import photographs, variant

__all__ = [
    "ShuffleNetV2",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
]

_UNITS = (4, 8, 4)
_STEM = 24


@frozen
class Plan:
    """What tells one ShuffleNet v2 from another: a column of table 5."""

    widths: tuple[int, int, int]
    """Channels of the three stages."""
    outputs: int = 1024
    """Channels of the last convolution."""


class Unit(nn.Module):
    """1×1, 3×3 on each channel alone, 1×1, on half of the channels (figure 3, c).

    A unit that halves the size has a second branch for what the others leave untouched (d).
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.split = stride == 1
        half = outputs // 2
        first = half if self.split else inputs
        self.branch1 = Sequential() if self.split else _second_branch(inputs, half)
        self.branch2 = Sequential(
            *conv_norm_layers(first, half, 1),
            *conv_norm_layers(half, half, 3, stride=stride, groups=half, activation=None),
            *conv_norm_layers(half, half, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1) if self.split else (x, x)
        return _shuffle(torch.cat([self.branch1(left), self.branch2(right)], 1))


class ShuffleNetV2(nn.Module):
    """A ShuffleNet v2; ``fc`` has an output for each class.

    Args:
        plan: the widths.
        num_classes: outputs.
        in_chans: channels of the images.
    """

    def __init__(self, plan: Plan, *, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        self.conv1 = conv_norm(in_chans, _STEM, 3, stride=2)
        self.maxpool = MaxPool2d(3, stride=2, padding=1)
        self.stage2 = _stage(_STEM, plan.widths[0], units=_UNITS[0])
        self.stage3 = _stage(plan.widths[0], plan.widths[1], units=_UNITS[1])
        self.stage4 = _stage(plan.widths[1], plan.widths[2], units=_UNITS[2])
        self.conv5 = conv_norm(plan.widths[2], plan.outputs, 1)
        self.fc = Linear(plan.outputs, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps: (N, channels, height, width)."""
        x = self.maxpool(self.conv1(x))
        for stage in (self.stage2, self.stage3, self.stage4, self.conv5):
            x = stage(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, H, W)."""
        logits: Tensor = self.fc(self.forward_features(x).mean((2, 3)))
        return logits


def _second_branch(inputs: int, outputs: int) -> nn.Sequential:
    return Sequential(
        *conv_norm_layers(inputs, inputs, 3, stride=2, groups=inputs, activation=None),
        *conv_norm_layers(inputs, outputs, 1),
    )


def _shuffle(x: Tensor) -> Tensor:
    """Channels of both halves in turn: the first of each, the second of each …"""
    count, channels, height, width = x.shape
    return x.view(count, 2, channels // 2, height, width).transpose(1, 2).flatten(1, 2)


def _stage(inputs: int, outputs: int, *, units: int) -> nn.Sequential:
    rest = [Unit(outputs, outputs, stride=1) for _ in range(units - 1)]
    return Sequential(Unit(inputs, outputs, stride=2), *rest)


def _variant(name: str, plan: Plan, *, about: str, resize: int = 256) -> Builder[ShuffleNetV2]:
    stated = photographs(resize=resize)
    return variant(ShuffleNetV2, plan, name=name, about=about, preprocessing=stated)


shufflenet_v2_x0_5 = _variant(
    "shufflenet_v2_x0_5",
    Plan(widths=(48, 96, 192)),
    about="ShuffleNet v2 0.5× (Ma et al. 2018, table 5): 1.4 M parameters.",
)
shufflenet_v2_x1_0 = _variant(
    "shufflenet_v2_x1_0",
    Plan(widths=(116, 232, 464)),
    about="ShuffleNet v2 1× (Ma et al. 2018, table 5): 2.3 M parameters.",
)
shufflenet_v2_x1_5 = _variant(
    "shufflenet_v2_x1_5",
    Plan(widths=(176, 352, 704)),
    about="ShuffleNet v2 1.5× (Ma et al. 2018, table 5): 3.5 M parameters.",
    resize=232,
)
shufflenet_v2_x2_0 = _variant(
    "shufflenet_v2_x2_0",
    Plan(widths=(244, 488, 976), outputs=2048),
    about="ShuffleNet v2 2× (Ma et al. 2018, table 5): 7.4 M parameters.",
    resize=232,
)
