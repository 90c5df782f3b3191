"""ConvNeXt: a convolutional network with the proportions of a transformer.

Liu, Mao, Wu, Feichtenhofer, Darrell, Xie, "A ConvNet for the 2020s", 2022,
https://arxiv.org/abs/2201.03545

Names, shapes and outputs are those of torchvision's models, so weights go both ways::

    images (N, in_chans, H, W)
    ├── features.0               4×4 of stride 4, normalised            H/4 × W/4
    ├── features.1, 3, 5, 7      blocks                                 same size
    ├── features.2, 4, 6         normalised, 2×2 of stride 2            half
    └── classifier               after the mean over all positions: (N, num_classes)
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from hubstate.values import frozen
from hubstate.zoo.blocks import ChannelNorm, DropBranch, Permute, initialise, normal
from hubstate.zoo.builders import Builder
from hubstate.zoo.layers import GELU, AdaptiveAvgPool2d, Conv2d, LayerNorm, Linear, Sequential
from hubstate.zoo.variants import photographs, variant

__all__ = ["ConvNeXt", "convnext_base", "convnext_large", "convnext_small", "convnext_tiny"]

_norm = partial(ChannelNorm, eps=1e-6)


@frozen
class Plan:
    """What tells one ConvNeXt from another."""

    widths: tuple[int, int, int, int]
    """Channels of each stage."""
    blocks: tuple[int, int, int, int]
    """How many blocks each stage has."""
    drop_branch: float
    """How often the last residual branch is left out in training, the ones before it less."""


class Block(nn.Module):
    """7×7 on each channel alone, then two linear layers at each position (figure 4)."""

    def __init__(self, width: int, *, drop: float) -> None:
        super().__init__()
        self.layer_scale = nn.Parameter(torch.full((width, 1, 1), 1e-6))
        self.block = Sequential(
            Conv2d(width, width, 7, padding=3, groups=width),
            Permute(0, 2, 3, 1),
            LayerNorm(width, eps=1e-6),
            Linear(width, 4 * width),
            GELU(),
            Linear(4 * width, width),
            Permute(0, 3, 1, 2),
        )
        self.drop = DropBranch(drop)

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.drop(self.layer_scale * self.block(x))
        return x + branch


class ConvNeXt(nn.Module):
    """A ConvNeXt; ``classifier.2`` has an output for each class.

    Args:
        plan: widths and depths.
        num_classes: outputs.
        in_chans: channels of the images.
    """

    def __init__(self, plan: Plan, *, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        self.features = Sequential(*_features(plan, in_chans))
        self.avgpool = AdaptiveAvgPool2d(1)
        self.classifier = Sequential(
            _norm(plan.widths[-1]), nn.Flatten(1), Linear(plan.widths[-1], num_classes)
        )
        initialise(self, conv=normal(0.02), linear=normal(0.02))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps: (N, channels, height, width)."""
        features: Tensor = self.features(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, H, W)."""
        logits: Tensor = self.classifier(self.avgpool(self.forward_features(x)))
        return logits


def _features(plan: Plan, in_chans: int) -> Iterator[nn.Module]:
    inputs, done, last = plan.widths[0], 0, sum(plan.blocks) - 1
    yield Sequential(Conv2d(in_chans, inputs, 4, stride=4), _norm(inputs))
    for width, blocks in zip(plan.widths, plan.blocks, strict=True):
        if width != inputs:
            yield Sequential(_norm(inputs), Conv2d(inputs, width, 2, stride=2))
        drops = (plan.drop_branch * (done + index) / last for index in range(blocks))
        yield Sequential(*(Block(width, drop=drop) for drop in drops))
        inputs, done = width, done + blocks


def _variant(name: str, plan: Plan, *, about: str, resize: int) -> Builder[ConvNeXt]:
    preprocessing = photographs(224, resize=resize)
    return variant(ConvNeXt, plan, name=name, about=about, preprocessing=preprocessing)


convnext_tiny = _variant(
    "convnext_tiny",
    Plan(widths=(96, 192, 384, 768), blocks=(3, 3, 9, 3), drop_branch=0.1),
    about="ConvNeXt-T (Liu et al. 2022): 28.6 M parameters.",
    resize=236,
)
convnext_small = _variant(
    "convnext_small",
    Plan(widths=(96, 192, 384, 768), blocks=(3, 3, 27, 3), drop_branch=0.4),
    about="ConvNeXt-S (Liu et al. 2022): 50.2 M parameters.",
    resize=230,
)
convnext_base = _variant(
    "convnext_base",
    Plan(widths=(128, 256, 512, 1024), blocks=(3, 3, 27, 3), drop_branch=0.5),
    about="ConvNeXt-B (Liu et al. 2022): 88.6 M parameters.",
    resize=232,
)
convnext_large = _variant(
    "convnext_large",
    Plan(widths=(192, 384, 768, 1536), blocks=(3, 3, 27, 3), drop_branch=0.5),
    about="ConvNeXt-L (Liu et al. 2022): 197.8 M parameters.",
    resize=232,
)
