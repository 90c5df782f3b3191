"""How long to go on asking a server that fails, and how long to wait in between."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import TypeVar

from hubstate.transport.failures import Interrupted
from hubstate.values import frozen, replace

__all__ = ["METADATA", "TRANSFER", "Patience"]

T = TypeVar("T")


@frozen
class Patience:
    """Waits that double from ``base`` to ``longest`` seconds, each shortened by chance.

    Chance keeps a thousand clients of a restarted server from coming back at one moment:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    """

    attempts: int
    """In a row without any progress."""
    base: float
    longest: float

    def delay(self, failures: int, *, after: float | None = None) -> float:
        """Seconds to wait after so many failures in a row; never less than the server asks.

        >>> 0.5 <= Patience(attempts=3, base=1, longest=9).delay(1) <= 1
        True
        """
        wait = min(self.longest, self.base * 2.0 ** (failures - 1)) * random.uniform(0.5, 1)
        return wait if after is None else max(wait, min(after, 20 * self.longest))

    def ask(self, call: Callable[[], T], *, stop: threading.Event | None = None) -> T:
        """The answer of a call that is repeated while it is interrupted.

        Raises:
            Interrupted: it was, each time; the message says how often.
        """
        failures = 0
        while True:
            try:
                return call()
            except Interrupted as error:
                failures += 1
                self.wait(error, failures, stop=stop)

    def wait(
        self, error: Interrupted, failures: int, *, stop: threading.Event | None = None
    ) -> None:
        """Wait after a failure.

        Raises:
            Interrupted: there were too many of them, or ``stop`` is set.
        """
        if failures >= self.attempts:
            raise Interrupted(f"{error} (tried {failures} times)") from error
        if (stop or threading.Event()).wait(self.delay(failures, after=error.after)):
            raise error

    def at_most(self, longest: float) -> Patience:
        """The same number of attempts with shorter waits."""
        return replace(self, base=min(self.base, longest), longest=min(self.longest, longest))


METADATA = Patience(attempts=3, base=0.25, longest=2.0)
"""For questions: somebody waits for the answer, and the cache may have an older one."""
TRANSFER = Patience(attempts=8, base=0.5, longest=15.0)
"""For files: a server that restarts is waited for, about a minute."""
