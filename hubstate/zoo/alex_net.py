"""AlexNet, as its author made it for one graphics card.

Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014,
https://arxiv.org/abs/1404.5997; the network of Krizhevsky, Sutskever, Hinton, "ImageNet
Classification with Deep Convolutional Neural Networks", 2012, without its two halves.

Names, shapes and outputs are those of torchvision's model, so weights go both ways. There is no
response normalisation, and the images may have any size from 63 pixels on::

    images (N, in_chans, H, W)
    ├── features     five convolutions, three pools    (N, 256, H/32, W/32)
    ├── avgpool      means of 6 × 6 fields             (N, 256, 6, 6)
    └── classifier   three linear layers               (N, num_classes)
"""

from __future__ import annotations

from torch import Tensor, nn

from hubstate.zoo.builders import register_model
from hubstate.zoo.layers import (
    AdaptiveAvgPool2d,
    Conv2d,
    Dropout,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)
from hubstate.zoo.variants import photographs

__all__ = ["AlexNet", "alexnet"]


class AlexNet(nn.Module):
    """AlexNet; ``classifier`` ends in the layer that has an output for each class.

    Args:
        num_classes: outputs.
        in_chans: channels of the images.
        dropout: how much of the input of both hidden layers is dropped in training.
    """

    def __init__(self, *, num_classes: int, in_chans: int, dropout: float) -> None:
        super().__init__()
        self.features = Sequential(
            *_convolution(in_chans, 64, 11, stride=4, padding=2),
            MaxPool2d(3, stride=2),
            *_convolution(64, 192, 5, padding=2),
            MaxPool2d(3, stride=2),
            *_convolution(192, 384, 3, padding=1),
            *_convolution(384, 256, 3, padding=1),
            *_convolution(256, 256, 3, padding=1),
            MaxPool2d(3, stride=2),
        )
        self.avgpool = AdaptiveAvgPool2d(6)
        self.classifier = Sequential(
            Dropout(dropout),
            Linear(256 * 6 * 6, 4096),
            ReLU(inplace=True),
            Dropout(dropout),
            Linear(4096, 4096),
            ReLU(inplace=True),
            Linear(4096, num_classes),
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps: (N, 256, height, width)."""
        features: Tensor = self.features(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, H, W)."""
        pooled: Tensor = self.avgpool(self.forward_features(x))
        logits: Tensor = self.classifier(pooled.flatten(1))
        return logits


def _convolution(
    inputs: int, outputs: int, size: int, *, padding: int, stride: int = 1
) -> tuple[nn.Module, nn.Module]:
    return Conv2d(inputs, outputs, size, stride, padding), ReLU(inplace=True)


@register_model(preprocessing=photographs())
def alexnet(*, num_classes: int = 1000, in_chans: int = 3, dropout: float = 0.5) -> AlexNet:
    """AlexNet (Krizhevsky 2014): 61.1 M parameters."""
    return AlexNet(num_classes=num_classes, in_chans=in_chans, dropout=dropout)
