"""torchvision's spelling of pretrained weights, ``weights=``, beside ``pretrained=``."""

from __future__ import annotations

import enum
import inspect
from typing import Any

__all__ = ["WEIGHTS", "spelled"]

WEIGHTS = "weights"


def spelled(
    builder: str,
    pretrained: bool | str,
    arguments: dict[str, Any],
    *,
    signature: inspect.Signature,
) -> bool | str:
    """What ``pretrained`` means, where ``weights`` may have been given instead.

    ===========================================  =============================
     weights=                                     pretrained=
    ===========================================  =============================
     ``None``                                     ``False``
     ``"DEFAULT"``                                ``True``
     ``"IMAGENET1K_V1"``                          ``"imagenet1k_v1"``
     ``ResNet50_Weights.IMAGENET1K_V1``           ``"imagenet1k_v1"``
     ``"ResNet50_Weights.IMAGENET1K_V1"``         ``"imagenet1k_v1"``
     ``"org/name@v1"``                            ``"org/name@v1"``
    ===========================================  =============================

    Args:
        builder: its name, for messages.
        pretrained: as it was given.
        arguments: as they were given; ``weights`` is taken out.
        signature: of the builder's function. A ``weights`` of its own is its own.

    Raises:
        TypeError: both were given, or a value that is none of these.

    >>> spelled("doc", False, {"weights": "IMAGENET1K_V1"}, signature=inspect.signature(print))
    'imagenet1k_v1'
    """
    if WEIGHTS not in arguments or WEIGHTS in signature.parameters:
        return pretrained
    weights = arguments.pop(WEIGHTS)
    if pretrained is not False:
        raise TypeError(
            f"{builder}(): pretrained={pretrained!r} and weights={weights!r} say the same thing "
            "in two spellings: give one of them"
        )
    if isinstance(weights, enum.Enum):
        weights = weights.name
    if weights is not None and not isinstance(weights, str):
        raise TypeError(
            f"{builder}(): weights is None, a name such as 'DEFAULT' or 'IMAGENET1K_V1', or a "
            f"member of torchvision's weights, not {weights!r}"
        )
    return _meaning(weights)


def _meaning(weights: str | None) -> bool | str:
    if weights is None or "/" in weights:
        return weights or False
    tag = weights.rpartition("_Weights.")[2].lower()
    return True if tag == "default" else tag
