"""Architectures before and after a refactor, which a fresh process can import."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from toys import TOY, Toy

from hubstate.zoo.builders import register_model
from hubstate.zoo.densenet import DenseLayer, densenet121
from hubstate.zoo.variants import photographs

__all__ = ["earlier_densenet121", "renamed"]


class EarlierLayer(nn.Module):
    """DenseNet's layer with the names that it once had in torchvision: ``norm.1`` … ``conv.2``."""

    def __init__(self, layer: DenseLayer) -> None:
        super().__init__()
        self.norm = nn.ModuleDict({"1": layer.norm1, "2": layer.norm2})
        self.relu = nn.ModuleDict({"1": layer.relu1, "2": layer.relu2})
        self.conv = nn.ModuleDict({"1": layer.conv1, "2": layer.conv2})

    def forward(self, x: Tensor) -> Tensor:
        new = x
        for part in ("1", "2"):
            new = self.conv[part](self.relu[part](self.norm[part](new)))
        return torch.cat([x, new], 1)


@register_model(preprocessing=photographs())
def earlier_densenet121(*, num_classes: int = 1000) -> nn.Module:
    """DenseNet-121 before its layers were renamed."""
    model = densenet121(num_classes=num_classes)
    for block in model.features:
        for name, layer in list(block.named_children()):
            if isinstance(layer, DenseLayer):
                setattr(block, name, EarlierLayer(layer))
    return model


@register_model(
    preprocessing=TOY,
    migrations={"has:head.weight": [{"rename": r"head\.(.*)", "to": r"fc.\1"}]},
)
def renamed(*, num_classes: int = 4) -> Toy:
    """A model whose head once had another name."""
    return Toy(8, num_classes)
