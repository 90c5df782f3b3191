"""The environment: what each variable means, and what is refused by name."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from hubstate import settings
from hubstate.errors import InvalidSetting

NAMES = ["REGISTRY", "CACHE", "OFFLINE", "TOKEN", "CATALOGUE", "FROZEN", "AUTHOR"]
HOUSE = Path(__file__).parents[1] / "hubstate"


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in NAMES:
        monkeypatch.delenv(f"HUBSTATE_{name}", raising=False)
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))


def test_the_defaults_are_folders_of_the_user(tmp_path: Path) -> None:
    assert settings.registry().startswith(str(tmp_path))
    assert settings.registry().endswith("registry")
    (cache,) = settings.cache_folders()
    assert str(cache).startswith(str(tmp_path))
    assert not settings.offline()
    assert not settings.frozen()
    assert settings.token() is None
    assert settings.catalogues() == ()


def test_the_registry_is_ours_before_the_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1/")
    assert settings.registry() == "http://127.0.0.1:1"
    monkeypatch.setenv("HUBSTATE_REGISTRY", "~/models")
    assert settings.registry() == os.environ["HOME"] + "/models"


def test_variables_are_read_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("/a", "/b"):
        monkeypatch.setenv("HUBSTATE_REGISTRY", value)
        assert settings.registry() == value


@pytest.mark.parametrize("value", ["ftp://host", "s3://bucket/x", "http://", "file:///"])
def test_a_registry_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HUBSTATE_REGISTRY", value)
    with pytest.raises(InvalidSetting, match=r"HUBSTATE_REGISTRY.*expected a folder"):
        settings.registry()


def test_cache_folders_are_separated_as_in_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBSTATE_CACHE", os.pathsep.join(["/a", "", "~/b"]))
    assert settings.cache_folders() == (Path("/a"), Path("~/b").expanduser())


def test_a_cache_of_separators_only_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBSTATE_CACHE", os.pathsep)
    with pytest.raises(InvalidSetting, match="HUBSTATE_CACHE"):
        settings.cache_folders()


@pytest.mark.parametrize("value", ["1", "true", "YES", "On", " 1 "])
@pytest.mark.parametrize("name", ["HUBSTATE_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_is_said_in_several_ways(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert settings.offline()


def test_our_no_goes_before_the_hubs_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for value in ("0", "off", "false", "No"):
        monkeypatch.setenv("HUBSTATE_OFFLINE", value)
        assert not settings.offline()
    monkeypatch.setenv("HUBSTATE_OFFLINE", "")
    assert settings.offline()


@pytest.mark.parametrize("name", ["HUBSTATE_OFFLINE", "HF_HUB_OFFLINE", "HUBSTATE_FROZEN"])
def test_a_switch_that_says_neither_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "maybe")
    with pytest.raises(InvalidSetting, match=f"{name}='maybe'.*1, true, yes, on"):
        settings.frozen() if name == "HUBSTATE_FROZEN" else settings.offline()


def test_a_token_is_ours_before_the_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert settings.token() == "hf_x"
    monkeypatch.setenv("HUBSTATE_TOKEN", "hs_y\n")
    assert settings.token() == "hs_y"


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a b", "é"])
def test_a_token_that_breaks_headers_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", f"secret{value}")
    with pytest.raises(InvalidSetting, match="HF_TOKEN") as caught:
        settings.token()
    assert "secret" not in str(caught.value)


def test_an_author_is_named_even_where_the_user_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.author()
    monkeypatch.setenv("HUBSTATE_AUTHOR", "Ada")
    assert settings.author() == "Ada"


def test_nothing_else_reads_a_variable() -> None:
    reads = re.compile(r"environ\[|environ\.(?!copy)|getenv|environb")
    for path in HOUSE.rglob("*.py"):
        assert path.name == "settings.py" or not reads.search(path.read_text()), path
