"""Inception v4: Inception, made uniform and deeper.

Szegedy, Ioffe, Vanhoucke, Alemi, "Inception-v4, Inception-ResNet and the Impact of Residual
Connections on Learning", 2016, https://arxiv.org/abs/1602.07261

Names, shapes and outputs are those of timm's model, so weights go both ways::

    images (N, in_chans, H, W), H and W at least 75
    ├── features.0 … 5      stem (figure 3)                            H/8 × W/8
    ├── features.6 … 9      Inception-A (figure 4)
    ├── features.10         Reduction-A (figure 7)                     H/16 × W/16
    ├── features.11 … 17    Inception-B (figure 5)
    ├── features.18         Reduction-B (figure 8)                     H/32 × W/32
    ├── features.19 … 21    Inception-C (figure 6)
    └── last_linear         after the mean over all positions: (N, num_classes)
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from hubstate.zoo.blocks import Beside, Convolution
from hubstate.zoo.builders import register_model
from hubstate.zoo.layers import AvgPool2d, Dropout, Linear, MaxPool2d, Sequential
from hubstate.zoo.variants import photographs

__all__ = ["InceptionV4", "inception_v4"]

_narrow = partial(Convolution, padded=False)
_shrinking = partial(Convolution, size=3, stride=2, padded=False)
_chain = Sequential


def _pooled(inputs: int, outputs: int) -> nn.Sequential:
    pool = AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return _chain(pool, Convolution(inputs, outputs))


class PoolBeside(nn.Module):
    """A pool and a convolution beside each other, both to half the size (in figure 3)."""

    def __init__(self, inputs: int, outputs: int, *, pool_first: bool) -> None:
        super().__init__()
        self.pool_first = pool_first
        self.maxpool = MaxPool2d(3, stride=2)
        self.conv = _shrinking(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        both = [self.maxpool(x), self.conv(x)]
        return torch.cat(both if self.pool_first else both[::-1], 1)


def _stem_branches() -> Beside:
    """The two branches in the middle of figure 3."""
    return Beside(
        _chain(Convolution(160, 64), _narrow(64, 96, 3)),
        _chain(
            Convolution(160, 64),
            Convolution(64, 64, (1, 7)),
            Convolution(64, 64, (7, 1)),
            _narrow(64, 96, 3),
        ),
    )


def _inception_a() -> Beside:
    """Figure 4."""
    return Beside(
        Convolution(384, 96),
        _chain(Convolution(384, 64), Convolution(64, 96, 3)),
        _chain(Convolution(384, 64), Convolution(64, 96, 3), Convolution(96, 96, 3)),
        _pooled(384, 96),
    )


def _reduction_a() -> Beside:
    """Figure 7, with the numbers of table 1."""
    return Beside(
        _shrinking(384, 384),
        _chain(Convolution(384, 192), Convolution(192, 224, 3), _shrinking(224, 256)),
        MaxPool2d(3, stride=2),
    )


def _inception_b() -> Beside:
    """Figure 5."""
    return Beside(
        Convolution(1024, 384),
        _chain(
            Convolution(1024, 192), Convolution(192, 224, (1, 7)), Convolution(224, 256, (7, 1))
        ),
        _chain(
            Convolution(1024, 192),
            Convolution(192, 192, (7, 1)),
            Convolution(192, 224, (1, 7)),
            Convolution(224, 224, (7, 1)),
            Convolution(224, 256, (1, 7)),
        ),
        _pooled(1024, 128),
    )


def _reduction_b() -> Beside:
    """Figure 8."""
    return Beside(
        _chain(Convolution(1024, 192), _shrinking(192, 192)),
        _chain(
            Convolution(1024, 256),
            Convolution(256, 256, (1, 7)),
            Convolution(256, 320, (7, 1)),
            _shrinking(320, 320),
        ),
        MaxPool2d(3, stride=2),
    )


class InceptionC(nn.Module):
    """1×3 beside 3×1, after a 1×1 and after three convolutions (figure 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = Convolution(1536, 256)
        self.branch1_0 = Convolution(1536, 384)
        self.branch1_1a = Convolution(384, 256, (1, 3))
        self.branch1_1b = Convolution(384, 256, (3, 1))
        self.branch2_0 = Convolution(1536, 384)
        self.branch2_1 = Convolution(384, 448, (3, 1))
        self.branch2_2 = Convolution(448, 512, (1, 3))
        self.branch2_3a = Convolution(512, 256, (1, 3))
        self.branch2_3b = Convolution(512, 256, (3, 1))
        self.branch3 = _pooled(1536, 256)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch1_0(x)
        twice = self.branch2_2(self.branch2_1(self.branch2_0(x)))
        branches = [
            self.branch0(x),
            *(self.branch1_1a(once), self.branch1_1b(once)),
            *(self.branch2_3a(twice), self.branch2_3b(twice)),
            self.branch3(x),
        ]
        return torch.cat(branches, 1)


class InceptionV4(nn.Module):
    """Inception v4; ``last_linear`` has an output for each class.

    Args:
        num_classes: outputs.
        in_chans: channels of the images.
        dropout: how much of the input of ``last_linear`` is dropped in training.
    """

    def __init__(self, *, num_classes: int, in_chans: int, dropout: float) -> None:
        super().__init__()
        self.features = Sequential(
            _shrinking(in_chans, 32),
            _narrow(32, 32, 3),
            Convolution(32, 64, 3),
            PoolBeside(64, 96, pool_first=True),
            _stem_branches(),
            PoolBeside(192, 192, pool_first=False),
            *(_inception_a() for _ in range(4)),
            _reduction_a(),
            *(_inception_b() for _ in range(7)),
            _reduction_b(),
            *(InceptionC() for _ in range(3)),
        )
        self.dropout = Dropout(dropout)
        self.last_linear = Linear(1536, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps: (N, 1536, height, width)."""
        features: Tensor = self.features(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, H, W)."""
        logits: Tensor = self.last_linear(self.dropout(self.forward_features(x).mean((2, 3))))
        return logits


_HALF = (0.5, 0.5, 0.5)


@register_model(
    preprocessing=photographs(299, resize=342, interpolation="bicubic", mean=_HALF, std=_HALF)
)
def inception_v4(
    *, num_classes: int = 1000, in_chans: int = 3, dropout: float = 0.2
) -> InceptionV4:
    """Inception v4 (Szegedy et al. 2016, figure 9): 42.7 M parameters."""
    return InceptionV4(num_classes=num_classes, in_chans=in_chans, dropout=dropout)
