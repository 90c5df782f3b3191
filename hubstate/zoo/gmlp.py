"""gMLP: perceptrons across channels, gated by a linear layer across patches.

Liu, Dai, So, Le, "Pay Attention to MLPs", 2021, https://arxiv.org/abs/2105.08050

Names, shapes and outputs are those of timm's models, so weights go both ways::

    images (N, in_chans, image_size, image_size)
    ├── stem       patches to tokens            (N, tokens, width)
    ├── blocks     norm, mlp_channels
    ├── norm
    └── head       after the mean over the tokens: (N, num_classes)
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from hubstate.values import frozen
from hubstate.zoo.blocks import Patches, initialise
from hubstate.zoo.builders import Builder
from hubstate.zoo.layers import GELU, LayerNorm, Linear, Sequential
from hubstate.zoo.variants import photographs, variant

__all__ = ["GatedMlp", "gmlp_b16_224", "gmlp_s16_224", "gmlp_ti16_224"]

_BLOCKS, _PATCH = 30, 16
_norm = partial(LayerNorm, eps=1e-6)


@frozen
class Plan:
    """What tells one gMLP from another."""

    width: int
    """Of each token."""


class Gate(nn.Module):
    """Half of the channels, mixed across tokens, scales the other half (section 2.1)."""

    def __init__(self, width: int, *, tokens: int) -> None:
        super().__init__()
        self.norm = LayerNorm(width)
        self.proj = Linear(tokens, tokens)

    def forward(self, x: Tensor) -> Tensor:
        scaled, gate = x.chunk(2, dim=-1)
        mixed: Tensor = self.proj(self.norm(gate).transpose(1, 2))
        return scaled * mixed.transpose(1, 2)


class GatedPerceptron(nn.Module):
    """To six times the width; the gate halves it; back."""

    def __init__(self, width: int, *, tokens: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, 6 * width)
        self.act = GELU()
        self.gate = Gate(3 * width, tokens=tokens)
        self.fc2 = Linear(3 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.fc2(self.gate(self.act(self.fc1(x))))
        return outputs


class Block(nn.Module):
    """A normalisation and a gated perceptron beside a shortcut (figure 1)."""

    def __init__(self, width: int, *, tokens: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.mlp_channels = GatedPerceptron(width, tokens=tokens)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = x + self.mlp_channels(self.norm(x))
        return outputs


class GatedMlp(nn.Module):
    """A gMLP; ``head`` has an output for each class.

    Args:
        plan: the width.
        num_classes: outputs.
        in_chans: channels of the images.
        image_size: height and width of the images, in pixels: a multiple of 16.

    Raises:
        ValueError: the size is not a multiple of 16; images of another size.
    """

    def __init__(
        self, plan: Plan, *, num_classes: int = 1000, in_chans: int = 3, image_size: int = 224
    ) -> None:
        super().__init__()
        self.stem = Patches(in_chans, plan.width, patch=_PATCH, image_size=image_size)
        tokens = self.stem.tokens
        self.blocks = Sequential(*(Block(plan.width, tokens=tokens) for _ in range(_BLOCKS)))
        self.norm = _norm(plan.width)
        self.head = Linear(plan.width, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        initialise(self, linear=nn.init.xavier_uniform_)
        for module in self.modules():
            if isinstance(module, Gate):  # so that a block starts as an ungated perceptron
                nn.init.normal_(module.proj.weight, std=1e-6)
                nn.init.ones_(module.proj.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """The tokens after the last block: (N, tokens, width)."""
        tokens: Tensor = self.norm(self.blocks(self.stem(x)))
        return tokens

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, image_size, image_size)."""
        logits: Tensor = self.head(self.forward_features(x).mean(1))
        return logits


def _variant(name: str, plan: Plan, *, about: str) -> Builder[GatedMlp]:
    half = (0.5, 0.5, 0.5)
    preprocessing = photographs(interpolation="bicubic", mean=half, std=half)
    return variant(GatedMlp, plan, name=name, about=about, preprocessing=preprocessing)


gmlp_ti16_224 = _variant(
    "gmlp_ti16_224",
    Plan(width=128),
    about="gMLP-Ti/16 (Liu et al. 2021, table 1): 5.9 M parameters.",
)
gmlp_s16_224 = _variant(
    "gmlp_s16_224",
    Plan(width=256),
    about="gMLP-S/16 (Liu et al. 2021, table 1): 19.4 M parameters.",
)
gmlp_b16_224 = _variant(
    "gmlp_b16_224",
    Plan(width=512),
    about="gMLP-B/16 (Liu et al. 2021, table 1): 73.1 M parameters.",
)
