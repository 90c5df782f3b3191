"""The torch tree: the only room that looks inside a module, or at what a class means for state."""

from hubstate.walk.tree import (
    EXTRA,
    Row,
    as_tensor,
    attributes,
    extra_of,
    is_array,
    members,
    rows,
    tensors_of,
)

__all__ = [
    "EXTRA",
    "Row",
    "as_tensor",
    "attributes",
    "extra_of",
    "is_array",
    "members",
    "rows",
    "tensors_of",
]
