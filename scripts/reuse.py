"""What a user does with the released digits model, in a process that has never seen it trained."""

from __future__ import annotations

import time

import torch
from digits import Images, accuracy, read_digits, train

import hubstate
from hubstate.zoo import resnet18_small

HEAD = "fc"


def main() -> None:
    torch.set_num_threads(1)
    training, _, test = read_digits()
    _reproduce(test)
    _fine_tune(training, test)


def _reproduce(test: Images) -> None:
    began = time.perf_counter()
    model = resnet18_small(pretrained=True)
    seconds = time.perf_counter() - began
    release = hubstate.open_release("hubstate/resnet18-digits")
    assert release.manifest is not None
    published = release.manifest.metrics["test_accuracy"]
    measured = round(accuracy(model, test), 6)
    print(f"loaded {release.commit.id[:12]} with pretrained=True in {seconds * 1000:.0f} ms")
    print(f"test accuracy: published {published}, measured {measured}")
    if measured != published:
        raise SystemExit("the fetched model does not reproduce its published accuracy")


def _fine_tune(training: Images, test: Images) -> None:
    """Tell odd digits from even with the backbone as it is and a head of two classes."""
    torch.manual_seed(1)
    model = resnet18_small(pretrained=True, num_classes=2, filter=hubstate.without(HEAD))
    print(f"backbone alone: {hubstate.load_report(model)}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith(HEAD)
    train(model, _odd(training), epochs=4, rate=0.05, what="head")
    print(f"odd or even, a new head on the frozen backbone: {accuracy(model, _odd(test)):.4f}")


def _odd(part: Images) -> Images:
    return Images(images=part.images, labels=part.labels % 2)


if __name__ == "__main__":
    try:
        main()
    except hubstate.HubstateError as error:
        raise SystemExit(f"error: {error}") from None
