"""What /metrics says, in Prometheus' form: requests, tokens, batches, switches between states, and the book."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_TIMES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "errata_requests", "Requests answered.", ("route", "method", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "errata_request_seconds", "Time to answer.", ("route",), registry=self.registry, buckets=_TIMES
        )
        self._first = Histogram(
            "errata_first_token_seconds", "Wait for the first token.", registry=self.registry, buckets=_TIMES
        )
        self._tokens = Counter("errata_tokens", "Tokens said.", registry=self.registry)
        self._rows = Histogram(
            "errata_batch_rows", "Rows of a step.", registry=self.registry, buckets=(1, 2, 4, 8, 16, 32, 64)
        )
        self._switches = Histogram(
            "errata_switch_seconds", "Time to let another state stand.", registry=self.registry, buckets=_TIMES
        )
        self._changes = Counter("errata_changes", "Changes of the book.", ("kind",), registry=self.registry)

    def watch(self, name: str, about: str, value: object) -> None:
        """Add a gauge whose value is asked of a function whenever somebody looks."""
        assert callable(value)
        Gauge(name, about, registry=self.registry).set_function(value)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Take in a request that was answered."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def first(self, seconds: float) -> None:
        """Take in how long a request waited for its first token."""
        self._first.observe(seconds)

    def step(self, rows: int) -> None:
        """Take in one step of a batch."""
        self._tokens.inc(rows)
        self._rows.observe(rows)

    def switched(self, seconds: float) -> None:
        """Take in how long it took to let another state stand."""
        self._switches.observe(seconds)

    def changed(self, kind: str) -> None:
        """Take in a change of the book."""
        self._changes.labels(kind).inc()

    def text(self) -> bytes:
        """Return everything, as Prometheus reads it."""
        found: bytes = generate_latest(self.registry)
        return found
