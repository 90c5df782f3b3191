"""DenseNet: every layer of a block sees the outputs of all layers before it.

Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks", 2016,
https://arxiv.org/abs/1608.06993; the variants with bottlenecks and compression (DenseNet-BC).

Names, shapes and outputs are those of torchvision's models, so weights go both ways::

    images (N, in_chans, H, W)
    ├── features
    │   ├── conv0 norm0 relu0 pool0       stem                              H/4 × W/4
    │   ├── denseblock1 … denseblock4     each layer adds `growth` channels
    │   ├── transition1 … transition3     half the channels, half the size
    │   └── norm5                                                           H/32 × W/32
    └── classifier                        after the mean over all positions: (N, num_classes)

Once a layer's parts were called ``norm.1`` … ``conv.2`` there, and so they are in the files that
torchvision publishes to this day. A migration makes ``norm1`` … ``conv2`` of them:
https://github.com/pytorch/vision/blob/main/torchvision/models/densenet.py, ``_load_state_dict``
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hubstate.values import frozen
from hubstate.zoo.blocks import initialise
from hubstate.zoo.builders import Builder
from hubstate.zoo.layers import (
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)
from hubstate.zoo.variants import photographs, variant

__all__ = ["DenseNet", "densenet121", "densenet161", "densenet169", "densenet201"]

_BOTTLENECK = 4  # times the growth
_MIGRATIONS = {
    "has:features.denseblock1.denselayer1.norm.1.weight": (
        {"rename": r"(.*\.denselayer\d+\.(?:norm|conv))\.([12])\.(.*)", "to": r"\1\2.\3"},
    )
}


@frozen
class Plan:
    """What tells one DenseNet from another."""

    layers: tuple[int, int, int, int]
    """How many layers each block has."""
    growth: int = 32
    """Channels that each layer adds: k in the paper."""
    width: int = 64
    """Channels of the stem."""


class DenseLayer(nn.Module):
    """1×1 to at most four times the growth, then 3×3; what goes in stays in front."""

    def __init__(self, inputs: int, growth: int, *, dropout: float) -> None:
        super().__init__()
        inner = _BOTTLENECK * growth
        self.norm1 = BatchNorm2d(inputs)
        self.relu1 = ReLU(inplace=True)
        self.conv1 = Conv2d(inputs, inner, 1, bias=False)
        self.norm2 = BatchNorm2d(inner)
        self.relu2 = ReLU(inplace=True)
        self.conv2 = Conv2d(inner, growth, 3, padding=1, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(self.relu1(self.norm1(x)))
        new = self.conv2(self.relu2(self.norm2(new)))
        return torch.cat([x, self.dropout(new)], 1)


class DenseNet(nn.Module):
    """A DenseNet; ``classifier`` has an output for each class.

    Args:
        plan: depth and widths.
        num_classes: outputs.
        in_chans: channels of the images.
        dropout: how much of each layer's new channels is dropped in training.
    """

    def __init__(
        self, plan: Plan, *, num_classes: int = 1000, in_chans: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.features = Sequential()
        for name, module in _features(plan, in_chans, dropout=dropout):
            self.features.add_module(name, module)
        self.classifier = Linear(_outputs(plan), num_classes)
        initialise(self, conv=nn.init.kaiming_normal_)
        nn.init.zeros_(self.classifier.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps: (N, channels, height, width)."""
        features: Tensor = self.features(x)
        return features.relu()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, H, W)."""
        logits: Tensor = self.classifier(self.forward_features(x).mean((2, 3)))
        return logits


def _outputs(plan: Plan) -> int:
    channels = plan.width
    for layers in plan.layers[:-1]:
        channels = (channels + layers * plan.growth) // 2
    return channels + plan.layers[-1] * plan.growth


def _features(plan: Plan, in_chans: int, *, dropout: float) -> Iterator[tuple[str, nn.Module]]:
    yield "conv0", Conv2d(in_chans, plan.width, 7, stride=2, padding=3, bias=False)
    yield "norm0", BatchNorm2d(plan.width)
    yield "relu0", ReLU(inplace=True)
    yield "pool0", MaxPool2d(3, stride=2, padding=1)
    channels = plan.width
    for number, layers in enumerate(plan.layers, start=1):
        if number > 1:
            yield f"transition{number - 1}", _transition(channels)
            channels //= 2
        yield f"denseblock{number}", _block(channels, plan.growth, layers=layers, dropout=dropout)
        channels += layers * plan.growth
    yield "norm5", BatchNorm2d(channels)


def _block(inputs: int, growth: int, *, layers: int, dropout: float) -> nn.Sequential:
    block = Sequential()
    for index in range(layers):
        layer = DenseLayer(inputs + index * growth, growth, dropout=dropout)
        block.add_module(f"denselayer{index + 1}", layer)
    return block


def _transition(inputs: int) -> nn.Sequential:
    transition = Sequential()
    transition.add_module("norm", BatchNorm2d(inputs))
    transition.add_module("relu", ReLU(inplace=True))
    transition.add_module("conv", Conv2d(inputs, inputs // 2, 1, bias=False))
    transition.add_module("pool", AvgPool2d(2, stride=2))
    return transition


def _variant(name: str, plan: Plan, *, about: str) -> Builder[DenseNet]:
    return variant(
        DenseNet,
        plan,
        name=name,
        about=about,
        preprocessing=photographs(),
        migrations=_MIGRATIONS,
    )


densenet121 = _variant(
    "densenet121",
    Plan(layers=(6, 12, 24, 16)),
    about="DenseNet-121 (Huang et al. 2016, table 1): 8.0 M parameters.",
)
densenet161 = _variant(
    "densenet161",
    Plan(layers=(6, 12, 36, 24), growth=48, width=96),
    about="DenseNet-161 (Huang et al. 2016, k = 48): 28.7 M parameters.",
)
densenet169 = _variant(
    "densenet169",
    Plan(layers=(6, 12, 32, 32)),
    about="DenseNet-169 (Huang et al. 2016, table 1): 14.1 M parameters.",
)
densenet201 = _variant(
    "densenet201",
    Plan(layers=(6, 12, 48, 32)),
    about="DenseNet-201 (Huang et al. 2016, table 1): 20.0 M parameters.",
)
