"""Callbacks: decisions go out, to the URL of whoever asked, to the configured service, and to jobs
that wait for them.
"""

from gateway.callbacks.address import Allowed, check_callback_url
from gateway.callbacks.delivery import DeliveryWorker
from gateway.callbacks.job_decisions import JobDecisions, JobDecisionWorker
from gateway.callbacks.kinds import delivery_requests
from gateway.callbacks.lookups import Lookups
from gateway.callbacks.sending import Sender

__all__ = [
    "Allowed",
    "DeliveryWorker",
    "JobDecisionWorker",
    "JobDecisions",
    "Lookups",
    "Sender",
    "check_callback_url",
    "delivery_requests",
]
