"""Inception v3: convolutions factorised into smaller and asymmetric ones.

Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception Architecture for Computer
Vision", 2015, https://arxiv.org/abs/1512.00567

Names, shapes and outputs are those of torchvision's model, so weights go both ways; a name such
as ``Mixed_6b`` is the one that the authors' own program gave to the module::

    images (N, in_chans, H, W), H and W at least 75
    ├── Conv2d_1a_3x3 … Conv2d_4a_3x3     stem                       H/8 × W/8
    ├── Mixed_5b 5c 5d                    factorised 5×5 (figure 5)
    ├── Mixed_6a                          to half the size           H/16 × W/16
    ├── Mixed_6b … 6e                     1×7 and 7×1 (figure 6)
    │   └── AuxLogits                     in training: (N, num_classes)
    ├── Mixed_7a                          to half the size           H/32 × W/32
    ├── Mixed_7b 7c                       1×3 beside 3×1 (figure 7)
    └── fc                                after the mean over all positions: (N, num_classes)
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d

from hubstate.zoo.blocks import Convolution, initialise, normal
from hubstate.zoo.builders import register_model
from hubstate.zoo.halving import halving
from hubstate.zoo.layers import Dropout, Linear, MaxPool2d
from hubstate.zoo.variants import photographs

__all__ = ["InceptionOutputs", "InceptionV3", "inception_v3"]


class InceptionOutputs(NamedTuple):
    """What training with the auxiliary classifier gives: twice (N, num_classes)."""

    logits: Tensor
    aux_logits: Tensor


_shrinking = partial(Convolution, size=3, stride=2, padded=False)


def _mean(x: Tensor) -> Tensor:
    return avg_pool2d(x, 3, stride=1, padding=1)


class Fives(nn.Module):
    """1×1, 5×5, two 3×3 and a pool (figure 5)."""

    def __init__(self, inputs: int, *, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(inputs, 64)
        self.branch5x5_1 = Convolution(inputs, 48)
        self.branch5x5_2 = Convolution(48, 64, 5)
        self.branch3x3dbl_1 = Convolution(inputs, 64)
        self.branch3x3dbl_2 = Convolution(64, 96, 3)
        self.branch3x3dbl_3 = Convolution(96, 96, 3)
        self.branch_pool = Convolution(inputs, pooled)

    def forward(self, x: Tensor) -> Tensor:
        fives = self.branch5x5_2(self.branch5x5_1(x))
        threes = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), fives, threes, self.branch_pool(_mean(x))], 1)


class FirstShrink(nn.Module):
    """To half the size, in two branches and a pool (figure 10)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = _shrinking(inputs, 384)
        self.branch3x3dbl_1 = Convolution(inputs, 64)
        self.branch3x3dbl_2 = Convolution(64, 96, 3)
        self.branch3x3dbl_3 = _shrinking(96, 96)

    def forward(self, x: Tensor) -> Tensor:
        threes = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), threes, max_pool2d(x, 3, stride=2)], 1)


class Sevens(nn.Module):
    """1×1, 7×7 once and twice, each as 1×7 and 7×1, and a pool (figure 6)."""

    def __init__(self, inputs: int, *, inner: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(inputs, 192)
        self.branch7x7_1 = Convolution(inputs, inner)
        self.branch7x7_2 = Convolution(inner, inner, (1, 7))
        self.branch7x7_3 = Convolution(inner, 192, (7, 1))
        self.branch7x7dbl_1 = Convolution(inputs, inner)
        self.branch7x7dbl_2 = Convolution(inner, inner, (7, 1))
        self.branch7x7dbl_3 = Convolution(inner, inner, (1, 7))
        self.branch7x7dbl_4 = Convolution(inner, inner, (7, 1))
        self.branch7x7dbl_5 = Convolution(inner, 192, (1, 7))
        self.branch_pool = Convolution(inputs, 192)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(_mean(x))], 1)


class SecondShrink(nn.Module):
    """To half the size, one of the branches through 1×7 and 7×1."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1 = Convolution(inputs, 192)
        self.branch3x3_2 = _shrinking(192, 320)
        self.branch7x7x3_1 = Convolution(inputs, 192)
        self.branch7x7x3_2 = Convolution(192, 192, (1, 7))
        self.branch7x7x3_3 = Convolution(192, 192, (7, 1))
        self.branch7x7x3_4 = _shrinking(192, 192)

    def forward(self, x: Tensor) -> Tensor:
        threes = self.branch3x3_2(self.branch3x3_1(x))
        sevens = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([threes, self.branch7x7x3_4(sevens), max_pool2d(x, 3, stride=2)], 1)


class Threes(nn.Module):
    """1×3 beside 3×1, after a 1×1 and after a 3×3 (figure 7)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(inputs, 320)
        self.branch3x3_1 = Convolution(inputs, 384)
        self.branch3x3_2a = Convolution(384, 384, (1, 3))
        self.branch3x3_2b = Convolution(384, 384, (3, 1))
        self.branch3x3dbl_1 = Convolution(inputs, 448)
        self.branch3x3dbl_2 = Convolution(448, 384, 3)
        self.branch3x3dbl_3a = Convolution(384, 384, (1, 3))
        self.branch3x3dbl_3b = Convolution(384, 384, (3, 1))
        self.branch_pool = Convolution(inputs, 192)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = [
            self.branch1x1(x),
            *(self.branch3x3_2a(once), self.branch3x3_2b(once)),
            *(self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)),
            self.branch_pool(_mean(x)),
        ]
        return torch.cat(branches, 1)


class Auxiliary(nn.Module):
    """A classifier below the last third, a regulariser as the paper finds (section 4)."""

    def __init__(self, inputs: int, num_classes: int) -> None:
        super().__init__()
        self.conv0 = Convolution(inputs, 128)
        self.conv1 = Convolution(128, 768, 5, padded=False)
        self.fc = Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.conv1(self.conv0(avg_pool2d(x, 5, stride=3)))
        logits: Tensor = self.fc(maps.mean((2, 3)))
        return logits


class InceptionV3(nn.Module):
    """Inception v3; ``fc`` has an output for each class, and so has ``AuxLogits.fc``.

    Args:
        num_classes: outputs.
        in_chans: channels of the images.
        aux_logits: whether there is an auxiliary classifier, which works in training alone; it
            needs images of 299 pixels or so.
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
        self.Conv2d_1a_3x3 = _shrinking(in_chans, 32)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3)
        self.maxpool1 = MaxPool2d(3, stride=2)
        self.Conv2d_3b_1x1 = Convolution(64, 80)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3, padded=False)
        self.maxpool2 = MaxPool2d(3, stride=2)
        self.Mixed_5b = Fives(192, pooled=32)
        self.Mixed_5c = Fives(256, pooled=64)
        self.Mixed_5d = Fives(288, pooled=64)
        self.Mixed_6a = FirstShrink(288)
        self.Mixed_6b = Sevens(768, inner=128)
        self.Mixed_6c = Sevens(768, inner=160)
        self.Mixed_6d = Sevens(768, inner=160)
        self.Mixed_6e = Sevens(768, inner=192)
        self.AuxLogits = Auxiliary(768, num_classes) if aux_logits else None
        self.Mixed_7a = SecondShrink(768)
        self.Mixed_7b = Threes(1280)
        self.Mixed_7c = Threes(2048)
        self.dropout = Dropout(dropout)
        self.fc = Linear(2048, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        initialise(self, conv=normal(0.1), linear=normal(0.1), zero_bias=False)
        if self.AuxLogits is not None:
            initialise(self.AuxLogits, linear=normal(0.001), zero_bias=False)

    def _to_6e(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(self.halved(x))))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.maxpool1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(self.maxpool2(x))))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        features: Tensor = self.Mixed_6e(self.Mixed_6d(x))
        return features

    def _to_7c(self, x: Tensor) -> Tensor:
        features: Tensor = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return features

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps: (N, 2048, height, width)."""
        return self._to_7c(self._to_6e(x))

    def forward(self, x: Tensor) -> Tensor | InceptionOutputs:
        """Logits (N, num_classes) of images (N, in_chans, H, W); in training, of both."""
        middle = self._to_6e(x)
        logits: Tensor = self.fc(self.dropout(self._to_7c(middle).mean((2, 3))))
        if not self.training or self.AuxLogits is None:
            return logits
        return InceptionOutputs(logits, self.AuxLogits(middle))


@register_model(preprocessing=photographs(299, resize=342))
def inception_v3(
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    aux_logits: bool = True,
    transform_input: bool = False,
    dropout: float = 0.5,
) -> InceptionV3:
    """Inception v3 (Szegedy et al. 2015, table 1): 23.8 M parameters, 27.2 M with both heads.

    torchvision's published weights are for ``transform_input=True``.
    """
    return InceptionV3(
        num_classes=num_classes,
        in_chans=in_chans,
        aux_logits=aux_logits,
        transform_input=transform_input,
        dropout=dropout,
    )
