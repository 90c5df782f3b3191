"""Which way a file should travel and be shown: inside a commit, or as a large file."""

from __future__ import annotations

from hubstate_registry.settings import Limits

__all__ = ["is_large"]

_ENDINGS = (
    ".7z .arrow .bin .bz2 .ckpt .ftz .gguf .gz .h5 .hdf5 .jld2 .joblib .keras .mlmodel .model "
    ".msgpack .npy .npz .onnx .ot .parquet .pb .pickle .pkl .pt .pth .rar .safetensors .tar "
    ".tflite .tgz .wasm .xz .zip .zst"
)
_LARGE = tuple(_ENDINGS.split())


def is_large(path: str, size: int, *, limits: Limits) -> bool:
    """Whether a file is kept as a large one: by its size, or because it ends like weights.

    >>> is_large("config.json", 100, limits=Limits()), is_large("w.bin", 1, limits=Limits())
    (False, True)
    """
    return size > 0 and (size > limits.regular_bytes or path.lower().endswith(_LARGE))
