"""Where the parts of the built-in architectures are, as data: their heads and their stages.

Both are dotted paths, as ``get_submodule`` takes them.
"""

from __future__ import annotations

from collections.abc import Mapping

from hubstate.zoo.index import FAMILIES

__all__ = ["CHANNELS_LAST", "HEADS", "STAGES"]

Stages = Mapping[int, str]

_BY_FAMILY: Mapping[str, tuple[str, ...]] = {
    "alex_net": ("classifier.6",),
    "convmixer": ("head",),
    "convnext": ("classifier.2",),
    "densenet": ("classifier",),
    "efficientnet": ("classifier.1",),
    "efficientnetv2": ("classifier.1",),
    "gmlp": ("head",),
    "google_net": ("fc", "aux1.fc2", "aux2.fc2"),
    "inception_resnet": ("classif",),
    "inceptionv3": ("fc", "AuxLogits.fc"),
    "inceptionv4": ("last_linear",),
    "mlp_mixer": ("head",),
    "mnasnet": ("classifier.1",),
    "mobilenetv1": ("classifier",),
    "mobilenetv2": ("classifier.1",),
    "mobilenetv3": ("classifier.3",),
    "regnet": ("fc",),
    "res2net": ("fc",),
    "resmlp": ("head",),
    "resnet": ("fc",),
    "senet": ("fc",),
    "shufflenetv2": ("fc",),
    "squeezenet": ("classifier.1",),
    "swin": ("head",),
    "u_net": ("outc.conv",),
    "vgg": ("classifier.6",),
    "vision_transformer": ("heads.head",),
    "xception_net": ("fc",),
}

HEADS: Mapping[str, tuple[str, ...]] = {
    name: _BY_FAMILY[family] for family, names in FAMILIES.items() for name in names
}
"""The layers with an output for each class, by builder: the classifier, then auxiliary ones."""


def _under(folder: str, *names: object, first: int = 2) -> Stages:
    """Stages that each halve the image, the first of which has reduced it by so much."""
    return {first << index: f"{folder}{name}" for index, name in enumerate(names)}


_LAYERS = _under("", "relu", "layer1", "layer2", "layer3", "layer4")
_FOUR = _under("features.", 1, 3, 5, 7, first=4)
_WIDE_V2 = _under("features.", 1, 2, 3, 5, 7)

_STAGES: Mapping[str, Stages] = {
    "convnext": _FOUR,
    "densenet": _under("features.", "relu0", "denseblock1", "denseblock2", "denseblock3", "norm5"),
    "efficientnet": _under("features.", 1, 2, 3, 5, 7),
    "mnasnet": _under("layers.", 7, 8, 9, 11, 13),
    "mobilenetv1": _under("blocks.", 0, 1, 2, 3, 4),
    "mobilenetv2": _under("features.", 1, 3, 6, 13, 17),
    "regnet": {2: "stem", **_under("trunk_output.block", 1, 2, 3, 4, first=4)},
    "res2net": _LAYERS,
    "resnet": _LAYERS,
    "senet": _LAYERS,
    "shufflenetv2": _under("", "conv1", "maxpool", "stage2", "stage3", "stage4"),
    "swin": _FOUR,
}
_OWN_STAGES: Mapping[str, Stages] = {
    "efficientnet_v2_s": _under("features.", 1, 2, 3, 4, 6),
    "efficientnet_v2_m": _WIDE_V2,
    "efficientnet_v2_l": _WIDE_V2,
    "mobilenet_v3_large": _under("features.", 1, 3, 6, 12, 15),
    "mobilenet_v3_small": _under("features.", 0, 1, 3, 8, 11),
    "resnet18_small": _under("layer", 1, 2, 3, 4, first=1),
    "vgg11": _under("features.", 1, 4, 9, 14, 19, 20, first=1),
    "vgg11_bn": _under("features.", 2, 6, 13, 20, 27, 28, first=1),
    "vgg13": _under("features.", 3, 8, 13, 18, 23, 24, first=1),
    "vgg13_bn": _under("features.", 5, 12, 19, 26, 33, 34, first=1),
    "vgg16": _under("features.", 3, 8, 15, 22, 29, 30, first=1),
    "vgg16_bn": _under("features.", 5, 12, 22, 32, 42, 43, first=1),
    "vgg19": _under("features.", 3, 8, 17, 26, 35, 36, first=1),
    "vgg19_bn": _under("features.", 5, 12, 25, 38, 51, 52, first=1),
}

STAGES: Mapping[str, Stages] = {
    name: _OWN_STAGES.get(name) or _STAGES[family]
    for family, names in FAMILIES.items()
    for name in names
    if name in _OWN_STAGES or family in _STAGES
}
"""By builder: how many times smaller than the image a feature map is, and who makes it.

These networks are a row of modules, each of which takes what the one before it gives, in the order
in which they are registered; the last module that makes maps of a size is the one that is named.
"""

CHANNELS_LAST = frozenset(FAMILIES["swin"])
"""Builders whose stages make (N, height, width, channels)."""
