"""The gateway's figures: plain Python cells that count, and one collector that shows them to
Prometheus.

Counting is on the path of every request, so it is a dict and a list, without locks (one thread, the
event loop's) and without prometheus_client's own metric objects, which cost several times as much.
Names and labels are the contract's; no label ever holds a value that a client chose. Not here: the
page that serves them (control/metrics.py).
"""

from __future__ import annotations

import asyncio
import platform
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

# From what a gateway adds by itself to what a slow report takes; the last one is +Inf.
DURATION_BUCKETS_SECONDS: tuple[float, ...] = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
BUCKETS = len(DURATION_BUCKETS_SECONDS) + 1

# RFC 9110 §9.3 and RFC 5789; any other method is counted as `other`.
METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
)
OTHER = "other"

# The lag shown is the longest of the last so many samples, so that a scrape every 15 s misses no
# stall when samples are taken twice a second.
LAG_SAMPLES = 30

Samples = Iterable[tuple[tuple[str, ...], float]]
Source = Callable[[], Samples]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Durations by bucket (the last one +Inf), not cumulated, and their sum."""

    counts: list[int]
    sum_seconds: float

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, count of those up to it), as the exposition wants them."""
        bounds = [str(bound) for bound in DURATION_BUCKETS_SECONDS] + ["+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))


class ServiceMetrics:
    """What is counted of one service. `in_flight` is kept by the caller: + 1 and - 1."""

    __slots__ = (
        "_rows",
        "_seconds",
        "_upstream_counts",
        "_upstream_seconds",
        "in_flight",
        "name",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.in_flight = 0
        # Durations by bucket for each (route, method, status): a row's sum is the number of its
        # requests, which saves counting them apart.
        self._rows: dict[tuple[str, str, int], list[int]] = {}
        self._seconds = 0.0
        self._upstream_counts = [0] * BUCKETS
        self._upstream_seconds = 0.0

    def __repr__(self) -> str:
        total = sum(map(sum, self._rows.values()))
        return f"<ServiceMetrics {self.name} requests={total} in_flight={self.in_flight}>"

    def observe(
        self, route: str, method: str, status: int, seconds: float, upstream_seconds: float | None
    ) -> None:
        """Count one finished request.

        `route` is a name from the configuration, never the client's path. `seconds` is the whole
        request, `upstream_seconds` the part spent waiting for the upstream, None when none was
        asked. Methods and statuses that HTTP does not define count as `other`.
        """
        try:
            row = self._rows[route, method, status]
        except KeyError:
            row = self._new_row(route, method, status)
        row[bisect_left(DURATION_BUCKETS_SECONDS, seconds)] += 1
        self._seconds += seconds
        if upstream_seconds is not None:
            self._upstream_counts[bisect_left(DURATION_BUCKETS_SECONDS, upstream_seconds)] += 1
            self._upstream_seconds += upstream_seconds

    def requests(self) -> Samples:
        """Counts by (service, route, method, code)."""
        for (route, method, status), row in self._rows.items():
            yield (self.name, route, method, str(status) if status else OTHER), sum(row)

    def durations(self) -> tuple[Histogram, Histogram]:
        """The histograms of the whole request and of the upstream's part."""
        rows = self._rows.values() or [[0] * BUCKETS]
        return (
            Histogram([sum(cells) for cells in zip(*rows, strict=True)], self._seconds),
            Histogram(self._upstream_counts, self._upstream_seconds),
        )

    def _new_row(self, route: str, method: str, status: int) -> list[int]:
        """Open a row; what would let others open any number of them shares one."""
        if method not in METHODS:
            method = OTHER
        if not 100 <= status <= 599:
            status = 0
        return self._rows.setdefault((route, method, status), [0] * BUCKETS)


class Metrics:
    """Everything that one gateway counts, in a registry of its own."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        self._version = version
        self._services: dict[str, ServiceMetrics] = {}
        self._errors: dict[tuple[str, ...], int] = {}
        self._rate_limited: dict[tuple[str, ...], int] = {}
        self._retries: dict[tuple[str, ...], int] = {}
        self._ai_agents: dict[tuple[str, ...], int] = {}
        self._lags: deque[float] = deque(maxlen=LAG_SAMPLES)
        self._watched: dict[str, tuple[str, str, tuple[str, ...], Source]] = {}
        self.registry.register(_Cells(self))
        ProcessCollector(registry=self.registry)

    def __repr__(self) -> str:
        return f"<Metrics {sorted(self._services)} watched={sorted(self._watched)}>"

    def service(self, name: str) -> ServiceMetrics:
        """The cells of one service, made when first asked for. `name` is from the configuration."""
        cells = self._services.get(name)
        if cells is None:
            cells = self._services[name] = ServiceMetrics(name)
        return cells

    def error(self, service: str, code: str) -> None:
        """Count one answer of the error table (`code`), made by the gateway for `service`."""
        key = (service, code)
        self._errors[key] = self._errors.get(key, 0) + 1

    def rate_limited(self, tier: str) -> None:
        """Count one request refused by a rate limit."""
        self._rate_limited[(tier,)] = self._rate_limited.get((tier,), 0) + 1

    def retry(self, service: str) -> None:
        """Count one further attempt at an upstream."""
        self._retries[(service,)] = self._retries.get((service,), 0) + 1

    def ai_agent(self, name: str) -> None:
        """Count one request of an AI agent, `name` being from `agents.ai_agent`; "" is none."""
        if name:
            self._ai_agents[(name,)] = self._ai_agents.get((name,), 0) + 1

    def loop_lag(self, seconds: float) -> None:
        """Note how much later than asked the event loop ran something."""
        self._lags.append(seconds)

    @property
    def loop_lag_seconds(self) -> float:
        """The longest of the last `LAG_SAMPLES` lags."""
        return max(self._lags, default=0.0)

    def gauge(self, name: str, doc: str, labels: tuple[str, ...], source: Source) -> None:
        """Show what `source` says at each scrape, as a gauge: (label values, value) pairs.

        A later gauge or counter of the same name takes the place of the earlier one.
        """
        self._watched[name] = ("gauge", doc, labels, source)

    def counter(self, name: str, doc: str, labels: tuple[str, ...], source: Source) -> None:
        """Like `gauge`, for what only ever grows; `name` ends in `_total`."""
        self._watched[name] = ("counter", doc, labels, source)

    def upstream_connections(self, source: Source) -> None:
        """Where the numbers of connections by (service, state) come from."""
        name, doc = "gateway_upstream_connections", "Connections to upstreams."
        self.gauge(name, doc, ("service", "state"), source)

    def log_records_dropped(self, source: Callable[[], int]) -> None:
        """Where the number of lines that the output could not take comes from."""
        name, doc = (
            "gateway_log_records_dropped_total",
            "Log lines dropped: the output was too slow.",
        )
        self.counter(name, doc, (), lambda: [((), float(source()))])

    def exposition(self, accept: str, beside: Iterable[Metric] = ()) -> tuple[bytes, str]:
        """The page for a client with this Accept field: (body, Content-Type). `beside` are families
        that others count; one that is counted here too has the samples of both.

        OpenMetrics 1.0 when asked for, else the Prometheus text format 0.0.4.
        """
        encode, content_type = choose_encoder(_understood(accept))
        return encode(_Joined(self.registry, beside)), content_type

    def families(self) -> Iterator[Metric]:
        """All families as they stand now."""
        yield from self._request_families()
        yield from self._counted_families()
        for name, (kind, doc, labels, source) in self._watched.items():
            yield _family(kind, name, doc, labels, source())
        yield _family(
            "gauge",
            "gateway_event_loop_lag_seconds",
            f"Longest lag of the event loop in its last {LAG_SAMPLES} samples.",
            (),
            [((), self.loop_lag_seconds)],
        )
        build = InfoMetricFamily("gateway_build", "The gateway's version and what runs it.")
        build.add_metric((), {"version": self._version, "python": platform.python_version()})
        yield build

    def _request_families(self) -> Iterator[Metric]:
        services = list(self._services.values())
        yield _family(
            "counter",
            "gateway_requests_total",
            "Requests answered.",
            ("service", "route", "method", "code"),
            [sample for service in services for sample in service.requests()],
        )
        duration = HistogramMetricFamily(
            "gateway_request_duration_seconds",
            "From the first byte of a request to the last of its answer.",
            labels=("service",),
        )
        upstream = HistogramMetricFamily(
            "gateway_upstream_duration_seconds",
            "The part of a request spent with the upstream.",
            labels=("service",),
        )
        for service in services:
            whole, part = service.durations()
            duration.add_metric((service.name,), whole.cumulative(), whole.sum_seconds)
            upstream.add_metric((service.name,), part.cumulative(), part.sum_seconds)
        yield duration
        yield upstream
        yield _family(
            "gauge",
            "gateway_requests_in_flight",
            "Requests begun and not yet answered in full.",
            ("service",),
            [((service.name,), service.in_flight) for service in services],
        )

    def _counted_families(self) -> Iterator[Metric]:
        rows: tuple[tuple[str, str, tuple[str, ...], dict[tuple[str, ...], int]], ...] = (
            (
                "gateway_errors_total",
                "Errors that the gateway answered with.",
                ("service", "error_code"),
                self._errors,
            ),
            (
                "gateway_rate_limited_total",
                "Requests refused by a rate limit.",
                ("tier",),
                self._rate_limited,
            ),
            (
                "gateway_retries_total",
                "Further attempts at an upstream.",
                ("service",),
                self._retries,
            ),
            (
                "gateway_ai_agent_requests_total",
                "Requests of known AI agents and crawlers.",
                ("agent",),
                self._ai_agents,
            ),
        )
        for name, doc, labels, cells in rows:
            yield _family("counter", name, doc, labels, list(cells.items()))


class _Cells(Collector):
    """What prometheus_client asks at each scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics.families()


class _Joined(Collector):
    """A registry and families beside it: no name may stand twice on a page."""

    def __init__(self, registry: CollectorRegistry, beside: Iterable[Metric]) -> None:
        self._registry = registry
        self._beside = beside

    def collect(self) -> Iterable[Metric]:
        families = {family.name: family for family in self._registry.collect()}
        for family in self._beside:
            known = families.setdefault(family.name, family)
            if known is not family:
                known.samples.extend(family.samples)
        return families.values()


def _family(kind: str, name: str, doc: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    family = Metric(name.removesuffix("_total"), doc, kind)
    for values, value in samples:
        family.add_sample(name, dict(zip(labels, values, strict=True)), value)
    return family


def _understood(accept: str) -> str:
    """The parts of an Accept field that the encoder may see.

    It takes any version at its word and fails on one that is no number: only those that we really
    write get through, and none that the client refuses (`q=0`).
    """
    parts = []
    for part in accept.split(","):
        media_type, *parameters = (piece.strip() for piece in part.split(";"))
        values = dict(parameter.split("=", 1) for parameter in parameters if "=" in parameter)
        refused = values.get("q", "1").rstrip("0.") == ""
        if not refused and values.get("version", "1.0.0") in ("0.0.4", "1.0.0"):
            parts.append(media_type)
    return ",".join(parts)


async def sample_loop_lag(
    metrics: Metrics,
    interval_seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Measure the event loop's lag for ever: how late a sleep of `interval_seconds` ends.

    `clock` is not the loop's own, which stands still while a callback runs.
    """
    while True:
        due = clock() + interval_seconds
        await asyncio.sleep(interval_seconds)
        metrics.loop_lag(max(0.0, clock() - due))
