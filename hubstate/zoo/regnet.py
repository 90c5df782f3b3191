"""RegNet: networks whose widths are a straight line, rounded to a few steps.

Radosavovic, Kosaraju, Girshick, He, Dollár, "Designing Network Design Spaces", 2020,
https://arxiv.org/abs/2003.13678; RegNetY has squeeze and excitation, RegNetX has none.

Names, shapes and outputs are those of torchvision's models, so weights go both ways::

    images (N, in_chans, H, W)
    ├── stem                           3×3 of stride 2, 32 channels        H/2 × W/2
    ├── trunk_output.block1 … block4   bottlenecks, each stage half the size of the last
    │   └── block1-0 …                 {proj}, f.{a, b, se, c}             H/32 × W/32
    └── fc                             after the mean over all positions: (N, num_classes)
"""

from __future__ import annotations

import math
from itertools import groupby

from torch import Tensor, nn

from hubstate.strictjson import Json
from hubstate.values import frozen
from hubstate.zoo.blocks import SqueezeExcitation, conv_norm, he_fan_out, initialise, normal
from hubstate.zoo.builders import Builder
from hubstate.zoo.layers import Linear, ReLU, Sequential
from hubstate.zoo.variants import photographs, variant

__all__ = [
    "RegNet",
    "regnet_x_1_6gf",
    "regnet_x_3_2gf",
    "regnet_x_8gf",
    "regnet_x_16gf",
    "regnet_x_32gf",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_y_1_6gf",
    "regnet_y_3_2gf",
    "regnet_y_8gf",
    "regnet_y_16gf",
    "regnet_y_32gf",
    "regnet_y_128gf",
    "regnet_y_400mf",
    "regnet_y_800mf",
]

_STEM = 32


@frozen
class Plan:
    """What tells one RegNet from another: the parameters of section 3.3.

    >>> Plan(depth=16, first=48, slope=27.89, step=2.09, group=8).stages()
    [(48, 1), (104, 3), (208, 6), (440, 6)]
    """

    depth: int
    """How many blocks: d."""
    first: int
    """Width of the first of them: w_0."""
    slope: float
    """How much wider each block is than the one before: w_a."""
    step: float
    """The factor between two stages: w_m."""
    group: int
    """Channels of each group of the 3×3 convolutions: g."""
    squeeze: float | None = None
    """Of a block's inputs, how much squeeze and excitation has inside; None for RegNetX."""

    def stages(self) -> list[tuple[int, int]]:
        """The width and the number of blocks of each stage (equations 2 to 4)."""
        return [
            (_multiple(width, min(self.group, width)), len(list(blocks)))
            for width, blocks in groupby(map(self._width, range(self.depth)))
        ]

    def _width(self, block: int) -> int:
        exact = self.first + self.slope * block
        steps = round(math.log(exact / self.first) / math.log(self.step))
        return round(self.first * self.step**steps / 8) * 8


class Transformation(nn.Sequential):
    """1×1, grouped 3×3, perhaps squeeze and excitation, 1×1."""

    def __init__(self, inputs: int, width: int, *, stride: int, plan: Plan) -> None:
        super().__init__()
        groups = width // min(plan.group, width)
        self.a = conv_norm(inputs, width, 1)
        self.b = conv_norm(width, width, 3, stride=stride, groups=groups)
        if plan.squeeze is not None:
            self.se = SqueezeExcitation(width, round(plan.squeeze * inputs))
        self.c = conv_norm(width, width, 1, activation=None)


class Block(nn.Module):
    """A bottleneck that is as wide inside as outside (the paper's X and Y blocks)."""

    def __init__(self, inputs: int, width: int, *, stride: int, plan: Plan) -> None:
        super().__init__()
        changed = stride != 1 or inputs != width
        self.proj = conv_norm(inputs, width, 1, stride=stride, activation=None) if changed else None
        self.f = Transformation(inputs, width, stride=stride, plan=plan)
        self.activation = ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.proj is None else self.proj(x)
        outputs: Tensor = self.activation(shortcut + self.f(x))
        return outputs


class RegNet(nn.Module):
    """A RegNet; ``fc`` has an output for each class.

    Args:
        plan: widths and depths.
        num_classes: outputs.
        in_chans: channels of the images.
    """

    def __init__(self, plan: Plan, *, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        self.stem = conv_norm(in_chans, _STEM, 3, stride=2)
        self.trunk_output = Sequential()
        inputs = _STEM
        for number, (width, blocks) in enumerate(plan.stages(), start=1):
            stage = _stage(f"block{number}", inputs, width, blocks=blocks, plan=plan)
            self.trunk_output.add_module(f"block{number}", stage)
            inputs = width
        self.fc = Linear(inputs, num_classes)
        initialise(self, conv=he_fan_out, zero_bias=False)
        initialise(self, linear=normal(0.01))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps: (N, channels, height, width)."""
        features: Tensor = self.trunk_output(self.stem(x))
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, H, W)."""
        logits: Tensor = self.fc(self.forward_features(x).mean((2, 3)))
        return logits


def _stage(name: str, inputs: int, width: int, *, blocks: int, plan: Plan) -> nn.Sequential:
    stage = Sequential()
    for index in range(blocks):
        block = Block(width if index else inputs, width, stride=1 if index else 2, plan=plan)
        stage.add_module(f"{name}-{index}", block)
    return stage


def _multiple(width: int, group: int) -> int:
    """The width that whole groups make, nearest to the one that is wanted."""
    nearest = max(group, int(width + group / 2) // group * group)
    return nearest + group if nearest < 0.9 * width else nearest


def _variant(
    name: str, plan: Plan, *, about: str, preprocessing: dict[str, Json] | None = None
) -> Builder[RegNet]:
    return variant(
        RegNet, plan, name=name, about=about, preprocessing=preprocessing or photographs()
    )


regnet_y_400mf = _variant(
    "regnet_y_400mf",
    Plan(depth=16, first=48, slope=27.89, step=2.09, group=8, squeeze=0.25),
    about="RegNetY-400MF (Radosavovic et al. 2020, table 3): 4.3 M parameters.",
)
regnet_y_800mf = _variant(
    "regnet_y_800mf",
    Plan(depth=14, first=56, slope=38.84, step=2.4, group=16, squeeze=0.25),
    about="RegNetY-800MF (Radosavovic et al. 2020, table 3): 6.4 M parameters.",
)
regnet_y_1_6gf = _variant(
    "regnet_y_1_6gf",
    Plan(depth=27, first=48, slope=20.71, step=2.65, group=24, squeeze=0.25),
    about="RegNetY-1.6GF (Radosavovic et al. 2020, table 3): 11.2 M parameters.",
)
regnet_y_3_2gf = _variant(
    "regnet_y_3_2gf",
    Plan(depth=21, first=80, slope=42.63, step=2.66, group=24, squeeze=0.25),
    about="RegNetY-3.2GF (Radosavovic et al. 2020, table 3): 19.4 M parameters.",
)
regnet_y_8gf = _variant(
    "regnet_y_8gf",
    Plan(depth=17, first=192, slope=76.82, step=2.19, group=56, squeeze=0.25),
    about="RegNetY-8.0GF (Radosavovic et al. 2020, table 3): 39.4 M parameters.",
)
regnet_y_16gf = _variant(
    "regnet_y_16gf",
    Plan(depth=18, first=200, slope=106.23, step=2.48, group=112, squeeze=0.25),
    about="RegNetY-16GF (Radosavovic et al. 2020, table 3): 83.6 M parameters.",
)
regnet_y_32gf = _variant(
    "regnet_y_32gf",
    Plan(depth=20, first=232, slope=115.89, step=2.53, group=232, squeeze=0.25),
    about="RegNetY-32GF (Radosavovic et al. 2020, table 3): 145.0 M parameters.",
)
regnet_y_128gf = _variant(
    "regnet_y_128gf",
    Plan(depth=27, first=456, slope=160.83, step=2.52, group=264, squeeze=0.25),
    about="RegNetY-128GF (Goyal et al. 2022, https://arxiv.org/abs/2202.08360): 644.8 M.",
    preprocessing=photographs(384, resize=384, interpolation="bicubic"),
)
regnet_x_400mf = _variant(
    "regnet_x_400mf",
    Plan(depth=22, first=24, slope=24.48, step=2.54, group=16),
    about="RegNetX-400MF (Radosavovic et al. 2020, table 2): 5.5 M parameters.",
)
regnet_x_800mf = _variant(
    "regnet_x_800mf",
    Plan(depth=16, first=56, slope=35.73, step=2.28, group=16),
    about="RegNetX-800MF (Radosavovic et al. 2020, table 2): 7.3 M parameters.",
)
regnet_x_1_6gf = _variant(
    "regnet_x_1_6gf",
    Plan(depth=18, first=80, slope=34.01, step=2.25, group=24),
    about="RegNetX-1.6GF (Radosavovic et al. 2020, table 2): 9.2 M parameters.",
)
regnet_x_3_2gf = _variant(
    "regnet_x_3_2gf",
    Plan(depth=25, first=88, slope=26.31, step=2.25, group=48),
    about="RegNetX-3.2GF (Radosavovic et al. 2020, table 2): 15.3 M parameters.",
)
regnet_x_8gf = _variant(
    "regnet_x_8gf",
    Plan(depth=23, first=80, slope=49.56, step=2.88, group=120),
    about="RegNetX-8.0GF (Radosavovic et al. 2020, table 2): 39.6 M parameters.",
)
regnet_x_16gf = _variant(
    "regnet_x_16gf",
    Plan(depth=22, first=216, slope=55.59, step=2.1, group=128),
    about="RegNetX-16GF (Radosavovic et al. 2020, table 2): 54.3 M parameters.",
)
regnet_x_32gf = _variant(
    "regnet_x_32gf",
    Plan(depth=23, first=320, slope=69.86, step=2.0, group=168),
    about="RegNetX-32GF (Radosavovic et al. 2020, table 2): 107.8 M parameters.",
)
