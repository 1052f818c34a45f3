"""What jobs hold can be read by nobody but the gateway and its workers: not in histories, lists and
files of Temporal, not in any log, not in a database.

Everything that a caller, a service or an approver says carries a mark of its own, and all bytes
that are left lying about afterwards are searched for it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.message import Message as Proto
from temporalio.api.common.v1 import Payload, SearchAttributes, WorkflowExecution
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    GetWorkflowExecutionHistoryRequest,
    ListWorkflowExecutionsRequest,
)
from temporalio.client import Client

from tests.scenarios.job_calls import until
from tests.scenarios.marked_jobs import LARGE_CHARACTERS, NAMESPACE, Life, Lived, Marks
from tests.scenarios.mortal_house import CannotStartError, mortal_house


@pytest.fixture(scope="module")
def lived() -> Iterator[Lived]:
    """All of it has happened, but the processes still run."""
    try:
        with mortal_house() as house:
            house.start_gateway()
            house.start_worker()
            found = Lived(house, Marks())
            asyncio.run(_live(found))
            yield found
    except CannotStartError as error:
        pytest.skip(f"no Temporal here: {error}")


async def _live(found: Lived) -> None:
    await Life(found).all()
    client = await found.house.temporal.client()
    await _look(found, client)


async def _look(found: Lived, client: Client) -> None:
    """As an operator without keys does: all workflows, jobs or not."""
    service = client.workflow_service

    async def listed() -> list[WorkflowExecution]:
        asked = ListWorkflowExecutionsRequest(namespace=NAMESPACE, page_size=1000)
        page = await service.list_workflow_executions(asked)
        found.lists = [page]
        runs = [each.execution for each in page.executions]
        return runs if {each.workflow_id for each in runs} >= set(found.operation_ids) else []

    for run in await until("all jobs in the list", listed):
        token, events = b"", found.histories.setdefault(f"{run.workflow_id} {run.run_id}", [])
        while True:
            part = await service.get_workflow_execution_history(
                GetWorkflowExecutionHistoryRequest(
                    namespace=NAMESPACE, execution=run, next_page_token=token
                )
            )
            events += part.history.events
            token = part.next_page_token
            if not token:
                break
        found.descriptions.append(
            await service.describe_workflow_execution(
                DescribeWorkflowExecutionRequest(namespace=NAMESPACE, execution=run)
            )
        )


def parts_of(message: Proto) -> Iterator[Proto]:
    """A message and all that it holds, but for search attributes, which are no secrets."""
    yield message
    for described, value in message.ListFields():
        if described.message_type is None:
            continue
        if described.message_type.GetOptions().map_entry:
            if described.message_type.fields_by_name["value"].message_type is None:
                continue
            values = list(value.values())
        else:
            values = list(value) if described.is_repeated else [value]
        for each in values:
            if not isinstance(each, SearchAttributes):
                yield from parts_of(each)


def kinds_of_jobs(found: Lived) -> set[str]:
    """The types of all workflows that have run."""
    return {
        events[0].workflow_execution_started_event_attributes.workflow_type.name
        for events in found.histories.values()
    }


def test_a_mark_is_found_however_it_is_written() -> None:
    marks = Marks()
    mark = marks["some"]
    for before in ("", "a", "ab"):
        said = f"{before}{mark} and more"
        assert marks.found_in(base64.b64encode(said.encode())) == {"some"}
        assert marks.found_in(said.encode().hex().encode()) == {"some"}
        assert marks.found_in(b"\0" + said.encode("utf-16-le")) == {"some"}
        assert marks.found_in(said.encode()) == {"some"}
    assert marks.found_in(b"zqother7f3a9c") == set()


def test_no_history_holds_anything_that_was_said(lived: Lived) -> None:
    assert kinds_of_jobs(lived) >= {
        "api_request_workflow",
        "async_request_workflow",
        "business_process_workflow",
        "callback_delivery_workflow",
        "error_recovery_workflow",
        "multi_service_orchestration_workflow",
        "orchestration_part_workflow",
        "service_breaker_workflow",
        "tenant_switch_workflow",
    }
    for name, events in lived.histories.items():
        for event in events:
            assert not lived.marks.found_in(event.SerializeToString()), (name, event)
        assert not lived.marks.found_in(name.encode()), name


NEVER_BEGUN = "ACTIVITY_ID_NOT_STARTED"
NOTES = {
    "activation_index",
    "seq",
    "attempt",
    "activity_id",
    "activity_type",
    "complete_time",
    "backoff",
    "original_schedule_time",
}


def test_all_payloads_of_histories_are_encrypted(lived: Lived) -> None:
    count, references, plain = 0, 0, list[Payload]()
    for name, events in lived.histories.items():
        for event in events:
            for part in parts_of(event):
                if isinstance(part, Failure) and part.HasField("encoded_attributes"):
                    assert (part.message, part.stack_trace) == ("Encoded failure", ""), name
                if isinstance(part, Payload):
                    encoding = part.metadata["encoding"]
                    count += 1
                    references += encoding == b"binary/encrypted-reference"
                    if not encoding.startswith(b"binary/encrypted"):
                        plain.append(part)
    assert count > 200
    assert references > 0
    # The SDK's own notes of an activity that it ran itself.
    notes = [json.loads(each.data) for each in plain]
    assert [each for each in notes if each != NEVER_BEGUN and not set(each) <= NOTES] == []


def test_lists_and_descriptions_say_nothing(lived: Lived) -> None:
    for message in (*lived.lists, *lived.descriptions):
        assert not lived.marks.found_in(message.SerializeToString()), message
    pending = [each for said in lived.descriptions for each in said.pending_activities]
    assert any(each.HasField("last_failure") for each in pending)


def test_temporals_files_hold_nothing(lived: Lived) -> None:
    files = sorted(lived.house.directory.glob("temporal.db*"))
    assert files
    for file in files:
        assert not lived.marks.found_in(file.read_bytes()), file.name
    whole = b"".join(file.read_bytes() for file in files)
    assert all(each.encode() in whole for each in lived.operation_ids)


PERSONS = {"subject", "tenant"}
"""A line about a job says by contract whose it is."""
IN_LOGS = {
    "gateway": PERSONS | {"approver", "clientid", "path"},  # who asked for which path
    "worker": PERSONS | {"stepid"},
    "temporal": set[str](),
}


def test_no_log_holds_what_was_said(lived: Lived) -> None:
    logs = lived.house.logs()
    for name, data in logs.items():
        process = re.split("[-.]", name)[0]
        assert lived.marks.found_in(data) <= IN_LOGS[process], name
    assert b"workflow_event" in logs[lived.house.worker.output.name]


QUESTIONS = PERSONS | {"prompt", "choice", "comment", "approver", "askschema", "askmetadata"}
"""What the gateway's own questions hold."""


def test_the_databases_of_the_gateway_hold_no_job(lived: Lived) -> None:
    for file in sorted(lived.house.state.rglob("*")):
        if file.is_file():
            found = lived.marks.found_in(file.read_bytes())
            assert found <= (QUESTIONS if file.name.startswith("gateway.db") else set()), file.name
    rows = list(_rows(lived.house.state / "gateway.db"))
    assert max(len(data) for data in rows) > LARGE_CHARACTERS
    assert not any(lived.marks.found_in(data) for data in rows)


def _rows(file: Path) -> Iterator[bytes]:
    """The large payloads that were kept."""
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        for row in connection.execute("SELECT * FROM job_payloads"):
            yield b" ".join(each if isinstance(each, bytes) else str(each).encode() for each in row)
    finally:
        connection.close()
