"""What the registry counts, for Prometheus. No repository, user or path appears in a label."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics"]

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600)


class Metrics:
    """The counters of one process."""

    def __init__(self) -> None:
        self.collectors = CollectorRegistry()
        self.requests = Counter(
            "hubstate_registry_requests_total",
            "Answers by route, method and status.",
            ["route", "method", "status"],
            registry=self.collectors,
        )
        self.seconds = Histogram(
            "hubstate_registry_request_seconds",
            "From the request line to the last byte of the answer.",
            ["route"],
            buckets=_BUCKETS,
            registry=self.collectors,
        )
        self.running = Gauge(
            "hubstate_registry_requests_running",
            "Requests being answered now.",
            registry=self.collectors,
        )
        self.received = Counter(
            "hubstate_registry_received_bytes_total",
            "Bytes of request bodies.",
            registry=self.collectors,
        )
        self.sent = Counter(
            "hubstate_registry_sent_bytes_total",
            "Bytes of answers' bodies; what nginx sends for us is not among them.",
            registry=self.collectors,
        )
        self.commits = Counter(
            "hubstate_registry_commits_total", "Commits made.", registry=self.collectors
        )

        self._series: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def note(self, route: str, method: str, status: int, *, seconds: float) -> None:
        """Count one answer."""
        series = self._series.get((route, method, status))
        if series is None:
            series = self.requests.labels(route, method, str(status)), self.seconds.labels(route)
            self._series[route, method, status] = series
        series[0].inc()
        series[1].observe(seconds)

    def render(self) -> bytes:
        """The text exposition format, version 0.0.4."""
        return generate_latest(self.collectors)
