"""Res2Net: residual networks whose 3×3 convolutions see one another's outputs.

Gao, Cheng, Zhao, Zhang, Yang, Torr, "Res2Net: A New Multi-scale Backbone Architecture", 2019,
https://arxiv.org/abs/1904.01169

Names, shapes and outputs are those of the authors' program and of timm's models, so weights go
both ways. Inside a block, the channels are split into as many parts as there are scales::

    x1 ── conv ────────────────────────── y1
    x2 ── + y1 ── conv ────────────────── y2        first block of a stage: no sums,
    x3 ── + y2 ── conv ────────────────── y3        and x4 goes through a mean of 3 × 3
    x4 ────────────────────────────────── y4

The networks are laid out as in ``resnet.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hubstate.values import frozen
from hubstate.zoo.blocks import conv_norm, he_fan_out, initialise
from hubstate.zoo.builders import Builder
from hubstate.zoo.layers import AvgPool2d, Identity, Linear, MaxPool2d, ReLU, Sequential
from hubstate.zoo.variants import photographs, variant

__all__ = [
    "Res2Net",
    "res2net50_14w_8s",
    "res2net50_26w_4s",
    "res2net50_26w_6s",
    "res2net50_26w_8s",
    "res2net50_48w_2s",
    "res2net101_26w_4s",
    "res2next50",
]

_EXPANSION = 4


@frozen
class Plan:
    """What tells one Res2Net from another."""

    blocks: tuple[int, int, int, int]
    """How many blocks each stage has."""
    part: int
    """Channels of each part in the first stage, for one group: w in the paper."""
    scales: int
    """How many parts: s in the paper."""
    groups: int = 1
    """Of the 3×3 convolutions."""


class Block(nn.Module):
    """1×1 to reduce, 3×3 on each part after the other, 1×1 to expand (figure 2, b)."""

    def __init__(self, inputs: int, width: int, *, plan: Plan, stride: int, first: bool) -> None:
        super().__init__()
        part = width * plan.part // 64 * plan.groups
        outputs = width * _EXPANSION
        convolved = range(plan.scales - 1)
        self.first = first
        self.conv1, self.bn1 = conv_norm(inputs, part * plan.scales, 1, activation=None)
        layers = [
            conv_norm(part, part, 3, stride=stride, groups=plan.groups, activation=None)
            for _ in convolved
        ]
        self.convs = nn.ModuleList(conv for conv, _ in layers)
        self.bns = nn.ModuleList(norm for _, norm in layers)
        self.pool = AvgPool2d(3, stride, padding=1) if first else Identity()
        self.conv3, self.bn3 = conv_norm(part * plan.scales, outputs, 1, activation=None)
        self.relu = ReLU(inplace=True)
        self.downsample = (
            conv_norm(inputs, outputs, 1, stride=stride, activation=None) if first else None
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = self.relu(self.bn1(self.conv1(x))).chunk(len(self.convs) + 1, dim=1)
        branch: Tensor = self.bn3(self.conv3(torch.cat(self._scales(parts), 1)))
        shortcut = x if self.downsample is None else self.downsample(x)
        outputs: Tensor = self.relu(branch + shortcut)
        return outputs

    def _scales(self, parts: tuple[Tensor, ...]) -> list[Tensor]:
        done: list[Tensor] = []
        for part, conv, norm in zip(parts, self.convs, self.bns, strict=False):
            alone = self.first or not done
            done.append(self.relu(norm(conv(part if alone else part + done[-1]))))
        return [*done, self.pool(parts[-1])]


class Res2Net(nn.Module):
    """A Res2Net; ``fc`` has an output for each class.

    Args:
        plan: depth, scales and widths.
        num_classes: outputs.
        in_chans: channels of the images.
    """

    def __init__(self, plan: Plan, *, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm(in_chans, 64, 7, stride=2, activation=None)
        self.relu = ReLU(inplace=True)
        self.maxpool = MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(plan, 0, inputs=64)
        self.layer2 = _stage(plan, 1, inputs=64 * _EXPANSION)
        self.layer3 = _stage(plan, 2, inputs=128 * _EXPANSION)
        self.layer4 = _stage(plan, 3, inputs=256 * _EXPANSION)
        self.fc = Linear(512 * _EXPANSION, num_classes)
        initialise(self, conv=he_fan_out)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps: (N, channels, height, width)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, H, W)."""
        logits: Tensor = self.fc(self.forward_features(x).mean((2, 3)))
        return logits


def _stage(plan: Plan, index: int, *, inputs: int) -> nn.Sequential:
    width = 64 * 2**index
    stage = Sequential(Block(inputs, width, plan=plan, stride=2 if index else 1, first=True))
    for _ in range(1, plan.blocks[index]):
        stage.append(Block(width * _EXPANSION, width, plan=plan, stride=1, first=False))
    return stage


def _variant(name: str, plan: Plan, *, about: str) -> Builder[Res2Net]:
    return variant(Res2Net, plan, name=name, about=about, preprocessing=photographs())


res2net50_26w_4s = _variant(
    "res2net50_26w_4s",
    Plan(blocks=(3, 4, 6, 3), part=26, scales=4),
    about="Res2Net-50, 26w × 4s (Gao et al. 2019, table 3): 25.7 M parameters.",
)
res2net50_26w_6s = _variant(
    "res2net50_26w_6s",
    Plan(blocks=(3, 4, 6, 3), part=26, scales=6),
    about="Res2Net-50, 26w × 6s (Gao et al. 2019, table 3): 37.1 M parameters.",
)
res2net50_26w_8s = _variant(
    "res2net50_26w_8s",
    Plan(blocks=(3, 4, 6, 3), part=26, scales=8),
    about="Res2Net-50, 26w × 8s (Gao et al. 2019, table 3): 48.4 M parameters.",
)
res2net50_48w_2s = _variant(
    "res2net50_48w_2s",
    Plan(blocks=(3, 4, 6, 3), part=48, scales=2),
    about="Res2Net-50, 48w × 2s (Gao et al. 2019, table 3): 25.3 M parameters.",
)
res2net50_14w_8s = _variant(
    "res2net50_14w_8s",
    Plan(blocks=(3, 4, 6, 3), part=14, scales=8),
    about="Res2Net-50, 14w × 8s (Gao et al. 2019, table 3): 25.1 M parameters.",
)
res2net101_26w_4s = _variant(
    "res2net101_26w_4s",
    Plan(blocks=(3, 4, 23, 3), part=26, scales=4),
    about="Res2Net-101, 26w × 4s (Gao et al. 2019): 45.2 M parameters.",
)
res2next50 = _variant(
    "res2next50",
    Plan(blocks=(3, 4, 6, 3), part=4, scales=4, groups=8),
    about="Res2NeXt-50, 4w × 4s × 8c (Gao et al. 2019): 24.7 M parameters.",
)
