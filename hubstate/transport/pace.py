"""How many connections are worth having: more of them while more of them are faster.

Two keep a processor busy that hashes what arrives. Where each connection is slow, by distance
or by a limit of the server's, the number is doubled as long as that helps, up to sixteen.
"""

from __future__ import annotations

import os
import time

__all__ = ["FEWEST", "MOST", "Pace"]

FEWEST, MOST = 2, 16
_WINDOW = 0.4  # seconds over which speed is measured
_GAIN = 1.2  # a doubling that brings less than this was not worth it
_AGAIN = 5.0  # seconds until it is tried once more
_BUSY = 0.85  # of all processors: more connections could only wait for them


class Pace:
    """The number of connections to have, as a transfer goes on.

    Args:
        fewest: to begin with.
        most: never more.
    """

    def __init__(self, *, fewest: int = FEWEST, most: int = MOST) -> None:
        self.connections = min(fewest, most)
        self._fewest = self.connections
        self._most = most
        self._rate: float | None = None  # with half as many, if they were just doubled
        self._moment = time.monotonic()
        self._work = time.process_time()
        self._bytes = 0
        self._rest = 0.0

    def tell(self, total: int) -> int:
        """Say how many bytes have arrived in all; the number of connections to have now."""
        elapsed = time.monotonic() - self._moment
        if elapsed >= _WINDOW:
            work = time.process_time()
            load = (work - self._work) / elapsed / (os.cpu_count() or 1)
            self.judge((total - self._bytes) / elapsed, load)
            self._moment, self._work, self._bytes = time.monotonic(), work, total
        return self.connections

    def judge(self, rate: float, load: float) -> None:
        """Set the number for what comes, from bytes a second and the share of processors used."""
        if self._rate is not None and rate < _GAIN * self._rate:
            self.connections = max(self._fewest, self.connections // 2)
            self._rate, self._rest = None, time.monotonic() + _AGAIN
        elif time.monotonic() >= self._rest and load < _BUSY and self.connections < self._most:
            self.connections = min(self._most, 2 * self.connections)
            self._rate = rate
        else:
            self._rate = None
