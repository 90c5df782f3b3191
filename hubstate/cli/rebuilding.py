"""A model from a builder's record, for commands that have to tell what a builder did wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubstate.errors import HubstateError, InvalidSetting
from hubstate.manifest import BuilderRecord

if TYPE_CHECKING:
    from torch import nn

__all__ = ["rebuild"]


def rebuild(record: BuilderRecord) -> nn.Module:
    """Build the model of a record; whatever the builder raises is one line.

    Raises:
        InvalidSetting: the builder does not take the arguments, or fails on them.
        HubstateError: see ``hubstate.zoo.create.build``.
    """
    from hubstate.zoo.create import build

    try:
        return build(record)
    except HubstateError:
        raise
    except Exception as error:
        given = ", ".join(f"{name}={value!r}" for name, value in record.arguments.items())
        raise InvalidSetting(
            f"builder {record.name}({given}): {type(error).__name__}: {error}"
        ) from error
