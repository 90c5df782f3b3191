"""MobileNet, the first: depthwise separable convolutions throughout.

Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto, Adam, "MobileNets: Efficient Convolutional
Neural Networks for Mobile Vision Applications", 2017, https://arxiv.org/abs/1704.04861

Names, shapes and outputs are those of timm's ``mobilenetv1_100``, so weights go both ways; as
there, and in the authors' program, the activation is ReLU6::

    images (N, in_chans, H, W)
    ├── conv_stem, bn1     3×3 of stride 2            H/2 × W/2
    ├── blocks.0 … 4       separable convolutions     H/32 × W/32
    └── classifier         after the mean over all positions: (N, num_classes)
"""

from __future__ import annotations

from torch import Tensor, nn

from hubstate.zoo.blocks import conv_norm, divisible, he_fan_out, initialise
from hubstate.zoo.builders import register_model
from hubstate.zoo.features import featured
from hubstate.zoo.layers import Dropout, Linear, ReLU6, Sequential
from hubstate.zoo.variants import photographs

__all__ = ["MobileNetV1", "mobilenet_v1"]

# Table 1: channels, and how many separable convolutions; all but the first begin with stride 2.
_STAGES = ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2))


class Separable(nn.Module):
    """3×3 on each channel alone and 1×1, each with its normalisation (figure 3, right)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv_dw, self.bn1 = conv_norm(
            inputs, inputs, 3, stride=stride, groups=inputs, activation=None
        )
        self.conv_pw, self.bn2 = conv_norm(inputs, outputs, 1, activation=None)
        self.relu = ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv_dw(x)))
        outputs: Tensor = self.relu(self.bn2(self.conv_pw(x)))
        return outputs


class MobileNetV1(nn.Module):
    """MobileNet; ``classifier`` has an output for each class.

    Args:
        num_classes: outputs.
        in_chans: channels of the images.
        width: factor of all channels: α in the paper.
        dropout: how much of the input of the classifier is dropped in training.
    """

    def __init__(self, *, num_classes: int, in_chans: int, width: float, dropout: float) -> None:
        super().__init__()
        widths = [divisible(channels * width) for channels in (32, *(s[0] for s in _STAGES))]
        self.conv_stem, self.bn1 = conv_norm(in_chans, widths[0], 3, stride=2, activation=None)
        self.relu = ReLU6(inplace=True)
        self.blocks = Sequential(
            *(_stage(i, widths[i], widths[i + 1]) for i in range(len(_STAGES)))
        )
        self.dropout = Dropout(dropout)
        self.classifier = Linear(widths[-1], num_classes)
        initialise(self, conv=he_fan_out)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps: (N, channels, height, width)."""
        features: Tensor = self.blocks(self.relu(self.bn1(self.conv_stem(x))))
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, H, W)."""
        pooled = self.dropout(self.forward_features(x).mean((2, 3)))
        logits: Tensor = self.classifier(pooled)
        return logits


def _stage(index: int, inputs: int, outputs: int) -> nn.Sequential:
    stage = Sequential(Separable(inputs, outputs, stride=2 if index else 1))
    for _ in range(1, _STAGES[index][1]):
        stage.append(Separable(outputs, outputs, stride=1))
    return stage


_HALF = (0.5, 0.5, 0.5)


@register_model(preprocessing=photographs(interpolation="bicubic", mean=_HALF, std=_HALF))
@featured("mobilenet_v1")
def mobilenet_v1(
    *, num_classes: int = 1000, in_chans: int = 3, width: float = 1.0, dropout: float = 0.0
) -> MobileNetV1:
    """MobileNet (Howard et al. 2017, table 1): 4.2 M parameters."""
    return MobileNetV1(num_classes=num_classes, in_chans=in_chans, width=width, dropout=dropout)
