"""The structure of a model, loads that are checked against it, and loads by assignment."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from hubstate.errors import StructureMismatch
from hubstate.filters import only, without
from hubstate.loading import assign_tensors, check, describe, loadmodel, plan_entries, state
from hubstate.manifest import Entry, structure_hash
from hubstate.walk import tensors_of


class Holder(nn.Module):
    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)


class Extra(nn.Module):
    def __init__(self, extra: Any) -> None:
        super().__init__()
        self._extra = extra

    def get_extra_state(self) -> Any:
        return self._extra

    def set_extra_state(self, state: Any) -> None:
        self._extra = state


def net() -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 2, 3, bias=False),
            norm=nn.BatchNorm2d(2),
            act=nn.ReLU(),
            fc=nn.Linear(2, 3),
        )
    )


def tied() -> nn.Sequential:
    model = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 3, bias=False))
    model[1].weight = model[0].weight
    return model


def entries(model: Any) -> dict[str, Entry]:
    return {entry.path: entry for entry in describe(model)}


def header(model: Any) -> list[Entry]:
    """What a safetensors header alone tells: no modules, no data, ties stored once."""
    return [
        Entry(path=e.path, kind="param", shape=e.shape, dtype=e.dtype)
        for e in describe(model)
        if e.is_tensor and e.tied_to is None
    ]


def equal(a: Any, b: Any) -> bool:
    mine, theirs = tensors_of(a), tensors_of(b)
    return list(mine) == list(theirs) and all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_each_name_has_an_entry_parents_first() -> None:
    found = [(e.path, e.kind) for e in describe(net()) if e.kind != "data"]
    assert found == [
        ("", "module"),
        ("conv", "module"),
        ("conv.weight", "param"),
        ("conv.bias", "none"),
        ("norm", "module"),
        ("norm.weight", "param"),
        ("norm.bias", "param"),
        ("norm.running_mean", "buffer"),
        ("norm.running_var", "buffer"),
        ("norm.num_batches_tracked", "buffer"),
        ("act", "module"),
        ("fc", "module"),
        ("fc.weight", "param"),
        ("fc.bias", "param"),
    ]


def test_an_entry_tells_shape_dtype_and_whether_it_trains() -> None:
    model = net().to(torch.bfloat16)
    model.fc.weight.requires_grad_(False)
    found = entries(model)
    assert found["fc.weight"] == Entry(
        path="fc.weight", kind="param", shape=(3, 2), dtype="bfloat16", trainable=False
    )
    assert found["fc.bias"].trainable is True
    assert found["norm.num_batches_tracked"] == Entry(
        path="norm.num_batches_tracked", kind="buffer", shape=(), dtype="int64"
    )
    assert found["act"].class_name == "torch.nn.modules.activation.ReLU"


def test_ties_point_to_the_first_name() -> None:
    found = entries(tied())
    assert found["0.weight"].tied_to is None and found["1.weight"].tied_to == "0.weight"
    layer = nn.Linear(2, 2)
    found = entries(nn.Sequential(layer, nn.ReLU(), layer))
    assert found["2"].tied_to == "0" and found["2.bias"].tied_to == "0.bias"
    view = Holder(a=nn.Parameter(torch.ones(2, 2)))
    view.register_buffer("b", view.a.detach())
    view.register_buffer("c", view.a.detach().t())
    assert entries(view)["b"].tied_to == "a" and entries(view)["c"].tied_to is None


def test_empty_and_meta_tensors_are_not_tied() -> None:
    for make in (lambda: torch.empty(0), lambda: torch.empty(2, device="meta")):
        found = entries({"a": make(), "b": make()})
        assert found["b"].tied_to is None


def test_plain_data_is_json() -> None:
    model = Holder(low=-math.inf, z=1 - 2j, size=(1, 2), nothing=(), items=[1], act=torch.relu)
    found = entries(model)
    assert found["low"].value == {"$float": "-inf"}
    assert found["z"].value == {"$complex": [1.0, -2.0]}
    assert found["size"].value == {"$tuple": [1, 2]}
    assert found["nothing"] == Entry(path="nothing", kind="data", value={"$tuple": []})
    assert found["items"].value == [1]
    assert found["act"] == Entry(path="act", kind="opaque")


def test_an_extra_state_is_a_tensor_or_plain_data() -> None:
    assert entries(Extra({"x": (1,)}))["_extra_state"].value == {"x": {"$tuple": [1]}}
    found = entries(Extra(torch.ones(2)))["_extra_state"]
    assert (found.kind, found.shape, found.dtype, found.is_tensor) == (
        "extra",
        (2,),
        "float32",
        True,
    )
    assert entries(Extra({"x": torch.ones(1)}))["_extra_state"].kind == "opaque"


def test_a_state_tree_and_a_flat_dict_have_a_structure_too() -> None:
    model = net()
    tensors = {e.path: (e.shape, e.dtype) for e in describe(model) if e.is_tensor}
    for form in (state(model), model.state_dict()):
        found = {e.path: (e.shape, e.dtype) for e in describe(form) if e.is_tensor}
        assert found == tensors
    assert {e.path for e in describe(state(model)) if e.kind == "module"} == {
        "",
        "conv",
        "norm",
        "act",
        "fc",
    }


def test_what_state_refuses_has_no_structure() -> None:
    with pytest.raises(ValueError, match=r"0\.weight: lazy"):
        describe(nn.Sequential(nn.LazyLinear(2)))
    with pytest.warns(UserWarning, match="scale") as caught:
        describe(Holder(scale=torch.ones(1)))
    assert caught[0].filename == __file__


def test_the_hash_is_that_of_the_contract() -> None:
    model = net()
    other = copy.deepcopy(model).eval()
    other.fc.out_features = 77
    assert structure_hash(describe(model)) == structure_hash(describe(other))
    assert structure_hash(describe(nn.DataParallel(model))) == structure_hash(describe(model))
    other.fc = nn.Linear(2, 4)
    assert structure_hash(describe(model)) != structure_hash(describe(other))


def cases() -> Iterator[tuple[Any, Any]]:
    yield net(), net()
    yield net(), net().half()
    yield nn.Linear(2, 2), nn.Linear(2, 2, bias=False)
    yield nn.Linear(2, 2), nn.Linear(2, 3)
    yield nn.Linear(2, 2), nn.BatchNorm1d(2)
    yield nn.BatchNorm1d(2, affine=False), nn.BatchNorm1d(2)
    yield net(), nn.Sequential(OrderedDict(fc=nn.Linear(2, 3)))
    yield nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU(), nn.Dropout())
    yield nn.Dropout(0.1), nn.Dropout(0.2)
    yield Extra(1), Extra({"a": (1, 2)})
    yield Extra(1), nn.ReLU()
    yield nn.LazyLinear(2), nn.Linear(2, 2)
    yield tied(), tied()
    yield nn.LSTM(2, 3), nn.LSTM(2, 3, bias=False)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(("model", "source"), list(cases()))
def test_a_check_says_what_the_load_will_say(model: Any, source: Any, strict: bool) -> None:
    def outcome(act: Any, src: Any) -> Any:
        try:
            return act(model, src, strict=strict)
        except StructureMismatch as error:
            return error.issues

    assert outcome(check, describe(source)) == outcome(loadmodel, source)


def test_a_check_leaves_to_the_load_what_needs_values() -> None:
    bare = nn.Linear(2, 2, bias=False)
    assert check(bare, describe(nn.Linear(2, 2))).skipped == ("bias",)
    untied = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 3, bias=False))
    assert check(tied(), describe(untied)).loaded == ("0.weight", "1.weight")


def test_a_header_alone_is_enough() -> None:
    report = check(net(), header(net()))
    assert len(report.loaded) == 8 and report.drift == {}
    assert check(tied(), header(tied())).loaded == ("0.weight", "1.weight")
    old = [e for e in header(net()) if "num_batches" not in e.path]
    assert check(net(), old).skipped == ("norm.num_batches_tracked",)
    with pytest.raises(StructureMismatch, match="num_batches_tracked: missing"):
        check(net(), [e for e in describe(net()) if "num_batches" not in e.path])


def test_a_check_obeys_filters_and_rules() -> None:
    big = nn.Sequential(OrderedDict(backbone=net(), new=nn.Linear(1, 1)))
    asked: dict[str, Any] = {}

    def keep(path: str, leaf: Any) -> bool:
        asked[path] = leaf
        return not path.startswith("new")

    check(net(), header(big), filter=keep, rename={r"^backbone\.": ""})
    assert asked["new.weight"].is_meta and asked["new.weight"].shape == (1, 1)
    with pytest.raises(StructureMismatch, match="rename"):
        check(net(), header(net()), rename={"^x": "y"})


def test_an_unknown_dtype_is_an_error_that_names_it() -> None:
    entry = Entry(path="weight", kind="param", shape=(2, 2), dtype="float3")
    with pytest.raises(
        StructureMismatch, match="weight: dtype: in the source: torch has no float3"
    ):
        check(nn.Linear(2, 2, bias=False), [entry])


def test_a_plan_names_the_tensors_that_it_will_read() -> None:
    big = nn.Sequential(OrderedDict(backbone=net(), head=nn.Linear(1, 1)))
    rules = {r"^backbone\.": ""}
    plan = plan_entries(net(), header(big), filter=without("head", "fc"), rename=rules)
    assert plan.wanted == tuple(f"backbone.{e.path}" for e in header(net()) if "fc" not in e.path)
    bare = plan_entries(nn.Linear(2, 2, bias=False), header(nn.Linear(2, 2)))
    assert set(bare.wanted) == {"weight", "bias"}
    assert plan_entries(Extra(0), describe(Extra(torch.ones(2)))).wanted == ("_extra_state",)


def test_a_plan_is_carried_out_with_the_tensors_it_asked_for() -> None:
    model, source = net(), net()
    plan = plan_entries(model, describe(source))
    tensors = {name: source.state_dict()[name] for name in plan.wanted}
    report = assign_tensors(plan, tensors)
    assert equal(model, source) and report == plan.report


def test_a_plan_refuses_tensors_that_are_not_as_promised() -> None:
    model = net()
    before = copy.deepcopy(model)
    plan = plan_entries(model, describe(net()))
    tensors = dict(net().state_dict())
    del tensors["fc.bias"]
    tensors["fc.weight"] = torch.ones(7)
    with pytest.raises(StructureMismatch) as caught:
        assign_tensors(plan, tensors)
    assert [(i.path, i.kind) for i in caught.value.issues] == [
        ("fc.weight", "shape"),
        ("fc.bias", "missing"),
    ]
    assert equal(model, before)


def test_a_plan_finds_out_with_the_values_what_it_could_not_tell_before() -> None:
    model, source = nn.Linear(2, 2, bias=False), nn.Linear(2, 2)
    plan = plan_entries(model, describe(source))
    with pytest.raises(StructureMismatch, match="bias: absent"):
        assign_tensors(plan, source.state_dict())
    plan = plan_entries(
        tied(), describe(nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 3, bias=False)))
    )
    with pytest.raises(StructureMismatch, match=r"1\.weight: tie"):
        assign_tensors(plan, {"0.weight": torch.ones(3, 2), "1.weight": torch.zeros(3, 2)})


def test_a_tie_is_found_under_the_name_that_the_file_has() -> None:
    model, source = tied(), tied()
    plan = plan_entries(model, describe(source))
    assign_tensors(plan, {"0.weight": source[0].weight.detach()})
    assert equal(model, source) and model[0].weight is model[1].weight


def test_an_extra_state_comes_out_of_a_manifest() -> None:
    model = Extra(None)
    assign_tensors(plan_entries(model, describe(Extra({"a": (1, math.inf)}))), {})
    assert model._extra == {"a": (1, math.inf)}
    tensor = torch.ones(2)
    assign_tensors(plan_entries(model, describe(Extra(tensor))), {"_extra_state": tensor})
    assert torch.equal(model._extra, tensor)


def test_assigned_tensors_are_the_models_own() -> None:
    model, source = net(), dict(net().state_dict())
    model.conv.weight.requires_grad_(False)
    report = assign_tensors(model, source)
    assert report.loaded == tuple(source)
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensor.data_ptr() == source[name].data_ptr()
    kinds = {name: (type(t), t.requires_grad) for name, t in model.named_parameters()}
    assert kinds.pop("conv.weight") == (nn.Parameter, False)
    assert set(kinds.values()) == {(nn.Parameter, True)}


def test_assigning_keeps_the_dtype_of_the_model_and_a_bias_it_has() -> None:
    model = nn.Linear(2, 2).double()
    report = assign_tensors(model, {"weight": torch.ones(2, 2).half(), "bias": None})
    assert model.weight.dtype is torch.float64 and model.bias.eq(0).all()
    assert report.cast == {"weight": ("float16", "float64")}


def test_assigning_fills_a_model_on_the_meta_device() -> None:
    source = net()
    with torch.device("meta"):
        model = net()
    assign_tensors(model, dict(source.state_dict()))
    assert equal(model, source)


@pytest.mark.parametrize("filter", [None, only("0"), only("1")])
def test_assigning_keeps_ties_under_every_name(filter: Any) -> None:
    model, value = tied(), torch.randn(3, 2)
    assign_tensors(model, {"0.weight": value, "1.weight": value}, filter=filter)
    assert model[0].weight is model[1].weight
    assert model[0].weight.data_ptr() == value.data_ptr()
    layer = nn.Linear(2, 2)
    shared = nn.Sequential(layer, layer)
    assign_tensors(shared, nn.Sequential(nn.Linear(2, 2)).state_dict())
    assert shared[0] is shared[1] is layer


def test_assigning_makes_no_ties_that_the_model_has_not() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    value = torch.ones(2, 2)
    assign_tensors(model, {"0.weight": value, "1.weight": value})
    assert model[0].weight.data_ptr() != model[1].weight.data_ptr()


def test_assigning_copies_into_memory_that_is_shared_otherwise() -> None:
    model = Holder(whole=nn.Parameter(torch.zeros(2, 2)))
    model.register_buffer("turned", model.whole.detach().t())
    value = torch.randn(2, 2)
    assign_tensors(model, {"whole": value})
    assert torch.equal(model.turned, value.t())
    assert torch.equal(model.whole, value)
    with torch.no_grad():
        model.whole.zero_()
    assert model.turned.eq(0).all()


class Loader(nn.Linear):
    def _load_from_state_dict(self, *args: Any) -> None:
        raise AssertionError("not called")


def hooked() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.register_load_state_dict_post_hook(lambda *_: None)
    return layer


def watched() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.weight.register_hook(lambda grad: grad)
    layer.bias.register_hook(lambda grad: grad)
    return layer


@pytest.mark.parametrize("make", [lambda: Loader(2, 2), hooked, watched])
def test_assigning_copies_where_something_else_may_know_the_tensor(make: Any) -> None:
    model = make()
    before = [id(model.weight), id(model.bias)]
    source = nn.Linear(2, 2)
    assign_tensors(model, source.state_dict())
    assert [id(model.weight), id(model.bias)] == before and equal(model, source)


def test_a_recurrent_layer_runs_on_what_was_assigned() -> None:
    model, source, x = nn.LSTM(2, 3), nn.LSTM(2, 3), torch.randn(4, 2)
    assign_tensors(model, dict(source.state_dict()))
    assert torch.equal(model(x)[0], source(x)[0])
    assert model._flat_weights[0] is model.weight_ih_l0


@pytest.mark.parametrize(
    "make",
    [
        net,
        tied,
        lambda: nn.LSTM(2, 3, 2),
        lambda: nn.MultiheadAttention(4, 2, kdim=3),
        lambda: parametrizations.weight_norm(nn.Linear(3, 2)),
        lambda: nn.ParameterDict({"a": nn.ParameterList([torch.randn(1)])}),
        lambda: nn.DataParallel(net()),
        lambda: nn.Sequential(Extra({"a": 1}), nn.Linear(1, 1)),
        lambda: net().to(memory_format=torch.channels_last),
    ],
)
def test_assigning_and_copying_give_the_same_model(make: Any) -> None:
    assigned, copied, source = make(), make(), make()
    tensors = {name: t.clone() for name, t in tensors_of(source).items()}
    plan = plan_entries(assigned, describe(source), fresh=True)
    assert assign_tensors(plan, tensors) == loadmodel(copied, source)
    assert equal(assigned, copied)
    assert structure_hash(describe(assigned)) == structure_hash(describe(source))


def test_attributes_of_parameters_survive() -> None:
    model = nn.Linear(2, 2)
    model.weight.no_decay = True  # type: ignore[attr-defined]
    assign_tensors(model, nn.Linear(2, 2).state_dict())
    assert model.weight.no_decay is True


def test_a_refused_assignment_changes_nothing() -> None:
    model = net()
    before = {name: (id(t), t.clone()) for name, t in model.named_parameters()}
    with pytest.raises(StructureMismatch):
        assign_tensors(model, nn.Linear(2, 2).state_dict())
    for name, tensor in model.named_parameters():
        assert id(tensor) == before[name][0] and torch.equal(tensor, before[name][1])
