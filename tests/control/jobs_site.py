"""The application with jobs over a real Temporal: how tests ask it, and what its answers are."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from aiohttp.test_utils import TestClient, TestServer

from gateway.control.app import build_app
from gateway.control.job_desk import NOT_SET
from gateway.control.state import ControlState
from gateway.jobs.status import MEMBERS
from gateway.policy.identity import Identity
from gateway.policy.tickets import Tickets
from gateway.settings import Settings
from tests.control.conftest import Client
from tests.control.describing import valid
from tests.control.pages import Page, asked
from tests.jobs.desk import ALICE, ORCHESTRATION, REQUEST, Desk, desk
from tests.temporal_server import TemporalServer

V1 = "/api/v1/workflows"
NOBODY = Identity()
OWNER = Identity(open_read=True, open_write=True)  # of a gateway without keys
PLAIN = Identity(subject="alice", tenant="acme")


@dataclass
class Site:
    """The application, with jobs or without."""

    client: Client
    state: ControlState
    desk: Desk | None

    async def ask(
        self, method: str, path: str, who: Identity = ALICE, body: Any = None, **headers: str
    ) -> Page:
        """A request as the door hands it over."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        page = await asked(self.client, method, path, who, data, **headers)
        assert page.headers["Cache-Control"] == "no-store"
        return page

    async def start(
        self, what: Any = None, kind: str = REQUEST, who: Identity = ALICE, **headers: str
    ) -> Page:
        """Start a job that does `what`."""
        given: dict[str, Any] = {"service": "demo", "body": what}
        if kind == ORCHESTRATION:
            given = {"steps": [{"id": "one", **given}]}
        return await self.ask("POST", f"{V1}/{kind}", who, given, **headers)

    async def started(self, what: Any = None, kind: str = REQUEST) -> str:
        """The operation id of a job that is not waited for."""
        page = await self.start(what, kind, Prefer="respond-async")
        assert page.status == 202, page
        return str(page.json["operation_id"])

    @property
    def there(self) -> Desk:
        assert self.desk is not None
        return self.desk


def state_of(**members: Any) -> ControlState:
    given: dict[str, Any] = {
        "settings": Settings(),
        "jobs": None,
        "jobs_off": lambda: NOT_SET,
        "tickets": Tickets(),
        "nothing_here": lambda: "nothing",
    }
    return cast(ControlState, SimpleNamespace(**(given | members)))


@contextlib.asynccontextmanager
async def jobs_site(temporal: TemporalServer) -> AsyncIterator[Site]:
    async with desk(temporal) as found:
        state = state_of(jobs=found.jobs)
        async with TestClient(TestServer(build_app(state))) as client:
            yield Site(client, state, found)


@contextlib.asynccontextmanager
async def bare_site() -> AsyncIterator[Site]:
    """Without Temporal."""
    state = state_of()
    async with TestClient(TestServer(build_app(state))) as client:
        yield Site(client, state, None)


def accepted(page: Page) -> str:
    """The operation id of a 202, which has the contract's shape."""
    assert page.status == 202, page
    body = page.json
    at = f"{V1}/{body['operation_id']}"
    assert {name: body[name] for name in body if name != "operation_id"} == {
        "status_url": f"{at}/status",
        "stream_url": f"{at}/stream",
        "result_url": f"{at}/result",
    }
    assert page.headers["Location"] == f"{at}/status"
    assert int(page.headers["Retry-After"]) > 0
    assert valid("JobAccepted", body)
    return str(body["operation_id"])


def job(page: Page, status: str) -> dict[str, Any]:
    """The status body of a 200."""
    assert page.status == 200, page
    body: dict[str, Any] = page.json
    assert tuple(body) == MEMBERS
    assert body["status"] == status
    assert valid("Job", body)
    return body
