"""The kinds of jobs: their names, how long they may take, what may be told to them from outside.

Plain data for the gateway, which never imports a workflow. Durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from gateway.jobs import models

DAY: Final = 86_400.0
# Kept with the job and never longer (Temporal's retention is the operator's).
OWNER_ATTRIBUTE: Final = "GatewayOwner"  # whose jobs it is one of: a keyed hash
STATE_ATTRIBUTE: Final = "GatewayState"  # pending, running or waiting


@dataclass(frozen=True, slots=True)
class JobType:
    """`short`: its start is answered with its result, within 30 s. `timeout_seconds` is the default
    of the execution time-out, `most_seconds` the longest that an input may ask for. `signals` and
    `updates` are the names that callers may use.
    """

    name: str
    input: type[Any]
    short: bool
    timeout_seconds: float
    most_seconds: float
    signals: frozenset[str] = frozenset()
    updates: frozenset[str] = frozenset()


_STEERED: Final = frozenset(("pause", "resume"))

JOB_TYPES: Final[Mapping[str, JobType]] = MappingProxyType(
    {
        each.name: each
        for each in (
            JobType("api_request_workflow", models.ApiRequestInput, True, 30, 30),
            JobType(
                "multi_service_orchestration_workflow",
                models.OrchestrationInput,
                False,
                60,
                DAY,
                _STEERED,
                frozenset(("skip_step",)),
            ),
            JobType("async_request_workflow", models.AsyncRequestInput, False, 300, 3 * DAY),
            JobType("error_recovery_workflow", models.ErrorRecoveryInput, False, 300, DAY),
            JobType(
                "business_process_workflow",
                models.BusinessProcessInput,
                False,
                30 * DAY,
                180 * DAY,
                _STEERED,
                frozenset(("skip_step",)),
            ),
            JobType("tenant_switch_workflow", models.TenantSwitchInput, True, 30, 300),
        )
    }
)
