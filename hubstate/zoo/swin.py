"""Swin transformers: attention inside windows, which are shifted in every second block.

- Liu, Lin, Cao, Hu, Wei, Zhang, Lin, Guo, "Swin Transformer: Hierarchical Vision Transformer using
  Shifted Windows", 2021, https://arxiv.org/abs/2103.14030
- Liu, Hu, Lin, Yao, Xie, Wei, Ning, Cao, Zhang, Dong, Wei, Guo, "Swin Transformer V2: Scaling Up
  Capacity and Resolution", 2021, https://arxiv.org/abs/2111.09883

Names, shapes and outputs are those of torchvision's models, so weights go both ways; the
attention itself is in ``windows.py``. Between the layers, images have their channels last::

    images (N, in_chans, H, W)
    ├── features.0               4×4 of stride 4, normalised            H/4 × W/4
    ├── features.1, 3, 5, 7      blocks                                 same size
    ├── features.2, 4, 6         four neighbours to one                 half
    ├── norm
    └── head                     after the mean over all positions: (N, num_classes)
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hubstate.values import frozen
from hubstate.zoo.blocks import DropBranch, Permute, initialise, normal, perceptron
from hubstate.zoo.builders import Builder
from hubstate.zoo.layers import Conv2d, LayerNorm, Linear, Sequential
from hubstate.zoo.variants import photographs, variant
from hubstate.zoo.windows import CosineAttention, WindowAttention

__all__ = [
    "SwinTransformer",
    "swin_b",
    "swin_s",
    "swin_t",
    "swin_v2_b",
    "swin_v2_s",
    "swin_v2_t",
]


@frozen
class Plan:
    """What tells one Swin transformer from another."""

    width: int
    """Channels of the first stage; each further stage has twice those of the last."""
    blocks: tuple[int, int, int, int]
    """How many blocks each stage has."""
    heads: tuple[int, int, int, int]
    """How many heads the attention of each stage has."""
    drop_branch: float
    """How often the last residual branch is left out in training, the ones before it less."""
    second: bool = False
    """Version 2: windows of 8 × 8, cosine attention, and normalisation after each branch."""


class Block(nn.Module):
    """Attention inside windows, then a perceptron at each position (figure 3, b)."""

    def __init__(self, width: int, *, heads: int, shifted: bool, second: bool, drop: float) -> None:
        super().__init__()
        self.second = second
        attention, window = (CosineAttention, 8) if second else (WindowAttention, 7)
        self.norm1 = LayerNorm(width)
        self.attn = attention(width, heads=heads, window=window, shift=window // 2 * shifted)
        self.drop = DropBranch(drop)
        self.norm2 = LayerNorm(width)
        self.mlp = perceptron(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        for norm, branch in ((self.norm1, self.attn), (self.norm2, self.mlp)):
            x = x + self.drop(norm(branch(x)) if self.second else branch(norm(x)))
        return x


class Merge(nn.Module):
    """Four neighbouring positions to one, with twice the channels of each (section 3.1)."""

    def __init__(self, width: int, *, second: bool) -> None:
        super().__init__()
        self.second = second
        self.reduction = Linear(4 * width, 2 * width, bias=False)
        self.norm = LayerNorm(2 * width if second else 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = nn.functional.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        rows = (x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2])
        four = torch.cat(rows, -1)
        merged: Tensor = (
            self.norm(self.reduction(four)) if self.second else self.reduction(self.norm(four))
        )
        return merged


class SwinTransformer(nn.Module):
    """A Swin transformer; ``head`` has an output for each class.

    Args:
        plan: widths, depths and the version.
        num_classes: outputs.
        in_chans: channels of the images.
    """

    def __init__(self, plan: Plan, *, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        width = plan.width * 2 ** (len(plan.blocks) - 1)
        self.features = Sequential(*_features(plan, in_chans))
        self.norm = LayerNorm(width)
        self.head = Linear(width, num_classes)
        initialise(self, linear=normal(0.02))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps, normalised: (N, channels, height, width)."""
        features: Tensor = self.norm(self.features(x))
        return features.permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, H, W)."""
        logits: Tensor = self.head(self.forward_features(x).mean((2, 3)))
        return logits


def _features(plan: Plan, in_chans: int) -> Iterator[nn.Module]:
    width, done = plan.width, 0
    patches = Conv2d(in_chans, width, 4, stride=4)
    yield Sequential(patches, Permute(0, 2, 3, 1), LayerNorm(width))
    for index, blocks in enumerate(plan.blocks):
        if index:
            yield Merge(width, second=plan.second)
            width *= 2
        yield _stage(plan, index, width=width, done=done)
        done += blocks


def _stage(plan: Plan, index: int, *, width: int, done: int) -> nn.Sequential:
    last = sum(plan.blocks) - 1
    return Sequential(
        *(
            Block(
                width,
                heads=plan.heads[index],
                shifted=block % 2 == 1,
                second=plan.second,
                drop=plan.drop_branch * (done + block) / last,
            )
            for block in range(plan.blocks[index])
        )
    )


def _variant(
    name: str, plan: Plan, *, about: str, resize: int, size: int = 224
) -> Builder[SwinTransformer]:
    preprocessing = photographs(size, resize=resize, interpolation="bicubic")
    return variant(SwinTransformer, plan, name=name, about=about, preprocessing=preprocessing)


swin_t = _variant(
    "swin_t",
    Plan(width=96, blocks=(2, 2, 6, 2), heads=(3, 6, 12, 24), drop_branch=0.2),
    about="Swin-T (Liu et al. 2021, table 7): 28.3 M parameters.",
    resize=232,
)
swin_s = _variant(
    "swin_s",
    Plan(width=96, blocks=(2, 2, 18, 2), heads=(3, 6, 12, 24), drop_branch=0.3),
    about="Swin-S (Liu et al. 2021, table 7): 49.6 M parameters.",
    resize=246,
)
swin_b = _variant(
    "swin_b",
    Plan(width=128, blocks=(2, 2, 18, 2), heads=(4, 8, 16, 32), drop_branch=0.5),
    about="Swin-B (Liu et al. 2021, table 7): 87.8 M parameters.",
    resize=238,
)
swin_v2_t = _variant(
    "swin_v2_t",
    Plan(width=96, blocks=(2, 2, 6, 2), heads=(3, 6, 12, 24), drop_branch=0.2, second=True),
    about="SwinV2-T (Liu et al. 2021, version 2): 28.4 M parameters.",
    resize=260,
    size=256,
)
swin_v2_s = _variant(
    "swin_v2_s",
    Plan(width=96, blocks=(2, 2, 18, 2), heads=(3, 6, 12, 24), drop_branch=0.3, second=True),
    about="SwinV2-S (Liu et al. 2021, version 2): 49.7 M parameters.",
    resize=260,
    size=256,
)
swin_v2_b = _variant(
    "swin_v2_b",
    Plan(width=128, blocks=(2, 2, 18, 2), heads=(4, 8, 16, 32), drop_branch=0.5, second=True),
    about="SwinV2-B (Liu et al. 2021, version 2): 87.9 M parameters.",
    resize=272,
    size=256,
)
