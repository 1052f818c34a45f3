"""The figures: counted right, named as the contract says, readable by Prometheus."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gateway.observe.metrics import DURATION_BUCKETS_SECONDS, METHODS, Metrics, sample_loop_lag


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """One figure, as a scrape would show it."""
    return metrics.registry.get_sample_value(name, labels)


def test_a_request_is_counted_with_its_durations() -> None:
    metrics = Metrics("1.2.3")
    demo = metrics.service("demo")
    demo.observe("/api", "GET", 200, 0.003, 0.002)
    demo.observe("/api", "GET", 200, 0.3, None)
    demo.observe("/api", "POST", 502, 120.0, 61.0)
    labels = {"service": "demo", "route": "/api"}
    assert value(metrics, "gateway_requests_total", **labels, method="GET", code="200") == 2
    assert value(metrics, "gateway_requests_total", **labels, method="POST", code="502") == 1
    whole = "gateway_request_duration_seconds"
    assert value(metrics, f"{whole}_count", service="demo") == 3
    assert value(metrics, f"{whole}_sum", service="demo") == pytest.approx(120.303)
    assert value(metrics, f"{whole}_bucket", service="demo", le="0.0025") == 0
    assert value(metrics, f"{whole}_bucket", service="demo", le="0.005") == 1
    assert value(metrics, f"{whole}_bucket", service="demo", le="0.5") == 2
    assert value(metrics, f"{whole}_bucket", service="demo", le="60.0") == 2
    part = "gateway_upstream_duration_seconds"
    assert value(metrics, f"{part}_count", service="demo") == 2
    assert value(metrics, f"{part}_bucket", service="demo", le="+Inf") == 2
    assert repr(demo) == "<ServiceMetrics demo requests=3 in_flight=0>"


def test_a_bound_belongs_to_its_bucket() -> None:
    metrics = Metrics("1")
    metrics.service("demo").observe("r", "GET", 200, 0.5, 0.5)
    name = "gateway_request_duration_seconds_bucket"
    assert value(metrics, name, service="demo", le="0.25") == 0
    assert value(metrics, name, service="demo", le="0.5") == 1


@given(
    requests=st.lists(
        st.tuples(
            st.sampled_from(["GET", "POST", "BREW", "get"]),
            st.sampled_from([101, 200, 404, 599, 600, 999, 0]),
            st.floats(0.0, 1000.0),
        )
    )
)
def test_every_request_is_in_one_cell_and_one_bucket(
    requests: list[tuple[str, int, float]],
) -> None:
    metrics = Metrics("1")
    demo = metrics.service("demo")
    for method, status, seconds in requests:
        demo.observe("r", method, status, seconds, seconds)
    assert sum(total for _, total in demo.requests()) == len(requests)
    for histogram in demo.durations():
        assert histogram.cumulative()[-1] == ("+Inf", len(requests))
        assert histogram.sum_seconds == pytest.approx(sum(row[2] for row in requests))


def test_no_client_can_open_cells_at_will() -> None:
    metrics = Metrics("1")
    demo = metrics.service("demo")
    for number in range(2000):
        demo.observe("r", f"METHOD{number}", number, 0.1, None)
    cells = dict(demo.requests())
    assert {labels[2] for labels in cells} == {"other"}
    assert cells["demo", "r", "other", "other"] == 1500
    assert "BREW" not in METHODS
    assert len(cells) == 501


def test_requests_in_flight_are_the_callers_to_keep() -> None:
    metrics = Metrics("1")
    assert metrics.service("demo") is metrics.service("demo")
    metrics.service("demo").in_flight += 2
    assert value(metrics, "gateway_requests_in_flight", service="demo") == 2


def test_events_are_counted_by_name() -> None:
    metrics = Metrics("1")
    for _ in range(2):
        metrics.error("demo", "TIMEOUT")
        metrics.rate_limited("anonymous")
        metrics.retry("demo")
        metrics.ai_agent("GPTBot")
        metrics.ai_agent("")
    assert value(metrics, "gateway_errors_total", service="demo", error_code="TIMEOUT") == 2
    assert value(metrics, "gateway_rate_limited_total", tier="anonymous") == 2
    assert value(metrics, "gateway_retries_total", service="demo") == 2
    assert value(metrics, "gateway_ai_agent_requests_total", agent="GPTBot") == 2
    assert value(metrics, "gateway_ai_agent_requests_total", agent="") is None


def test_what_others_count_is_asked_at_each_scrape() -> None:
    metrics = Metrics("1")
    dropped, idle = [0], [3.0]
    metrics.log_records_dropped(lambda: dropped[0])
    metrics.upstream_connections(lambda: [(("demo", "idle"), idle[0]), (("demo", "active"), 1.0)])
    assert value(metrics, "gateway_log_records_dropped_total") == 0
    dropped[0], idle[0] = 7, 4.0
    assert value(metrics, "gateway_log_records_dropped_total") == 7
    assert value(metrics, "gateway_upstream_connections", service="demo", state="idle") == 4
    assert "gateway_upstream_connections" in repr(metrics)


def test_a_later_gauge_of_the_same_name_takes_the_place_of_the_earlier() -> None:
    metrics = Metrics("1")
    metrics.gauge("gateway_endpoint_up", "Up.", ("service",), lambda: [(("a",), 1.0)])
    metrics.gauge("gateway_endpoint_up", "Up.", ("service",), lambda: [(("b",), 1.0)])
    assert value(metrics, "gateway_endpoint_up", service="a") is None
    assert value(metrics, "gateway_endpoint_up", service="b") == 1


def test_two_gateways_in_one_process_count_apart() -> None:
    one, two = Metrics("1"), Metrics("1")
    one.retry("demo")
    assert value(two, "gateway_retries_total", service="demo") is None


def _full() -> Metrics:
    metrics = Metrics("1.2.3")
    metrics.service("demo").observe("/api", "GET", 200, 0.003, 0.002)
    metrics.error("demo", "TIMEOUT")
    metrics.rate_limited("anonymous")
    metrics.retry("demo")
    metrics.ai_agent("GPTBot")
    metrics.log_records_dropped(lambda: 0)
    metrics.upstream_connections(lambda: [(("demo", "idle"), 1.0)])
    return metrics


# The contract's, with the labels of each.
CONTRACT = {
    "gateway_requests_total": {"service", "route", "method", "code"},
    "gateway_request_duration_seconds_bucket": {"service", "le"},
    "gateway_upstream_duration_seconds_bucket": {"service", "le"},
    "gateway_requests_in_flight": {"service"},
    "gateway_errors_total": {"service", "error_code"},
    "gateway_rate_limited_total": {"tier"},
    "gateway_upstream_connections": {"service", "state"},
    "gateway_retries_total": {"service"},
    "gateway_ai_agent_requests_total": {"agent"},
    "gateway_log_records_dropped_total": set[str](),
    "gateway_event_loop_lag_seconds": set[str](),
    "gateway_build_info": {"version", "python"},
    "process_resident_memory_bytes": set[str](),
    "process_cpu_seconds_total": set[str](),
}


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain;version=0.0.4", "application/json"])
def test_the_text_format_holds_the_contracts_names_and_labels(accept: str) -> None:
    body, content_type = _full().exposition(accept)
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    samples = {
        sample.name: set(sample.labels)
        for family in parse_text(body.decode())
        for sample in family.samples
    }
    assert {name: samples.get(name) for name in CONTRACT} == CONTRACT


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text",
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
        "application/openmetrics-text;version=2.0.0, application/openmetrics-text;version=1.0.0",
    ],
)
def test_openmetrics_is_given_on_accept(accept: str) -> None:
    body, content_type = _full().exposition(accept)
    assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    parsed = parse_openmetrics(body.decode())  # type: ignore[no-untyped-call]
    families = {family.name: family.type for family in parsed}
    assert families["gateway_requests"] == "counter"
    assert families["gateway_request_duration_seconds"] == "histogram"
    assert families["gateway_build"] == "info"


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=abc",
        "application/openmetrics-text;version=9.9.9",
        "application/openmetrics-text;q=0",
        "application/openmetrics-text;q=0.000",
        "text/plain;version=1.x",
        ";;=,=;",
    ],
)
def test_what_the_client_cannot_have_is_answered_in_plain_text(accept: str) -> None:
    _, content_type = _full().exposition(accept)
    assert content_type.startswith("text/plain; version=0.0.4")


@given(accept=st.text())
def test_no_accept_field_breaks_the_page(accept: str) -> None:
    body, _ = Metrics("1").exposition(accept)
    assert b"gateway_build_info" in body


def test_buckets_rise() -> None:
    assert list(DURATION_BUCKETS_SECONDS) == sorted(set(DURATION_BUCKETS_SECONDS))


def test_the_longest_recent_lag_is_shown() -> None:
    metrics = Metrics("1")
    assert metrics.loop_lag_seconds == 0
    metrics.loop_lag(0.25)
    for _ in range(29):
        metrics.loop_lag(0.001)
    assert value(metrics, "gateway_event_loop_lag_seconds") == 0.25
    metrics.loop_lag(0.002)
    assert value(metrics, "gateway_event_loop_lag_seconds") == 0.002


class Clock:
    """Steps by `step` at each reading; `read_often` is set once it has been read four times."""

    def __init__(self, step: float) -> None:
        self._readings = count(start=100.0, step=step)
        self._left = 4
        self.read_often = asyncio.Event()

    def __call__(self) -> float:
        self._left -= 1
        if self._left == 0:
            self.read_often.set()
        return next(self._readings)


@pytest.mark.parametrize(("step", "lag"), [(3.0, 3.0), (-1.0, 0.0)])
async def test_a_loop_that_runs_late_is_noticed_and_one_that_runs_early_is_not(
    step: float, lag: float
) -> None:
    metrics, clock = Metrics("1"), Clock(step)
    task = asyncio.create_task(sample_loop_lag(metrics, 0.0, clock))
    await clock.read_often.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert metrics.loop_lag_seconds == lag
