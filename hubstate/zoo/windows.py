"""Attention inside windows: the heart of the Swin transformers, whose papers ``swin.py`` names.

An image is cut into square windows, and positions see only those of their own window. Shifted by
half a window, the cuts fall elsewhere; the image is rolled for that, and what the roll has brought
into one window from opposite edges does not see each other (figure 4 of the first paper)::

    (N, H, W, C) ── pad ── roll ── cut ──> (N, windows, heads, positions, C / heads)
    (N, H, W, C) <─ crop ─ roll ─ join ──  (N, windows, heads, positions, C / heads)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize, pad

from hubstate.zoo.layers import Linear, ReLU, Sequential

__all__ = ["CosineAttention", "WindowAttention"]

_HIDDEN = -100.0  # added to the logits of what is not to be seen
_MOST_SHARP = math.log(100.0)


class WindowAttention(nn.Module):
    """Attention inside windows with a learnt bias for each relative position.

    Args:
        width: channels.
        heads: of the attention.
        window: height and width of a window, in positions.
        shift: by how much the windows are shifted.
    """

    relative_position_index: Tensor

    def __init__(self, width: int, *, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self._add_bias()
        self.register_buffer("relative_position_index", _relative_positions(window))
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def _add_bias(self) -> None:
        table = torch.empty((2 * self.window - 1) ** 2, self.heads)
        self.relative_position_bias_table = nn.Parameter(table)
        nn.init.normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        shifts = tuple(0 if size <= self.window else self.shift for size in x.shape[1:3])
        if any(shifts):
            x = x.roll((-shifts[0], -shifts[1]), (1, 2))
        x = self._join(self._attend(self._cut(x), self._mask(x, shifts)), x)
        if any(shifts):
            x = x.roll(shifts, (1, 2))
        return x[:, :height, :width]

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attention among positions: (N, windows, positions, C) to the same."""
        apart = self._project(x).view(*x.shape[:3], 3, self.heads, -1)
        queries, keys, values = apart.transpose(2, 4).unbind(3)
        logits = self._logits(queries, keys) + self._bias()
        if mask is not None:
            logits = logits + mask
        seen = logits.softmax(-1) @ values
        attended: Tensor = self.proj(seen.transpose(2, 3).flatten(3))
        return attended

    def _project(self, x: Tensor) -> Tensor:
        projected: Tensor = self.qkv(x)
        return projected

    def _logits(self, queries: Tensor, keys: Tensor) -> Tensor:
        scale: float = queries.shape[-1] ** -0.5
        return queries * scale @ keys.transpose(-2, -1)

    def _bias(self) -> Tensor:
        """(heads, positions, positions)"""
        return self._of_pairs(self.relative_position_bias_table)

    def _of_pairs(self, table: Tensor) -> Tensor:
        positions = self.window**2
        pairs = table[self.relative_position_index].view(positions, positions, -1)
        return pairs.permute(2, 0, 1)

    def _cut(self, x: Tensor) -> Tensor:
        count, height, width, channels = x.shape
        rows, columns = height // self.window, width // self.window
        x = x.view(count, rows, self.window, columns, self.window, channels)
        return x.transpose(2, 3).reshape(count, rows * columns, self.window**2, channels)

    def _join(self, x: Tensor, like: Tensor) -> Tensor:
        count, height, width, channels = like.shape
        rows, columns = height // self.window, width // self.window
        x = x.view(count, rows, columns, self.window, self.window, channels)
        return x.transpose(2, 3).reshape(like.shape)

    def _mask(self, x: Tensor, shifts: tuple[int, ...]) -> Tensor | None:
        """What hides positions of a window from those of another part of the image.

        (windows, 1, positions, positions), or None where nothing is shifted.
        """
        if not any(shifts):
            return None
        rows, columns = (
            self._parts(size, shift, device=x.device)
            for size, shift in zip(x.shape[1:3], shifts, strict=True)
        )
        parts = self._cut((3 * rows[:, None] + columns)[None, :, :, None])[0, :, None, :, 0]
        apart = parts[..., :, None] != parts[..., None, :]
        return torch.zeros_like(apart, dtype=x.dtype).masked_fill(apart, _HIDDEN)

    def _parts(self, size: int, shift: int, *, device: torch.device) -> Tensor:
        """Along one axis of a rolled image: before the last window, in it, and rolled into it."""
        places = torch.arange(size, device=device)
        return (places >= size - self.window).long() + (places >= size - shift).long()


class CosineAttention(WindowAttention):
    """Version 2: cosines instead of products, and the bias is a function of the distance."""

    relative_coords_table: Tensor

    def _add_bias(self) -> None:
        self.logit_scale = nn.Parameter(torch.full((self.heads, 1, 1), math.log(10.0)))
        self.register_buffer("relative_coords_table", _logarithmic_distances(self.window))

    def __init__(self, width: int, *, heads: int, window: int, shift: int) -> None:
        super().__init__(width, heads=heads, window=window, shift=shift)
        self.cpb_mlp = Sequential(
            Linear(2, 512), ReLU(inplace=True), Linear(512, heads, bias=False)
        )

    def _project(self, x: Tensor) -> Tensor:
        # Keys have no bias: the paper's version 2 leaves it out, the weights keep its place.
        queries, keys, values = self.qkv.bias.chunk(3)
        return linear(x, self.qkv.weight, torch.cat([queries, torch.zeros_like(keys), values]))

    def _logits(self, queries: Tensor, keys: Tensor) -> Tensor:
        cosines = normalize(queries, dim=-1) @ normalize(keys, dim=-1).transpose(-2, -1)
        return cosines * self.logit_scale.clamp(max=_MOST_SHARP).exp()

    def _bias(self) -> Tensor:
        table = self.cpb_mlp(self.relative_coords_table).flatten(0, 2)
        return 16 * self._of_pairs(table).sigmoid()


def _relative_positions(window: int) -> Tensor:
    """For every pair of positions, one after another, the row of the table of biases."""
    places = torch.arange(window)
    apart = (places[:, None] - places + window - 1).to(torch.int64)
    rows = apart[:, None, :, None] * (2 * window - 1)
    return (rows + apart[None, :, None, :]).flatten()


def _logarithmic_distances(window: int) -> Tensor:
    """Of each row of that table, both distances on a logarithmic scale: (1, …, …, 2).

    Equation 4 of the second paper, where a whole window is ±1.
    """
    distances = torch.arange(1 - window, window, dtype=torch.float32) / (window - 1) * 8
    scaled = distances.sign() * (distances.abs() + 1).log2() / 3
    return torch.stack(torch.meshgrid(scaled, scaled, indexing="ij"), -1)[None]
