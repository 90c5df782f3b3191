"""Rules that make a tensor larger or smaller: values are lost, or made between those there are."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from hubstate.rules import Channels, Interpolate
from hubstate.transforms.nodes import Node, Outcome, each
from hubstate.transforms.operations import apply_rule

__all__ = ["apply_rule"]

_MOST = 1 << 16  # channels, or positions along one side: no network has as many


@apply_rule.register
def _channels(rule: Channels, nodes: Mapping[str, Node]) -> Outcome:
    def make(weight: Tensor) -> Tensor:
        if weight.ndim < 2 or not 1 <= rule.count <= _MOST:
            raise ValueError(f"no channels, or not to be {rule.count}")
        if rule.count == 1:
            return weight.sum(1, keepdim=True)
        there = weight.shape[1]
        repeated = torch.cat([weight] * -(-rule.count // there), 1)[:, : rule.count]
        return repeated * (there / rule.count)

    outcome, _ = each(rule, nodes, make)
    outcome.undo = None
    return outcome


@apply_rule.register
def _interpolate(rule: Interpolate, nodes: Mapping[str, Node]) -> Outcome:
    outcome, _ = each(rule, nodes, lambda tensor: _on_grid(tensor, rule))
    outcome.undo = None
    return outcome


def _on_grid(tensor: Tensor, rule: Interpolate) -> Tensor:
    """Bicubic, the corners on the corners, as ``interpolate_embeddings`` of torchvision.

    https://github.com/pytorch/vision/blob/main/torchvision/models/vision_transformer.py
    """
    side = _side(tensor, rule)
    height, width = rule.grid
    if (height, width) == (side, side):
        return tensor
    first, grid = tensor[:, : rule.prefix], tensor[:, rule.prefix :]
    image = grid.permute(0, 2, 1).reshape(len(tensor), -1, side, side)
    wide = image if image.dtype == torch.float64 else image.float()
    resized = functional.interpolate(wide, (height, width), mode="bicubic", align_corners=True)
    return torch.cat([first, resized.to(tensor.dtype).flatten(2).permute(0, 2, 1)], 1)


def _side(tensor: Tensor, rule: Interpolate) -> int:
    """The height and width of the grid that is there."""
    if len(rule.grid) != 2 or not all(1 <= side <= _MOST for side in rule.grid):
        raise ValueError(f"grid: expected height and width, found {rule.grid}")
    if tensor.ndim != 3 or not tensor.is_floating_point() or not tensor.numel():
        raise ValueError(f"no embeddings of positions, but {tensor.ndim} axes of {tensor.dtype}")
    positions = tensor.shape[1] - rule.prefix
    side = math.isqrt(max(positions, 0))
    if rule.prefix < 0 or not side or side**2 != positions:
        raise ValueError(f"{positions} positions after {rule.prefix} are no square grid")
    return side
