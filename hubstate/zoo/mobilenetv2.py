"""MobileNet v2: residual blocks that are thin outside and wide inside.

Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
2018, https://arxiv.org/abs/1801.04381

Names, shapes and outputs are those of torchvision's model, so weights go both ways::

    images (N, in_chans, H, W)
    ├── features.0         3×3 of stride 2                        H/2 × W/2
    ├── features.1 … 17    inverted residuals
    ├── features.18        1×1 to at least 1280 channels          H/32 × W/32
    └── classifier         after the mean over all positions: (N, num_classes)
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from hubstate.zoo.blocks import (
    conv_norm,
    conv_norm_layers,
    divisible,
    he_fan_out,
    initialise,
    normal,
    relu6,
)
from hubstate.zoo.builders import register_model
from hubstate.zoo.features import featured
from hubstate.zoo.layers import Dropout, Linear, Sequential
from hubstate.zoo.variants import photographs

__all__ = ["MobileNetV2", "mobilenet_v2"]

# Table 2: how much wider inside, channels, blocks, and the stride of the first of them.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """1×1 to expand, 3×3 on each channel alone, 1×1 to reduce; no activation after the last."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.conv = Sequential(
            *([conv_norm(inputs, inner, 1, activation=relu6)] if expansion > 1 else []),
            conv_norm(inner, inner, 3, stride=stride, groups=inner, activation=relu6),
            *conv_norm_layers(inner, outputs, 1, activation=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.conv(x)
        return x + branch if self.shortcut else branch


class MobileNetV2(nn.Module):
    """MobileNet v2; ``classifier.1`` has an output for each class.

    Args:
        num_classes: outputs.
        in_chans: channels of the images.
        width: factor of all channels; what comes before the classifier has never fewer than 1280.
        dropout: how much of the input of the classifier is dropped in training.
    """

    def __init__(self, *, num_classes: int, in_chans: int, width: float, dropout: float) -> None:
        super().__init__()
        outputs = divisible(1280 * max(1.0, width))
        self.features = Sequential(*_features(in_chans, outputs, width=width))
        self.classifier = Sequential(Dropout(dropout), Linear(outputs, num_classes))
        initialise(self, conv=he_fan_out, linear=normal(0.01))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps: (N, channels, height, width)."""
        features: Tensor = self.features(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, H, W)."""
        logits: Tensor = self.classifier(self.forward_features(x).mean((2, 3)))
        return logits


def _features(in_chans: int, outputs: int, *, width: float) -> Iterator[nn.Module]:
    channels = divisible(32 * width)
    yield conv_norm(in_chans, channels, 3, stride=2, activation=relu6)
    for expansion, stage_width, blocks, first_stride in _STAGES:
        wanted = divisible(stage_width * width)
        for index in range(blocks):
            stride = 1 if index else first_stride
            yield InvertedResidual(channels, wanted, expansion=expansion, stride=stride)
            channels = wanted
    yield conv_norm(channels, outputs, 1, activation=relu6)


@register_model(preprocessing=photographs())
@featured("mobilenet_v2")
def mobilenet_v2(
    *, num_classes: int = 1000, in_chans: int = 3, width: float = 1.0, dropout: float = 0.2
) -> MobileNetV2:
    """MobileNet v2 (Sandler et al. 2018, table 2): 3.5 M parameters."""
    return MobileNetV2(num_classes=num_classes, in_chans=in_chans, width=width, dropout=dropout)
