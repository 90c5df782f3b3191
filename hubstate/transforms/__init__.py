"""Transforms: how the tensors of a source become those of a model, as rules that are data.

::

    resolving.py    rules and the names, shapes and dtypes of a source -> a Transformation
    nodes.py        a tensor of the source, or what is to be made of others
    operations.py   what each rule does to the tensors that it matches
    resizing.py     those that make a tensor larger or smaller

Each rule is an object with the verb as its first key. A pattern is a regular expression that must
match a whole name; its groups are ``\\1``, ``\\2`` … in the names that a rule makes. Rules are
applied in turn, each to what the one before it left::

    {"rename": "encoder\\.(.*)", "to": "backbone.\\1"}    or {"rename": {"old": "new", …}}
    {"rename": "b(\\d+)\\.(.*)", "to": "\\1.\\2", "shift": [-1]}    the first group, less one
    {"transpose": ".*\\.kernel", "order": [3, 2, 0, 1]}   all axes reversed without an order
    {"reshape": "cls", "shape": [1, -1]}
    {"flip": ".*\\.conv\\.weight", "axes": [2, 3]}
    {"split": "(.*)\\.qkv\\.(.*)", "to": ["\\1.q.\\2", "\\1.k.\\2", "\\1.v.\\2"], "axis": 0}
    {"fuse": ["(.*)\\.w1", "(.*)\\.w2"], "to": "\\1.w12", "axis": 0}
    {"fold": "(.*)\\.bn", "into": "\\1.conv", "eps": 1e-5}    batch normalisation into a layer
    {"drop": ".*\\.num_batches_tracked"}
    {"channels": "stem\\.weight", "count": 1}    summed to one; or repeated in turn, and scaled
    {"interpolate": "pos_embed", "grid": [24, 24], "prefix": 1}    positions on another grid
    {"fallback": "(.*)\\.head\\.bias", "to": "\\1.head_dist.bias", "value": 0}

``fallback`` makes a tensor where there is none: a copy of the one that it matches, or of its
shape and filled with ``value``.

A rule that matches nothing is an error, as are two tensors that get one name.
"""

from typing import TYPE_CHECKING

from hubstate.lazy import importing
from hubstate.rules import Rule, Rules, dump_rules, parse_rules, read_rules

if TYPE_CHECKING:
    from hubstate.transforms.resolving import Transformation, resolve

__all__ = [
    "Rule",
    "Rules",
    "Transformation",
    "dump_rules",
    "parse_rules",
    "read_rules",
    "resolve",
]

__getattr__ = importing(__name__, {"resolving": ("Transformation", "resolve")})
