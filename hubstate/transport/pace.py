"""How many connections are worth having: more of them while more of them are faster.

Two keep a processor busy that hashes what arrives. Where each connection is slow, by distance
or by a limit of the server's, the number is doubled as long as that helps, up to sixteen.
"""

from __future__ import annotations

import os
import time

__all__ = ["FEWEST", "MOST", "Pace"]

FEWEST, MOST = 2, 16
_WINDOW = 0.25  # seconds over which speed is measured
_WARM_UP = 3.0  # seconds that new connections are given until their first bytes
_GAIN = 1.2  # a doubling that brings less than this was not worth it
_AGAIN = 5.0  # seconds until it is tried once more
_BUSY = 0.6  # of all processors, and a near server takes some: more connections wait for them


class Pace:
    """The number of connections to have, as a transfer goes on.

    Args:
        fewest: to begin with.
        most: never more.
    """

    def __init__(self, *, fewest: int = FEWEST, most: int = MOST) -> None:
        self.connections = min(fewest, most)
        self.most = most
        self._fewest = self.connections
        self._rate: float | None = None  # with half as many, if they were just doubled
        self._rest = 0.0
        self._changed = time.monotonic()
        self._begin(0)

    def _begin(self, total: int) -> None:
        """Measure from here."""
        self._moment, self._work = time.monotonic(), time.process_time()
        self._bytes = total

    def tell(self, total: int, *, flowing: int) -> int:
        """Say how it goes; the number of connections to have now.

        Args:
            total: bytes that have arrived in all.
            flowing: connections that have brought any bytes yet. Speed is measured once all of
                them have, because opening one may take longer than the measurement.
        """
        now = time.monotonic()
        if flowing < self.connections and now - self._changed < _WARM_UP:
            self._begin(total)
        elif (elapsed := now - self._moment) >= _WINDOW:
            work = time.process_time() - self._work
            before = self.connections
            self.judge((total - self._bytes) / elapsed, work / elapsed / (os.cpu_count() or 1))
            if self.connections != before:
                self._changed = now
            self._begin(total)
        return self.connections

    def judge(self, rate: float, load: float) -> None:
        """Set the number for what comes, from bytes a second and the share of processors used."""
        if self._rate is not None and rate < _GAIN * self._rate:
            self.connections = max(self._fewest, self.connections // 2)
            self._rate, self._rest = None, time.monotonic() + _AGAIN
        elif time.monotonic() >= self._rest and load < _BUSY and self.connections < self.most:
            self.connections = min(self.most, 2 * self.connections)
            self._rate = rate
        else:
            self._rate = None
