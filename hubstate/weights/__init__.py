"""Tensors in a safetensors file: written whole or not at all, read by copy or mapped.

::

    file.safetensors
    ├── header   __metadata__: "format": "pt" (which some readers ask for),
    │            "hubstate.ties": JSON {alias: the name that holds its bytes}, only if there are any
    └── tensors  named as in state_dict(); larger items first and then by name, so aligned

The bytes are those that the safetensors library writes. They are laid out here because its
serializer orders metadata at random, writes files that only their owner can read, and takes
other arguments in each of its versions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubstate.lazy import importing
from hubstate.weights.reading import map_weights, read_weights

if TYPE_CHECKING:
    from hubstate.weights.saving import SavedWeights, save_weights
    from hubstate.weights.sharding import save_sharded

__all__ = ["SavedWeights", "map_weights", "read_weights", "save_sharded", "save_weights"]

__getattr__ = importing(
    __name__, {"saving": ("SavedWeights", "save_weights"), "sharding": ("save_sharded",)}
)
