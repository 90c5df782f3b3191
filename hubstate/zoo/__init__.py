"""The zoo: builders of architectures, and the catalogue of weights that are known for them.

::

    builders.py      register_model: a function that makes an architecture -> a public builder
    wrapper.py       what that adds to the function: pretrained=, and the weights it names
    catalogue.py     catalogue.toml: which weights exist for which builder
    listing.py       a catalogue file, read and checked
    inputs.py        what may be said of a model's images and sizes
    images.py        images made so
    preprocessing.py model_info, preprocess: what a builder or a release says of them
    create.py        create_model, list_models: builders by name
    index.py         the library's own builders, by family
    parts.py         where their heads and stages are, as data
    heads.py         classifier, backbone: a model's head, and all the rest of it
    features.py      feature maps from the front part of a network
    spelling.py      torchvision's weights= beside pretrained=
    libraries.py     timm:… and torchvision:…, imported when they are asked for
    resnet.py …      one family of architectures a file

Built-in builders are reached from here by name. The file of a family, and torch with it, is
imported when the first builder of that family is asked for.

>>> from hubstate.zoo import resnet18_small
>>> model = resnet18_small(width=8, in_chans=1)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from hubstate.zoo.builders import BUILTIN

if TYPE_CHECKING:
    from hubstate.zoo.alex_net import alexnet as alexnet
    from hubstate.zoo.convmixer import convmixer_768_32 as convmixer_768_32
    from hubstate.zoo.convmixer import convmixer_1024_20_ks9_p14 as convmixer_1024_20_ks9_p14
    from hubstate.zoo.convmixer import convmixer_1536_20 as convmixer_1536_20
    from hubstate.zoo.convnext import convnext_base as convnext_base
    from hubstate.zoo.convnext import convnext_large as convnext_large
    from hubstate.zoo.convnext import convnext_small as convnext_small
    from hubstate.zoo.convnext import convnext_tiny as convnext_tiny
    from hubstate.zoo.densenet import densenet121 as densenet121
    from hubstate.zoo.densenet import densenet161 as densenet161
    from hubstate.zoo.densenet import densenet169 as densenet169
    from hubstate.zoo.densenet import densenet201 as densenet201
    from hubstate.zoo.efficientnet import efficientnet_b0 as efficientnet_b0
    from hubstate.zoo.efficientnet import efficientnet_b1 as efficientnet_b1
    from hubstate.zoo.efficientnet import efficientnet_b2 as efficientnet_b2
    from hubstate.zoo.efficientnet import efficientnet_b3 as efficientnet_b3
    from hubstate.zoo.efficientnet import efficientnet_b4 as efficientnet_b4
    from hubstate.zoo.efficientnet import efficientnet_b5 as efficientnet_b5
    from hubstate.zoo.efficientnet import efficientnet_b6 as efficientnet_b6
    from hubstate.zoo.efficientnet import efficientnet_b7 as efficientnet_b7
    from hubstate.zoo.efficientnetv2 import efficientnet_v2_l as efficientnet_v2_l
    from hubstate.zoo.efficientnetv2 import efficientnet_v2_m as efficientnet_v2_m
    from hubstate.zoo.efficientnetv2 import efficientnet_v2_s as efficientnet_v2_s
    from hubstate.zoo.gmlp import gmlp_b16_224 as gmlp_b16_224
    from hubstate.zoo.gmlp import gmlp_s16_224 as gmlp_s16_224
    from hubstate.zoo.gmlp import gmlp_ti16_224 as gmlp_ti16_224
    from hubstate.zoo.google_net import googlenet as googlenet
    from hubstate.zoo.inception_resnet import inception_resnet_v2 as inception_resnet_v2
    from hubstate.zoo.inceptionv3 import inception_v3 as inception_v3
    from hubstate.zoo.inceptionv4 import inception_v4 as inception_v4
    from hubstate.zoo.mlp_mixer import mixer_b16_224 as mixer_b16_224
    from hubstate.zoo.mlp_mixer import mixer_b32_224 as mixer_b32_224
    from hubstate.zoo.mlp_mixer import mixer_l16_224 as mixer_l16_224
    from hubstate.zoo.mlp_mixer import mixer_l32_224 as mixer_l32_224
    from hubstate.zoo.mlp_mixer import mixer_s16_224 as mixer_s16_224
    from hubstate.zoo.mlp_mixer import mixer_s32_224 as mixer_s32_224
    from hubstate.zoo.mnasnet import mnasnet0_5 as mnasnet0_5
    from hubstate.zoo.mnasnet import mnasnet0_75 as mnasnet0_75
    from hubstate.zoo.mnasnet import mnasnet1_0 as mnasnet1_0
    from hubstate.zoo.mnasnet import mnasnet1_3 as mnasnet1_3
    from hubstate.zoo.mobilenetv1 import mobilenet_v1 as mobilenet_v1
    from hubstate.zoo.mobilenetv2 import mobilenet_v2 as mobilenet_v2
    from hubstate.zoo.mobilenetv3 import mobilenet_v3_large as mobilenet_v3_large
    from hubstate.zoo.mobilenetv3 import mobilenet_v3_small as mobilenet_v3_small
    from hubstate.zoo.regnet import regnet_x_1_6gf as regnet_x_1_6gf
    from hubstate.zoo.regnet import regnet_x_3_2gf as regnet_x_3_2gf
    from hubstate.zoo.regnet import regnet_x_8gf as regnet_x_8gf
    from hubstate.zoo.regnet import regnet_x_16gf as regnet_x_16gf
    from hubstate.zoo.regnet import regnet_x_32gf as regnet_x_32gf
    from hubstate.zoo.regnet import regnet_x_400mf as regnet_x_400mf
    from hubstate.zoo.regnet import regnet_x_800mf as regnet_x_800mf
    from hubstate.zoo.regnet import regnet_y_1_6gf as regnet_y_1_6gf
    from hubstate.zoo.regnet import regnet_y_3_2gf as regnet_y_3_2gf
    from hubstate.zoo.regnet import regnet_y_8gf as regnet_y_8gf
    from hubstate.zoo.regnet import regnet_y_16gf as regnet_y_16gf
    from hubstate.zoo.regnet import regnet_y_32gf as regnet_y_32gf
    from hubstate.zoo.regnet import regnet_y_128gf as regnet_y_128gf
    from hubstate.zoo.regnet import regnet_y_400mf as regnet_y_400mf
    from hubstate.zoo.regnet import regnet_y_800mf as regnet_y_800mf
    from hubstate.zoo.res2net import res2net50_14w_8s as res2net50_14w_8s
    from hubstate.zoo.res2net import res2net50_26w_4s as res2net50_26w_4s
    from hubstate.zoo.res2net import res2net50_26w_6s as res2net50_26w_6s
    from hubstate.zoo.res2net import res2net50_26w_8s as res2net50_26w_8s
    from hubstate.zoo.res2net import res2net50_48w_2s as res2net50_48w_2s
    from hubstate.zoo.res2net import res2net101_26w_4s as res2net101_26w_4s
    from hubstate.zoo.res2net import res2next50 as res2next50
    from hubstate.zoo.resmlp import resmlp_12_224 as resmlp_12_224
    from hubstate.zoo.resmlp import resmlp_24_224 as resmlp_24_224
    from hubstate.zoo.resmlp import resmlp_36_224 as resmlp_36_224
    from hubstate.zoo.resmlp import resmlp_big_24_224 as resmlp_big_24_224
    from hubstate.zoo.resnet import resnet18 as resnet18
    from hubstate.zoo.resnet import resnet18_small as resnet18_small
    from hubstate.zoo.resnet import resnet34 as resnet34
    from hubstate.zoo.resnet import resnet50 as resnet50
    from hubstate.zoo.resnet import resnet101 as resnet101
    from hubstate.zoo.resnet import resnet152 as resnet152
    from hubstate.zoo.resnet import resnext50_32x4d as resnext50_32x4d
    from hubstate.zoo.resnet import resnext101_32x8d as resnext101_32x8d
    from hubstate.zoo.resnet import resnext101_64x4d as resnext101_64x4d
    from hubstate.zoo.resnet import wide_resnet50_2 as wide_resnet50_2
    from hubstate.zoo.resnet import wide_resnet101_2 as wide_resnet101_2
    from hubstate.zoo.senet import seresnet18 as seresnet18
    from hubstate.zoo.senet import seresnet34 as seresnet34
    from hubstate.zoo.senet import seresnet50 as seresnet50
    from hubstate.zoo.senet import seresnet101 as seresnet101
    from hubstate.zoo.senet import seresnet152 as seresnet152
    from hubstate.zoo.senet import seresnext50_32x4d as seresnext50_32x4d
    from hubstate.zoo.senet import seresnext101_32x4d as seresnext101_32x4d
    from hubstate.zoo.senet import seresnext101_32x8d as seresnext101_32x8d
    from hubstate.zoo.senet import seresnext101_64x4d as seresnext101_64x4d
    from hubstate.zoo.shufflenetv2 import shufflenet_v2_x0_5 as shufflenet_v2_x0_5
    from hubstate.zoo.shufflenetv2 import shufflenet_v2_x1_0 as shufflenet_v2_x1_0
    from hubstate.zoo.shufflenetv2 import shufflenet_v2_x1_5 as shufflenet_v2_x1_5
    from hubstate.zoo.shufflenetv2 import shufflenet_v2_x2_0 as shufflenet_v2_x2_0
    from hubstate.zoo.squeezenet import squeezenet1_0 as squeezenet1_0
    from hubstate.zoo.squeezenet import squeezenet1_1 as squeezenet1_1
    from hubstate.zoo.swin import swin_b as swin_b
    from hubstate.zoo.swin import swin_s as swin_s
    from hubstate.zoo.swin import swin_t as swin_t
    from hubstate.zoo.swin import swin_v2_b as swin_v2_b
    from hubstate.zoo.swin import swin_v2_s as swin_v2_s
    from hubstate.zoo.swin import swin_v2_t as swin_v2_t
    from hubstate.zoo.u_net import unet as unet
    from hubstate.zoo.vgg import vgg11 as vgg11
    from hubstate.zoo.vgg import vgg11_bn as vgg11_bn
    from hubstate.zoo.vgg import vgg13 as vgg13
    from hubstate.zoo.vgg import vgg13_bn as vgg13_bn
    from hubstate.zoo.vgg import vgg16 as vgg16
    from hubstate.zoo.vgg import vgg16_bn as vgg16_bn
    from hubstate.zoo.vgg import vgg19 as vgg19
    from hubstate.zoo.vgg import vgg19_bn as vgg19_bn
    from hubstate.zoo.vision_transformer import vit_b_16 as vit_b_16
    from hubstate.zoo.vision_transformer import vit_b_32 as vit_b_32
    from hubstate.zoo.vision_transformer import vit_h_14 as vit_h_14
    from hubstate.zoo.vision_transformer import vit_l_16 as vit_l_16
    from hubstate.zoo.vision_transformer import vit_l_32 as vit_l_32
    from hubstate.zoo.xception_net import xception as xception

__all__ = list(BUILTIN)


def __getattr__(name: str) -> object:
    home = BUILTIN.get(name)
    if home is None:
        raise AttributeError(f"module 'hubstate.zoo' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
