"""Makes the files of this folder, with Keras 3.15.1 (on JAX) and Flax 0.12.8, seeded.

    pip install keras flax 'jax[cpu]' h5py
    KERAS_BACKEND=jax python tests/golden/foreign/make.py

::

    keras3.keras     Keras's own archive, whose variables are numbered
    keras-model.h5   the older HDF5 form of a whole model
    flax.msgpack     flax.serialization.to_bytes of params and batch_stats
    flax-attention.msgpack   … of an attention with two heads; its input and output are in
    expected-attention.npz
    expected.npz     the images (N, H, W, C), and what each model answers in its own framework
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen
import jax
import keras
import numpy as np
from flax import serialization

HERE = Path(__file__).parent
DRAW = np.random.default_rng(0)


def keras_model() -> Any:
    keras.utils.set_random_seed(1)
    images = keras.layers.Input((9, 8, 3))
    x = keras.layers.Conv2D(4, (3, 2), name="conv")(images)
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, name="dw")(x)
    x = keras.layers.BatchNormalization(name="bn", epsilon=1e-3)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(images, keras.layers.Dense(5, name="fc")(x))
    norm = model.get_layer("bn")
    norm.set_weights([DRAW.uniform(0.5, 2, w.shape).astype("f4") for w in norm.get_weights()])
    return model


class FlaxModel(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x: Any) -> Any:
        x = flax.linen.Conv(4, (3, 2), padding="VALID", name="conv")(x)
        x = flax.linen.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x)
        return flax.linen.Dense(5, name="fc")(x.mean((1, 2)))


def main() -> None:
    model = keras_model()
    images = DRAW.normal(size=(2, 9, 8, 3)).astype("f4")
    model.save(HERE / "keras3.keras")
    model.save(HERE / "keras-model.h5")
    variables = FlaxModel().init(jax.random.PRNGKey(0), images)
    variables = jax.tree_util.tree_map(
        lambda array: DRAW.uniform(0.2, 1.5, array.shape).astype("f4"), variables
    )
    (HERE / "flax.msgpack").write_bytes(serialization.to_bytes(variables))
    np.savez_compressed(
        HERE / "expected.npz",
        images=images,
        keras=np.asarray(model(images, training=False)),
        flax=np.asarray(FlaxModel().apply(variables, images)),
    )


def attention() -> None:
    draw = np.random.default_rng(2).normal
    inputs = draw(size=(2, 5, 8)).astype("f4")
    layer = flax.linen.MultiHeadDotProductAttention(num_heads=2, qkv_features=6, out_features=8)
    variables = jax.tree_util.tree_map(
        lambda array: draw(size=array.shape).astype("f4"),
        layer.init(jax.random.PRNGKey(0), inputs, inputs),
    )
    (HERE / "flax-attention.msgpack").write_bytes(serialization.to_bytes(variables))
    outputs = np.asarray(layer.apply(variables, inputs, inputs))
    np.savez_compressed(HERE / "expected-attention.npz", inputs=inputs, flax=outputs)


if __name__ == "__main__":
    main()
    attention()
