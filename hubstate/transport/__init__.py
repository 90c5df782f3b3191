"""Moving bytes over HTTP: one request, its body, and going on where it broke off."""

from hubstate.transport.answer import Answer
from hubstate.transport.body import Body, Steady, open_body, range_header
from hubstate.transport.failures import Interrupted, RangesRefused
from hubstate.transport.patience import METADATA, TRANSFER, Patience
from hubstate.transport.requesting import follow, origin, send

__all__ = [
    "METADATA",
    "TRANSFER",
    "Answer",
    "Body",
    "Interrupted",
    "Patience",
    "RangesRefused",
    "Steady",
    "follow",
    "open_body",
    "origin",
    "range_header",
    "send",
]
