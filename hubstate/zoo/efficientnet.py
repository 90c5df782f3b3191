"""EfficientNet: depth, width and resolution grow together.

Tan, Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019,
https://arxiv.org/abs/1905.11946; the second version is in ``efficientnetv2.py``.

Names, shapes and outputs are those of torchvision's models, so weights go both ways::

    images (N, in_chans, H, W)
    ├── features.0         3×3 of stride 2                               H/2 × W/2
    ├── features.1 …       inverted residuals, a stage of the table each
    ├── features.-1        1×1                                           H/32 × W/32
    └── classifier         after the mean over all positions: (N, num_classes)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial

from torch import Tensor, nn

from hubstate.strictjson import Json
from hubstate.values import frozen, replace
from hubstate.zoo.blocks import (
    DropBranch,
    Make,
    SqueezeExcitation,
    conv_norm,
    divisible,
    he_fan_out,
    initialise,
)
from hubstate.zoo.builders import Builder
from hubstate.zoo.layers import BatchNorm2d, Dropout, Linear, Sequential, SiLU
from hubstate.zoo.variants import photographs, variant

__all__ = [
    "EfficientNet",
    "Plan",
    "Stage",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
]

_silu: Make = partial(SiLU, inplace=True)


@frozen
class Stage:
    """A row of the tables: blocks of one kind, the first of which has the stride."""

    expansion: int
    """How much wider the blocks are inside."""
    size: int
    """Of the kernel."""
    stride: int
    outputs: int
    """Channels."""
    blocks: int
    fused: bool = False
    """As in the second version: one k×k convolution instead of 1×1 and depthwise k×k, and no
    squeeze and excitation."""

    @classmethod
    def rows(cls, *rows: tuple[int, int, int, int, int], fused: bool = False) -> tuple[Stage, ...]:
        """Stages of a table: expansion, kernel size, stride, channels, blocks."""
        return tuple(
            cls(expansion=e, size=k, stride=s, outputs=c, blocks=n, fused=fused)
            for e, k, s, c, n in rows
        )


@frozen
class Plan:
    """What tells one EfficientNet from another."""

    stages: tuple[Stage, ...]
    stem: int = 32
    """Channels of the first convolution."""
    outputs: int
    """Channels of the last convolution."""
    dropout: float
    """How much of the input of the classifier is dropped in training."""
    eps: float = 1e-5
    """Of batch normalisation."""
    momentum: float = 0.1
    """Of batch normalisation."""


class InvertedResidual(nn.Module):
    """Expand, a depthwise convolution, squeeze and excitation, reduce; or the fused kind."""

    def __init__(self, inputs: int, stage: Stage, *, stride: int, plan: Plan, drop: float) -> None:
        super().__init__()
        layers = _fused if stage.fused else _separable
        self.block = Sequential(*layers(inputs, stage, stride=stride, plan=plan))
        self.drop = DropBranch(drop)
        self.shortcut = stride == 1 and inputs == stage.outputs

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.block(x)
        return x + self.drop(branch) if self.shortcut else branch


class EfficientNet(nn.Module):
    """An EfficientNet; ``classifier.1`` has an output for each class.

    Args:
        plan: the stages.
        num_classes: outputs.
        in_chans: channels of the images.
        drop_branch: how often the last residual branch is left out in training; the ones before
            it less often, in proportion.
    """

    def __init__(
        self, plan: Plan, *, num_classes: int = 1000, in_chans: int = 3, drop_branch: float = 0.2
    ) -> None:
        super().__init__()
        self.features = Sequential(*_features(plan, in_chans, drop_branch=drop_branch))
        self.classifier = Sequential(
            Dropout(plan.dropout, inplace=True), Linear(plan.outputs, num_classes)
        )
        initialise(self, conv=he_fan_out, linear=_uniform)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps: (N, channels, height, width)."""
        features: Tensor = self.features(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, H, W)."""
        logits: Tensor = self.classifier(self.forward_features(x).mean((2, 3)))
        return logits


def _layer(
    plan: Plan,
    inputs: int,
    outputs: int,
    *,
    size: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: Make | None = _silu,
) -> nn.Sequential:
    norm = partial(BatchNorm2d, eps=plan.eps, momentum=plan.momentum)
    return conv_norm(
        inputs, outputs, size, stride=stride, groups=groups, norm=norm, activation=activation
    )


def _separable(inputs: int, stage: Stage, *, stride: int, plan: Plan) -> Iterator[nn.Module]:
    inner = divisible(inputs * stage.expansion)
    if inner != inputs:
        yield _layer(plan, inputs, inner)
    yield _layer(plan, inner, inner, size=stage.size, stride=stride, groups=inner)
    yield SqueezeExcitation(inner, max(1, inputs // 4), activation=_silu)
    yield _layer(plan, inner, stage.outputs, activation=None)


def _fused(inputs: int, stage: Stage, *, stride: int, plan: Plan) -> Iterator[nn.Module]:
    inner = divisible(inputs * stage.expansion)
    if inner == inputs:
        yield _layer(plan, inputs, stage.outputs, size=stage.size, stride=stride)
        return
    yield _layer(plan, inputs, inner, size=stage.size, stride=stride)
    yield _layer(plan, inner, stage.outputs, activation=None)


def _features(plan: Plan, in_chans: int, *, drop_branch: float) -> Iterator[nn.Module]:
    yield _layer(plan, in_chans, plan.stem, size=3, stride=2)
    inputs, done, total = plan.stem, 0, sum(stage.blocks for stage in plan.stages)
    for stage in plan.stages:
        drops = [drop_branch * (done + index) / total for index in range(stage.blocks)]
        yield _stage(inputs, stage, plan=plan, drops=drops)
        inputs, done = stage.outputs, done + stage.blocks
    yield _layer(plan, inputs, plan.outputs)


def _stage(inputs: int, stage: Stage, *, plan: Plan, drops: Iterable[float]) -> nn.Sequential:
    blocks = Sequential()
    for drop in drops:
        stride = 1 if len(blocks) else stage.stride
        channels = stage.outputs if len(blocks) else inputs
        blocks.append(InvertedResidual(channels, stage, stride=stride, plan=plan, drop=drop))
    return blocks


def _uniform(weight: Tensor) -> Tensor:
    bound = 1 / math.sqrt(len(weight))
    return nn.init.uniform_(weight, -bound, bound)


# Table 1: expansion, kernel size, stride, channels, blocks.
_B0 = Stage.rows(
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


def _scaled(*, width: float, depth: float) -> tuple[Stage, ...]:
    """The stages of b0, wider and deeper (section 3.3)."""
    return tuple(
        replace(
            stage,
            outputs=divisible(stage.outputs * width),
            blocks=math.ceil(stage.blocks * depth),
        )
        for stage in _B0
    )


def _scaled_plan(*, width: float, depth: float, dropout: float) -> Plan:
    return Plan(
        stages=_scaled(width=width, depth=depth),
        stem=divisible(32 * width),
        outputs=4 * divisible(320 * width),
        dropout=dropout,
    )


def _as_tensorflow(plan: Plan) -> Plan:
    """With the batch normalisation of the weights that were trained in TensorFlow."""
    return replace(plan, eps=0.001, momentum=0.01)


def _variant(
    name: str, plan: Plan, *, about: str, preprocessing: dict[str, Json]
) -> Builder[EfficientNet]:
    return variant(EfficientNet, plan, name=name, about=about, preprocessing=preprocessing)


_bicubic = partial(photographs, interpolation="bicubic")

efficientnet_b0 = _variant(
    "efficientnet_b0",
    _scaled_plan(width=1.0, depth=1.0, dropout=0.2),
    about="EfficientNet-B0 (Tan, Le 2019, table 1): 5.3 M parameters.",
    preprocessing=_bicubic(224, resize=256),
)
efficientnet_b1 = _variant(
    "efficientnet_b1",
    _scaled_plan(width=1.0, depth=1.1, dropout=0.2),
    about="EfficientNet-B1 (Tan, Le 2019): 7.8 M parameters.",
    preprocessing=_bicubic(240, resize=256),
)
efficientnet_b2 = _variant(
    "efficientnet_b2",
    _scaled_plan(width=1.1, depth=1.2, dropout=0.3),
    about="EfficientNet-B2 (Tan, Le 2019): 9.1 M parameters.",
    preprocessing=_bicubic(288, resize=288),
)
efficientnet_b3 = _variant(
    "efficientnet_b3",
    _scaled_plan(width=1.2, depth=1.4, dropout=0.3),
    about="EfficientNet-B3 (Tan, Le 2019): 12.2 M parameters.",
    preprocessing=_bicubic(300, resize=320),
)
efficientnet_b4 = _variant(
    "efficientnet_b4",
    _scaled_plan(width=1.4, depth=1.8, dropout=0.4),
    about="EfficientNet-B4 (Tan, Le 2019): 19.3 M parameters.",
    preprocessing=_bicubic(380, resize=384),
)
efficientnet_b5 = _variant(
    "efficientnet_b5",
    _as_tensorflow(_scaled_plan(width=1.6, depth=2.2, dropout=0.4)),
    about="EfficientNet-B5 (Tan, Le 2019): 30.4 M parameters.",
    preprocessing=_bicubic(456, resize=456),
)
efficientnet_b6 = _variant(
    "efficientnet_b6",
    _as_tensorflow(_scaled_plan(width=1.8, depth=2.6, dropout=0.5)),
    about="EfficientNet-B6 (Tan, Le 2019): 43.0 M parameters.",
    preprocessing=_bicubic(528, resize=528),
)
efficientnet_b7 = _variant(
    "efficientnet_b7",
    _as_tensorflow(_scaled_plan(width=2.0, depth=3.1, dropout=0.5)),
    about="EfficientNet-B7 (Tan, Le 2019): 66.3 M parameters.",
    preprocessing=_bicubic(600, resize=600),
)
