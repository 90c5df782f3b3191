"""Weights from elsewhere, and weights for elsewhere.

::

    reading.py      read_foreign: a file of any known format -> its tensors, and what was found;
    │               read_shards: the same of several safetensors files
    ├── isolated.py     … in a process of its own, where a format's reader can be attacked
    │   └── reader.py       that process
    ├── torchfile.py    .pth .pt .bin .ckpt   torch's pickles, by the weights_only loader alone
    ├── arrays.py       .npz                  NumPy, without pickles
    ├── hdf5.py         .h5 .hdf5 .keras      HDF5 and Keras
    ├── jld2.py         .jld2                 Julia, column-major
    └── flax.py         .msgpack              Flax's message packs
    limits.py       how much a file may hold
    nesting.py      where in a checkpoint the weights are
    layouts.py      the conventions of Keras, Flax and Flux as transforms
    holder.py       weights without an architecture as a module, to be published
    older.py        the names that a builder's tensors once had: from them, and back to them
    writing.py      export_weights: to .pth, .npz, .h5, .safetensors, or a folder
"""

from hubstate.convert.layouts import layout_rules
from hubstate.convert.reading import Foreign, read_foreign, read_shards
from hubstate.convert.writing import export_weights

__all__ = ["Foreign", "export_weights", "layout_rules", "read_foreign", "read_shards"]
