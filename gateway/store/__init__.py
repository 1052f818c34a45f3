"""What the gateway keeps in a database: questions and what is to be sent about them, limits and
revocations that are set at run time, the request log, large payloads of jobs.
"""

from gateway.store.database import Database, StoreError
from gateway.store.deliveries import Deliveries, Delivery, Outbox
from gateway.store.job_payloads import JobPayloads
from gateway.store.limit_configs import LimitConfigs, StoredRule, TooManyRulesError
from gateway.store.questions import StoredQuestions
from gateway.store.requests import RequestLog
from gateway.store.revoked import RevokedTokens
from gateway.store.watching import PolicyWatch

__all__ = [
    "Database",
    "Deliveries",
    "Delivery",
    "JobPayloads",
    "LimitConfigs",
    "Outbox",
    "PolicyWatch",
    "RequestLog",
    "RevokedTokens",
    "StoreError",
    "StoredQuestions",
    "StoredRule",
    "TooManyRulesError",
]
