"""Rules of a release, of a builder and of a call: old releases keep loading after a refactor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from earlier import earlier_densenet121, renamed
from quick import described, publish_quickly
from safetensors.torch import load_file, save_file
from test_peers import theirs  # noqa: F401 (a fixture)
from torch import nn
from toys import toy

import hubstate
from hubstate.convert import export_weights, read_foreign
from hubstate.convert.holder import hold
from hubstate.errors import InvalidSetting, StructureMismatch
from hubstate.fetching import wanted_tensors
from hubstate.fitness import refusals
from hubstate.gate import inspect
from hubstate.hub import publish_files
from hubstate.manifest import NAME, Manifest, dump, parse
from hubstate.rules import dump_rules, parse_rules
from hubstate.staging import Description, recorded_builder, stage
from hubstate.subject import open_subject
from hubstate.zoo import densenet121, vit_b_32
from hubstate.zoo.builders import register_model
from hubstate.zoo.vision_transformer import Plan, VisionTransformer

IMAGES = (1, 3, 64, 64)
RULES = [{"rename": r"(.*\.denselayer\d+\.(?:norm|conv))\.([12])\.(.*)", "to": r"\1\2.\3"}]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A release of the earlier DenseNet, which has passed the gate."""
    folder = tmp_path_factory.mktemp("registry")
    torch.manual_seed(0)
    model = earlier_densenet121(num_classes=7).eval()
    hubstate.publish(model, "org/dense", license="mit", probe=IMAGES, registry=str(folder))
    return folder, model


@pytest.fixture
def release(old: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.setenv("HUBSTATE_REGISTRY", str(old[0]))
    return old[1]


def report_of(model: nn.Module) -> hubstate.LoadReport:
    report = hubstate.load_report(model)
    assert report is not None
    return report


def test_a_release_of_the_old_densenet_loads_into_today_s(release: nn.Module) -> None:
    assert "features.denseblock1.denselayer1.norm.1.weight" in release.state_dict()
    model = densenet121(pretrained="org/dense", num_classes=7).eval()
    images = torch.randn(2, *IMAGES[1:])
    with torch.inference_mode():
        assert torch.equal(model(images), release(images))
    report = report_of(model)
    assert set(report.loaded) == set(model.state_dict())
    assert report.rules == {"builder": tuple(RULES)}
    assert str(report).splitlines()[0] == f"{len(report.loaded)} loaded, 1 rules"


def test_what_else_is_asked_of_a_load_goes_by_today_s_names(release: nn.Module) -> None:
    other = densenet121(pretrained="org/dense", num_classes=3, in_chans=1, adapt=True)
    touched = ["classifier.weight", "classifier.bias", "features.conv0.weight"]
    assert list(report_of(other).adapted) == touched
    first = hubstate.only("*.denselayer1.norm1")
    part = report_of(densenet121(pretrained="org/dense", num_classes=7, filter=first))
    assert len(part.loaded) == 4 * 5 and all(".norm1." in path for path in part.loaded)
    front = densenet121(pretrained="org/dense", num_classes=7, features_only=True)
    assert report_of(front).skipped == ("classifier.weight", "classifier.bias")


def test_what_else_differs_stays_an_error(release: nn.Module) -> None:
    with pytest.raises(StructureMismatch) as caught:
        densenet121(pretrained="org/dense", num_classes=3)
    paths = [issue.path for issue in caught.value.issues]
    assert paths == ["classifier.weight", "classifier.bias"]


def test_a_bare_file_with_torchvision_s_names_loads_too(tmp_path: Path) -> None:
    """As the files are that torchvision publishes: old names, no counters, no manifest."""
    model = densenet121(num_classes=2).eval()
    tensors = {
        name.replace(".norm1.", ".norm.1.").replace(".norm2.", ".norm.2.")
        .replace(".conv1.", ".conv.1.").replace(".conv2.", ".conv.2."): tensor
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }  # fmt: skip
    save_file(tensors, tmp_path / "model.safetensors")
    files = {"model.safetensors": tmp_path / "model.safetensors"}
    publish_files("org/bare", files, message="First")
    made = densenet121(pretrained="org/bare", num_classes=2).eval()
    images = torch.randn(IMAGES)
    with torch.inference_mode():
        assert torch.equal(made(images), model(images))
    assert report_of(made).rules == {"builder": tuple(RULES)}
    publish_quickly(model, "org/new")
    assert report_of(densenet121(pretrained="org/new", num_classes=2)).rules == {}


def test_the_perceptrons_of_older_vision_transformers_are_renamed() -> None:
    plan = Plan(patch=16, layers=2, heads=2, width=16, hidden=32)
    model, other = (VisionTransformer(plan, num_classes=3, image_size=32) for _ in range(2))
    migrations = vit_b_32.registration.migrations
    publish_quickly(hold(earlier_names(model)), "org/perceptrons")
    report = hubstate.load_pretrained(other, "org/perceptrons", migrations=migrations)
    assert [rule["to"] for rule in report.rules["builder"]] == [r"\1.0.\2", r"\1.3.\2"]
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state_dict().items())


def earlier_names(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a vision transformer by the names that torchvision once gave them."""
    return {
        name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): tensor
        for name, tensor in model.state_dict().items()
    }


# rules in the manifest


class Linear(nn.Module):
    """One layer, under a name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.add_module(name, nn.Linear(3, 2))


def exact(*rules: dict[str, Any]) -> tuple[Any, ...]:
    return parse_rules(list(rules))


def test_a_release_s_rules_come_first_then_the_builder_s_then_the_call_s() -> None:
    first = {"rename": {"a.weight": "b.weight", "a.bias": "b.bias"}}
    publish_quickly(Linear("a"), "org/steps", transforms=exact(first))
    second = {"rename": r"b\.(.*)", "to": r"c.\1"}
    third = {"rename": r"c\.(.*)", "to": r"d.\1"}
    model = Linear("d")
    report = hubstate.load_pretrained(
        model, "org/steps", migrations={"has:b.weight": [second]}, transforms=[third]
    )
    assert report.loaded == ("d.weight", "d.bias")
    assert {whose: list(rules) for whose, rules in report.rules.items()} == {
        "release": [first],
        "builder": [second],
        "call": [third],
    }
    assert list(report.rules) == ["release", "builder", "call"]
    assert str(report).splitlines() == [
        "2 loaded, 3 rules",
        r"  rules: rename 2 names (release), rename b\.(.*) (builder), rename c\.(.*) (call)",
    ]
    json.dumps(report.to_json())


def test_migrations_follow_one_another() -> None:
    publish_quickly(Linear("a"), "org/chain")
    steps = {
        f"has:{x}.weight": [{"rename": rf"{x}\.(.*)", "to": rf"{y}.\1"}] for x, y in ("ab", "bc")
    }
    report = hubstate.load_pretrained(Linear("c"), "org/chain", migrations=steps)
    assert [rule["rename"] for rule in report.rules["builder"]] == [r"a\.(.*)", r"b\.(.*)"]


def test_an_unused_rule_of_a_release_is_an_error_before_a_weight_moves() -> None:
    publish_quickly(Linear("a"), "org/unused", transforms=exact({"drop": "gone"}))
    with pytest.raises(StructureMismatch, match=r'"drop": "gone"\}: transform: matches no tensor'):
        hubstate.load_pretrained(Linear("a"), "org/unused")


def test_loadmodel_and_check_say_which_rules_they_applied() -> None:
    rule = {"rename": r"a\.(.*)", "to": r"b.\1"}
    source = Linear("a")
    report = hubstate.loadmodel(Linear("b"), source, transforms=[rule])
    assert report.rules == {"call": (rule,)}
    checked = hubstate.check(Linear("b"), hubstate.describe(source), transforms=[rule])
    assert checked.rules == report.rules


@pytest.mark.parametrize("key", ["v1", "has:", "sha256:12", ""])
def test_a_migration_is_for_a_structure_or_a_tensor(key: str) -> None:
    with pytest.raises(InvalidSetting, match="migrations: expected the hash of a structure"):
        register_model(name="yy-wrong", migrations={key: RULES})(lambda: nn.Linear(1, 1))


# publishing with rules


def meaning_of(model: nn.Module, **changes: Any) -> Description:
    builder = recorded_builder(model, "densenet121", {"num_classes": 7})
    stated = {"builder": builder, "probe": IMAGES, "transforms": parse_rules(RULES)}
    return described(**(stated | changes))


@pytest.fixture
def staged(release: nn.Module, tmp_path: Path) -> Manifest:
    """The manifest of a staged release, with rules, of the old tensors."""
    return stage(release, tmp_path, meaning_of(release), repository="org/dense", limit=10**9)


def test_rules_pass_the_gate_by_name_and_only_where_they_lead_to_the_builder_s_model(
    staged: Manifest, tmp_path: Path
) -> None:
    manifest = staged
    assert inspect(tmp_path) == []
    ((rule,),) = [dump_rules(manifest.transforms)]
    names: Any = rule["rename"]
    assert names["features.denseblock1.denselayer1.norm.1.weight"].endswith("norm1.weight")
    assert len(names) == 58 * 12
    assert "- 1 rules in the manifest make" in (tmp_path / "README.md").read_text()
    assert parse((tmp_path / NAME).read_bytes()) == manifest

    one, two = (f"features.denseblock1.denselayer{n}.conv.2.weight" for n in (1, 2))
    swapped = {**names, one: names[two], two: names[one]}
    wrong = replace(manifest, transforms=exact({"rename": swapped}))
    (tmp_path / NAME).write_bytes(dump(wrong))
    assert [problem for problem in inspect(tmp_path) if problem.startswith("probe")]
    (tmp_path / NAME).write_bytes(dump(replace(manifest, transforms=())))
    assert "denselayer1.norm1.weight: missing" in inspect(tmp_path)[0]


class Stateful(Linear):
    """One layer, and an extra state that is a tensor."""

    _extra = torch.zeros(2)

    def get_extra_state(self) -> torch.Tensor:
        return self._extra

    def set_extra_state(self, state: torch.Tensor) -> None:
        self._extra = state


def test_an_extra_state_passes_the_gate_beside_rules(tmp_path: Path) -> None:
    register_model(name="yy-stateful")(lambda: Stateful("b"))
    old = Stateful("a")
    old.set_extra_state(torch.tensor([1.0, 2.0]))
    rules = parse_rules([{"rename": r"(?:a\.)?(.*)", "to": r"b.\1"}])
    record = recorded_builder(old, "yy-stateful", None)
    meaning = meaning_of(old, builder=record, transforms=rules, probe=None)
    stage(old, tmp_path, meaning, repository="org/extra", limit=10**9)
    assert inspect(tmp_path) == []


def test_a_rule_that_matches_nothing_is_not_published(release: nn.Module) -> None:
    meaning = meaning_of(release, transforms=parse_rules([*RULES, {"drop": "gone"}]))
    (problem,) = refusals(release, meaning, allow_nonfinite=False)
    assert problem == 'transforms: {"drop": "gone"}: transform: matches no tensor'
    with pytest.raises(InvalidSetting, match="expected one of rename"):
        hubstate.publish(release, "org/no", license="mit", transforms=[{"no": "rule"}])


def test_the_command_line_publishes_shows_and_exports_with_rules(tmp_path: Path, run: Any) -> None:
    torch.manual_seed(0)
    state = toy().state_dict()
    older = {name.replace("fc.", "head."): tensor for name, tensor in state.items()}
    weights, rules = tmp_path / "old.safetensors", tmp_path / "rules.json"
    save_file(older, weights)
    rules.write_text(json.dumps([{"rename": r"head\.(.*)", "to": r"fc.\1"}]))
    words = ["--builder", "toys:toy", "--weights", str(weights), "--license", "mit"]
    code, _, err = run("publish", "org/cli", *words, "--transforms", str(rules))
    assert code == 0, err
    assert "transforms    rename 2 names" in run("show", "org/cli")[1]
    shown = json.loads(run("show", "org/cli", "--json")[1])
    assert shown["transforms"] == [{"rename": {"head.bias": "fc.bias", "head.weight": "fc.weight"}}]
    assert shown["probe"] == [2, 3, 8, 8], "recorded by the builder's model"
    subject = open_subject("org/cli")
    exported = export_weights(subject, tmp_path / "out.safetensors", to="safetensors")
    assert all(torch.equal(exported[name], state[name]) for name in state)
    assert subject.release is not None
    chosen = wanted_tensors(subject.release, "model.safetensors", hubstate.only("fc"))
    assert [tensor.name for tensor in chosen or ()] == ["head.bias", "head.weight"]
    model = toy(pretrained="org/cli")
    assert torch.equal(model.fc.weight, state["fc.weight"])
    assert run("publish", "org/cli", *words[:2], *words[2:], "--transforms", str(rules))[0] == 0


# old names, in and out of the command line


def test_old_names_are_imported_published_and_exported_again(tmp_path: Path, run: Any) -> None:
    """Old names lead to today's, and back to their own bit by bit."""
    state = renamed().state_dict()
    old = {name.replace("fc.", "head."): t for name, t in state.items() if "num_" not in name}
    files = ("old.safetensors", "new.safetensors", "out.safetensors")
    names = [str(tmp_path / name) for name in files]
    save_file(old, names[0])
    builder = ["--builder", "renamed"]
    code, _, err = run("import", names[0], *builder, "--output", names[1])
    assert code == 0, err
    assert load_file(names[1]).keys() == state.keys()
    code, _, err = run("publish", "org/today", *builder, "--weights", names[0], "--license", "mit")
    assert code == 0, err
    publish_quickly(hold(old), "org/old")
    for like in (names[0], "org/old"):
        words = ["--to", "safetensors", "--force", "--like", like]
        code, _, err = run("export", "org/today", names[2], *words)
        assert code == 0, err
        found = load_file(names[2])
        assert found.keys() == old.keys()
        assert all(torch.equal(found[name], old[name]) for name in old)
    code, _, err = run("import", names[2], *builder)
    assert code == 0, err


def test_what_cannot_be_led_back_is_refused(tmp_path: Path, run: Any) -> None:
    torch.manual_seed(0)
    state = toy().state_dict()
    save_file(state, tmp_path / "new.safetensors")
    save_file({**state, "epoch": torch.zeros(1)}, tmp_path / "old.safetensors")
    words = ["export", str(tmp_path / "new.safetensors"), str(tmp_path / "out.pth"), "--to", "pth"]
    words += ["--like", str(tmp_path / "old.safetensors")]
    code, _, err = run(*words)
    assert code == 4 and "epoch: missing: only" in err
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps([{"drop": "epoch"}]))
    code, _, err = run(*words, "--transforms", str(rules))
    assert code == 2 and 'these rules cannot be undone: {"drop": "epoch"}' in err
    assert not (tmp_path / "out.pth").exists()


def test_rules_of_an_import_are_undone(tmp_path: Path, run: Any) -> None:
    """The file that was imported by rules comes back as it was."""
    old = {"head.w": torch.randn(3, 2), "qk": torch.randn(4)}
    rules = [
        {"transpose": r"head\.w"},
        {"rename": {"head.w": "fc.weight"}},
        {"split": "qk", "to": ["q", "k"]},
    ]
    save_file(old, tmp_path / "old.safetensors")
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    names = [str(tmp_path / name) for name in ("old.safetensors", "new.safetensors", "out.npz")]
    words = ["--transforms", str(tmp_path / "rules.json")]
    assert run("import", names[0], "--output", names[1], *words)[0] == 0
    assert load_file(names[1])["fc.weight"].shape == (2, 3)
    code, _, err = run("export", names[1], names[2], "--to", "npz", "--like", names[0], *words)
    assert code == 0, err
    found = read_foreign(Path(names[2])).tensors
    assert found.keys() == old.keys()
    assert all(torch.equal(found[name], old[name]) for name in old)


# beside torchvision


@pytest.mark.peer
def test_torchvision_s_own_loader_of_old_names_comes_to_the_same(theirs: Any) -> None:  # noqa: F811
    torch.manual_seed(0)
    state = earlier_densenet121(num_classes=3).state_dict()
    state = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    weights = SimpleNamespace(get_state_dict=lambda **_: dict(state))
    peer = theirs.densenet121(num_classes=3).eval()
    theirs.densenet._load_state_dict(peer, weights, progress=False)
    mine = densenet121(num_classes=3).eval()
    (rules,) = densenet121.registration.migrations.values()
    hubstate.loadmodel(mine, state, transforms=rules)
    images = torch.randn(IMAGES)
    assert torch.allclose(mine(images), peer(images), atol=1e-5)


@pytest.mark.peer
def test_torchvision_s_hook_for_old_perceptrons_comes_to_the_same(theirs: Any) -> None:  # noqa: F811
    torch.manual_seed(0)
    kind = theirs.vision_transformer.VisionTransformer
    peer, other = (kind(32, 16, 2, 2, 16, 32, num_classes=3).eval() for _ in range(2))
    old = earlier_names(other)
    peer.load_state_dict(old)
    plan = Plan(patch=16, layers=2, heads=2, width=16, hidden=32)
    mine = VisionTransformer(plan, num_classes=3, image_size=32).eval()
    (rules,) = vit_b_32.registration.migrations.values()
    hubstate.loadmodel(mine, old, transforms=rules)
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(mine(images), peer(images), atol=1e-5)
