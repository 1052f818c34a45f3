"""What settings say of jobs: readers, tables of workflows, what one value allows another."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest

from gateway.jobs.types import JOB_TYPES
from gateway.settings import SettingsError, load
from gateway.settings_jobs import JOB_NAMES, MOST_JOB_SECONDS, WorkflowSettings

KEY = b64encode(bytes(range(32))).decode()
OTHER = b64encode(bytes(32)).decode()


def test_the_names_of_jobs_are_those_of_their_types() -> None:
    assert set(JOB_NAMES) == set(JOB_TYPES)
    assert max(each.most_seconds for each in JOB_TYPES.values()) == MOST_JOB_SECONDS


@pytest.mark.parametrize("address", ["embedded", "temporal.internal:7233", "[::1]:7233"])
def test_an_address_is_embedded_or_host_and_port(address: str) -> None:
    assert load({"TEMPORAL_ADDRESS": address}).temporal_address == address


@pytest.mark.parametrize("address", ["temporal", "http://temporal:7233", "host:port", "a:123456"])
def test_another_address_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match=r"TEMPORAL_ADDRESS is .* expected host:port"):
        load({"TEMPORAL_ADDRESS": address})


def test_payload_keys_keep_their_order() -> None:
    keys = load({"PAYLOAD_KEYS": f"new:{KEY}, old:{OTHER}"}).payload_keys
    assert [name for name, _ in keys] == ["new", "old"]
    assert keys[0][1] == bytes(range(32))


@pytest.mark.parametrize(
    "keys", ["new", f"ne w:{KEY}", "new:c2hvcnQ=", f"a:{KEY},a:{OTHER}", "a:!"]
)
def test_payload_keys_that_are_none_are_refused_and_not_shown(keys: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({"PAYLOAD_KEYS": keys})
    assert KEY not in str(caught.value)
    assert "c2hvcnQ" not in str(caught.value)


def test_secrets_are_not_shown() -> None:
    settings = load(
        {"PAYLOAD_KEYS": f"k:{KEY}", "SERVICE_TOKEN": "sesame-1", "TEMPORAL_API_KEY": "sesame-2"}
    )
    assert "sesame" not in repr(settings)
    assert "payload_keys" not in repr(settings)


def test_a_gateway_url_has_no_path() -> None:
    assert load({"GATEWAY_URL": "http://gateway:8081/"}).gateway_url == "http://gateway:8081"
    with pytest.raises(SettingsError, match="GATEWAY_URL is no address"):
        load({"GATEWAY_URL": "http://gateway:8081/api"})


def test_a_gateway_url_registers_no_service() -> None:
    assert load({"GATEWAY_URL": "http://gateway:8081"}).services == ()


def test_names_at_temporal_are_plain() -> None:
    settings = load({"TEMPORAL_NAMESPACE": "jobs.prod", "TEMPORAL_TASK_QUEUE": "q-1"})
    assert (settings.temporal_namespace, settings.temporal_task_queue) == ("jobs.prod", "q-1")
    with pytest.raises(SettingsError, match="TEMPORAL_TASK_QUEUE"):
        load({"TEMPORAL_TASK_QUEUE": "two words"})


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    file = tmp_path / "client.pem"
    file.write_text("x")
    with pytest.raises(SettingsError, match="only one of TEMPORAL_TLS_CERT and TEMPORAL_TLS_KEY"):
        load({"TEMPORAL_TLS_CERT": str(file)})


def test_a_temporal_elsewhere_without_payload_keys_is_warned_of() -> None:
    [warning] = load({"TEMPORAL_ADDRESS": "temporal:7233"}).warnings
    assert "PAYLOAD_KEYS" in warning
    assert load({"TEMPORAL_ADDRESS": "embedded"}).warnings == ()
    assert load({"TEMPORAL_ADDRESS": "temporal:7233", "PAYLOAD_KEYS": f"k:{KEY}"}).warnings == ()


def written(tmp_path: Path, text: str) -> dict[str, str]:
    file = tmp_path / "gateway.toml"
    file.write_text(text)
    return {"GATEWAY_CONFIG": str(file)}


def test_a_table_names_a_queue_and_a_time_out(tmp_path: Path) -> None:
    (tmp_path / "more.toml").write_text("[workflows.api_request_workflow]\ntimeout_seconds = 5\n")
    environ = written(
        tmp_path,
        'include = "more.toml"\n[workflows.api_request_workflow]\ntask_queue = "fast"\n',
    )
    assert load(environ).workflows == (WorkflowSettings("api_request_workflow", "fast", 5.0),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[workflows.cleanup]\n", ":1: workflows.cleanup is no kind of job, expected one of api_"),
        ("[workflows.api_request_workflow]\nqueue = 'x'\n", ":2: .*queue is unknown"),
        ("[workflows.api_request_workflow]\ntask_queue = 'a b'\n", ":2: .*task_queue is 'a b'"),
        ("[workflows]\nx = 1\n", "expected a table"),
        ("[workflows.api_request_workflow]\ntimeout_seconds = 15552001\n", "at most 180 days"),
    ],
)
def test_a_table_that_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load(written(tmp_path, text))


def test_a_process_may_have_half_a_year(tmp_path: Path) -> None:
    text = "[workflows.business_process_workflow]\ntimeout_seconds = 15552000\n"
    [table] = load(written(tmp_path, text)).workflows
    assert table.timeout_seconds == MOST_JOB_SECONDS


def test_the_bound_of_an_owners_jobs_can_be_taken_away() -> None:
    assert load({}).jobs_per_owner == 1000
    assert load({"JOBS_PER_OWNER": "0"}).jobs_per_owner == 0
    with pytest.raises(SettingsError, match="JOBS_PER_OWNER"):
        load({"JOBS_PER_OWNER": "-1"})
