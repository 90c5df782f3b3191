"""torchvision's spelling of pretrained weights, ``weights=``, beside ``pretrained=``."""

from __future__ import annotations

import enum
import inspect
from typing import Any

__all__ = ["WEIGHTS", "spelled"]

WEIGHTS = "weights"
_SUFFIX = "_Weights"


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
        TypeError: both were given, a value that is none of these, or weights of another network.

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
        weights = _written(weights)
    if weights is not None and not isinstance(weights, str):
        raise TypeError(
            f"{builder}(): weights is None, a name such as 'DEFAULT' or 'IMAGENET1K_V1', or a "
            f"member of torchvision's weights, not {weights!r}"
        )
    return _meaning(builder, weights)


def _written(member: enum.Enum) -> str:
    """A member of an enumeration as text, with its class where that names a network."""
    kind = type(member).__name__
    return f"{kind}.{member.name}" if kind.endswith(_SUFFIX) else member.name


def _meaning(builder: str, weights: str | None) -> bool | str:
    if weights is None or "/" in weights:
        return weights or False
    network, suffix, tag = weights.rpartition(f"{_SUFFIX}.")
    if suffix and _letters(network) != _letters(builder.rpartition(":")[2]):
        raise TypeError(f"{builder}(): weights={weights!r} are those of another network")
    return True if tag.lower() == "default" else tag.lower()


def _letters(name: str) -> str:
    """A network's name as it is spelled alike in ``mobilenet_v2`` and ``MobileNet_V2_Weights``."""
    return name.replace("_", "").lower()
