"""Values behave as frozen dataclasses do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import field
from typing import ClassVar

import pytest

from hubstate.values import frozen, replace


@frozen
class Box:
    """Something with every kind of field."""

    kind: ClassVar = "box"
    size: int
    label: str = "plain"
    items: list[int] = field(default_factory=list, compare=False)
    hidden: int = field(default=0, repr=False)
    double: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "double", 2 * self.size)


def test_fields_defaults_and_what_is_made_of_them() -> None:
    box, other = Box(size=1), Box(size=1, items=[1])
    assert (box.label, box.items, box.double) == ("plain", [], 2)
    assert box.items is not Box(size=1).items
    assert box == other
    assert hash(box) == hash(other)
    assert box != Box(size=2)
    assert box != (1, "plain", 0, 2)
    assert repr(other) == "Box(size=1, label='plain', items=[1], double=2)"
    assert [f.name for f in dataclasses.fields(box)] == [  # type: ignore[arg-type]
        *("size", "label", "items", "hidden", "double")
    ]


def test_nothing_can_be_changed_or_added() -> None:
    box = Box(size=1)
    for name in ("size", "other"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(box, name, 2)
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(box, name)
    assert not hasattr(box, "__dict__")


def test_every_wrong_argument_is_named() -> None:
    with pytest.raises(TypeError, match=r"^Box: expected size; found height, weight, which"):
        Box(height=1, weight=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="found double"):
        Box(size=1, double=3)  # type: ignore[call-arg]


def test_a_replaced_field_leaves_the_others() -> None:
    box = replace(Box(size=1, label="a", hidden=3), size=4)
    assert (box.size, box.label, box.hidden, box.double) == (4, "a", 3, 8)


def test_a_copy_and_a_pickle_are_equal() -> None:
    box = Box(size=1, label="a")
    thawed = pickle.loads(pickle.dumps(box))  # noqa: S301 - ours
    for other in (copy.copy(box), copy.deepcopy(box), thawed):
        assert other == box
        assert other.double == 2
