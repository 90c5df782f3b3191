"""SE-ResNet and SE-ResNeXt: residual networks with squeeze and excitation in every branch.

Hu, Shen, Albanie, Sun, Wu, "Squeeze-and-Excitation Networks", 2017,
https://arxiv.org/abs/1709.01507

Names, shapes and outputs are those of timm's models, so weights go both ways. They are the names
of ``resnet.py``, and ``se.fc1`` and ``se.fc2`` in each block.
"""

from __future__ import annotations

from torch import Tensor

from hubstate.zoo.blocks import SqueezeExcitation, divisible
from hubstate.zoo.builders import Builder
from hubstate.zoo.resnet import BasicBlock, Bottleneck, Plan, ResNet
from hubstate.zoo.variants import photographs, variant

__all__ = [
    "seresnet18",
    "seresnet34",
    "seresnet50",
    "seresnet101",
    "seresnet152",
    "seresnext50_32x4d",
    "seresnext101_32x4d",
    "seresnext101_32x8d",
    "seresnext101_64x4d",
]


class ExcitedBasicBlock(BasicBlock):
    """Two 3×3 convolutions, squeeze and excitation, and a shortcut (figure 3)."""

    def __init__(self, inputs: int, width: int, *, plan: Plan, stride: int) -> None:
        super().__init__(inputs, width, plan=plan, stride=stride)
        self.se = _excitation(width)

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.relu(self.bn1(self.conv1(x)))
        branch = self.se(self.bn2(self.conv2(branch)))
        shortcut = x if self.downsample is None else self.downsample(x)
        outputs: Tensor = self.relu(branch + shortcut)
        return outputs


class ExcitedBottleneck(Bottleneck):
    """A bottleneck, squeeze and excitation, and a shortcut (figure 3)."""

    def __init__(self, inputs: int, width: int, *, plan: Plan, stride: int) -> None:
        super().__init__(inputs, width, plan=plan, stride=stride)
        self.se = _excitation(width * self.expansion)

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.relu(self.bn1(self.conv1(x)))
        branch = self.relu(self.bn2(self.conv2(branch)))
        branch = self.se(self.bn3(self.conv3(branch)))
        shortcut = x if self.downsample is None else self.downsample(x)
        outputs: Tensor = self.relu(branch + shortcut)
        return outputs


def _excitation(channels: int) -> SqueezeExcitation:
    return SqueezeExcitation(channels, divisible(channels / 16))


def _resnet(
    plan: Plan, *, num_classes: int = 1000, in_chans: int = 3, zero_init_residual: bool = False
) -> ResNet:
    return ResNet(
        plan, num_classes=num_classes, in_chans=in_chans, zero_init_residual=zero_init_residual
    )


def _variant(name: str, plan: Plan, *, about: str) -> Builder[ResNet]:
    preprocessing = photographs(interpolation="bicubic")
    return variant(_resnet, plan, name=name, about=about, preprocessing=preprocessing)


seresnet18 = _variant(
    "seresnet18",
    Plan(block=ExcitedBasicBlock, blocks=(2, 2, 2, 2)),
    about="SE-ResNet-18 (Hu et al. 2017): 11.8 M parameters.",
)
seresnet34 = _variant(
    "seresnet34",
    Plan(block=ExcitedBasicBlock, blocks=(3, 4, 6, 3)),
    about="SE-ResNet-34 (Hu et al. 2017): 22.0 M parameters.",
)
seresnet50 = _variant(
    "seresnet50",
    Plan(block=ExcitedBottleneck, blocks=(3, 4, 6, 3)),
    about="SE-ResNet-50 (Hu et al. 2017, table 1): 28.1 M parameters.",
)
seresnet101 = _variant(
    "seresnet101",
    Plan(block=ExcitedBottleneck, blocks=(3, 4, 23, 3)),
    about="SE-ResNet-101 (Hu et al. 2017): 49.3 M parameters.",
)
seresnet152 = _variant(
    "seresnet152",
    Plan(block=ExcitedBottleneck, blocks=(3, 8, 36, 3)),
    about="SE-ResNet-152 (Hu et al. 2017): 66.8 M parameters.",
)
seresnext50_32x4d = _variant(
    "seresnext50_32x4d",
    Plan(block=ExcitedBottleneck, blocks=(3, 4, 6, 3), groups=32, group_width=4),
    about="SE-ResNeXt-50, 32 groups of 4 channels (Hu et al. 2017, table 1): 27.6 M parameters.",
)
seresnext101_32x4d = _variant(
    "seresnext101_32x4d",
    Plan(block=ExcitedBottleneck, blocks=(3, 4, 23, 3), groups=32, group_width=4),
    about="SE-ResNeXt-101, 32 groups of 4 channels (Hu et al. 2017): 49.0 M parameters.",
)
seresnext101_32x8d = _variant(
    "seresnext101_32x8d",
    Plan(block=ExcitedBottleneck, blocks=(3, 4, 23, 3), groups=32, group_width=8),
    about="SE-ResNeXt-101, 32 groups of 8 channels (Hu et al. 2017): 93.6 M parameters.",
)
seresnext101_64x4d = _variant(
    "seresnext101_64x4d",
    Plan(block=ExcitedBottleneck, blocks=(3, 4, 23, 3), groups=64, group_width=4),
    about="SE-ResNeXt-101, 64 groups of 4 channels (Hu et al. 2017): 88.2 M parameters.",
)
