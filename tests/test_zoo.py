"""Builders: architectures by name, with weights by name, and nothing imported that is not used."""

from __future__ import annotations

import copy
import inspect
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from outline import outline
from safetensors.torch import save_file
from torch import nn

import hubstate
from hubstate import zoo
from hubstate.errors import (
    GateRefused,
    InvalidManifest,
    InvalidReference,
    InvalidSetting,
    StructureMismatch,
    UnknownModel,
)
from hubstate.hub import publish_files
from hubstate.manifest import BuilderRecord
from hubstate.zoo import resnet18, resnet18_small, resnet50
from hubstate.zoo.builders import (
    BUILTIN,
    builder_record,
    load_report,
    preprocessing_of,
    register_model,
    registered,
)
from hubstate.zoo.create import build, create_model, list_models

GOLDEN = Path(__file__).parent / "golden" / "zoo-resnet.txt"


def golden() -> dict[str, list[str]]:
    sections = GOLDEN.read_text().split("== ")[1:]
    return {lines[0]: lines[1:] for lines in (section.splitlines() for section in sections)}


@pytest.fixture(autouse=True)
def no_traces() -> Iterator[None]:
    """Builders that a test registers are forgotten after it."""
    builders = cast("dict[str, Any]", registered())
    before = builders.keys() | BUILTIN.keys()
    yield
    for name in builders.keys() - before:
        del builders[name]


@pytest.mark.parametrize("name", sorted(golden()))
def test_names_and_shapes_are_torchvision_s(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert outline(model.state_dict()) == golden()[name]


def test_the_golden_file_has_every_network_for_photographs() -> None:
    family = {name for name, home in BUILTIN.items() if home == "hubstate.zoo.resnet"}
    assert golden().keys() == family - {"resnet18_small"}


@pytest.mark.parametrize("size", [8, 32])
def test_the_small_network_takes_small_images(size: int) -> None:
    model = resnet18_small(in_chans=1, num_classes=7, width=4).eval()
    images = torch.zeros(2, 1, size, size)
    assert model(images).shape == (2, 7)
    assert model.forward_features(images).shape == (2, 32, size // 8, size // 8)


def test_the_large_network_takes_any_size_and_channels() -> None:
    model = resnet18(in_chans=4, num_classes=3).eval()
    assert model(torch.zeros(1, 4, 65, 33)).shape == (1, 3)


def test_convolutions_start_with_he_s_variance_by_fan_out() -> None:
    torch.manual_seed(0)
    for module in resnet18().modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            measured = float(module.weight.detach().std())
            assert measured == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)


@pytest.mark.parametrize("make", [resnet18_small, resnet50])
def test_zero_init_makes_every_block_the_identity(make: Callable[..., Any]) -> None:
    model = make(zero_init_residual=True)
    blocks = [block for stage in (model.layer1, model.layer2) for block in stage]
    assert all(bool((block.last_norm.weight == 0).all()) for block in blocks)
    assert not any(bool((block.bn1.weight == 0).any()) for block in blocks)


def test_a_forward_in_training_mode_reaches_every_parameter() -> None:
    model = resnet18_small(in_chans=1)
    model(torch.randn(4, 1, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# by name


def test_every_built_in_builder_is_where_the_table_says() -> None:
    for name, home in BUILTIN.items():
        assert getattr(import_module(home), name).registration.name == name
        assert getattr(zoo, name) is registered()[name]


def test_every_builder_of_the_library_is_in_the_table() -> None:
    for home in set(BUILTIN.values()):
        import_module(home)
    homes = {name: str(builder.__module__) for name, builder in registered().items()}
    ours = {name for name, home in homes.items() if home in BUILTIN.values()}
    assert ours == BUILTIN.keys() == set(zoo.__all__)


def test_models_are_listed_sorted_and_by_pattern() -> None:
    assert list_models("resnext*") == ["resnext101_32x8d", "resnext101_64x4d", "resnext50_32x4d"]
    assert set(BUILTIN) <= set(list_models())
    assert list_models("nothing*") == []


@pytest.mark.parametrize(
    "code",
    [
        "import hubstate; hubstate.list_models()",
        "import hubstate.zoo",
        "from hubstate.zoo.catalogue import entries; entries()",
        "from hubstate.zoo.create import list_models; list_models('resnet*')",
    ],
)
def test_a_list_imports_neither_torch_nor_a_family(code: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"torch", "numpy", "hubstate.zoo.resnet"} & set(answer.stdout.split())


def test_an_unknown_name_has_suggestions() -> None:
    with pytest.raises(UnknownModel, match=r"'resnet5'.*did you mean resnet50.*list_models"):
        create_model("resnet5")
    with pytest.raises(AttributeError):
        zoo.resnet5  # noqa: B018


def test_a_path_reaches_any_function() -> None:
    layer = create_model("torch.nn:Linear", in_features=3, out_features=2)
    assert isinstance(layer, nn.Linear)
    expected = BuilderRecord(
        name="torch.nn:Linear",
        arguments={"in_features": 3, "out_features": 2},
        source="torch.nn:Linear",
    )
    assert builder_record(layer) == expected
    assert isinstance(build(expected), nn.Linear)


@pytest.mark.parametrize(
    "path", ["no_such_module:f", "torch.nn:NoSuch", "math:pi", ":f", "torch.nn:", "a b:c"]
)
def test_a_path_that_leads_nowhere_is_unknown(path: str) -> None:
    with pytest.raises(UnknownModel, match=r"cannot be imported|not a function"):
        create_model(path)


def test_a_path_to_a_builder_is_that_builder() -> None:
    model = create_model("hubstate.zoo.resnet:resnet18_small", width=4)
    record = builder_record(model)
    assert record is not None and record.name == "resnet18_small"


def test_an_argument_that_is_not_there_is_named() -> None:
    with pytest.raises(TypeError, match=r"resnet18\(\): .*num_clases"):
        resnet18(num_clases=3)


# joining


def test_a_function_joins_by_its_name_or_another() -> None:
    @register_model
    def zz_plain(*, size: int = 2) -> nn.Linear:
        """What it is."""
        return nn.Linear(size, size)

    @register_model(name="zz.other-name")
    def something() -> nn.Linear:
        return nn.Linear(1, 1)

    assert list_models("zz*") == ["zz.other-name", "zz_plain"]
    assert create_model("zz_plain", size=5).in_features == 5
    assert zz_plain.__doc__ == "What it is."
    assert something.__name__ == "something"


def test_the_signature_shows_both_the_function_s_arguments_and_the_builder_s() -> None:
    parameters = inspect.signature(resnet18_small).parameters
    assert list(parameters) == [
        "pretrained",
        *("num_classes", "in_chans", "width", "zero_init_residual", "features_only"),
        *("filter", "strict", "adapt", "prefault", "copy"),
    ]
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert parameters["num_classes"].default == 10


def test_further_keywords_are_passed_on() -> None:
    @register_model
    def zz_loose(size: int, **others: Any) -> nn.Linear:
        return nn.Linear(size, **others)

    assert [*inspect.signature(zz_loose).parameters][-1] == "others"
    layer = zz_loose(size=2, out_features=3)
    record = builder_record(layer)
    assert record is not None and record.arguments == {"size": 2, "out_features": 3}


@pytest.mark.parametrize(
    "reserved", ["pretrained", "filter", "strict", "adapt", "prefault", "copy"]
)
def test_a_reserved_argument_is_refused(reserved: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def zz(*, {reserved}=1): ...", namespace)  # noqa: S102
    with pytest.raises(TypeError, match=f"argument {reserved} of the builder zz .*reserved"):
        register_model(namespace["zz"])
    assert "zz" not in registered()


def test_an_argument_without_a_name_is_refused() -> None:
    def zz_positional(size: int, /) -> nn.Linear:
        return nn.Linear(size, size)

    def zz_many(*sizes: Any) -> nn.Linear:
        return nn.Linear(*sizes)

    for function in (zz_positional, zz_many):
        with pytest.raises(TypeError, match="cannot be given by name"):
            register_model(function)


def test_a_name_is_taken_once() -> None:
    def make() -> nn.Linear:
        return nn.Linear(1, 1)

    def other() -> nn.Linear:
        return nn.Linear(1, 2)

    register_model(name="zz")(make)
    register_model(name="zz")(make)  # the same again, as a cell that is run twice
    with pytest.raises(ValueError, match="zz is a builder already"):
        register_model(name="zz")(other)
    with pytest.raises(ValueError, match=r"resnet18 is a builder of hubstate\.zoo\.resnet"):
        register_model(name="resnet18")(make)
    with pytest.raises(ValueError, match="letters, digits"):
        register_model(name="org/zz")(make)


def test_preprocessing_that_means_nothing_is_refused() -> None:
    stated: dict[str, Any] = {"input_size": [3, 8], "std": [0], "colours": "BGR"}
    with pytest.raises(InvalidSetting, match=r"zz: preprocessing: input_size: .*; std: expected"):
        register_model(name="zz", preprocessing=stated)(nn.Linear)
    assert "zz" not in registered()


def test_a_builder_must_return_a_module() -> None:
    @register_model
    def zz_nothing() -> Any:
        return None

    with pytest.raises(TypeError, match="zz_nothing returned NoneType"):
        zz_nothing()


PACKAGE = """
from torch import nn
from hubstate.zoo.builders import register_model

@register_model(preprocessing={"mean": [0.5]})
def zz_decorated(*, size=3):
    return nn.Linear(size, size)

def plain(*, size=4):
    return nn.Linear(size, size)
"""
POINTS = """[hubstate.models]
zz_decorated = zz_package:zz_decorated
zz_plain = zz_package:plain
zz_broken = zz_absent:f
zz_value = zz_package:__name__
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "zz_package.py").write_text(PACKAGE)
    info = tmp_path / "zz_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zz-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("zz_package", None)


@pytest.mark.usefixtures("package")
def test_an_installed_package_offers_builders() -> None:
    assert list_models("zz*") == ["zz_broken", "zz_decorated", "zz_plain", "zz_value"]
    assert "zz_package" not in sys.modules
    decorated, plain = create_model("zz_decorated"), create_model("zz_plain")
    assert [decorated.in_features, plain.in_features] == [3, 4]
    assert preprocessing_of(decorated) == {"mean": [0.5]}
    record = builder_record(plain)
    assert record is not None and (record.name, record.source) == ("zz_plain", "zz_package:plain")


@pytest.mark.usefixtures("package")
def test_a_package_that_is_broken_says_which() -> None:
    with pytest.raises(UnknownModel, match=r"zz_broken, zz_absent:f, cannot be imported"):
        create_model("zz_broken")
    with pytest.raises(UnknownModel, match=r"zz_value.* is a str"):
        create_model("zz_value")


# remembering


def test_a_model_remembers_who_built_it_and_shows_no_trace() -> None:
    model = resnet18_small(width=4, in_chans=1)
    assert builder_record(model) == BuilderRecord(
        name="resnet18_small",
        arguments={
            "num_classes": 10,
            "in_chans": 1,
            "width": 4,
            "zero_init_residual": False,
            "features_only": False,
        },
        source="hubstate.zoo.resnet:resnet18_small",
    )
    assert load_report(model) is None
    assert not any("hubstate" in name for name in hubstate.state(model))
    assert builder_record(copy.deepcopy(model)) == builder_record(model)
    assert builder_record(pickle.loads(pickle.dumps(model))) == builder_record(model)  # noqa: S301


def test_a_record_builds_the_same_architecture() -> None:
    model = resnet18_small(width=4, in_chans=1)
    record = builder_record(model)
    assert record is not None
    again = build(record)
    assert outline(again.state_dict()) == outline(model.state_dict())
    assert builder_record(again) == record


def test_a_model_of_no_builder_has_no_record() -> None:
    assert builder_record(nn.Linear(1, 1)) is None
    assert preprocessing_of(nn.Linear(1, 1)) == {}


def test_the_outermost_builder_is_the_one_that_counts() -> None:
    @register_model
    def zz_wrapping() -> nn.Module:
        return resnet18_small(width=4)

    record = builder_record(zz_wrapping())
    assert record is not None and (record.name, record.arguments) == ("zz_wrapping", {})


def test_an_argument_that_no_manifest_can_hold_is_named() -> None:
    @register_model
    def zz_layer(*, layer: type[nn.Module], scale: float, sizes: tuple[int, ...]) -> nn.Module:
        return layer()

    model = zz_layer(layer=nn.ReLU, scale=math.inf, sizes=(1, 2))
    with pytest.raises(GateRefused) as caught:
        builder_record(model)
    assert len(caught.value.problems) == 2
    assert "layer of zz_layer is a type" in caught.value.problems[0]


def test_arguments_are_recorded_as_they_were_given() -> None:
    @register_model
    def zz_sizes(*, sizes: Any) -> nn.Module:
        return nn.Identity()

    sizes = [1, {"a": (2, 3)}]
    model = zz_sizes(sizes=sizes)
    sizes.append(4)
    record = builder_record(model)
    assert record is not None and record.arguments == {"sizes": [1, {"a": [2, 3]}]}


def test_a_record_cannot_ask_for_weights() -> None:
    record = BuilderRecord(name="resnet18_small", arguments={"pretrained": "org/name@v1"})
    with pytest.raises(InvalidManifest, match="pretrained"):
        build(record)


# pretrained


def tensors(model: nn.Module) -> Mapping[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def published(tmp_path: Path) -> Mapping[str, torch.Tensor]:
    """A release of the small network, seven classes and one channel, under org/small@v1."""
    weights = tensors(resnet18_small(num_classes=7, in_chans=1, width=4))
    save_file(dict(weights), tmp_path / "model.safetensors")
    files = {"model.safetensors": tmp_path / "model.safetensors"}
    publish_files("org/small", files, message="first", tag="v1")
    return weights


CATALOGUE = """
schema = 1
[[model]]
builder = "resnet18_small"
tag = "sevens"
default = true
repository = "org/small"
revision = "v1"
license = "mit"
arguments = { num_classes = 7, in_chans = 1, width = 4 }
"""


@pytest.fixture
def catalogued(
    published: Mapping[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Mapping[str, torch.Tensor]:
    (tmp_path / "ours.toml").write_text(CATALOGUE)
    monkeypatch.setenv("HUBSTATE_CATALOGUE", str(tmp_path / "ours.toml"))
    return published


def assert_equal(model: nn.Module, expected: Mapping[str, torch.Tensor]) -> None:
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("pretrained", [True, "sevens"])
def test_the_catalogue_s_arguments_fit_its_weights(
    catalogued: Mapping[str, torch.Tensor], pretrained: bool | str
) -> None:
    model = resnet18_small(pretrained=pretrained)
    assert_equal(model, catalogued)
    report = load_report(model)
    assert report is not None and len(report.loaded) == len(catalogued)
    record = builder_record(model)
    assert record is not None and record.arguments["num_classes"] == 7


def test_a_reference_takes_the_arguments_that_are_given(
    published: Mapping[str, torch.Tensor],
) -> None:
    model = resnet18_small(pretrained="org/small@v1", num_classes=7, in_chans=1, width=4)
    assert_equal(model, published)


def test_weights_named_at_registration_are_found(published: Mapping[str, torch.Tensor]) -> None:
    @register_model(weights={"v1": "org/small@v1", "v0": "org/absent@v0"})
    def zz_small() -> nn.Module:
        return resnet18_small(num_classes=7, in_chans=1, width=4)

    assert_equal(zz_small(pretrained=True), published)
    assert_equal(zz_small(pretrained="v1"), published)
    with pytest.raises(UnknownModel, match="'v1', 'v0'"):
        zz_small(pretrained="v2")


def test_weights_that_are_no_references_are_refused_at_registration() -> None:
    with pytest.raises(InvalidReference):
        register_model(name="zz", weights={"v1": "org/name@a..b"})(nn.Identity)


@pytest.mark.usefixtures("catalogued")
def test_arguments_that_are_given_count_and_the_misfit_is_told() -> None:
    with pytest.raises(StructureMismatch) as caught:
        resnet18_small(pretrained=True, num_classes=3)
    assert [issue.path for issue in caught.value.issues] == ["fc.weight", "fc.bias"]


def test_what_the_filter_leaves_out_is_initialised(
    catalogued: Mapping[str, torch.Tensor],
) -> None:
    torch.manual_seed(1)
    model = resnet18_small(pretrained=True, num_classes=50, filter=hubstate.without("fc"))
    bound = model.fc.in_features**-0.5  # of the uniform distribution that a Linear starts with
    weight = model.fc.weight.detach()
    assert weight.shape == (50, 32)
    assert float(weight.abs().max()) <= bound
    assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)
    rest = {name: tensor for name, tensor in catalogued.items() if not name.startswith("fc.")}
    found = model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in rest.items())


def test_normalisations_that_get_no_weights_are_neutral(
    catalogued: Mapping[str, torch.Tensor],
) -> None:
    model = resnet18_small(pretrained=True, filter=hubstate.only("fc"))
    assert torch.equal(model.fc.weight, catalogued["fc.weight"])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all()) and bool((module.bias == 0).all())
            assert torch.equal(module.state_dict()["running_var"], torch.ones(module.num_features))
        if isinstance(module, nn.Conv2d):
            assert 0 < float(module.weight.detach().std()) < 1


def test_a_lenient_load_initialises_what_is_missing(tmp_path: Path) -> None:
    weights = dict(tensors(resnet18_small(width=4)))
    for name in ("fc.weight", "bn1.weight"):
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors")
    files = {"model.safetensors": tmp_path / "model.safetensors"}
    publish_files("org/partial", files, message="first")
    torch.manual_seed(2)
    model = resnet18_small(pretrained="org/partial", width=4, strict=False)
    report = load_report(model)
    assert report is not None and set(report.missing) == {"fc.weight", "bn1.weight"}
    assert bool((model.bn1.weight == 1).all())
    assert 0 < float(model.fc.weight.detach().std()) < 1
    assert torch.equal(model.fc.bias, weights["fc.bias"])


@pytest.mark.parametrize("pretrained", [None, 1, Path("org/name")])
def test_pretrained_of_another_type_is_refused(pretrained: object) -> None:
    with pytest.raises(TypeError, match="a bool, a tag or a reference"):
        create_model("resnet18_small", pretrained=pretrained)


def test_pretrained_that_is_not_there_names_what_can_be_given() -> None:
    with pytest.raises(UnknownModel, match="org/name@revision"):
        zoo.alexnet(pretrained=True)


@pytest.mark.usefixtures("catalogued")
def test_a_new_process_needs_only_the_name() -> None:
    code = (
        "import hubstate; m = hubstate.create_model('resnet18_small', pretrained=True);"
        "print(hubstate.load_report(m))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    assert answer.returncode == 0, answer.stderr
    assert "loaded" in answer.stdout
