"""Jobs that began under an earlier version go on under this one: stored histories of every kind of
job are replayed. They are recorded by `tests/histories/record.py`. Without the sandbox: what it
forbids is found where jobs run; here it would only make replaying slow.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from gateway.jobs.workflows.registered import WORKFLOWS
from tests.jobs.changed_workflow import ChangedWorkflow, PatchedWorkflow

HISTORIES = sorted((Path(__file__).parents[1] / "histories").glob("*.json"))


def history_of(path: Path) -> WorkflowHistory:
    return WorkflowHistory.from_json(path.stem, path.read_text())


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_a_stored_history_is_replayed_by_todays_code(path: Path) -> None:
    replayer = Replayer(workflows=WORKFLOWS, workflow_runner=UnsandboxedWorkflowRunner())
    await replayer.replay_workflow(history_of(path))


def test_every_kind_of_job_has_a_history() -> None:
    recorded = {path.name.partition(".")[0] for path in HISTORIES}
    names = set()
    for each in WORKFLOWS:
        definition = workflow._Definition.from_class(each)
        assert definition is not None
        names.add(definition.name)
    assert recorded == names


async def test_a_changed_workflow_fails_them_unless_it_is_patched() -> None:
    (path,) = [each for each in HISTORIES if each.stem == "api_request_workflow.answered"]
    changed = Replayer(workflows=[ChangedWorkflow], workflow_runner=UnsandboxedWorkflowRunner())
    with pytest.raises(workflow.NondeterminismError):
        await changed.replay_workflow(history_of(path))
    patched = Replayer(workflows=[PatchedWorkflow], workflow_runner=UnsandboxedWorkflowRunner())
    await patched.replay_workflow(history_of(path))


def test_histories_tell_nothing_of_where_they_were_recorded() -> None:
    for path in HISTORIES:
        text = path.read_text()
        assert "site-packages" not in text, path.name
        assert '"identity"' not in text, path.name
        assert json.loads(text)["events"]
