"""ConvMixer: patches, then depthwise and pointwise convolutions at one resolution.

Trockman, Kolter, "Patches Are All You Need?", 2022, https://arxiv.org/abs/2201.09792

Names, shapes and outputs are those of timm's models, so weights go both ways::

    images (N, in_chans, H, W)
    ├── stem       P×P of stride P              (N, width, H/P, W/P)
    ├── blocks     same size
    └── head       after the mean over all positions: (N, num_classes)
"""

from __future__ import annotations

from torch import Tensor, nn

from hubstate.values import frozen
from hubstate.zoo.blocks import Make
from hubstate.zoo.builders import Builder
from hubstate.zoo.layers import GELU, BatchNorm2d, Conv2d, Linear, ReLU, Sequential
from hubstate.zoo.variants import photographs, variant

__all__ = ["ConvMixer", "convmixer_768_32", "convmixer_1024_20_ks9_p14", "convmixer_1536_20"]


@frozen
class Plan:
    """What tells one ConvMixer from another: table 1."""

    width: int
    """Channels: h in the paper."""
    blocks: int
    size: int
    """Of the kernels: k in the paper."""
    patch: int
    """Height and width of a patch, in pixels."""
    activation: Make = GELU


class Residual(nn.Module):
    """What is inside, and a shortcut around it."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.fn(x) + x
        return outputs


class ConvMixer(nn.Module):
    """A ConvMixer; ``head`` has an output for each class.

    Args:
        plan: the patch, depth, width and kernels.
        num_classes: outputs.
        in_chans: channels of the images.
    """

    def __init__(self, plan: Plan, *, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        stem = Conv2d(in_chans, plan.width, plan.patch, stride=plan.patch)
        self.stem = _activated(stem, plan)
        self.blocks = Sequential(*(_block(plan) for _ in range(plan.blocks)))
        self.head = Linear(plan.width, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps: (N, width, height, width)."""
        features: Tensor = self.blocks(self.stem(x))
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, H, W)."""
        logits: Tensor = self.head(self.forward_features(x).mean((2, 3)))
        return logits


def _activated(convolution: nn.Conv2d, plan: Plan) -> nn.Sequential:
    return Sequential(convolution, plan.activation(), BatchNorm2d(plan.width))


def _block(plan: Plan) -> nn.Sequential:
    """k×k on each channel alone, with a shortcut, then 1×1 (figure 2)."""
    width = plan.width
    depthwise = Conv2d(width, width, plan.size, groups=width, padding=plan.size // 2)
    pointwise = Conv2d(width, width, 1)
    return Sequential(Residual(_activated(depthwise, plan)), *_activated(pointwise, plan))


def _variant(name: str, plan: Plan, *, about: str) -> Builder[ConvMixer]:
    preprocessing = photographs(224, resize=233, interpolation="bicubic")
    return variant(ConvMixer, plan, name=name, about=about, preprocessing=preprocessing)


convmixer_1536_20 = _variant(
    "convmixer_1536_20",
    Plan(width=1536, blocks=20, size=9, patch=7),
    about="ConvMixer-1536/20 (Trockman, Kolter 2022, table 1): 51.6 M parameters.",
)
convmixer_768_32 = _variant(
    "convmixer_768_32",
    Plan(width=768, blocks=32, size=7, patch=7, activation=ReLU),
    about="ConvMixer-768/32, with ReLU (Trockman, Kolter 2022, table 1): 21.1 M parameters.",
)
convmixer_1024_20_ks9_p14 = _variant(
    "convmixer_1024_20_ks9_p14",
    Plan(width=1024, blocks=20, size=9, patch=14),
    about="ConvMixer-1024/20, k = 9, p = 14 (Trockman, Kolter 2022): 24.4 M parameters.",
)
