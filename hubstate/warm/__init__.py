"""Filling a cache ahead of time, and proving that it is full."""

from hubstate.warm.checking import check
from hubstate.warm.filling import warm
from hubstate.warm.proofs import FileProof, Proof
from hubstate.warm.wanted import Wanted, locked, named

__all__ = ["FileProof", "Proof", "Wanted", "check", "locked", "named", "warm"]
