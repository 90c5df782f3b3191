"""The process that reads a foreign file, and hands over its tensors; see ``isolated``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hubstate.convert.hdf5 import load_hdf5
from hubstate.convert.jld2 import load_jld2
from hubstate.convert.nesting import find_weights
from hubstate.convert.torchfile import load_pickle
from hubstate.errors import HubstateError, InvalidWeights
from hubstate.weights import save_weights

_READERS: Mapping[str, Callable[[Path], Any]] = {
    "torch": load_pickle,
    "hdf5": load_hdf5,
    "jld2": load_jld2,
}


def _answer(format: str, path: Path, output: Path, key: str | None) -> dict[str, Any]:
    try:
        found = find_weights(_READERS[format](path), key=key, name=path.name)
        save_weights(output, found.tensors)
    except HubstateError as error:
        return {"error": str(error), "damaged": isinstance(error, InvalidWeights)}
    except (OSError, RecursionError) as error:
        return {"error": f"{path.name}: {error}", "damaged": True}
    return {"names": list(found.tensors), "key": found.key, "left_out": list(found.left_out)}


def _main() -> None:
    real, sys.stdout = sys.stdout, sys.stderr  # nothing else is an answer
    format, path, output, *key = sys.argv[1:]
    answer = _answer(format, Path(path), Path(output), key[0] if key else None)
    print(json.dumps(answer), file=real)


if __name__ == "__main__":
    _main()
