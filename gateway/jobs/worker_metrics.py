"""The figures of a worker: the contract's own three, and the SDK's beside them.

The SDK serves its figures itself, on a port of this machine; a page of the worker fetches them and
shows both. Labels are names of types that exist: other ones count as `other`.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from typing import Final

import aiohttp
from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from temporalio.runtime import LoggingConfig, PrometheusConfig, Runtime, TelemetryConfig
from temporalio.runtime import TelemetryFilter as Filter

DURATION_BUCKETS_SECONDS: Final = (1, 5, 10, 30, 60, 300, 600)
CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
OTHER: Final = "other"
_FETCH_SECONDS: Final = 2.0
_TRIES: Final = 5  # of a port that another process may take first


class WorkerMetrics:
    """Counts, and shows."""

    def __init__(self, version: str, workflow_types: Collection[str]) -> None:
        self.registry = CollectorRegistry()
        self._workflow_types = frozenset(workflow_types)
        self._executions = Counter(
            "workflow_executions", "Jobs that ended.", ("workflow_type", "status"),
            registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "workflow_duration_seconds", "From a job's start to its end.", ("workflow_type",),
            buckets=DURATION_BUCKETS_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._retries = Counter(
            "activity_retries", "Further attempts of activities.", ("activity_type",),
            registry=self.registry,
        )  # fmt: skip
        self._given_up = Counter(
            "workflow_events_given_up", "Events of jobs that no stream got.", ("workflow_type",),
            registry=self.registry,
        )  # fmt: skip
        Info("gateway_worker", "This program.", registry=self.registry).info({"version": version})
        ProcessCollector(registry=self.registry)

    def __repr__(self) -> str:
        return f"<WorkerMetrics {sorted(self._workflow_types)}>"

    def executed(self, workflow_type: str, status: str, seconds: float) -> None:
        """Count a job that ended; `status` is one of the status body's."""
        name = self._known(workflow_type)
        self._executions.labels(name, status).inc()
        self._seconds.labels(name).observe(seconds)

    def retried(self, activity_type: str) -> None:
        """Count an attempt that is not the first, of an activity of the worker's."""
        self._retries.labels(activity_type).inc()

    def given_up(self, workflow_type: str, events: int) -> None:
        """Count events of a job that its stream will never tell."""
        self._given_up.labels(self._known(workflow_type)).inc(events)

    def _known(self, workflow_type: str) -> str:
        return workflow_type if workflow_type in self._workflow_types else OTHER

    async def page(self, sdk_address: str | None) -> bytes:
        """Prometheus text (0.0.4); without the SDK's figures when they can't be had."""
        own = generate_latest(self.registry)
        return own if sdk_address is None else own + await _fetched(sdk_address)


def sdk_runtime() -> tuple[Runtime, str]:
    """The SDK's threads, with figures at the address that is given beside them (loopback). One for
    a process. Raises RuntimeError when no port can be had.
    """
    for attempt in range(_TRIES):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        try:
            metrics = PrometheusConfig(
                bind_address=address,
                counters_total_suffix=True,
                unit_suffix=True,
                durations_as_seconds=True,
            )
            # Its lines are its own, beside the log: errors only. What it warns of (tasks that took
            # long, were given to others) is in the figures.
            logging = LoggingConfig(Filter(core_level="ERROR", other_level="ERROR"))
            telemetry = TelemetryConfig(logging=logging, metrics=metrics)
            return Runtime(telemetry=telemetry), address
        except (RuntimeError, ValueError):
            if attempt == _TRIES - 1:
                raise
    raise AssertionError  # pragma: no cover - the last attempt returns or raises


async def _fetched(address: str) -> bytes:
    timeout = aiohttp.ClientTimeout(total=_FETCH_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
            session.get(f"http://{address}/metrics") as answer,
        ):
            return await answer.read() if answer.status == 200 else b""
    except (aiohttp.ClientError, TimeoutError, OSError):
        return b""
