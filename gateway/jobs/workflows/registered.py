"""All kinds of jobs that a worker runs, those that callers start and the ones that these start.

For workers and replays; workflow code imports none of this.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.jobs.workflows.api_request import ApiRequestWorkflow
from gateway.jobs.workflows.async_request import AsyncRequestWorkflow
from gateway.jobs.workflows.business_process import BusinessProcessWorkflow
from gateway.jobs.workflows.callback_delivery import CallbackDeliveryWorkflow
from gateway.jobs.workflows.error_recovery import ErrorRecoveryWorkflow
from gateway.jobs.workflows.orchestration import Orchestration
from gateway.jobs.workflows.orchestration_part import OrchestrationPart
from gateway.jobs.workflows.service_breaker import ServiceBreakerWorkflow
from gateway.jobs.workflows.tenant_switch import TenantSwitchWorkflow

WORKFLOWS: Final[tuple[type[Any], ...]] = (
    ApiRequestWorkflow,
    AsyncRequestWorkflow,
    BusinessProcessWorkflow,
    CallbackDeliveryWorkflow,
    ErrorRecoveryWorkflow,
    Orchestration,
    OrchestrationPart,
    ServiceBreakerWorkflow,
    TenantSwitchWorkflow,
)
