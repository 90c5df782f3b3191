"""What the registry counts, for Prometheus. No repository, user or path appears in a label.

Counting is a few additions, in the event loop's thread alone; names, labels and buckets are put
together when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

__all__ = ["Metrics"]

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0)
_BOUNDS = (*map(str, _BUCKETS), "+Inf")


@dataclass(slots=True)
class _Times:
    """How long the requests of a route took."""

    counts: list[int] = field(default_factory=lambda: [0] * len(_BOUNDS))
    total: float = 0.0


class Metrics:
    """The counters of one process."""

    def __init__(self) -> None:
        self.running = self.received = self.sent = self.commits = 0
        self._requests: dict[tuple[str, str, int], int] = {}
        self._times: dict[str, _Times] = {}
        self._collectors = CollectorRegistry()
        self._collectors.register(self)

    def note(self, route: str, method: str, status: int, *, seconds: float) -> None:
        """Count one answer."""
        key = (route, method, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        times = self._times.get(route)
        if times is None:
            times = self._times[route] = _Times()
        times.counts[bisect_left(_BUCKETS, seconds)] += 1
        times.total += seconds

    def render(self) -> bytes:
        """The text exposition format, version 0.0.4."""
        return generate_latest(self._collectors)

    def collect(self) -> Iterator[Metric]:
        """All of it, as Prometheus' library asks for it."""
        requests = CounterMetricFamily(
            "hubstate_registry_requests",
            "Answers by route, method and status.",
            labels=("route", "method", "status"),
        )
        for (route, method, status), count in list(self._requests.items()):
            requests.add_metric((route, method, str(status)), count)
        yield requests
        yield self._collect_times()
        yield GaugeMetricFamily(
            "hubstate_registry_requests_running", "Requests being answered now.", self.running
        )
        for name, text, value in (
            ("received_bytes", "Bytes of request bodies.", self.received),
            ("sent_bytes", "Bytes of answers' bodies; not those that nginx sends.", self.sent),
            ("commits", "Commits made.", self.commits),
        ):
            yield CounterMetricFamily(f"hubstate_registry_{name}", text, value)

    def _collect_times(self) -> Metric:
        family = HistogramMetricFamily(
            "hubstate_registry_request_seconds",
            "From the request line to the last byte of the answer.",
            labels=("route",),
        )
        for route, times in list(self._times.items()):
            buckets = list(zip(_BOUNDS, accumulate(times.counts), strict=True))
            family.add_metric((route,), buckets, sum_value=times.total)
        return family
