"""The index: the library's own builders and the family that each is in, as data.

A family is a module of this package. Listing the names imports none of them. No family is called
like a builder: as an attribute of the package, a module would stand in the way of the function.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["BUILTIN", "FAMILIES"]

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "alex_net": ("alexnet",),
    "convmixer": (
        "convmixer_768_32",
        "convmixer_1024_20_ks9_p14",
        "convmixer_1536_20",
    ),
    "convnext": (
        "convnext_base",
        "convnext_large",
        "convnext_small",
        "convnext_tiny",
    ),
    "densenet": (
        "densenet121",
        "densenet161",
        "densenet169",
        "densenet201",
    ),
    "efficientnet": (
        "efficientnet_b0",
        "efficientnet_b1",
        "efficientnet_b2",
        "efficientnet_b3",
        "efficientnet_b4",
        "efficientnet_b5",
        "efficientnet_b6",
        "efficientnet_b7",
    ),
    "efficientnetv2": (
        "efficientnet_v2_l",
        "efficientnet_v2_m",
        "efficientnet_v2_s",
    ),
    "gmlp": (
        "gmlp_b16_224",
        "gmlp_s16_224",
        "gmlp_ti16_224",
    ),
    "google_net": ("googlenet",),
    "inception_resnet": ("inception_resnet_v2",),
    "inceptionv3": ("inception_v3",),
    "inceptionv4": ("inception_v4",),
    "mlp_mixer": (
        "mixer_b16_224",
        "mixer_b32_224",
        "mixer_l16_224",
        "mixer_l32_224",
        "mixer_s16_224",
        "mixer_s32_224",
    ),
    "mnasnet": (
        "mnasnet0_5",
        "mnasnet0_75",
        "mnasnet1_0",
        "mnasnet1_3",
    ),
    "mobilenetv1": ("mobilenet_v1",),
    "mobilenetv2": ("mobilenet_v2",),
    "mobilenetv3": (
        "mobilenet_v3_large",
        "mobilenet_v3_small",
    ),
    "regnet": (
        "regnet_x_1_6gf",
        "regnet_x_3_2gf",
        "regnet_x_8gf",
        "regnet_x_16gf",
        "regnet_x_32gf",
        "regnet_x_400mf",
        "regnet_x_800mf",
        "regnet_y_1_6gf",
        "regnet_y_3_2gf",
        "regnet_y_8gf",
        "regnet_y_16gf",
        "regnet_y_32gf",
        "regnet_y_128gf",
        "regnet_y_400mf",
        "regnet_y_800mf",
    ),
    "res2net": (
        "res2net50_14w_8s",
        "res2net50_26w_4s",
        "res2net50_26w_6s",
        "res2net50_26w_8s",
        "res2net50_48w_2s",
        "res2net101_26w_4s",
        "res2next50",
    ),
    "resmlp": (
        "resmlp_12_224",
        "resmlp_24_224",
        "resmlp_36_224",
        "resmlp_big_24_224",
    ),
    "resnet": (
        "resnet18",
        "resnet18_small",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
        "resnext50_32x4d",
        "resnext101_32x8d",
        "resnext101_64x4d",
        "wide_resnet50_2",
        "wide_resnet101_2",
    ),
    "senet": (
        "seresnet18",
        "seresnet34",
        "seresnet50",
        "seresnet101",
        "seresnet152",
        "seresnext50_32x4d",
        "seresnext101_32x4d",
        "seresnext101_32x8d",
        "seresnext101_64x4d",
    ),
    "shufflenetv2": (
        "shufflenet_v2_x0_5",
        "shufflenet_v2_x1_0",
        "shufflenet_v2_x1_5",
        "shufflenet_v2_x2_0",
    ),
    "squeezenet": (
        "squeezenet1_0",
        "squeezenet1_1",
    ),
    "swin": (
        "swin_b",
        "swin_s",
        "swin_t",
        "swin_v2_b",
        "swin_v2_s",
        "swin_v2_t",
    ),
    "u_net": ("unet",),
    "vgg": (
        "vgg11",
        "vgg11_bn",
        "vgg13",
        "vgg13_bn",
        "vgg16",
        "vgg16_bn",
        "vgg19",
        "vgg19_bn",
    ),
    "vision_transformer": (
        "vit_b_16",
        "vit_b_32",
        "vit_h_14",
        "vit_l_16",
        "vit_l_32",
    ),
    "xception_net": ("xception",),
}
"""The builders of each family, by the name of its module."""

BUILTIN: Mapping[str, str] = {
    name: f"{__package__}.{family}" for family, names in FAMILIES.items() for name in names
}
"""The module of each builder, by the builder's name."""
