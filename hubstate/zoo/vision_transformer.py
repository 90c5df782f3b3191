"""Vision transformers: an image as a sentence of patches.

Dosovitskiy, Beyer, Kolesnikov, Weissenborn, Zhai, Unterthiner, Dehghani, Minderer, Heigold, Gelly,
Uszkoreit, Houlsby, "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
2020, https://arxiv.org/abs/2010.11929; attention: Vaswani et al., "Attention Is All You Need",
2017, https://arxiv.org/abs/1706.03762

Names, shapes and outputs are those of torchvision's models, so weights go both ways. P is the size
of a patch, D the width::

    images (N, in_chans, image_size, image_size)
    ├── conv_proj               P×P of stride P                    (N, D, …) -> (N, patches, D)
    ├── class_token             in front of the patches            (N, 1 + patches, D)
    ├── encoder.pos_embedding   added to each token                (1, 1 + patches, D)
    ├── encoder.layers          attention and perceptron, with a shortcut around each
    ├── encoder.ln
    └── heads.head              of the class token: (N, num_classes)

Once the layers of a perceptron were called ``mlp.linear_1`` and ``mlp.linear_2`` there, and files
of that time have these names. A migration makes ``mlp.0`` and ``mlp.3`` of them:
https://github.com/pytorch/vision/pull/6053
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from hubstate.strictjson import Json
from hubstate.values import frozen
from hubstate.zoo.blocks import initialise, perceptron
from hubstate.zoo.builders import Builder
from hubstate.zoo.layers import Conv2d, Dropout, LayerNorm, Linear, Sequential
from hubstate.zoo.variants import photographs, variant

__all__ = [
    "VisionTransformer",
    "vit_b_16",
    "vit_b_32",
    "vit_h_14",
    "vit_l_16",
    "vit_l_32",
]

_MIGRATIONS = {
    "has:encoder.layers.encoder_layer_0.mlp.linear_1.weight": (
        {"rename": r"(.*\.mlp)\.linear_1\.(.*)", "to": r"\1.0.\2"},
        {"rename": r"(.*\.mlp)\.linear_2\.(.*)", "to": r"\1.3.\2"},
    )
}
_norm = partial(LayerNorm, eps=1e-6)


@frozen
class Plan:
    """What tells one vision transformer from another: a row of table 1, and the patch."""

    patch: int
    """Height and width of a patch, in pixels."""
    layers: int
    heads: int
    width: int
    """Of each token."""
    hidden: int
    """Width inside the perceptrons."""


class Layer(nn.Module):
    """Attention among all tokens, then a perceptron on each (figure 1, right)."""

    def __init__(self, plan: Plan, *, dropout: float) -> None:
        super().__init__()
        self.ln_1 = _norm(plan.width)
        self.self_attention = nn.MultiheadAttention(plan.width, plan.heads, batch_first=True)
        self.dropout = Dropout(dropout)
        self.ln_2 = _norm(plan.width)
        self.mlp = perceptron(plan.width, plan.hidden, dropout=dropout)
        initialise(self.mlp, linear=nn.init.xavier_uniform_)
        for bias in (self.mlp.get_parameter("0.bias"), self.mlp.get_parameter("3.bias")):
            nn.init.normal_(bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.ln_1(x)
        attended, _ = self.self_attention(tokens, tokens, tokens, need_weights=False)
        x = x + self.dropout(attended)
        outputs: Tensor = x + self.mlp(self.ln_2(x))
        return outputs


class Encoder(nn.Module):
    """The layers, the embedding of positions before them and a normalisation after them."""

    def __init__(self, plan: Plan, *, tokens: int, dropout: float) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.empty(1, tokens, plan.width))
        nn.init.normal_(self.pos_embedding, std=0.02)
        self.dropout = Dropout(dropout)
        self.layers = Sequential()
        for index in range(plan.layers):
            self.layers.add_module(f"encoder_layer_{index}", Layer(plan, dropout=dropout))
        self.ln = _norm(plan.width)

    def forward(self, x: Tensor) -> Tensor:
        encoded: Tensor = self.ln(self.layers(self.dropout(x + self.pos_embedding)))
        return encoded


class VisionTransformer(nn.Module):
    """A vision transformer; ``heads.head`` has an output for each class.

    Args:
        plan: the patch, depth and widths.
        num_classes: outputs.
        in_chans: channels of the images.
        image_size: height and width of the images, in pixels: a multiple of the patch.
        dropout: how much of the output of each part is dropped in training.

    Raises:
        ValueError: the size is not a multiple of the patch; images of another size.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        image_size: int = 224,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if image_size <= 0 or image_size % plan.patch:
            raise ValueError(f"image_size is a multiple of {plan.patch}, not {image_size}")
        self.image_size = image_size
        self.class_token = nn.Parameter(torch.zeros(1, 1, plan.width))
        self.conv_proj = Conv2d(in_chans, plan.width, plan.patch, stride=plan.patch)
        tokens = 1 + (image_size // plan.patch) ** 2
        self.encoder = Encoder(plan, tokens=tokens, dropout=dropout)
        self.heads = Sequential()
        self.heads.add_module("head", Linear(plan.width, num_classes))
        self._initialise(inputs=in_chans * plan.patch**2)

    def _initialise(self, *, inputs: int) -> None:
        nn.init.normal_(self.conv_proj.weight, std=math.sqrt(1 / inputs))
        for part in (self.conv_proj.bias, *self.heads.parameters()):
            if part is not None:
                nn.init.zeros_(part)

    def forward_features(self, x: Tensor) -> Tensor:
        """The tokens after the last layer, the class token first: (N, 1 + patches, D)."""
        if x.shape[2:] != (self.image_size, self.image_size):
            height, width = x.shape[2:]
            wanted = f"{self.image_size} × {self.image_size}"
            raise ValueError(f"images of {height} × {width} pixels, where {wanted} are expected")
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        first = self.class_token.expand(len(x), -1, -1)
        tokens: Tensor = self.encoder(torch.cat([first, patches], 1))
        return tokens

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_chans, image_size, image_size)."""
        logits: Tensor = self.heads(self.forward_features(x)[:, 0])
        return logits


def _variant(
    name: str, plan: Plan, *, about: str, preprocessing: dict[str, Json]
) -> Builder[VisionTransformer]:
    return variant(
        VisionTransformer,
        plan,
        name=name,
        about=about,
        preprocessing=preprocessing,
        migrations=_MIGRATIONS,
    )


vit_b_16 = _variant(
    "vit_b_16",
    Plan(patch=16, layers=12, heads=12, width=768, hidden=3072),
    about="ViT-B/16 (Dosovitskiy et al. 2020, table 1): 86.6 M parameters.",
    preprocessing=photographs(),
)
vit_b_32 = _variant(
    "vit_b_32",
    Plan(patch=32, layers=12, heads=12, width=768, hidden=3072),
    about="ViT-B/32 (Dosovitskiy et al. 2020, table 1): 88.2 M parameters.",
    preprocessing=photographs(),
)
vit_l_16 = _variant(
    "vit_l_16",
    Plan(patch=16, layers=24, heads=16, width=1024, hidden=4096),
    about="ViT-L/16 (Dosovitskiy et al. 2020, table 1): 304.3 M parameters.",
    preprocessing=photographs(resize=242),
)
vit_l_32 = _variant(
    "vit_l_32",
    Plan(patch=32, layers=24, heads=16, width=1024, hidden=4096),
    about="ViT-L/32 (Dosovitskiy et al. 2020, table 1): 306.5 M parameters.",
    preprocessing=photographs(),
)
vit_h_14 = _variant(
    "vit_h_14",
    Plan(patch=14, layers=32, heads=16, width=1280, hidden=5120),
    about="ViT-H/14 (Dosovitskiy et al. 2020, table 1): 632.0 M parameters.",
    preprocessing=photographs(224, resize=224, interpolation="bicubic"),
)
