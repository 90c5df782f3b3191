"""The layers that make up most of a network: ``torch.nn``'s, made quickly inside ``skip_init``."""

from __future__ import annotations

from torch import nn

from hubstate.prototypes import prototyped

__all__ = [
    "BatchNorm2d",
    "Conv2d",
    "Dropout",
    "Hardswish",
    "LayerNorm",
    "Linear",
    "ReLU",
    "ReLU6",
]

BatchNorm2d = prototyped(nn.BatchNorm2d)
Conv2d = prototyped(nn.Conv2d)
Dropout = prototyped(nn.Dropout)
Hardswish = prototyped(nn.Hardswish)
LayerNorm = prototyped(nn.LayerNorm)
Linear = prototyped(nn.Linear)
ReLU = prototyped(nn.ReLU)
ReLU6 = prototyped(nn.ReLU6)
