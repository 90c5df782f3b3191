"""The command line, called in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest

from hubstate.cli import main

Run: TypeAlias = Callable[..., tuple[int, str, str]]
"""Words to the exit code, and what was printed to stdout and to stderr."""


def runner(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs the command line here."""

    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        out, err = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return code, out, err

    return call
