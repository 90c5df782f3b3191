"""The images of the two Inception networks whose weights came from elsewhere.

Their first authors normalised images by a mean and a deviation of 0.5, torchvision's models want
them normalised as for all the others, and ``transform_input`` makes the one of the other.
"""

from __future__ import annotations

from torch import Tensor, nn

from hubstate.zoo.layers import Identity

__all__ = ["Halved", "halving"]


def halving(in_chans: int, *, transform_input: bool) -> nn.Module:
    """What a network does to its images before all else: :class:`Halved` where that is asked for.

    Raises:
        ValueError: it is asked for, and the images have another number of channels than 3.
    """
    if transform_input and in_chans != 3:
        raise ValueError(f"transform_input is for images of 3 channels, not {in_chans}")
    return Halved() if transform_input else Identity()


class Halved(nn.Module):
    """Images normalised by ImageNet's means and deviations -> by a mean and a deviation of 0.5.

    Three channels, red, green and blue. It holds no tensors, so that no state dict shows it.

    >>> import torch
    >>> grey = (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    >>> Halved()(grey.view(1, 3, 1, 1)).abs().max() < 1e-6
    tensor(True)
    """

    def forward(self, x: Tensor) -> Tensor:
        mean = x.new_tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        std = x.new_tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        return x * (std / 0.5) + (mean - 0.5) / 0.5
