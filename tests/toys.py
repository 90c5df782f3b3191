"""Small architectures that a fresh process can import, for tests that publish."""

from __future__ import annotations

import os

import torch
from torch import nn

from hubstate.zoo.builders import register_model

TOY = {"input_size": [3, 8, 8], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


class Toy(nn.Module):
    """A convolution, a normalisation and a head."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.fc(self.bn(self.conv(x)).mean((2, 3)))
        return answer


@register_model(preprocessing=TOY)
def toy(*, width: int = 8, num_classes: int = 4, in_chans: int = 3) -> Toy:
    """A model that is built and loaded in a millisecond."""
    assert in_chans == 3
    return Toy(width, num_classes)


@register_model(preprocessing=TOY)
def fickle(*, num_classes: int = 4, in_chans: int = 3) -> Toy:
    """Builds another architecture in a process of its own, as a stale installation would."""
    return Toy(8 if "FICKLE_WIDTH" not in os.environ else 16, num_classes)


@register_model(preprocessing=TOY)
def drifting(*, num_classes: int = 4, in_chans: int = 3) -> Toy:
    """Computes something else where GATE_DRIFT is set, with the very same tensors."""
    model = Toy(8, num_classes)
    model.bn.eps = 0.5 if "GATE_DRIFT" in os.environ else 1e-5
    return model


class Tied(nn.Module):
    """An embedding whose weight is the output layer's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.out = nn.Linear(8, 16, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.out(self.embed(tokens))
        return answer


def tied() -> Tied:
    """A builder that is not registered: named by ``toys:tied``."""
    return Tied()
