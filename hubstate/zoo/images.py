"""Images made as a model wants them, with torch alone.

The steps are those of torchvision's and timm's evaluation transforms::

    image, any size      uint8 0–255 or floating point 0–1, (H, W, C) or (C, H, W)
    ├── resize           antialiased; the shorter side becomes input_size / crop_pct
    ├── centre crop      to input_size
    └── normalise        (x - mean) / std, channel by channel
    input                float32 (C, height, width)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from hubstate.errors import InvalidManifest
from hubstate.strictjson import Json
from hubstate.values import frozen
from hubstate.zoo.inputs import input_problems

__all__ = ["Preprocessing"]

Layout = Literal["HWC", "CHW"]
_LAYOUTS = ("HWC", "CHW")
_MODES = {"bilinear": "bilinear", "bicubic": "bicubic", "nearest": "nearest-exact"}
_TOLERANCE = 1e-6  # 224 / (224 / 232) is a hair below 232 in floating point


@frozen
class Preprocessing:
    """A function from images to a model's input.

    >>> ready = Preprocessing(input_size=(3, 4, 4), mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> white = torch.full((8, 6, 3), 255, dtype=torch.uint8)
    >>> ready(white).shape, ready(white).unique()
    (torch.Size([3, 4, 4]), tensor([1.]))
    """

    input_size: tuple[int, int, int]
    """Channels, height and width, in pixels."""
    mean: tuple[float, ...] = ()
    """Subtracted from values between 0 and 1, channel by channel; zeros if empty."""
    std: tuple[float, ...] = ()
    """What is left is divided by it; ones if empty."""
    interpolation: str = "bilinear"
    """bilinear, bicubic or nearest."""
    crop_pct: float = 1.0
    """The share of the resized image, from side to side, that the crop keeps."""

    def __post_init__(self) -> None:
        stated = {item.name: getattr(self, item.name) for item in fields(self)}
        if problems := list(input_problems(stated)):
            raise InvalidManifest("; ".join(f"preprocessing: {problem}" for problem in problems))

    @classmethod
    def parse(cls, data: Mapping[str, Json]) -> Preprocessing:
        """Read what a builder or a manifest states; what is beside the five fields is skipped.

        Raises:
            InvalidManifest: there is no input_size, or a field means nothing.
        """
        size = data.get("input_size")
        if not isinstance(size, Sequence) or len(size) != 3:
            raise InvalidManifest(
                f"preprocessing: input_size: expected channels, height, width, found {size!r}"
            )
        try:
            channels, height, width = (int(str(side)) for side in size)
            return cls(
                input_size=(channels, height, width),
                mean=_numbers(data, "mean"),
                std=_numbers(data, "std"),
                interpolation=str(data.get("interpolation", "bilinear")),
                crop_pct=float(str(data.get("crop_pct", 1.0))),
            )
        except (TypeError, ValueError) as error:
            if isinstance(error, InvalidManifest):
                raise
            raise InvalidManifest(f"preprocessing: {error}") from None

    def __call__(self, image: Any, *, layout: Layout | None = None) -> Tensor:
        """An image, or a batch of images of one size, as input.

        Args:
            image: a tensor, an array or a PIL image; (H, W, C) or (C, H, W), (H, W) where the
                model has one channel, and any of these with a batch's dimension before it;
                uint8 from 0 to 255, or floating point from 0 to 1.
            layout: where the channels are; found by their number if not given.

        Returns:
            float32 (C, height, width), or (N, C, height, width) of a batch, on the image's device.

        Raises:
            TypeError: something that is no image.
            ValueError: another shape, dtype or layout; or the layout could be both.
        """
        pixels, batched = self._pixels(_as_tensor(image), layout)
        inputs = self.normalise(self._crop(self._resize(pixels)))
        return inputs if batched else inputs[0]

    def normalise(self, pixels: Tensor) -> Tensor:
        """Values between 0 and 1, (N, C, H, W), less the mean and divided by the deviation."""
        options: dict[str, Any] = {"dtype": pixels.dtype, "device": pixels.device}
        channels = self.input_size[0]
        mean = torch.tensor(self.mean or (0.0,) * channels, **options).reshape(-1, 1, 1)
        std = torch.tensor(self.std or (1.0,) * channels, **options).reshape(-1, 1, 1)
        return (pixels - mean) / std

    def _pixels(self, image: Tensor, layout: Layout | None) -> tuple[Tensor, bool]:
        """(N, C, H, W) as it came, and whether it came as a batch."""
        channels = self.input_size[0]
        if layout not in (None, *_LAYOUTS):
            raise ValueError(f"layout: expected {' or '.join(_LAYOUTS)}, found {layout!r}")
        if 0 in image.shape:
            raise ValueError(f"expected an image with pixels, found {tuple(image.shape)}")
        if channels == 1 and layout is None and 1 not in (image.shape[-1], *image.shape[-3:-2]):
            image, layout = image.unsqueeze(-1), "HWC"
        if image.ndim not in (3, 4):
            raise ValueError(f"expected an image of 3 dimensions, found {tuple(image.shape)}")
        if (layout or self._layout(image)) == "HWC":
            image = image.movedim(-1, -3)
        if image.shape[-3] != channels:
            raise ValueError(f"expected {channels} channels, found {tuple(image.shape)} in CHW")
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise ValueError(f"expected uint8 or floating point, found {image.dtype}")
        return (image, True) if image.ndim == 4 else (image.unsqueeze(0), False)

    def _layout(self, image: Tensor) -> Layout:
        channels = self.input_size[0]
        last, first = image.shape[-1] == channels, image.shape[-3] == channels
        if last == first:
            word = "either" if last else "neither"
            raise ValueError(
                f"{tuple(image.shape)} could be {word} of HWC and CHW with {channels} channels: "
                "pass layout='HWC' or layout='CHW'"
            )
        return "HWC" if last else "CHW"

    def _resize(self, pixels: Tensor) -> Tensor:
        """float32 from 0 to 1; uint8 stays uint8 till then, as in Pillow and torchvision."""
        if pixels.dtype != torch.uint8:
            return self._interpolate(pixels.float())
        if pixels.is_cpu or self.interpolation == "nearest":
            return self._interpolate(pixels).float() / 255
        # Other devices resize no uint8; without the rounding between the two axes, bicubic
        # interpolation of strong edges then differs by a few steps.
        return self._interpolate(pixels.float()).round().clamp(0, 255) / 255

    def _interpolate(self, pixels: Tensor) -> Tensor:
        size = self._size(pixels)
        if tuple(pixels.shape[-2:]) == size:
            return pixels
        mode = _MODES[self.interpolation]
        if mode == "nearest-exact":
            return interpolate(pixels, size, mode=mode)
        return interpolate(pixels, size, mode=mode, antialias=True, align_corners=False)

    def _size(self, pixels: Tensor) -> tuple[int, int]:
        """Height and width after the resize: the crop fits, and the aspect stays."""
        height, width = pixels.shape[-2:]
        tall, wide = (math.floor(side / self.crop_pct + _TOLERANCE) for side in self.input_size[1:])
        if tall * width >= wide * height:  # the height decides
            return tall, max(wide, tall * width // height)
        return max(tall, wide * height // width), wide

    def _crop(self, pixels: Tensor) -> Tensor:
        _, height, width = self.input_size
        top = round((pixels.shape[-2] - height) / 2)
        left = round((pixels.shape[-1] - width) / 2)
        return pixels[..., top : top + height, left : left + width]


def _numbers(data: Mapping[str, Json], name: str) -> tuple[float, ...]:
    values: Any = data.get(name) or ()
    if isinstance(values, str | bytes | int | float):
        raise TypeError(f"{name}: expected a number for each channel, found {values!r}")
    return tuple(float(number) for number in values)


def _as_tensor(image: Any) -> Tensor:
    if isinstance(image, Tensor):
        return image
    import numpy as np

    array = np.array(image)  # a copy: PIL's memory cannot be written to
    if array.dtype.kind not in "biufc":
        found = type(image).__name__
        raise TypeError(f"expected a tensor, an array or a PIL image, found a {found}")
    return torch.from_numpy(array)
