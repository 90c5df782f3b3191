"""MNASNet: inverted residuals, found by a search that measures time on a telephone.

Tan, Chen, Pang, Vasudevan, Sandler, Howard, Le, "MnasNet: Platform-Aware Neural Architecture
Search for Mobile", 2018, https://arxiv.org/abs/1807.11626; the network MNASNet-B1, which has no
squeeze and excitation.

Names, shapes and outputs are those of torchvision's models, so weights go both ways::

    images (N, in_chans, H, W)
    ├── layers.0 … 7      3×3 of stride 2 and a separable convolution    H/2 × W/2
    ├── layers.8 … 13     inverted residuals, a row of the table each    H/32 × W/32
    ├── layers.14 … 16    1×1 to 1280 channels
    └── classifier        after the mean over all positions: (N, num_classes)

In torchvision's files of version 1, layers 0 to 7 have the channels of width 1 at every width:
``fixed_stem=True`` is the network that they are of. https://github.com/pytorch/vision/pull/1224
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from hubstate.values import frozen
from hubstate.zoo.blocks import conv_norm_layers, divisible, he_fan_out, initialise
from hubstate.zoo.builders import Builder
from hubstate.zoo.layers import BatchNorm2d, Dropout, Linear, Sequential
from hubstate.zoo.variants import photographs, variant

__all__ = ["MNASNet", "mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"]

# Kernel size, how much wider inside, channels, blocks, and the stride of the first of them.
_STAGES = (
    (3, 3, 24, 3, 2),
    (5, 3, 40, 3, 2),
    (5, 6, 80, 3, 2),
    (3, 6, 96, 2, 1),
    (5, 6, 192, 4, 2),
    (3, 6, 320, 1, 1),
)
_OUTPUTS = 1280
# The running statistics move by 0.0003 of the difference each step, as TensorFlow's had.
_layers = partial(conv_norm_layers, norm=partial(BatchNorm2d, momentum=1 - 0.9997))


@frozen
class Plan:
    """What tells one MNASNet from another."""

    width: float
    """Factor of all channels but those before the classifier."""


class InvertedResidual(nn.Module):
    """1×1 to expand, k×k on each channel alone, 1×1 to reduce; no activation after the last."""

    def __init__(
        self, inputs: int, outputs: int, *, size: int, expansion: int, stride: int
    ) -> None:
        super().__init__()
        inner = inputs * expansion
        self.layers = Sequential(
            *_layers(inputs, inner, 1),
            *_layers(inner, inner, size, stride=stride, groups=inner),
            *_layers(inner, outputs, 1, activation=None),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.layers(x)
        return x + branch if self.shortcut else branch


class MNASNet(nn.Module):
    """An MNASNet; ``classifier.1`` has an output for each class.

    Args:
        plan: the width.
        num_classes: outputs.
        in_chans: channels of the images.
        dropout: how much of the input of the classifier is dropped in training.
        fixed_stem: layers 0 to 7 have the channels of width 1.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        dropout: float = 0.2,
        fixed_stem: bool = False,
    ) -> None:
        super().__init__()
        # torchvision looks at this number in a state dict, and rebuilds its stem for version 1.
        self._version = 1 if fixed_stem else 2
        stem, first = (divisible(n * (1 if fixed_stem else plan.width)) for n in (32, 16))
        widths = [first, *(divisible(stage[2] * plan.width) for stage in _STAGES)]
        self.layers = Sequential(
            *_layers(in_chans, stem, 3, stride=2),
            *_layers(stem, stem, 3, groups=stem),
            *_layers(stem, first, 1, activation=None),
            *(
                _stage(index, inputs, outputs)
                for index, (inputs, outputs) in enumerate(pairwise(widths))
            ),
            *_layers(widths[-1], _OUTPUTS, 1),
        )
        self.classifier = Sequential(Dropout(dropout), Linear(_OUTPUTS, num_classes))
        initialise(self, conv=he_fan_out, linear=_uniform)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps: (N, 1280, height, width)."""
        features: Tensor = self.layers(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, H, W)."""
        logits: Tensor = self.classifier(self.forward_features(x).mean((2, 3)))
        return logits


def _stage(index: int, inputs: int, outputs: int) -> nn.Sequential:
    size, expansion, _, blocks, first_stride = _STAGES[index]
    channels = [inputs, *[outputs] * blocks]
    strides = [first_stride, *[1] * (blocks - 1)]
    return Sequential(
        *(
            InvertedResidual(a, b, size=size, expansion=expansion, stride=stride)
            for (a, b), stride in zip(pairwise(channels), strides, strict=True)
        )
    )


def _uniform(weight: Tensor) -> Tensor:
    bound = math.sqrt(3 / len(weight))
    return nn.init.uniform_(weight, -bound, bound)


def _variant(name: str, plan: Plan, *, about: str, resize: int = 256) -> Builder[MNASNet]:
    stated = photographs(resize=resize)
    return variant(MNASNet, plan, name=name, about=about, preprocessing=stated)


mnasnet0_5 = _variant(
    "mnasnet0_5",
    Plan(width=0.5),
    about="MNASNet-B1 of half the width (Tan et al. 2018): 2.2 M parameters.",
)
mnasnet0_75 = _variant(
    "mnasnet0_75",
    Plan(width=0.75),
    about="MNASNet-B1 of three quarters of the width (Tan et al. 2018): 3.2 M parameters.",
    resize=232,
)
mnasnet1_0 = _variant(
    "mnasnet1_0",
    Plan(width=1.0),
    about="MNASNet-B1 (Tan et al. 2018, figure 7): 4.4 M parameters.",
)
mnasnet1_3 = _variant(
    "mnasnet1_3",
    Plan(width=1.3),
    about="MNASNet-B1 of 1.3 times the width (Tan et al. 2018): 6.3 M parameters.",
    resize=232,
)
