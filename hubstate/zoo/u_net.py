"""U-Net: down to few positions and up again, with what was seen on the way down.

Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015,
https://arxiv.org/abs/1505.04597, with batch normalisation and with padding, so that maps are as
large as the images.

Names and shapes are those of the widespread program at https://github.com/milesial/Pytorch-UNet,
version 4, whose weights are for two classes, background and car::

    images (N, in_chans, H, W)
    ├── inc                     64 channels      ──────────────┐
    ├── down1 … down4           pool, convolve   128 … 1024    │
    ├── up1 … up4               enlarge, beside the same size from the way down
    └── outc                    (N, num_classes, H, W)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from hubstate.zoo.blocks import relu
from hubstate.zoo.builders import register_model
from hubstate.zoo.layers import BatchNorm2d, Conv2d, MaxPool2d, Sequential
from hubstate.zoo.variants import photographs

__all__ = ["UNet", "unet"]


class Twice(nn.Module):
    """Two 3×3 convolutions, each with its normalisation and ReLU."""

    def __init__(self, inputs: int, outputs: int, *, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or outputs
        self.double_conv = Sequential(
            Conv2d(inputs, inner, 3, padding=1, bias=False),
            BatchNorm2d(inner),
            relu(),
            Conv2d(inner, outputs, 3, padding=1, bias=False),
            BatchNorm2d(outputs),
            relu(),
        )

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.double_conv(x)
        return outputs


class Down(nn.Module):
    """To half the size, and two convolutions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.maxpool_conv = Sequential(MaxPool2d(2), Twice(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.maxpool_conv(x)
        return outputs


class Up(nn.Module):
    """To twice the size, and two convolutions over this and what was there on the way down."""

    def __init__(self, inputs: int, outputs: int, *, bilinear: bool) -> None:
        super().__init__()
        self.up = (
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            if bilinear
            else nn.ConvTranspose2d(inputs, inputs // 2, 2, stride=2)
        )
        self.conv = Twice(inputs, outputs, inner=inputs // 2 if bilinear else None)

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        x = self.up(x)
        # A size that was odd on the way down has lost a row or a column.
        rows, columns = beside.shape[2] - x.shape[2], beside.shape[3] - x.shape[3]
        x = pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        outputs: Tensor = self.conv(torch.cat([beside, x], 1))
        return outputs


class UNet(nn.Module):
    """A U-Net; ``outc.conv`` has an output for each class.

    Args:
        num_classes: outputs at each position.
        in_chans: channels of the images.
        bilinear: enlarge by interpolation, with half the channels at the bottom, instead of by
            transposed convolutions.
    """

    def __init__(self, *, num_classes: int, in_chans: int, bilinear: bool) -> None:
        super().__init__()
        fewer = 2 if bilinear else 1
        self.inc = Twice(in_chans, 64)
        self.down1 = Down(64, 128)
        self.down2 = Down(128, 256)
        self.down3 = Down(256, 512)
        self.down4 = Down(512, 1024 // fewer)
        self.up1 = Up(1024, 512 // fewer, bilinear=bilinear)
        self.up2 = Up(512, 256 // fewer, bilinear=bilinear)
        self.up3 = Up(256, 128 // fewer, bilinear=bilinear)
        self.up4 = Up(128, 64, bilinear=bilinear)
        self.outc = Sequential()
        self.outc.add_module("conv", Conv2d(64, num_classes, 1))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps: (N, 64, H, W)."""
        seen = [self.inc(x)]
        for down in (self.down1, self.down2, self.down3, self.down4):
            seen.append(down(seen[-1]))
        features: Tensor = seen.pop()
        for up in (self.up1, self.up2, self.up3, self.up4):
            features = up(features, seen.pop())
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes, H, W) of images (N, in_chans, H, W), at least 16 × 16."""
        logits: Tensor = self.outc(self.forward_features(x))
        return logits


@register_model(
    preprocessing=photographs(
        256, resize=256, interpolation="bicubic", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
)
def unet(*, num_classes: int = 2, in_chans: int = 3, bilinear: bool = False) -> UNet:
    """U-Net (Ronneberger et al. 2015, figure 1): 31.0 M parameters."""
    return UNet(num_classes=num_classes, in_chans=in_chans, bilinear=bilinear)
