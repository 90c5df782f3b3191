from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfApi
from registry_serving import Serving, serving


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    """A registry of its own, and a stock client that is told not to use Xet."""
    # HF_HUB_DISABLE_XET=1, whose value the client has read when it was imported.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    huggingface_hub.utils.disable_progress_bars()
    with serving(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def api(served: Serving) -> HfApi:
    """The stock client as ``ada``."""
    return served.api("ada")
