"""VGG: 3×3 convolutions in a row, of 11 to 19 layers, with batch normalisation or without.

Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014,
https://arxiv.org/abs/1409.1556

Names, shapes and outputs are those of torchvision's models, so weights go both ways::

    images (N, in_chans, H, W)
    ├── features     five stages, a pool after each    (N, 512, H/32, W/32)
    ├── avgpool      means of 7 × 7 fields             (N, 512, 7, 7)
    └── classifier   three linear layers               (N, num_classes)
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from hubstate.values import frozen
from hubstate.zoo.blocks import he_fan_out, initialise, normal
from hubstate.zoo.builders import Builder
from hubstate.zoo.layers import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)
from hubstate.zoo.variants import photographs, variant

__all__ = [
    "VGG",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]

_WIDTHS = (64, 128, 256, 512, 512)


@frozen
class Plan:
    """What tells one VGG network from another."""

    convolutions: tuple[int, int, int, int, int]
    """How many convolutions each stage has: a column of table 1."""
    norm: bool = False
    """Whether batch normalisation follows each convolution."""


class VGG(nn.Module):
    """A VGG network; ``classifier`` ends in the layer that has an output for each class.

    Args:
        plan: depth and normalisation.
        num_classes: outputs.
        in_chans: channels of the images.
        dropout: how much of the output of both hidden layers is dropped in training.
    """

    def __init__(
        self, plan: Plan, *, num_classes: int = 1000, in_chans: int = 3, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.features = Sequential(*_features(plan, in_chans))
        self.avgpool = AdaptiveAvgPool2d(7)
        self.classifier = Sequential(
            Linear(512 * 7 * 7, 4096),
            ReLU(inplace=True),
            Dropout(dropout),
            Linear(4096, 4096),
            ReLU(inplace=True),
            Dropout(dropout),
            Linear(4096, num_classes),
        )
        initialise(self, conv=he_fan_out, linear=normal(0.01))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps: (N, 512, height, width)."""
        features: Tensor = self.features(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, H, W)."""
        pooled: Tensor = self.avgpool(self.forward_features(x))
        logits: Tensor = self.classifier(pooled.flatten(1))
        return logits


def _features(plan: Plan, in_chans: int) -> Iterator[nn.Module]:
    inputs = in_chans
    for width, convolutions in zip(_WIDTHS, plan.convolutions, strict=True):
        for _ in range(convolutions):
            yield Conv2d(inputs, width, 3, padding=1)
            if plan.norm:
                yield BatchNorm2d(width)
            yield ReLU(inplace=True)
            inputs = width
        yield MaxPool2d(2, stride=2)


def _variant(name: str, plan: Plan, *, about: str) -> Builder[VGG]:
    return variant(VGG, plan, name=name, about=about, preprocessing=photographs())


vgg11 = _variant(
    "vgg11",
    Plan(convolutions=(1, 1, 2, 2, 2)),
    about="VGG-11 (Simonyan, Zisserman 2014, table 1, A): 132.9 M parameters.",
)
vgg11_bn = _variant(
    "vgg11_bn",
    Plan(convolutions=(1, 1, 2, 2, 2), norm=True),
    about="VGG-11 with batch normalisation: 132.9 M parameters.",
)
vgg13 = _variant(
    "vgg13",
    Plan(convolutions=(2, 2, 2, 2, 2)),
    about="VGG-13 (Simonyan, Zisserman 2014, table 1, B): 133.0 M parameters.",
)
vgg13_bn = _variant(
    "vgg13_bn",
    Plan(convolutions=(2, 2, 2, 2, 2), norm=True),
    about="VGG-13 with batch normalisation: 133.1 M parameters.",
)
vgg16 = _variant(
    "vgg16",
    Plan(convolutions=(2, 2, 3, 3, 3)),
    about="VGG-16 (Simonyan, Zisserman 2014, table 1, D): 138.4 M parameters.",
)
vgg16_bn = _variant(
    "vgg16_bn",
    Plan(convolutions=(2, 2, 3, 3, 3), norm=True),
    about="VGG-16 with batch normalisation: 138.4 M parameters.",
)
vgg19 = _variant(
    "vgg19",
    Plan(convolutions=(2, 2, 4, 4, 4)),
    about="VGG-19 (Simonyan, Zisserman 2014, table 1, E): 143.7 M parameters.",
)
vgg19_bn = _variant(
    "vgg19_bn",
    Plan(convolutions=(2, 2, 4, 4, 4), norm=True),
    about="VGG-19 with batch normalisation: 143.7 M parameters.",
)
