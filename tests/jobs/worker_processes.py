"""Workers as processes of their own, beside a scripted gateway and a real Temporal."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from temporalio.client import Client
from temporalio.converter import DataConverter

from gateway.jobs.codec import data_converter
from gateway.jobs.connect import connect
from gateway.jobs.models import Caller, JobContext
from gateway.policy.payload_keys import PayloadKeys
from gateway.settings import Settings
from gateway.store import Database, JobPayloads
from tests.jobs.scripted_gateway import KEYS, TOKEN
from tests.processes import Running

PAYLOAD_KEYS = ",".join(f"{name}:{base64.b64encode(key).decode()}" for name, key in KEYS.items())


class Setting:
    """What workers of a test and its client have in common."""

    def __init__(self, gateway_url: str, address: str, queue: str, state_dir: Path) -> None:
        self.queue = queue
        self.address = address
        self.state_dir = state_dir
        self.environ = {
            "TEMPORAL_ADDRESS": address,
            "TEMPORAL_TASK_QUEUE": queue,
            "PAYLOAD_KEYS": PAYLOAD_KEYS,
            "GATEWAY_URL": gateway_url,
            "SERVICE_TOKEN": TOKEN,
            "WORKER_PORT": "0",
            "STATE_DIR": str(state_dir),
        }

    def worker(self, *arguments: str, **extra: str) -> Running:
        """A worker's process."""
        return Running("worker", *arguments, **(self.environ | extra))

    def converter(self, database: Database | None = None) -> DataConverter:
        payloads = None if database is None else JobPayloads(database, "default")
        return data_converter(PayloadKeys(Settings(payload_keys=tuple(KEYS.items()))), payloads)

    async def client(self, database: Database | None = None) -> Client:
        """A client as the gateway's."""
        return await connect(self.address, Settings(), self.converter(database), role="test")


async def off_loop(wait: Callable[..., Any], *arguments: Any) -> Any:
    """What a process says, waited for beside the loop that the scripted gateway runs on."""
    return await asyncio.to_thread(wait, *arguments)


def context_of(workflow_type: str, timeout_seconds: float) -> JobContext:
    """The first argument of a job for the service `orders`."""
    return JobContext(
        Caller("ada", "acme", "pro", ["jobs:write"], ["ada"], "192.0.2.7"),
        f"{'ab' * 8}-{uuid4()}",
        workflow_type,
        timeout_seconds,
        bases={"orders": "/api/v1/orders"},
    )
