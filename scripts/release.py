"""The release script of the digits model: train, measure, publish. Copy it for your own.

python scripts/release.py [--dry-run] [--tag NAME] [--epochs N]
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from digits import LABELS, PREPROCESSING, accuracy, read_digits, train

import hubstate
from hubstate.zoo import resnet18_small

REPOSITORY = "hubstate/resnet18-digits"


def main() -> None:
    options = _options()
    torch.set_num_threads(1)  # layers as small as these lose more by sharing than they gain
    torch.manual_seed(options.seed)
    training, validation, test = read_digits()
    model = resnet18_small(num_classes=10, in_chans=1)
    print(
        f"training {sum(p.numel() for p in model.parameters()):,} parameters on "
        f"{len(training.labels):,} images of digits (seed {options.seed})"
    )
    began = time.perf_counter()
    train(model, training, epochs=options.epochs, rate=0.1, seed=options.seed, what="train")
    seconds = time.perf_counter() - began
    metrics = {
        "validation_accuracy": round(accuracy(model, validation), 6),
        "test_accuracy": round(accuracy(model, test), 6),
    }
    print(f"trained in {seconds:.0f} s: {json.dumps(metrics)}")
    publication = hubstate.publish(
        model,
        REPOSITORY,
        license="apache-2.0",
        metrics=metrics,
        labels=LABELS,
        preprocessing=PREPROCESSING,
        provenance={"data": "scikit-learn digits, 70/15/15 split", "seed": options.seed},
        description="A narrow ResNet-18 with a small stem, for 8 × 8 images of digits.",
        tag=options.tag,
        message=f"Test accuracy {metrics['test_accuracy']:.4f}",
        dry_run=options.dry_run,
    )
    print(publication)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="do everything but the commit")
    parser.add_argument("--tag", help="a name that this release keeps for ever")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except hubstate.HubstateError as error:
        raise SystemExit(f"error: {error}") from None
