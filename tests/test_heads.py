"""Heads, backbones and feature maps: where the data says they are, and what the weights make."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from test_families import FIXED, SIZES, build
from torch import Tensor, nn

import hubstate
from hubstate import backbone, classifier, head_of, without
from hubstate.errors import StructureMismatch, UnknownModel
from hubstate.zoo.builders import register_model, registered
from hubstate.zoo.create import create_model, find_builder
from hubstate.zoo.features import Features
from hubstate.zoo.index import BUILTIN, FAMILIES
from hubstate.zoo.parts import HEADS, STAGES

NAMES = sorted(BUILTIN)
# One of each family, and a small one where that makes a difference of seconds.
LARGE = {"convnext": 3, "efficientnetv2": 2, "regnet": 13, "swin": 2}
FIRST = sorted(names[LARGE.get(family, 0)] for family, names in FAMILIES.items())
# One of each way to say where the stages are.
STAGED = {str(stages): name for name, stages in sorted(STAGES.items(), reverse=True)}
SMALL = ["mobilenet_v3_small", "regnet_y_400mf", "swin_t", "densenet121", "resnet18", "vgg11_bn"]


def classes(head: nn.Module) -> int:
    return int(getattr(head, "out_features", getattr(head, "out_channels", 0)))


@pytest.mark.parametrize("name", NAMES)
def test_the_head_has_an_output_for_each_class(name: str) -> None:
    model = build(name, num_classes=7)
    assert classes(classifier(model)) == 7
    assert [classes(model.get_submodule(path)) for path in head_of(name)] == [7] * len(HEADS[name])


@pytest.mark.parametrize("name", FIRST)
def test_the_head_is_the_whole_of_what_depends_on_the_classes(name: str) -> None:
    model, other = build(name, num_classes=7), build(name, num_classes=11)
    shapes = {key: tensor.shape for key, tensor in other.state_dict().items()}
    differ = {key for key, tensor in model.state_dict().items() if tensor.shape != shapes[key]}
    keep = without(*head_of(name))
    assert differ == {key for key in shapes if not keep(key)}


@pytest.mark.parametrize("name", FIRST)
def test_a_backbone_returns_what_the_classifier_would_have_been_given(name: str) -> None:
    size = 32 if name in FIXED else SIZES.get(name, 64)
    torch.manual_seed(0)
    model = create_model(name, num_classes=7, **FIXED.get(name, {})).eval()
    keys, given = list(model.state_dict()), list[Tensor]()
    head = classifier(model)
    head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].clone()))
    images = torch.randn(1, 3, size, size)
    body = backbone(model)
    with torch.inference_mode():
        model(images)
        found = body(images)
    if name.startswith("squeezenet"):  # the classifier is a convolution: its pool comes after
        given = [given[0].relu().mean((2, 3))]
    assert torch.equal(found.flatten(), given[0].flatten())
    assert list(model.state_dict()) == keys and classifier(model) is head
    tensors = model.state_dict(keep_vars=True)
    keep = without(*head_of(name))
    assert list(body.state_dict()) == [key for key in keys if keep(key)]
    assert all(tensor is tensors[key] for key, tensor in body.state_dict(keep_vars=True).items())


def test_a_wrapper_is_asked_what_it_wraps() -> None:
    model = build("resnet18")
    wrapper = nn.DataParallel(model)
    assert classifier(wrapper) is classifier(model)
    assert list(backbone(wrapper).state_dict()) == list(backbone(model).state_dict())


def test_a_backbone_is_no_longer_what_the_builder_made() -> None:
    body = backbone(build("resnet18"))
    with pytest.raises(UnknownModel, match="no builder made this ResNet"):
        classifier(body)


def test_a_builder_of_one_s_own_states_its_head() -> None:
    @register_model(name="zz_headed", head="1")
    def headed(*, num_classes: int = 3) -> nn.Sequential:
        return nn.Sequential(nn.Linear(2, 4), nn.Linear(4, num_classes))

    @register_model(name="zz_headless")
    def headless() -> nn.Module:
        return nn.Identity()

    try:
        assert classes(classifier(headed(num_classes=5))) == 5
        assert list(backbone(headed()).state_dict()) == ["0.weight", "0.bias"]
        with pytest.raises(UnknownModel, match=r"head of zz_headless.*head=…"):
            classifier(headless())
    finally:
        del registered()["zz_headed"], registered()["zz_headless"]


def test_heads_are_known_without_an_architecture() -> None:
    assert HEADS.keys() == BUILTIN.keys()
    with pytest.raises(UnknownModel, match="did you mean"):
        head_of("resnet5")


# feature maps


@pytest.mark.parametrize("name", sorted(STAGED.values()))
def test_feature_maps_are_as_small_as_they_say_and_use_every_tensor(name: str) -> None:
    whole, model = build(name, in_chans=5), build(name, in_chans=5, features_only=True)
    assert isinstance(model, Features)
    images = torch.zeros(2, 5, 64, 64, device="meta")
    maps = model(images)
    info = model.feature_info
    assert [tuple(found.shape) for found in maps] == [
        (2, each.channels, 64 // each.reduction, 64 // each.reduction) for each in info
    ]
    reductions = [each.reduction for each in info]
    assert reductions == sorted(set(reductions)) and len(info) >= 4
    kept = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert kept.items() <= {key: t.shape for key, t in whole.state_dict().items()}.items()
    left = {key for key in whole.state_dict() if not hubstate.without(*model.left_out)(key)}
    assert left | kept.keys() == whole.state_dict().keys() and not left & kept.keys()


@pytest.mark.parametrize("name", SMALL)
def test_feature_maps_are_what_the_stages_of_the_whole_network_make(name: str) -> None:
    torch.manual_seed(0)
    whole = create_model(name).eval()
    front = create_model(name, features_only=True).eval()
    assert isinstance(front, Features)
    keys = front.state_dict().keys()
    front.load_state_dict({k: v for k, v in whole.state_dict().items() if k in keys}, strict=True)
    seen: list[Tensor] = []
    for path in STAGES[name].values():
        hook: Any = lambda _, __, made: seen.append(made.clone())  # noqa: E731
        whole.get_submodule(path).register_forward_hook(hook)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        whole(images)
        found = front(images)
    if name.startswith("swin"):
        seen = [each.permute(0, 3, 1, 2) for each in seen]
    assert all(torch.equal(a, b) for a, b in zip(found, seen, strict=True))


def test_every_parameter_of_the_front_part_is_trained() -> None:
    model = create_model("mobilenet_v3_small", features_only=True).train()
    sum(each.sum() for each in model(torch.randn(2, 3, 64, 64))).backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]


def test_the_front_part_is_copied_and_pickled_as_any_module() -> None:
    model = create_model("resnet18_small", width=4, features_only=True).eval()
    images = torch.randn(1, 3, 16, 16)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        assert all(torch.equal(a, b) for a, b in zip(twin(images), model(images), strict=True))


def test_weights_of_the_whole_network_load_into_its_front_part_with_an_account() -> None:
    whole = create_model("resnet18_small", width=4)
    hubstate.publish(whole, "org/small", license="mit")
    model = create_model("resnet18_small", width=4, features_only=True, pretrained="org/small")
    report = hubstate.load_report(model)
    assert report is not None
    assert report.skipped == ("fc.weight", "fc.bias")
    assert len(report.loaded) == len(model.state_dict())
    assert all(torch.equal(t, whole.state_dict()[k]) for k, t in model.state_dict().items())
    later = create_model("resnet18_small", width=4, features_only=True)
    assert hubstate.load_pretrained(later, "org/small") == report
    only = hubstate.load_pretrained(later, "org/small", filter=hubstate.only("layer1", "fc"))
    assert {path.split(".")[0] for path in only.loaded} == {"layer1"}
    part = create_model(
        "resnet18_small",
        width=4,
        features_only=True,
        pretrained="org/small",
        filter=without("layer4"),
    )
    account = hubstate.load_report(part)
    assert account is not None and "layer4.0.conv1.weight" in account.skipped
    with pytest.raises(StructureMismatch, match="layer1"):
        create_model("resnet18_small", width=8, features_only=True, pretrained="org/small")


def test_a_front_part_is_published_and_built_again() -> None:
    model = create_model("resnet18_small", width=4, features_only=True)
    hubstate.publish(model, "org/front", license="mit")
    again = create_model("resnet18_small", width=4, features_only=True, pretrained="org/front")
    assert all(torch.equal(t, model.state_dict()[k]) for k, t in again.state_dict().items())


def test_only_networks_with_known_stages_offer_feature_maps() -> None:
    assert not any("features_only" in arguments(name) for name in BUILTIN.keys() - STAGES.keys())
    assert all("features_only" in arguments(name) for name in STAGES)
    with pytest.raises(TypeError, match=r"vit_b_16.*features_only"):
        build("vit_b_16", features_only=True)
    with pytest.raises(AttributeError):
        classifier(build("resnet18", features_only=True))


def arguments(name: str) -> set[str]:
    import inspect

    return set(inspect.signature(find_builder(name)).parameters)
