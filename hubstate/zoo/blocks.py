"""Blocks that several families share, and how their weights start.

- Batch normalisation after a convolution without bias: Ioffe, Szegedy, "Batch Normalization",
  2015, https://arxiv.org/abs/1502.03167
- Squeeze and excitation: Hu, Shen, Albanie, Sun, Wu, "Squeeze-and-Excitation Networks", 2017,
  https://arxiv.org/abs/1709.01507
- Dropped branches: Huang, Sun, Liu, Sedra, Weinberger, "Deep Networks with Stochastic Depth",
  2016, https://arxiv.org/abs/1603.09382
- Initial weights by fan: He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", 2015,
  https://arxiv.org/abs/1502.01852
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from hubstate.building import fill
from hubstate.zoo.layers import (
    GELU,
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Linear,
    ReLU,
    ReLU6,
    Sequential,
    Sigmoid,
)

__all__ = [
    "Beside",
    "ChannelNorm",
    "Convolution",
    "DropBranch",
    "Make",
    "Patches",
    "Perceptron",
    "Permute",
    "SqueezeExcitation",
    "conv_norm",
    "conv_norm_layers",
    "divisible",
    "he_fan_out",
    "initialise",
    "normal",
    "perceptron",
    "relu",
    "relu6",
]

Make = Callable[[], nn.Module]
"""Makes a module without arguments, such as an activation."""
Norm = Callable[[int], nn.Module]
"""Makes a normalisation of that many channels."""
Fill = Callable[[Tensor], object]
"""Fills a weight in place."""

relu: Make = partial(ReLU, inplace=True)
relu6: Make = partial(ReLU6, inplace=True)


def conv_norm(
    inputs: int,
    outputs: int,
    size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    norm: Norm = BatchNorm2d,
    activation: Make | None = relu,
) -> nn.Sequential:
    """Convolution ``0``, normalisation ``1`` and, unless it is None, an activation ``2``.

    The convolution pads with zeros, so that a stride of 1 keeps height and width.

    >>> import torch
    >>> conv_norm(3, 8, 3, stride=2)(torch.zeros(1, 3, 6, 6)).shape
    torch.Size([1, 8, 3, 3])
    """
    layers = conv_norm_layers(
        inputs, outputs, size, stride=stride, groups=groups, norm=norm, activation=activation
    )
    return Sequential(*layers)


def conv_norm_layers(
    inputs: int,
    outputs: int,
    size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    norm: Norm = BatchNorm2d,
    activation: Make | None = relu,
) -> list[nn.Module]:
    """The layers of ``conv_norm``, to be part of a longer row."""
    padding = (size - 1) // 2
    layers = [
        Conv2d(inputs, outputs, size, stride, padding, groups=groups, bias=False),
        norm(outputs),
    ]
    return [*layers, activation()] if activation else layers


class Convolution(nn.Module):
    """``conv``, ``bn``, ReLU, as Inception networks have them; unless told, it keeps the size."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int | tuple[int, int] = 1,
        *,
        stride: int = 1,
        padded: bool = True,
    ) -> None:
        super().__init__()
        height, width = (size, size) if isinstance(size, int) else size
        padding = (height // 2, width // 2) if padded else (0, 0)
        self.conv = Conv2d(inputs, outputs, (height, width), stride, padding, bias=False)
        self.bn = BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.bn(self.conv(x))
        return normalised.relu_()


class Beside(nn.Module):
    """Branches ``branch0``, ``branch1`` … of the same input; their outputs are concatenated."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self._names = [f"branch{number}" for number in range(len(branches))]
        for name, branch in zip(self._names, branches, strict=True):
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.get_submodule(name)(x) for name in self._names], 1)


def divisible(value: float, divisor: int = 8) -> int:
    """The multiple of the divisor nearest to a width, but not less than 0.9 of it.

    >>> divisible(36.8), divisible(11.0), divisible(3.0)
    (40, 16, 8)
    """
    nearest = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * value else nearest


class SqueezeExcitation(nn.Module):
    """Scale each channel by what the means of all channels say (Hu et al. 2017, figure 2).

    Args:
        channels: of the images.
        squeezed: channels between the two layers ``fc1`` and ``fc2``.
        activation: after ``fc1``.
        gate: after ``fc2``; between 0 and 1.
    """

    def __init__(
        self, channels: int, squeezed: int, *, activation: Make = relu, gate: Make = Sigmoid
    ) -> None:
        super().__init__()
        self.avgpool = AdaptiveAvgPool2d(1)
        self.fc1 = Conv2d(channels, squeezed, 1)
        self.fc2 = Conv2d(squeezed, channels, 1)
        self.activation = activation()
        self.scale_activation = gate()

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.activation(self.fc1(self.avgpool(x)))
        scale: Tensor = self.scale_activation(self.fc2(squeezed))
        return x * scale


class DropBranch(nn.Module):
    """In training, a residual branch is left out for some of the images (Huang et al. 2016).

    What stays is scaled up, so that the expected value is the same; in evaluation nothing is
    dropped.

    Args:
        rate: how probable it is that an image loses the branch, at least 0 and below 1.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        kept = x.new_empty((len(x), *[1] * (x.ndim - 1))).bernoulli_(1.0 - self.rate)
        return x * kept / (1.0 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class Permute(nn.Module):
    """A view with its axes in another order.

    >>> import torch
    >>> Permute(0, 3, 1, 2)(torch.zeros(1, 4, 5, 3)).shape
    torch.Size([1, 3, 4, 5])
    """

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.axes)

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.axes))


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation of images (N, C, H, W) over their channels, at each position alone."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Patches(nn.Module):
    """Square patches of images as tokens: (N, C, H, W) to (N, patches, width).

    Args:
        in_chans: channels of the images.
        width: of each token.
        patch: height and width of a patch, in pixels.
        image_size: height and width of the images, in pixels: a multiple of the patch.

    Raises:
        ValueError: the size is not a multiple of the patch; images of another size.
    """

    def __init__(self, in_chans: int, width: int, *, patch: int, image_size: int) -> None:
        super().__init__()
        if image_size <= 0 or image_size % patch:
            raise ValueError(f"image_size is a multiple of {patch}, not {image_size}")
        self.image_size = image_size
        self.tokens = (image_size // patch) ** 2
        self.proj = Conv2d(in_chans, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (self.image_size, self.image_size):
            found, wanted = (" × ".join(map(str, s)) for s in (x.shape[2:], [self.image_size] * 2))
            raise ValueError(f"images of {found} pixels, where {wanted} are expected")
        tokens: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return tokens


class Perceptron(nn.Module):
    """Two linear layers, ``fc1`` and ``fc2``, with GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.act = GELU()
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.fc2(self.act(self.fc1(x)))
        return outputs


def perceptron(width: int, hidden: int, *, dropout: float = 0.0) -> nn.Sequential:
    """Two linear layers ``0`` and ``3`` with GELU between them, as in a transformer's block."""
    return Sequential(
        Linear(width, hidden),
        GELU(),
        Dropout(dropout),
        Linear(hidden, width),
        Dropout(dropout),
    )


def initialise(
    model: nn.Module,
    *,
    conv: Fill | None = None,
    linear: Fill | None = None,
    zero_bias: bool = True,
) -> None:
    """Fill the weights of all convolutions and all linear layers; their biases become 0.

    A kind of layer for which no filling is given stays as it is.
    """
    for module in _layers(model):
        initialiser = conv if isinstance(module, nn.Conv2d) else linear
        if initialiser is not None:
            fill(module.weight, initialiser)
            if zero_bias and module.bias is not None:
                fill(module.bias, nn.init.zeros_)


def _layers(model: nn.Module) -> Iterator[nn.Conv2d | nn.Linear]:
    """Those of ``model.modules()`` that are initialised, in a fraction of its time."""
    seen: set[nn.Module | None] = {None}
    waiting: list[nn.Module | None] = [model]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield module
        elif module is not None:
            waiting.extend(reversed(module._modules.values()))


he_fan_out: Fill = partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu")


def normal(std: float) -> Fill:
    """Normally distributed around 0.

    Also for what others draw from a normal distribution cut off at ±2: at a deviation of 0.1 or
    less, nothing ever lies out there.
    """
    return partial(nn.init.normal_, std=std)
