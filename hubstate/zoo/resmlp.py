"""ResMLP: one linear layer across patches and a perceptron across channels, with no statistics.

Touvron, Bojanowski, Caron, Cord, El-Nouby, Grave, Izacard, Joulin, Synnaeve, Verbeek, Jégou,
"ResMLP: Feedforward networks for image classification with data-efficient training", 2021,
https://arxiv.org/abs/2105.03404

Names, shapes and outputs are those of timm's models, so weights go both ways::

    images (N, in_chans, image_size, image_size)
    ├── stem       patches to tokens            (N, tokens, width)
    ├── blocks     linear_tokens, mlp_channels
    ├── norm
    └── head       after the mean over the tokens: (N, num_classes)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hubstate.values import frozen
from hubstate.zoo.blocks import Patches, Perceptron, initialise, normal
from hubstate.zoo.builders import Builder
from hubstate.zoo.layers import Linear, Sequential
from hubstate.zoo.variants import photographs, variant

__all__ = ["ResMlp", "resmlp_12_224", "resmlp_24_224", "resmlp_36_224", "resmlp_big_24_224"]


@frozen
class Plan:
    """What tells one ResMLP from another."""

    blocks: int
    scale: float
    """What the output of each branch is multiplied with at first."""
    width: int = 384
    """Of each token."""
    patch: int = 16
    """Height and width of a patch, in pixels."""


class Affine(nn.Module):
    """Each channel scaled and shifted (equation 1), in the place of a normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, 1, width))
        self.beta = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.alpha, x)


class Block(nn.Module):
    """A linear layer across tokens and a perceptron across channels (equations 2 and 3)."""

    def __init__(self, plan: Plan, *, tokens: int) -> None:
        super().__init__()
        self.norm1 = Affine(plan.width)
        self.linear_tokens = Linear(tokens, tokens)
        self.norm2 = Affine(plan.width)
        self.mlp_channels = Perceptron(plan.width, 4 * plan.width)
        self.ls1 = nn.Parameter(torch.full((plan.width,), plan.scale))
        self.ls2 = nn.Parameter(torch.full((plan.width,), plan.scale))

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.linear_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.ls1 * mixed
        outputs: Tensor = x + self.ls2 * self.mlp_channels(self.norm2(x))
        return outputs


class ResMlp(nn.Module):
    """A ResMLP; ``head`` has an output for each class.

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
        self.blocks = Sequential(*(Block(plan, tokens=tokens) for _ in range(plan.blocks)))
        self.norm = Affine(plan.width)
        self.head = Linear(plan.width, num_classes)
        initialise(self, linear=normal(0.02))

    def forward_features(self, x: Tensor) -> Tensor:
        """The tokens after the last block: (N, tokens, width)."""
        tokens: Tensor = self.norm(self.blocks(self.stem(x)))
        return tokens

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, image_size, image_size)."""
        logits: Tensor = self.head(self.forward_features(x).mean(1))
        return logits


def _variant(name: str, plan: Plan, *, about: str) -> Builder[ResMlp]:
    preprocessing = photographs(interpolation="bicubic")
    return variant(ResMlp, plan, name=name, about=about, preprocessing=preprocessing)


resmlp_12_224 = _variant(
    "resmlp_12_224",
    Plan(blocks=12, scale=1e-4),
    about="ResMLP-S12 (Touvron et al. 2021): 15.4 M parameters.",
)
resmlp_24_224 = _variant(
    "resmlp_24_224",
    Plan(blocks=24, scale=1e-5),
    about="ResMLP-S24 (Touvron et al. 2021): 30.0 M parameters.",
)
resmlp_36_224 = _variant(
    "resmlp_36_224",
    Plan(blocks=36, scale=1e-6),
    about="ResMLP-S36 (Touvron et al. 2021): 44.7 M parameters.",
)
resmlp_big_24_224 = _variant(
    "resmlp_big_24_224",
    Plan(blocks=24, scale=1e-6, width=768, patch=8),
    about="ResMLP-B24/8 (Touvron et al. 2021): 129.1 M parameters.",
)
