"""Jobs of every kind in which all that anybody says is marked, and what they leave lying about."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message as Proto
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    DescribeWorkflowExecutionResponse,
)

from tests.questions import answer
from tests.scenarios.job_calls import (
    API,
    ASYNC,
    GRAPH,
    PROCESS,
    RECOVERY,
    SWITCH,
    call,
    ended,
    fetch,
    path_of,
    stands,
    started,
    tell,
    until,
)
from tests.scenarios.mortal_house import MortalHouse, RememberingPlace, Reply
from tests.streams import bearer, post, sign

NAMESPACE = "default"
LARGE_CHARACTERS = 400_000


class Marks(dict[str, str]):
    """Words that stand nowhere else, one for each kind of thing that is said; made when asked."""

    def __missing__(self, kind: str) -> str:
        self[kind] = f"zq{kind}7f3a9c"
        return self[kind]

    def found_in(self, data: bytes) -> set[str]:
        """The kinds whose mark stands in these bytes, however it is written."""
        return {
            kind
            for kind, mark in self.items()
            if any(each in data for each in _spellings(mark.encode()))
        }


def _spellings(mark: bytes) -> Iterator[bytes]:
    """As it is, in UTF-16, hexadecimal, and in base64 wherever it begins there."""
    yield mark
    yield mark.decode().encode("utf-16-le")
    yield mark.hex().encode()
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + mark)
        yield encoded[(before * 8 + 5) // 6 : -4]


@dataclass
class Lived:
    """A house in which jobs of all kinds have run, and what of them can be seen from outside."""

    house: MortalHouse
    marks: Marks
    operation_ids: list[str] = field(default_factory=list)
    histories: dict[str, list[HistoryEvent]] = field(default_factory=dict)
    descriptions: list[DescribeWorkflowExecutionResponse] = field(default_factory=list)
    lists: list[Proto] = field(default_factory=list)


class Life:
    """Jobs of every kind, in which all that can be said is marked."""

    def __init__(self, found: Lived) -> None:
        self.found = found
        self.house = found.house
        self.marks = found.marks
        self.place: RememberingPlace = found.house.place()
        marks = self.marks
        token = sign(
            marks["subject"],
            "jobs:write",
            marks["scope"],
            tenant=marks["tenant"],
            client_ids=[marks["clientid"]],
        )
        marks["token"] = token.rpartition(".")[2][:20]
        self.caller = bearer(token)

    async def all(self) -> None:
        """All of them, beside each other; returns when they are over."""
        await asyncio.gather(
            self.requests(),
            self.graphs(),
            self.process(),
            self.recovery(),
            self.switches(),
            self.ends(),
            self.tries(),
        )

    async def start(self, kind: str, body: Any, *fields: bytes) -> str:
        operation_id = await started(self.house, kind, body, *fields, caller=self.caller)
        self.found.operation_ids.append(operation_id)
        return operation_id

    async def end(self, operation_id: str, expected: str = "completed") -> dict[str, Any]:
        return await ended(self.house, operation_id, expected, caller=self.caller)

    async def do(self, kind: str, body: Any, expected: str = "completed") -> dict[str, Any]:
        return await self.end(await self.start(kind, body), expected)

    def request(self, path: str = "/good", **members: Any) -> dict[str, Any]:
        """A request in which everything is marked."""
        marks = self.marks
        given = call(
            self.place(f"{path}/{marks['path']}"),
            "POST",
            query={"q": marks["query"]},
            headers={"X-Mine": marks["header"]},
            body={"card": marks["body"]},
        )
        self.answers(path)
        return given | members

    def answers(self, path: str, status: int = 200, kind: str = "answer") -> None:
        """What a service says to such a request."""
        headers = {"X-Theirs": self.marks["answerheader"], "Set-Cookie": self.marks["setcookie"]}
        reply = Reply({"iban": self.marks[kind]}, status, headers)
        self.place.on(f"{path}/{self.marks['path']}", reply)

    def bad(self, path: str = "/bad", status: int = 409, **members: Any) -> dict[str, Any]:
        """A request whose answer is an error."""
        made = self.request(path, **members)
        self.answers(path, status, "erroranswer")
        return made

    async def requests(self) -> None:
        """Single ones: now, later, with a callback, by the header of a proxied request."""
        marks = self.marks
        transform = {"kept": {"$result": "/body/iban"}, "said": marks["transform"]}
        body = await self.do(API, self.request(transform=transform))
        assert body["result"]["body"]["kept"] == marks["answer"]
        hook = f"{self.house.services.url}/receiver{self.place('/hook')}/{marks['callback']}"
        large = {"card": marks["large"], "rest": "x" * LARGE_CHARACTERS}
        given = self.request(
            body=large,
            callback_url=hook,
            client_id=marks["clientid"],
            metadata={"case": marks["metadata"]},
        )
        key = b"Idempotency-Key: " + marks["key"].encode()
        await self.end(await self.start(ASYNC, given, key))
        self.place.until(f"/hook/{marks['callback']}", 2)
        await self.do(ASYNC, self.bad(), "completed")
        fields = [b"Cookie: c=" + marks["cookie"].encode(), b"Prefer: respond-async"]
        target = f"/api/v1/late{self.place('/durable')}/{marks['path']}?q={marks['query']}"
        self.answers("/durable")
        response = await self.house.door.ask(
            post(target, {"card": marks["body"]}, self.caller, *fields)
        )
        assert response.status == 202, response.body
        self.found.operation_ids.append(response.json()["operation_id"])
        await self.end(self.found.operation_ids[-1])

    def step(self, name: str, *after: str, **members: Any) -> dict[str, Any]:
        """A step of a graph, with a mark in each of its rules."""
        marks = self.marks
        before = [{"pointer": f"/{each}/iban", "not_equals": marks["condition"]} for each in after]
        schema = {"type": "object", "not": {"const": marks["schema"]}}
        return {
            "id": name,
            "depends_on": list(after),
            "condition": {"all": before} if before else None,
            "rules": [{"schema": schema}],
            "compensation": self.request("/undo", body={"why": marks["undo"]}),
        } | self.request(**members)

    async def graphs(self) -> None:
        """Some that go well, one of them in parts; some that are undone."""
        marks = self.marks
        first, second = f"a{marks['stepid']}", f"b{marks['stepid']}"
        steps = [self.step(first), self.step(second, first)]
        output = {"all": {"$result": f"/{first}"}, "said": marks["output"]}
        await self.do(GRAPH, {"steps": steps, "output": output})
        many = [self.step(f"s{number}{marks['stepid']}") for number in range(53)]
        await self.do(GRAPH, {"steps": many, "timeout_seconds": 120})
        failing = self.step(second, first) | self.bad()
        body = await self.do(GRAPH, {"steps": [self.step(first), failing]}, "failed")
        assert body["error"]["step"] == second
        rule = {"schema": {"const": marks["schema"]}}
        broken = self.step(second, first) | {"rules": [rule]}
        await self.do(GRAPH, {"steps": [self.step(first), broken]}, "failed")

    async def process(self) -> None:
        """One with people in it, and one whose request is tried again while we look."""
        marks = self.marks
        schema = {"type": "string", "description": marks["askschema"]}
        ask = {
            "prompt": f"May {marks['prompt']} be paid?",
            "schema": schema,
            "approvers": [marks["approver"]],
            "metadata": {"case": marks["askmetadata"]},
        }
        data = {"who": marks["data"]}
        steps = [
            {"id": "ask", "ask": ask},
            {"id": "value", "value": {"said": {"$result": "/ask"}, "mine": marks["value"]}},
            {"id": "pay", "request": self.request()},
        ]
        operation_id = await self.start(PROCESS, {"steps": steps, "data": data})
        body = await stands(
            self.house, operation_id, lambda body: body["question"] is not None, self.caller
        )
        approver = bearer(sign(marks["approver"], tenant=marks["tenant"]))
        response = await answer(
            self.house.door,
            body["question"]["question_id"],
            marks["choice"],
            approver,
            comment=marks["comment"],
        )
        assert response.status == 200, response.body
        body = await self.end(operation_id)
        assert body["result"]["decisions"]["ask"]["response"] == marks["choice"]

    async def recovery(self) -> None:
        """By a kept answer, by another service, by the breaker of a service."""
        marks = self.marks
        failure = {"kind": "external", "status": 500, "message": marks["failure"]}
        given = {"request": self.bad("/ill", 500), "failure": failure, "history": [failure]}
        given["retry"] = {"max_attempts": 1}
        kept = {"answer": {"kept": marks["kept"]}}
        other = {"request": self.request("/other")}
        for strategy, fallback in (("fallback", kept), ("circuit_breaker", other), ("retry", kept)):
            await self.do(RECOVERY, given | {"strategy": strategy, "fallback": fallback})

    async def switches(self) -> None:
        """One that goes well, one that is rolled back."""
        marks = self.marks
        for good in (True, False):
            told = self.request("/told") if good else self.bad("/refuses")
            services = [
                {"id": "one", "request": self.request(), "compensation": self.request("/undo")},
                {"id": "two", "request": told},
            ]
            given = {
                "to_tenant": marks["totenant"],
                "user_id": marks["userid"],
                "validate": self.request("/validate"),
                "services": services,
                "context": {"said": marks["context"]},
            }
            body = await self.do(SWITCH, given)
            assert body["result"]["success"] is good

    async def ends(self) -> None:
        """Jobs that do not come to their own end."""
        for how in ("timed_out", "cancelled", "terminated"):
            more = {"timeout_seconds": 1} if how == "timed_out" else {}
            given = self.request("/held", **more)
            held = self.place.hold(f"/held/{self.marks['path']}", {"iban": self.marks["answer"]})
            operation_id = await self.start(ASYNC, given)
            if how != "timed_out":  # which may come before the request
                self.place.until(f"/held/{self.marks['path']}")
                name = {"cancelled": "cancel", "terminated": "terminate"}[how]
                assert (await tell(self.house, operation_id, name, caller=self.caller)).status < 300
            await self.end(operation_id, how)
            held.set()

    async def tries(self) -> None:
        """One that is looked at between two tries."""
        client = await self.house.temporal.client()
        retry = {"max_attempts": 100, "initial_seconds": 0.2, "max_seconds": 0.5}
        trying = await self.start(ASYNC, self.bad("/tries", 503, retry=retry))
        execution = WorkflowExecution(workflow_id=trying)
        asked = DescribeWorkflowExecutionRequest(namespace=NAMESPACE, execution=execution)

        async def failing() -> bool:
            said = await client.workflow_service.describe_workflow_execution(asked)
            self.found.descriptions.append(said)
            return any(each.HasField("last_failure") for each in said.pending_activities)

        await until("an activity that is tried again", failing)
        history = await fetch(self.house.door, path_of(trying, "history"), self.caller)
        assert history.status == 200
        assert (await tell(self.house, trying, "cancel", caller=self.caller)).status == 202
        await self.end(trying, "cancelled")
