"""Days of a workflow's waiting in seconds of a test, on a real server.

A runner of workflows whose long timers run `factor` times as fast, and whose clock jumps to their
end when they fire. Short timers, activities and the server keep the time of everybody. The SDK's
own environment that skips time needs a server of its own, which is not to be had everywhere; and
this is the server that jobs run on.
"""

from __future__ import annotations

from typing import Final

from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_commands import WorkflowCommand
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.converter import SerializationContext, StorageDriverStoreContext
from temporalio.worker import (
    UnsandboxedWorkflowRunner,
    WorkflowInstance,
    WorkflowInstanceDetails,
    WorkflowRunner,
)
from temporalio.worker._command_aware_visitor import CommandInfo
from temporalio.workflow import Info, _Definition

SHORT_SECONDS: Final = 60.0
"""Up to here a timer is left as it is: a request's time-out must not beat the request."""

DAY_A_SECOND: Final = 86_400.0


class FastClock(WorkflowRunner):
    """For `Worker(workflow_runner=FastClock())`."""

    def __init__(self, factor: float = DAY_A_SECOND, *, above_seconds: float = SHORT_SECONDS):
        self._factor = factor
        self._above_seconds = above_seconds
        self._plain = UnsandboxedWorkflowRunner()

    def prepare_workflow(self, defn: _Definition) -> None:
        self._plain.prepare_workflow(defn)

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        return _Hurried(self._plain.create_instance(det), self._factor, self._above_seconds)


class _Hurried(WorkflowInstance):
    """One workflow. All it knows comes from the history, so a replay sees the same time."""

    def __init__(self, instance: WorkflowInstance, factor: float, above_seconds: float) -> None:
        self._instance = instance
        self._factor = factor
        self._above_ns = int(above_seconds * 1e9)
        self._ahead_ns = 0  # of the server's clock
        self._due_ns: dict[int, int] = {}  # of long timers, by their number, in the workflow's time

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        here_ns = act.timestamp.ToNanoseconds()
        for job in act.jobs:
            if job.HasField("fire_timer"):
                due_ns = self._due_ns.pop(job.fire_timer.seq, 0)
                self._ahead_ns = max(self._ahead_ns, due_ns - here_ns)
        now_ns = here_ns + self._ahead_ns
        act.timestamp.FromNanoseconds(now_ns)
        completion = self._instance.activate(act)
        for command in completion.successful.commands:
            if command.HasField("start_timer"):
                self._hurry(command, now_ns)
        return completion

    def _hurry(self, command: WorkflowCommand, now_ns: int) -> None:
        timer = command.start_timer
        wait_ns = timer.start_to_fire_timeout.ToNanoseconds()
        if wait_ns > self._above_ns:
            self._due_ns[timer.seq] = now_ns + wait_ns
            timer.start_to_fire_timeout.FromNanoseconds(max(1, int(wait_ns / self._factor)))

    def get_serialization_context(
        self, command_info: CommandInfo | None
    ) -> SerializationContext | None:
        return self._instance.get_serialization_context(command_info)

    def get_external_store_context(
        self, command_info: CommandInfo | None
    ) -> StorageDriverStoreContext:
        return self._instance.get_external_store_context(command_info)

    def get_info(self) -> Info:
        return self._instance.get_info()

    def get_thread_id(self) -> int | None:
        return self._instance.get_thread_id()
