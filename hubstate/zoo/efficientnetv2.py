"""EfficientNet v2: fused convolutions in the first stages, found by a search for fast training.

Tan, Le, "EfficientNetV2: Smaller Models and Faster Training", 2021,
https://arxiv.org/abs/2104.00298

Names, shapes and outputs are those of torchvision's models, so weights go both ways. The network
is laid out as in ``efficientnet.py``.
"""

from __future__ import annotations

from hubstate.strictjson import Json
from hubstate.zoo.builders import Builder
from hubstate.zoo.efficientnet import EfficientNet, Plan, Stage
from hubstate.zoo.variants import photographs, variant

__all__ = ["efficientnet_v2_l", "efficientnet_v2_m", "efficientnet_v2_s"]

_HALF = (0.5, 0.5, 0.5)


def _efficientnet(
    plan: Plan, *, num_classes: int = 1000, in_chans: int = 3, drop_branch: float = 0.2
) -> EfficientNet:
    return EfficientNet(plan, num_classes=num_classes, in_chans=in_chans, drop_branch=drop_branch)


def _variant(
    name: str, plan: Plan, *, about: str, preprocessing: dict[str, Json]
) -> Builder[EfficientNet]:
    return variant(_efficientnet, plan, name=name, about=about, preprocessing=preprocessing)


efficientnet_v2_s = _variant(
    "efficientnet_v2_s",
    Plan(
        stages=Stage.rows((1, 3, 1, 24, 2), (4, 3, 2, 48, 4), (4, 3, 2, 64, 4), fused=True)
        + Stage.rows((4, 3, 2, 128, 6), (6, 3, 1, 160, 9), (6, 3, 2, 256, 15)),
        stem=24,
        outputs=1280,
        dropout=0.2,
        eps=0.001,
    ),
    about="EfficientNetV2-S (Tan, Le 2021, table 4): 21.5 M parameters.",
    preprocessing=photographs(384, resize=384),
)
efficientnet_v2_m = _variant(
    "efficientnet_v2_m",
    Plan(
        stages=Stage.rows((1, 3, 1, 24, 3), (4, 3, 2, 48, 5), (4, 3, 2, 80, 5), fused=True)
        + Stage.rows((4, 3, 2, 160, 7), (6, 3, 1, 176, 14), (6, 3, 2, 304, 18), (6, 3, 1, 512, 5)),
        stem=24,
        outputs=1280,
        dropout=0.3,
        eps=0.001,
    ),
    about="EfficientNetV2-M (Tan, Le 2021): 54.1 M parameters.",
    preprocessing=photographs(480, resize=480),
)
efficientnet_v2_l = _variant(
    "efficientnet_v2_l",
    Plan(
        stages=Stage.rows((1, 3, 1, 32, 4), (4, 3, 2, 64, 7), (4, 3, 2, 96, 7), fused=True)
        + Stage.rows((4, 3, 2, 192, 10), (6, 3, 1, 224, 19), (6, 3, 2, 384, 25), (6, 3, 1, 640, 7)),
        outputs=1280,
        dropout=0.4,
        eps=0.001,
    ),
    about="EfficientNetV2-L (Tan, Le 2021): 118.5 M parameters.",
    preprocessing=photographs(480, resize=480, interpolation="bicubic", mean=_HALF, std=_HALF),
)
