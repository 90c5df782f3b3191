"""Real images that ship with scikit-learn: 1,797 handwritten digits of 8 × 8 grey values.

The split into train, validation and test is seeded and stratified, so that every process that
imports this module sees the same test images.
Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional
from tqdm import tqdm

LABELS = tuple(str(digit) for digit in range(10))
MEAN, STD = 4.88 / 16, 6.02 / 16  # of the training images, in units of full ink
PREPROCESSING: dict[str, Any] = {
    "input_size": [1, 8, 8],
    "mean": [MEAN],
    "std": [STD],
    "interpolation": "nearest",
    "crop_pct": 1.0,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """Images of shape (N, 1, 8, 8), float32, normalised, and labels of shape (N,), int64."""

    images: torch.Tensor
    labels: torch.Tensor


def read_digits() -> tuple[Images, Images, Images]:
    """The training, validation and test images: 70, 15 and 15 of a hundred."""
    data = load_digits()
    images = (torch.tensor(data.images, dtype=torch.float32)[:, None] / 16 - MEAN) / STD
    labels = torch.tensor(data.target)
    train, rest = train_test_split(
        torch.arange(len(labels)), test_size=0.3, stratify=labels, random_state=0
    )
    validation, test = train_test_split(rest, test_size=0.5, stratify=labels[rest], random_state=0)
    parts = (Images(images=images[part], labels=labels[part]) for part in (train, validation, test))
    first, second, third = parts
    return first, second, third


@torch.no_grad()
def accuracy(model: nn.Module, part: Images) -> float:
    """The share of images whose largest logit is the label's, in eval mode."""
    model.eval()
    return float((model(part.images).argmax(1) == part.labels).float().mean())


def train(
    model: nn.Module, part: Images, *, epochs: int, rate: float, seed: int = 0, what: str = "train"
) -> None:
    """Train what requires a gradient, with SGD, a one-cycle rate and shifts by one pixel."""
    generator = torch.Generator().manual_seed(seed)
    batch = 64
    steps = len(part.labels) // batch
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps)
    bar = tqdm(range(epochs), desc=what, unit="epoch", disable=None)
    for _ in bar:
        model.train()
        order = torch.randperm(len(part.labels), generator=generator)
        for picked in order[: steps * batch].view(steps, batch):
            images = _shifted(part.images[picked], generator)
            loss = functional.cross_entropy(model(images), part.labels[picked])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")


def _shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image moved by up to one pixel each way; what enters is blank paper."""
    padded = functional.pad(images, (1, 1, 1, 1), value=-MEAN / STD)
    moved = [
        padded[:, :, down : down + 8, right : right + 8] for down in range(3) for right in range(3)
    ]
    which = torch.randint(0, 9, (len(images),), generator=generator)
    return torch.stack(moved)[which, torch.arange(len(images))]
