"""Xception: Inception taken to its end, in depthwise separable convolutions.

Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", 2016,
https://arxiv.org/abs/1610.02357

Names, shapes and outputs are those of timm's ``legacy_xception``, so weights go both ways::

    images (N, in_chans, H, W)
    ├── conv1, conv2           stem                        H/2 × W/2
    ├── block1 … block3        entry flow                  H/16 × W/16
    ├── block4 … block11       middle flow, same size
    ├── block12, conv3, conv4  exit flow                   H/32 × W/32
    └── fc                     after the mean over all positions: (N, num_classes)
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor, nn

from hubstate.zoo.blocks import he_fan_out, initialise
from hubstate.zoo.builders import register_model
from hubstate.zoo.layers import BatchNorm2d, Conv2d, Dropout, Linear, MaxPool2d, ReLU, Sequential
from hubstate.zoo.variants import photographs

__all__ = ["Xception", "xception"]


class Separable(nn.Module):
    """3×3 on each channel alone, then 1×1, with nothing between them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        self.pointwise = Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.pointwise(self.conv1(x))
        return outputs


class Block(nn.Module):
    """Separable convolutions beside a shortcut (figure 5).

    Args:
        widths: channels before the first convolution and after each.
        halved: whether a pool halves the size.
        activated: whether ReLU comes before the first convolution.
    """

    def __init__(self, *widths: int, halved: bool = True, activated: bool = True) -> None:
        super().__init__()
        first, last = widths[0], widths[-1]
        self.skip = Conv2d(first, last, 1, stride=2, bias=False) if halved else None
        self.skipbn = BatchNorm2d(last) if halved else None
        self.rep = Sequential(*_layers(widths, halved=halved, activated=activated))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.skip is not None and self.skipbn is not None:
            shortcut = self.skipbn(self.skip(x))
        outputs: Tensor = self.rep(x) + shortcut
        return outputs


class Xception(nn.Module):
    """Xception; ``fc`` has an output for each class.

    Args:
        num_classes: outputs.
        in_chans: channels of the images.
        dropout: how much of the input of ``fc`` is dropped in training.
    """

    def __init__(self, *, num_classes: int, in_chans: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = Conv2d(in_chans, 32, 3, stride=2, bias=False)
        self.bn1 = BatchNorm2d(32)
        self.conv2 = Conv2d(32, 64, 3, bias=False)
        self.bn2 = BatchNorm2d(64)
        self.relu = ReLU(inplace=True)
        self.block1 = Block(64, 128, 128, activated=False)
        self.block2 = Block(128, 256, 256)
        self.block3 = Block(256, 728, 728)
        for number in range(4, 12):
            self.add_module(f"block{number}", Block(728, 728, 728, 728, halved=False))
        self.block12 = Block(728, 728, 1024)
        self.conv3 = Separable(1024, 1536)
        self.bn3 = BatchNorm2d(1536)
        self.conv4 = Separable(1536, 2048)
        self.bn4 = BatchNorm2d(2048)
        self.dropout = Dropout(dropout)
        self.fc = Linear(2048, num_classes)
        initialise(self, conv=he_fan_out)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps: (N, 2048, height, width)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        for number in range(1, 13):
            x = self.get_submodule(f"block{number}")(x)
        x = self.relu(self.bn3(self.conv3(x)))
        features: Tensor = self.relu(self.bn4(self.conv4(x)))
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, H, W)."""
        logits: Tensor = self.fc(self.dropout(self.forward_features(x).mean((2, 3))))
        return logits


def _layers(widths: tuple[int, ...], *, halved: bool, activated: bool) -> Iterator[nn.Module]:
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        if index or activated:
            # The first must leave its input as it is: the shortcut needs it.
            yield ReLU(inplace=index > 0)
        yield Separable(inputs, outputs)
        yield BatchNorm2d(outputs)
    if halved:
        yield MaxPool2d(3, stride=2, padding=1)


_HALF = (0.5, 0.5, 0.5)


@register_model(
    preprocessing=photographs(299, resize=333, interpolation="bicubic", mean=_HALF, std=_HALF)
)
def xception(*, num_classes: int = 1000, in_chans: int = 3, dropout: float = 0.0) -> Xception:
    """Xception (Chollet 2016, figure 5): 22.9 M parameters."""
    return Xception(num_classes=num_classes, in_chans=in_chans, dropout=dropout)
