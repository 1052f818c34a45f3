"""What jobs and their workers can't do without is known from the settings alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.jobs.needs import missing_for_jobs, needed, queues_of
from gateway.settings import Settings, SettingsError
from gateway.settings_jobs import WorkflowSettings

KEYS = (("k1", b"1" * 32),)
SET = Settings(
    temporal_address="temporal.test:7233",
    payload_keys=KEYS,
    service_token="token",
    gateway_url="http://gateway.test",
)


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        (Settings(), "TEMPORAL_ADDRESS"),
        (Settings(payload_keys=KEYS), "TEMPORAL_ADDRESS"),
        (Settings(temporal_address="temporal.test:7233"), "PAYLOAD_KEYS"),
        (Settings(temporal_address="temporal.test:7233", payload_keys=KEYS), None),
        (Settings(temporal_address="embedded"), None),
    ],
)
def test_jobs_need_temporal_and_keys(settings: Settings, missing: str | None) -> None:
    assert missing_for_jobs(settings) == missing


def test_a_worker_gets_what_it_needs() -> None:
    found = needed(SET)
    assert (found.address, found.gateway_url) == ("temporal.test:7233", "http://gateway.test")
    assert (found.token, found.keys.current) == ("token", "k1")
    assert "token=" not in repr(found)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"temporal_address": None}, "TEMPORAL_ADDRESS is not set"),
        ({"temporal_address": "embedded"}, "TEMPORAL_ADDRESS is embedded"),
        ({"payload_keys": ()}, "PAYLOAD_KEYS is not set"),
        ({"service_token": None}, "SERVICE_TOKEN is not set"),
        ({"gateway_url": None}, "GATEWAY_URL is not set"),
    ],
)
def test_what_a_worker_lacks_is_named(changes: dict[str, object], named: str) -> None:
    with pytest.raises(SettingsError, match=f"^settings: {named}, expected "):
        needed(replace(SET, **changes))  # type: ignore[arg-type]


def test_queues_are_the_common_one_and_those_of_single_kinds() -> None:
    settings = Settings(temporal_task_queue="common")
    assert queues_of(settings) == ("common",)
    own = (
        WorkflowSettings("a", task_queue="heavy"),
        WorkflowSettings("b", timeout_seconds=1.0),
        WorkflowSettings("c", task_queue="heavy"),
    )
    assert queues_of(replace(settings, workflows=own)) == ("common", "heavy")
