"""A foreign file read in a process of its own, which hands back nothing but tensors.

::

    this process                                  a fresh one
    python -m hubstate.convert.reader ──────────> reads the file (weights_only, h5py)
                                                  finds the weights in it
    maps the tensors <─────────────────────────── writes them as safetensors
                     <─────────────────────────── one line of JSON: what it found, or why not
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hubstate.convert.nesting import Found
from hubstate.errors import HubstateError, InvalidWeights
from hubstate.weights import map_weights

__all__ = ["read_isolated"]

_PATIENCE = 1800  # seconds; enough for tens of gigabytes from a slow disk


def read_isolated(path: Path, format: str, *, key: str | None = None) -> Found:
    """The weights in a file, read by another process.

    Raises:
        InvalidWeights: the file was refused or is damaged, or the process died of it.
        HubstateError: a package is missing.
    """
    with tempfile.TemporaryDirectory(prefix="hubstate-import-") as folder:
        output = Path(folder, "weights.safetensors")
        words = [sys.executable, "-m", "hubstate.convert.reader", format, str(path), str(output)]
        answer = _run([*words, *([] if key is None else [key])], path)
        if "error" in answer:
            raise _error(answer)
        # The mapping outlives the name of the file.
        tensors = map_weights(output)
    return Found(
        tensors={name: tensors[name] for name in answer["names"]},
        key=answer["key"],
        left_out=tuple(answer["left_out"]),
    )


def _run(words: list[str], path: Path) -> dict[str, Any]:
    # PYTHONPATH: the fresh process finds the modules that this one finds.
    found = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    safe = {**os.environ, "PYTHONPATH": found, "HUBSTATE_OFFLINE": "1"}
    safe.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    try:
        ended = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            env=safe,
            check=False,
        )
        answer: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        raise InvalidWeights(f"{path.name}: refused: not read within {_PATIENCE} s") from None
    except (ValueError, IndexError):
        last = ended.stderr.strip().splitlines()[-1:] or ["it printed nothing"]
        raise InvalidWeights(
            f"{path.name}: the process that read it ended with {ended.returncode}: {last[0][:300]}"
        ) from None
    return answer


def _error(answer: Mapping[str, Any]) -> HubstateError:
    kind = InvalidWeights if answer["damaged"] else HubstateError
    return kind(str(answer["error"]))
