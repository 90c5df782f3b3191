"""GoogLeNet: the first Inception network.

Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke, Rabinovich, "Going Deeper with
Convolutions", 2014, https://arxiv.org/abs/1409.4842, with batch normalisation.

Names, shapes and outputs are those of torchvision's model, so weights go both ways. As there, the
branch that the paper gives a 5×5 convolution has a 3×3 one::

    images (N, in_chans, H, W)
    ├── conv1 maxpool1 conv2 conv3 maxpool2      stem        H/8 × W/8
    ├── inception3a 3b, maxpool3                             H/16 × W/16
    ├── inception4a … 4e, maxpool4                           H/32 × W/32
    │   ├── aux1   in training, after 4a         (N, num_classes)
    │   └── aux2   in training, after 4d         (N, num_classes)
    ├── inception5a 5b
    └── fc         after the mean over all positions: (N, num_classes)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hubstate.zoo.blocks import Convolution, initialise, normal
from hubstate.zoo.builders import register_model
from hubstate.zoo.halving import halving
from hubstate.zoo.layers import AdaptiveAvgPool2d, Dropout, Linear, MaxPool2d, Sequential
from hubstate.zoo.variants import photographs

__all__ = ["GoogLeNet", "GoogLeNetOutputs", "googlenet"]


class GoogLeNetOutputs(NamedTuple):
    """What training with auxiliary classifiers gives: three times (N, num_classes)."""

    logits: Tensor
    aux_logits2: Tensor
    aux_logits1: Tensor


class Inception(nn.Module):
    """Four branches beside each other (figure 2, b).

    Args:
        inputs: channels.
        widths: a row of table 1: #1×1, #3×3 reduce, #3×3, #5×5 reduce, #5×5, pool proj.
    """

    def __init__(self, inputs: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        ones, reduce3, threes, reduce5, fives, pooled = widths
        self.branch1 = Convolution(inputs, ones)
        self.branch2 = Sequential(Convolution(inputs, reduce3), Convolution(reduce3, threes, 3))
        self.branch3 = Sequential(Convolution(inputs, reduce5), Convolution(reduce5, fives, 3))
        self.branch4 = Sequential(MaxPool2d(3, stride=1, padding=1), Convolution(inputs, pooled))

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return torch.cat([branch(x) for branch in branches], 1)


class Auxiliary(nn.Module):
    """A classifier half-way up, which brings gradients to the lower half (section 5)."""

    def __init__(self, inputs: int, num_classes: int) -> None:
        super().__init__()
        self.avgpool = AdaptiveAvgPool2d(4)
        self.conv = Convolution(inputs, 128)
        self.fc1 = Linear(128 * 4 * 4, 1024)
        self.fc2 = Linear(1024, num_classes)
        self.dropout = Dropout(0.7)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(self.conv(self.avgpool(x)).flatten(1)).relu()
        logits: Tensor = self.fc2(self.dropout(hidden))
        return logits


class GoogLeNet(nn.Module):
    """GoogLeNet; ``fc`` has an output for each class, and so do ``aux1`` and ``aux2``.

    Args:
        num_classes: outputs.
        in_chans: channels of the images.
        aux_logits: whether there are auxiliary classifiers, which work in training alone.
        transform_input: see :mod:`hubstate.zoo.halving`.
        dropout: how much of the input of ``fc`` is dropped in training.

    Raises:
        ValueError: ``transform_input`` for another number of channels than 3.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_chans: int,
        aux_logits: bool,
        transform_input: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.halved = halving(in_chans, transform_input=transform_input)
        self.conv1 = Convolution(in_chans, 64, 7, stride=2)
        self.maxpool1 = MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = Convolution(64, 64)
        self.conv3 = Convolution(64, 192, 3)
        self.maxpool2 = MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception3a = Inception(192, (64, 96, 128, 16, 32, 32))
        self.inception3b = Inception(256, (128, 128, 192, 32, 96, 64))
        self.maxpool3 = MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = Inception(480, (192, 96, 208, 16, 48, 64))
        self.inception4b = Inception(512, (160, 112, 224, 24, 64, 64))
        self.inception4c = Inception(512, (128, 128, 256, 24, 64, 64))
        self.inception4d = Inception(512, (112, 144, 288, 32, 64, 64))
        self.inception4e = Inception(528, (256, 160, 320, 32, 128, 128))
        self.maxpool4 = MaxPool2d(2, stride=2, ceil_mode=True)
        self.inception5a = Inception(832, (256, 160, 320, 32, 128, 128))
        self.inception5b = Inception(832, (384, 192, 384, 48, 128, 128))
        self.aux1 = Auxiliary(512, num_classes) if aux_logits else None
        self.aux2 = Auxiliary(528, num_classes) if aux_logits else None
        self.dropout = Dropout(dropout)
        self.fc = Linear(1024, num_classes)
        initialise(self, conv=normal(0.01), linear=normal(0.01), zero_bias=False)

    def _to_4a(self, x: Tensor) -> Tensor:
        x = self.maxpool1(self.conv1(self.halved(x)))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        features: Tensor = self.inception4a(x)
        return features

    def _to_4d(self, x: Tensor) -> Tensor:
        features: Tensor = self.inception4d(self.inception4c(self.inception4b(x)))
        return features

    def _to_5b(self, x: Tensor) -> Tensor:
        features: Tensor = self.inception5b(self.inception5a(self.maxpool4(self.inception4e(x))))
        return features

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps: (N, 1024, height, width)."""
        return self._to_5b(self._to_4d(self._to_4a(x)))

    def forward(self, x: Tensor) -> Tensor | GoogLeNetOutputs:
        """Logits (N, num_classes) of images (N, in_chans, H, W); in training, of all three."""
        low = self._to_4a(x)
        middle = self._to_4d(low)
        logits: Tensor = self.fc(self.dropout(self._to_5b(middle).mean((2, 3))))
        if not self.training or self.aux1 is None or self.aux2 is None:
            return logits
        return GoogLeNetOutputs(logits, self.aux2(middle), self.aux1(low))


@register_model(preprocessing=photographs())
def googlenet(
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    aux_logits: bool = True,
    transform_input: bool = False,
    dropout: float = 0.2,
) -> GoogLeNet:
    """GoogLeNet (Szegedy et al. 2014, table 1): 6.6 M parameters, 13.0 M with both classifiers.

    torchvision's published weights are for ``transform_input=True``.
    """
    return GoogLeNet(
        num_classes=num_classes,
        in_chans=in_chans,
        aux_logits=aux_logits,
        transform_input=transform_input,
        dropout=dropout,
    )
