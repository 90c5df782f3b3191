"""Inception-ResNet v2: Inception branches, joined by a 1×1 convolution, beside shortcuts.

Szegedy, Ioffe, Vanhoucke, Alemi, "Inception-v4, Inception-ResNet and the Impact of Residual
Connections on Learning", 2016, https://arxiv.org/abs/1602.07261

Names, shapes and outputs are those of timm's model, so weights go both ways. They follow the
authors' program, whose stem is that of Inception v3, and whose 35 × 35 maps have 320 channels::

    images (N, in_chans, H, W), H and W at least 75
    ├── conv2d_1a … mixed_5b     stem                                  H/8 × W/8
    ├── repeat                   ten blocks (figure 16)
    ├── mixed_6a                 to half the size (figure 7)           H/16 × W/16
    ├── repeat_1                 twenty blocks (figure 17)
    ├── mixed_7a                 to half the size (figure 18)          H/32 × W/32
    ├── repeat_2, block8         ten blocks (figure 19)
    ├── conv2d_7b
    └── classif                  after the mean over all positions: (N, num_classes)
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from hubstate.zoo.blocks import Beside, Convolution
from hubstate.zoo.builders import register_model
from hubstate.zoo.layers import (
    AvgPool2d,
    Conv2d,
    Dropout,
    Identity,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)
from hubstate.zoo.variants import photographs

__all__ = ["InceptionResNetV2", "inception_resnet_v2"]

_narrow = partial(Convolution, padded=False)
_shrinking = partial(Convolution, size=3, stride=2, padded=False)
_chain = Sequential


class Residual(Beside):
    """Branches, joined to as many channels as came in, scaled and added (section 3.3).

    Args:
        branches: each takes the images.
        joined: channels of all branches together.
        width: channels of the images.
        scale: of what is added.
        activated: whether ReLU follows.
    """

    def __init__(
        self,
        *branches: nn.Module,
        joined: int,
        width: int,
        scale: float,
        activated: bool = True,
    ) -> None:
        super().__init__(*branches)
        self.conv2d = Conv2d(joined, width, 1)
        self.scale = scale
        self.relu = ReLU() if activated else Identity()

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.relu(x + self.scale * self.conv2d(super().forward(x)))
        return outputs


def _mixed_5b() -> Beside:
    pool = AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return Beside(
        Convolution(192, 96),
        _chain(Convolution(192, 48), Convolution(48, 64, 5)),
        _chain(Convolution(192, 64), Convolution(64, 96, 3), Convolution(96, 96, 3)),
        _chain(pool, Convolution(192, 64)),
    )


def _block_35() -> Residual:
    """Figure 16."""
    return Residual(
        Convolution(320, 32),
        _chain(Convolution(320, 32), Convolution(32, 32, 3)),
        _chain(Convolution(320, 32), Convolution(32, 48, 3), Convolution(48, 64, 3)),
        joined=128,
        width=320,
        scale=0.17,
    )


def _mixed_6a() -> Beside:
    """Figure 7, with the numbers of table 1."""
    return Beside(
        _shrinking(320, 384),
        _chain(Convolution(320, 256), Convolution(256, 256, 3), _shrinking(256, 384)),
        MaxPool2d(3, stride=2),
    )


def _block_17() -> Residual:
    """Figure 17."""
    return Residual(
        Convolution(1088, 192),
        _chain(
            Convolution(1088, 128), Convolution(128, 160, (1, 7)), Convolution(160, 192, (7, 1))
        ),
        joined=384,
        width=1088,
        scale=0.1,
    )


def _mixed_7a() -> Beside:
    """Figure 18."""
    return Beside(
        _chain(Convolution(1088, 256), _shrinking(256, 384)),
        _chain(Convolution(1088, 256), _shrinking(256, 288)),
        _chain(Convolution(1088, 256), Convolution(256, 288, 3), _shrinking(288, 320)),
        MaxPool2d(3, stride=2),
    )


def _block_8(*, scale: float = 0.2, activated: bool = True) -> Residual:
    """Figure 19."""
    return Residual(
        Convolution(2080, 192),
        _chain(
            Convolution(2080, 192), Convolution(192, 224, (1, 3)), Convolution(224, 256, (3, 1))
        ),
        joined=448,
        width=2080,
        scale=scale,
        activated=activated,
    )


class InceptionResNetV2(nn.Module):
    """Inception-ResNet v2; ``classif`` has an output for each class.

    Args:
        num_classes: outputs.
        in_chans: channels of the images.
        dropout: how much of the input of ``classif`` is dropped in training.
    """

    def __init__(self, *, num_classes: int, in_chans: int, dropout: float) -> None:
        super().__init__()
        self.conv2d_1a = _shrinking(in_chans, 32)
        self.conv2d_2a = _narrow(32, 32, 3)
        self.conv2d_2b = Convolution(32, 64, 3)
        self.maxpool_3a = MaxPool2d(3, stride=2)
        self.conv2d_3b = Convolution(64, 80)
        self.conv2d_4a = _narrow(80, 192, 3)
        self.maxpool_5a = MaxPool2d(3, stride=2)
        self.mixed_5b = _mixed_5b()
        self.repeat = Sequential(*(_block_35() for _ in range(10)))
        self.mixed_6a = _mixed_6a()
        self.repeat_1 = Sequential(*(_block_17() for _ in range(20)))
        self.mixed_7a = _mixed_7a()
        self.repeat_2 = Sequential(*(_block_8() for _ in range(9)))
        self.block8 = _block_8(scale=1.0, activated=False)
        self.conv2d_7b = Convolution(2080, 1536)
        self.dropout = Dropout(dropout)
        self.classif = Linear(1536, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps: (N, 1536, height, width)."""
        x = self.maxpool_3a(self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x))))
        x = self.maxpool_5a(self.conv2d_4a(self.conv2d_3b(x)))
        x = self.mixed_6a(self.repeat(self.mixed_5b(x)))
        x = self.mixed_7a(self.repeat_1(x))
        features: Tensor = self.conv2d_7b(self.block8(self.repeat_2(x)))
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, H, W)."""
        logits: Tensor = self.classif(self.dropout(self.forward_features(x).mean((2, 3))))
        return logits


_HALF = (0.5, 0.5, 0.5)


@register_model(
    preprocessing=photographs(299, resize=333, interpolation="bicubic", mean=_HALF, std=_HALF)
)
def inception_resnet_v2(
    *, num_classes: int = 1000, in_chans: int = 3, dropout: float = 0.2
) -> InceptionResNetV2:
    """Inception-ResNet v2 (Szegedy et al. 2016, figure 15): 55.8 M parameters."""
    return InceptionResNetV2(num_classes=num_classes, in_chans=in_chans, dropout=dropout)
