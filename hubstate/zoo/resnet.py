"""Residual networks: ResNet, Wide ResNet and ResNeXt.

- ResNet: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015,
  https://arxiv.org/abs/1512.03385
- Wide ResNet: Zagoruyko, Komodakis, "Wide Residual Networks", 2016,
  https://arxiv.org/abs/1605.07146
- ResNeXt: Xie, Girshick, Dollár, Tu, He, "Aggregated Residual Transformations for Deep Neural
  Networks", 2017, https://arxiv.org/abs/1611.05431
- Initial weights: He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", 2015,
  https://arxiv.org/abs/1502.01852, by fan-out; and, on request, residual branches that start at
  zero: Goyal et al., "Accurate, Large Minibatch SGD", 2017, https://arxiv.org/abs/1706.02677

Names, shapes and outputs are those of torchvision's models, so weights go both ways. One detail
is not in the paper: a bottleneck that halves the resolution does so in its 3×3 convolution.

A network is four stages of blocks over shrinking images::

    images (N, in_chans, H, W)
    ├── conv1, bn1, maxpool   stem        64 channels   H/4 × W/4   (small stem: H × W)
    ├── layer1                blocks[0]   ×1 width      same size
    ├── layer2                blocks[1]   ×2 width      half
    ├── layer3                blocks[2]   ×4 width      half
    ├── layer4                blocks[3]   ×8 width      half
    └── fc                    after the mean over all positions: (N, num_classes)
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from hubstate.values import frozen
from hubstate.zoo.blocks import he_fan_out, initialise
from hubstate.zoo.builders import register_model
from hubstate.zoo.features import featured
from hubstate.zoo.layers import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Identity,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)
from hubstate.zoo.variants import photographs, variant

__all__ = [
    "Plan",
    "ResNet",
    "resnet18",
    "resnet18_small",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]

Stem = Literal["large", "small"]


@frozen
class Plan:
    """What tells one residual network from another."""

    block: type[BasicBlock] | type[Bottleneck]
    blocks: tuple[int, int, int, int]
    """How many blocks each stage has."""
    groups: int = 1
    """Groups of the 3×3 convolution in a bottleneck: ResNeXt's cardinality."""
    group_width: int = 64
    """Channels of each group in the first stage, for a network of width 64."""
    width: int = 64
    """Channels of the stem."""
    stem: Stem = "large"
    """``large``: 7×7 of stride 2 and a pool, for photographs; ``small``: 3×3 of stride 1."""


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut (He et al. 2015, figure 5, left)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, *, plan: Plan, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, width, 3, stride=stride)
        self.bn1 = BatchNorm2d(width)
        self.relu = ReLU(inplace=True)
        self.conv2 = _convolution(width, width, 3)
        self.bn2 = BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        shortcut = x if self.downsample is None else self.downsample(x)
        outputs: Tensor = self.relu(branch + shortcut)
        return outputs

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2


class Bottleneck(nn.Module):
    """1×1 to reduce, 3×3, 1×1 to expand, beside a shortcut (figure 5, right)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, *, plan: Plan, stride: int) -> None:
        super().__init__()
        inner = width * plan.group_width // 64 * plan.groups
        outputs = width * self.expansion
        self.conv1 = _convolution(inputs, inner, 1)
        self.bn1 = BatchNorm2d(inner)
        self.conv2 = _convolution(inner, inner, 3, stride=stride, groups=plan.groups)
        self.bn2 = BatchNorm2d(inner)
        self.conv3 = _convolution(inner, outputs, 1)
        self.bn3 = BatchNorm2d(outputs)
        self.relu = ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.relu(self.bn1(self.conv1(x)))
        branch = self.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        shortcut = x if self.downsample is None else self.downsample(x)
        outputs: Tensor = self.relu(branch + shortcut)
        return outputs

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3


class ResNet(nn.Module):
    """A residual network; ``fc`` is the classifier and everything else the backbone.

    Args:
        plan: depth, width, block and stem.
        num_classes: outputs of ``fc``.
        in_chans: channels of the images, 3 for RGB and 1 for grey.
        zero_init_residual: start every block as the identity.

    >>> import torch
    >>> plan = Plan(block=BasicBlock, blocks=(1, 1, 1, 1), width=8, stem="small")
    >>> model = ResNet(plan, num_classes=10, in_chans=1).eval()
    >>> images = torch.zeros(2, 1, 8, 8)
    >>> model.forward_features(images).shape, model(images).shape
    (torch.Size([2, 64, 1, 1]), torch.Size([2, 10]))
    """

    def __init__(
        self,
        plan: Plan,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        width, expansion = plan.width, plan.block.expansion
        large = plan.stem == "large"
        self.conv1 = _convolution(in_chans, width, 7 if large else 3, stride=2 if large else 1)
        self.bn1 = BatchNorm2d(width)
        self.relu = ReLU(inplace=True)
        self.maxpool = MaxPool2d(3, stride=2, padding=1) if large else Identity()
        self.layer1 = _stage(plan, 0, inputs=width)
        self.layer2 = _stage(plan, 1, inputs=width * expansion)
        self.layer3 = _stage(plan, 2, inputs=width * expansion * 2)
        self.layer4 = _stage(plan, 3, inputs=width * expansion * 4)
        self.avgpool = AdaptiveAvgPool2d(1)
        self.fc = Linear(width * expansion * 8, num_classes)
        initialise(self, conv=he_fan_out)
        if zero_init_residual:
            _start_as_identity(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps: (N, channels, height, width)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, H, W)."""
        pooled: Tensor = self.avgpool(self.forward_features(x))
        logits: Tensor = self.fc(pooled.flatten(1))
        return logits


def _convolution(
    inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    # Padding keeps the size, and batch normalisation brings the bias.
    return Conv2d(
        inputs, outputs, size, stride=stride, padding=size // 2, groups=groups, bias=False
    )


def _shortcut(inputs: int, outputs: int, *, stride: int) -> nn.Sequential | None:
    """A projection where the shape changes (option B of He et al. 2015), else nothing."""
    if stride == 1 and inputs == outputs:
        return None
    return Sequential(_convolution(inputs, outputs, 1, stride=stride), BatchNorm2d(outputs))


def _stage(plan: Plan, index: int, *, inputs: int) -> nn.Sequential:
    """The blocks of one stage; the first of them halves the image, save in the first stage."""
    width = plan.width * 2**index
    blocks = [plan.block(inputs, width, plan=plan, stride=2 if index else 1)]
    for _ in range(1, plan.blocks[index]):
        blocks.append(plan.block(width * plan.block.expansion, width, plan=plan, stride=1))
    return Sequential(*blocks)


def _start_as_identity(model: ResNet) -> None:
    for module in model.modules():
        if isinstance(module, BasicBlock | Bottleneck):
            nn.init.zeros_(module.last_norm.weight)


resnet18 = variant(
    ResNet,
    Plan(block=BasicBlock, blocks=(2, 2, 2, 2)),
    name="resnet18",
    about="ResNet-18 (He et al. 2015, table 1): 11.7 M parameters.",
    preprocessing=photographs(),
)
resnet34 = variant(
    ResNet,
    Plan(block=BasicBlock, blocks=(3, 4, 6, 3)),
    name="resnet34",
    about="ResNet-34 (He et al. 2015, table 1): 21.8 M parameters.",
    preprocessing=photographs(),
)
resnet50 = variant(
    ResNet,
    Plan(block=Bottleneck, blocks=(3, 4, 6, 3)),
    name="resnet50",
    about="ResNet-50 (He et al. 2015, table 1): 25.6 M parameters.",
    preprocessing=photographs(),
)
resnet101 = variant(
    ResNet,
    Plan(block=Bottleneck, blocks=(3, 4, 23, 3)),
    name="resnet101",
    about="ResNet-101 (He et al. 2015, table 1): 44.5 M parameters.",
    preprocessing=photographs(),
)
resnet152 = variant(
    ResNet,
    Plan(block=Bottleneck, blocks=(3, 8, 36, 3)),
    name="resnet152",
    about="ResNet-152 (He et al. 2015, table 1): 60.2 M parameters.",
    preprocessing=photographs(),
)
wide_resnet50_2 = variant(
    ResNet,
    Plan(block=Bottleneck, blocks=(3, 4, 6, 3), group_width=128),
    name="wide_resnet50_2",
    about="ResNet-50, twice as wide inside (Zagoruyko, Komodakis 2016): 68.9 M parameters.",
    preprocessing=photographs(),
)
wide_resnet101_2 = variant(
    ResNet,
    Plan(block=Bottleneck, blocks=(3, 4, 23, 3), group_width=128),
    name="wide_resnet101_2",
    about="ResNet-101, twice as wide inside (Zagoruyko, Komodakis 2016): 126.9 M.",
    preprocessing=photographs(),
)
resnext50_32x4d = variant(
    ResNet,
    Plan(block=Bottleneck, blocks=(3, 4, 6, 3), groups=32, group_width=4),
    name="resnext50_32x4d",
    about="ResNeXt-50, 32 groups of 4 channels (Xie et al. 2017): 25.0 M parameters.",
    preprocessing=photographs(),
)
resnext101_32x8d = variant(
    ResNet,
    Plan(block=Bottleneck, blocks=(3, 4, 23, 3), groups=32, group_width=8),
    name="resnext101_32x8d",
    about="ResNeXt-101, 32 groups of 8 channels (Xie et al. 2017): 88.8 M parameters.",
    preprocessing=photographs(),
)
resnext101_64x4d = variant(
    ResNet,
    Plan(block=Bottleneck, blocks=(3, 4, 23, 3), groups=64, group_width=4),
    name="resnext101_64x4d",
    about="ResNeXt-101, 64 groups of 4 channels (Xie et al. 2017): 83.5 M parameters.",
    preprocessing=photographs(resize=232),
)


@register_model
@featured("resnet18_small")
def resnet18_small(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    width: int = 16,
    zero_init_residual: bool = False,
) -> ResNet:
    """ResNet-18 with a stem for images of 8 to 64 pixels, of any width.

    The stem keeps the resolution (He et al. 2015, section 4.2), so that a digit of 8 × 8 pixels
    still has one position left in the last stage. It states nothing of its images, as their size
    is the caller's: ``preprocess("resnet18_small", input_size=(3, 32, 32))``.
    """
    plan = Plan(block=BasicBlock, blocks=(2, 2, 2, 2), width=width, stem="small")
    return ResNet(
        plan,
        num_classes=num_classes,
        in_chans=in_chans,
        zero_init_residual=zero_init_residual,
    )
