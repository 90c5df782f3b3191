"""The layers that make up most of a network: ``torch.nn``'s, made quickly inside ``skip_init``."""

from __future__ import annotations

from typing import Any

from torch import nn

from hubstate.building import current_block
from hubstate.prototypes import Shapes, Widths, is_watched, prototyped

__all__ = [
    "GELU",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm2d",
    "Conv2d",
    "Dropout",
    "Hardsigmoid",
    "Hardswish",
    "Identity",
    "LayerNorm",
    "Linear",
    "MaxPool2d",
    "ReLU",
    "ReLU6",
    "Sequential",
    "SiLU",
    "Sigmoid",
]

_Split = tuple[tuple[int, ...], tuple[object, ...]]


def _split_convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: object,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: int = 1,
    *rest: object,
    **options: object,
) -> _Split:
    fixed = (kernel_size, stride, padding, dilation, *rest, tuple(options), *options.values())
    return (in_channels, out_channels, groups), fixed


def _widen_convolution(layer: dict[str, Any], inputs: int, outputs: int, groups: int) -> Shapes:
    if inputs % groups or outputs % groups:
        raise ValueError("channels are divided into groups")
    layer["in_channels"], layer["out_channels"], layer["groups"] = inputs, outputs, groups
    return {"weight": (outputs, inputs // groups, *layer["kernel_size"]), "bias": (outputs,)}


def _split_linear(in_features: int, out_features: int, *rest: object, **options: object) -> _Split:
    return (in_features, out_features), (*rest, tuple(options), *options.values())


def _widen_linear(layer: dict[str, Any], inputs: int, outputs: int) -> Shapes:
    layer["in_features"], layer["out_features"] = inputs, outputs
    return {"weight": (outputs, inputs), "bias": (outputs,)}


def _split_norm(num_features: int, *rest: object, **options: object) -> _Split:
    return (num_features,), (*rest, tuple(options), *options.values())


def _widen_norm(layer: dict[str, Any], features: int) -> Shapes:
    layer["num_features"] = features
    return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (features,))


AdaptiveAvgPool2d = prototyped(nn.AdaptiveAvgPool2d)
AvgPool2d = prototyped(nn.AvgPool2d)
BatchNorm2d = prototyped(nn.BatchNorm2d, Widths(_split_norm, _widen_norm))
Conv2d = prototyped(nn.Conv2d, Widths(_split_convolution, _widen_convolution))
Dropout = prototyped(nn.Dropout)
GELU = prototyped(nn.GELU)
Hardsigmoid = prototyped(nn.Hardsigmoid)
Hardswish = prototyped(nn.Hardswish)
Identity = prototyped(nn.Identity)
LayerNorm = prototyped(nn.LayerNorm)
Linear = prototyped(nn.Linear, Widths(_split_linear, _widen_linear))
MaxPool2d = prototyped(nn.MaxPool2d)
ReLU = prototyped(nn.ReLU)
ReLU6 = prototyped(nn.ReLU6)
SiLU = prototyped(nn.SiLU)
Sigmoid = prototyped(nn.Sigmoid)

_sequential = prototyped(nn.Sequential)


def Sequential(*layers: nn.Module) -> nn.Sequential:
    """``nn.Sequential`` of layers that are called ``0``, ``1`` …

    >>> Sequential(ReLU(), Dropout(0.5))
    Sequential(
      (0): ReLU()
      (1): Dropout(p=0.5, inplace=False)
    )
    """
    if current_block() is None or is_watched():
        return nn.Sequential(*layers)
    row = _sequential()
    row._modules.update({str(index): layer for index, layer in enumerate(layers)})
    return row
