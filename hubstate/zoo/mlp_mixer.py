"""MLP-Mixer: perceptrons along the patches of an image and along their channels, by turns.

Tolstikhin, Houlsby, Kolesnikov, Beyer, Zhai, Unterthiner, Yung, Steiner, Keysers, Uszkoreit, Lucic,
Dosovitskiy, "MLP-Mixer: An all-MLP Architecture for Vision", 2021,
https://arxiv.org/abs/2105.01601

Names, shapes and outputs are those of timm's models, so weights go both ways::

    images (N, in_chans, image_size, image_size)
    ├── stem       patches to tokens            (N, tokens, width)
    ├── blocks     mlp_tokens, mlp_channels
    ├── norm
    └── head       after the mean over the tokens: (N, num_classes)
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from hubstate.values import frozen
from hubstate.zoo.blocks import Patches, Perceptron, initialise
from hubstate.zoo.builders import Builder
from hubstate.zoo.layers import LayerNorm, Linear, Sequential
from hubstate.zoo.variants import photographs, variant

__all__ = [
    "MlpMixer",
    "mixer_b16_224",
    "mixer_b32_224",
    "mixer_l16_224",
    "mixer_l32_224",
    "mixer_s16_224",
    "mixer_s32_224",
]

_norm = partial(LayerNorm, eps=1e-6)


@frozen
class Plan:
    """What tells one mixer from another: a column of table 1."""

    patch: int
    """Height and width of a patch, in pixels."""
    blocks: int
    width: int
    """Of each token: C in the paper."""


class Block(nn.Module):
    """A perceptron across tokens and one across channels, each with a shortcut (figure 1)."""

    def __init__(self, width: int, *, tokens: int) -> None:
        super().__init__()
        self.norm1 = _norm(width)
        self.mlp_tokens = Perceptron(tokens, width // 2)
        self.norm2 = _norm(width)
        self.mlp_channels = Perceptron(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        outputs: Tensor = x + self.mlp_channels(self.norm2(x))
        return outputs


class MlpMixer(nn.Module):
    """A mixer; ``head`` has an output for each class.

    Args:
        plan: the patch, depth and width.
        num_classes: outputs.
        in_chans: channels of the images.
        image_size: height and width of the images, in pixels: a multiple of the patch.

    Raises:
        ValueError: the size is not a multiple of the patch; images of another size.
    """

    def __init__(
        self, plan: Plan, *, num_classes: int = 1000, in_chans: int = 3, image_size: int = 224
    ) -> None:
        super().__init__()
        self.stem = Patches(in_chans, plan.width, patch=plan.patch, image_size=image_size)
        tokens = self.stem.tokens
        self.blocks = Sequential(*(Block(plan.width, tokens=tokens) for _ in range(plan.blocks)))
        self.norm = _norm(plan.width)
        self.head = Linear(plan.width, num_classes)
        initialise(self, linear=nn.init.xavier_uniform_)
        nn.init.zeros_(self.head.weight)

    def forward_features(self, x: Tensor) -> Tensor:
        """The tokens after the last block: (N, tokens, width)."""
        tokens: Tensor = self.norm(self.blocks(self.stem(x)))
        return tokens

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, image_size, image_size)."""
        logits: Tensor = self.head(self.forward_features(x).mean(1))
        return logits


def _variant(name: str, plan: Plan, *, about: str) -> Builder[MlpMixer]:
    half = (0.5, 0.5, 0.5)
    preprocessing = photographs(interpolation="bicubic", mean=half, std=half)
    return variant(MlpMixer, plan, name=name, about=about, preprocessing=preprocessing)


mixer_s32_224 = _variant(
    "mixer_s32_224",
    Plan(patch=32, blocks=8, width=512),
    about="Mixer-S/32 (Tolstikhin et al. 2021, table 1): 19.1 M parameters.",
)
mixer_s16_224 = _variant(
    "mixer_s16_224",
    Plan(patch=16, blocks=8, width=512),
    about="Mixer-S/16 (Tolstikhin et al. 2021, table 1): 18.5 M parameters.",
)
mixer_b32_224 = _variant(
    "mixer_b32_224",
    Plan(patch=32, blocks=12, width=768),
    about="Mixer-B/32 (Tolstikhin et al. 2021, table 1): 60.3 M parameters.",
)
mixer_b16_224 = _variant(
    "mixer_b16_224",
    Plan(patch=16, blocks=12, width=768),
    about="Mixer-B/16 (Tolstikhin et al. 2021, table 1): 59.9 M parameters.",
)
mixer_l32_224 = _variant(
    "mixer_l32_224",
    Plan(patch=32, blocks=24, width=1024),
    about="Mixer-L/32 (Tolstikhin et al. 2021, table 1): 206.9 M parameters.",
)
mixer_l16_224 = _variant(
    "mixer_l16_224",
    Plan(patch=16, blocks=24, width=1024),
    about="Mixer-L/16 (Tolstikhin et al. 2021, table 1): 208.2 M parameters.",
)
