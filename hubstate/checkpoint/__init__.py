"""Checkpoints: the state of a training in one file that is written whole and verified when read.

::

    last.safetensors
    ├── header   __metadata__: "hubstate.checkpoint": JSON: the structure, the trees of model,
    │            optimizer and plain data, and the digests of each tensor's chunks;
    │            "hubstate.header": the digest of the header, itself taken as 64 zeros
    └── tensors  "model.fc.weight", "optimizer.state.0.exp_avg", "plain.generator" …

It is one file, since only one file can be replaced atomically on every file system.
"""

from hubstate.checkpoint.reading import Checkpoint, CheckpointReport, load
from hubstate.checkpoint.saving import save

__all__ = ["Checkpoint", "CheckpointReport", "load", "save"]
