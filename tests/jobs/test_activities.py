"""Activities one by one, in the SDK's own environment, against a gateway written here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from gateway.jobs.activities import calls
from gateway.jobs.activities.callbacks import Callbacks
from gateway.jobs.activities.calls import Calls
from gateway.jobs.activities.failing import beating
from gateway.jobs.activities.parts import CallbackOutcome, NotPublishedError
from gateway.jobs.activities.publishing import HttpPublisher, Publishing
from gateway.jobs.activities.questions import Asking
from gateway.jobs.activities.sessions import new_session_id
from gateway.jobs.activity_models import (
    AskInput,
    CallbackInput,
    CallInput,
    Decision,
    GateAnswer,
    GateInput,
    JobEvent,
    LogInput,
    PublishInput,
)
from gateway.jobs.models import Caller, JobContext, ResultRule, Retry, ServiceRequest
from sse.idempotency import other_body
from tests.jobs.scripted_gateway import (
    Figures,
    Receiver,
    ScriptedGateway,
    answer,
    http_to,
    log_into,
    refusal,
    scripted_gateway,
)
from tests.temporal_server import PATIENCE_SECONDS

CONTEXT = JobContext(
    Caller("ada", "acme", "pro"), "op-1", "kind", 30, bases={"orders": "/api/v1/orders"}
)
PATH = "/api/v1/orders/1"
CALL = CallInput(CONTEXT, ServiceRequest("orders", "/1"), "k", step="s")
QUESTIONS = "/api/v1/questions"
ASK = AskInput(CONTEXT, "q1", "ask", {"prompt": "May I?", "schema": None, "default": None})


@dataclass
class World:
    gateway: ScriptedGateway
    calls: Calls
    asking: Asking
    publisher: HttpPublisher
    lines: list[dict[str, Any]]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with scripted_gateway() as gateway:
        http = http_to(gateway.url)
        lines: list[dict[str, Any]] = []
        publisher, log = HttpPublisher(http), log_into(lines)
        asking = Calls(http, Publishing(publisher, Figures(), log), log)
        yield World(gateway, asking, Asking(http), publisher, lines)
        await http.close()


def environment(
    attempt: int = 1, heartbeat_details: Sequence[Any] = (), **more: Any
) -> ActivityEnvironment:
    env = ActivityEnvironment()
    env.info = replace(
        env.info, attempt=attempt, heartbeat_details=heartbeat_details,
        schedule_to_close_timeout=None, **more,
    )  # fmt: skip
    return env


async def failure(env: ActivityEnvironment, activity: Any, *args: Any) -> ApplicationError:
    with pytest.raises(ApplicationError) as failed:
        await env.run(activity, *args)
    return failed.value


async def test_a_failure_says_when_it_is_tried_again_and_when_not(world: World) -> None:
    world.gateway.put(PATH, answer(500))
    for attempt, delay in ((1, 5), (2, 10)):
        failed = await failure(environment(attempt), world.calls.route_to_service, CALL)
        assert (failed.type, failed.non_retryable) == ("EXTERNAL", False)
        assert failed.next_retry_delay == timedelta(seconds=delay)
    last = await failure(environment(3), world.calls.route_to_service, CALL)
    assert (last.non_retryable, last.next_retry_delay) == (True, None)
    assert last.details[0]["error"]["status"] == 500
    assert last.details[0]["attempts"] == 3
    assert last.details[0]["error"]["step"] == "s"


async def test_a_try_that_would_come_too_late_is_none(world: World) -> None:
    world.gateway.put(PATH, answer(503, None, Retry_After="60"))
    env = environment()
    env.info = replace(
        env.info, scheduled_time=datetime.now(UTC), schedule_to_close_timeout=timedelta(seconds=30)
    )
    failed = await failure(env, world.calls.route_to_service, CALL)
    assert failed.non_retryable
    assert failed.details[0]["error"]["retry_after"] == 60


async def test_what_was_counted_is_remembered_by_heartbeats(world: World) -> None:
    world.gateway.put(PATH, answer(500))
    env = environment()
    beats: list[Any] = []
    env.on_heartbeat = lambda *details: beats.append(details)
    await failure(env, world.calls.route_to_service, CALL)
    assert ("spent",) in beats
    await failure(environment(2, ["spent"]), world.calls.route_to_service, CALL)
    assert [each.assertion.spent for each in world.gateway.asked(PATH)] == [False, True]


async def test_what_the_limits_refused_was_not_counted(world: World) -> None:
    world.gateway.put(PATH, refusal(429, "RATE_LIMITED", 7))
    env = environment()
    beats: list[Any] = []
    env.on_heartbeat = lambda *details: beats.append(details)
    failed = await failure(env, world.calls.route_to_service, CALL)
    assert (failed.type, failed.next_retry_delay) == ("RATE_LIMITED", timedelta(seconds=7))
    assert failed.details[0]["refused"] is True
    assert ("spent",) not in beats


async def test_any_answer_is_one_where_that_is_asked_for(world: World) -> None:
    world.gateway.put(PATH, answer(500, "bug"))
    call = replace(CALL, any_status=True, retry=Retry(max_attempts=1))
    result = await environment().run(world.calls.route_to_service, call)
    assert (result.answer.status, result.answer.body) == (500, "bug")


@pytest.mark.parametrize(
    ("rules", "broken"),
    [
        ([], None),
        ([ResultRule({"type": "object"})], None),
        ([ResultRule({"required": ["paid"]}, "skip")], "skip"),
        ([ResultRule({"type": "object"}), ResultRule({"type": "string"})], "fail"),
        ([ResultRule({"$ref": "https://example.com/x"}, "skip")], "fail"),
    ],
)
async def test_rules_are_held_against_the_result(
    world: World, rules: list[ResultRule], broken: str | None
) -> None:
    world.gateway.put(PATH, answer(200, {"total": 1}))
    result = await environment().run(world.calls.route_to_service, replace(CALL, rules=rules))
    assert result.broken == broken
    assert bool(result.message) == (broken is not None)


async def test_a_request_that_is_none_is_never_tried_again(world: World) -> None:
    call = replace(CALL, request=ServiceRequest("nobody"))
    failed = await failure(environment(), world.calls.route_to_service, call)
    assert (failed.type, failed.non_retryable) == ("VALIDATION", True)
    gate = GateInput(CONTEXT, ServiceRequest("nobody"))
    answered = await environment().run(world.calls.check_rate_limit, gate)
    assert answered.error is not None
    assert answered.error.code == "UNPROCESSABLE"


async def test_a_gateway_that_can_not_tell_now_is_asked_again(world: World) -> None:
    path = "/internal/jobs/admission"
    gate = GateInput(CONTEXT, ServiceRequest("orders", "/1"))
    world.gateway.put(path, refusal(503, "SERVICE_UNAVAILABLE", 1))
    failed = await failure(environment(), world.calls.authenticate_request, gate)
    assert (failed.type, failed.non_retryable) == ("EXTERNAL", False)
    world.gateway.put(path, _cut)
    failed = await failure(environment(), world.calls.check_rate_limit, gate)
    assert (failed.type, failed.non_retryable) == ("NETWORK", False)


async def _cut(request: Any) -> Any:
    request.transport.close()


async def test_heartbeats_go_on_while_it_waits() -> None:
    env = environment(heartbeat_timeout=timedelta(seconds=0.01))
    beats: list[Any] = []
    enough = asyncio.Event()

    def beat(*details: Any) -> None:
        beats.append(details)
        if len(beats) == 3:
            enough.set()

    env.on_heartbeat = beat

    async def waiting() -> None:
        async with beating("a"):
            await enough.wait()

    await env.run(waiting)
    assert beats[:3] == [("a",)] * 3


async def test_without_a_heartbeat_time_out_there_are_none() -> None:
    env = environment(heartbeat_timeout=None)

    async def waiting() -> str:
        async with beating():
            return "done"

    assert await env.run(waiting) == "done"


# Questions


async def test_a_question_is_asked_in_the_callers_name(world: World) -> None:
    shown = {"question_id": "q1", "status": "open", "expires_at": "2030"}
    world.gateway.put(QUESTIONS, answer(201, shown), answer(200, shown))
    for _ in range(2):
        decision = await environment().run(world.asking.ask_question, ASK)
        assert decision == Decision("q1", "open", expires_at="2030")
    assert world.gateway.asked(QUESTIONS)[0].json == {
        "prompt": "May I?", "default": None, "question_id": "q1", "job": "op-1",
        "asked_by": "ada", "run_id": "op-1", "node_id": "ask",
    }  # fmt: skip


async def test_an_anonymous_callers_question_names_nobody(world: World) -> None:
    world.gateway.put(QUESTIONS, answer(201, []))
    asked = replace(ASK, context=replace(CONTEXT, caller=Caller()), body={"prompt": "?"})
    assert (await environment().run(world.asking.ask_question, asked)).status == "open"
    body = world.gateway.asked(QUESTIONS)[0].json
    assert "asked_by" not in body
    assert "default" not in body


async def test_a_question_that_is_wrong_is_never_asked_again(world: World) -> None:
    world.gateway.put(QUESTIONS, refusal(422, "UNPROCESSABLE"))
    failed = await failure(environment(), world.asking.ask_question, ASK)
    assert (failed.type, failed.non_retryable) == ("VALIDATION", True)
    assert failed.details[0]["error"]["code"] == "UNPROCESSABLE"
    assert failed.details[0]["error"]["step"] == "ask"


async def test_a_store_that_is_away_is_asked_for_as_long_as_it_takes(world: World) -> None:
    world.gateway.put(QUESTIONS, refusal(503, "SERVICE_UNAVAILABLE", 1), _cut)
    first = await failure(environment(5000), world.asking.ask_question, ASK)
    second = await failure(environment(5000), world.asking.ask_question, ASK)
    assert not first.non_retryable
    assert not second.non_retryable
    assert second.next_retry_delay == timedelta(seconds=60)


async def test_how_a_question_stands_is_read(world: World) -> None:
    path = f"{QUESTIONS}/q1"
    decided = {"response": "yes", "answered_by": "bob", "answered_at": "now"}
    world.gateway.put(
        path,
        answer(200, {"status": "answered", "answer": decided}),
        answer(200, {"status": "expired", "answer": None}),
        refusal(404, "NOT_FOUND"),
        refusal(503, "SERVICE_UNAVAILABLE"),
    )
    read = world.asking.read_question
    assert await environment().run(read, ASK) == Decision("q1", "answered", "yes", "bob", "now")
    assert (await environment().run(read, ASK)).status == "expired"
    assert (await environment().run(read, ASK)).status == "withdrawn"
    assert not (await failure(environment(), read, ASK)).non_retryable


async def test_withdrawing_what_was_decided_tells_the_decision(world: World) -> None:
    path = f"{QUESTIONS}/q1"
    withdraw = world.asking.withdraw_question
    world.gateway.put(
        path,
        answer(200, {"status": "withdrawn"}),
        refusal(409, "CONFLICT"),
        answer(200, {"status": "answered", "answer": {"response": 1}}),
        refusal(404, "NOT_FOUND"),
        refusal(404, "NOT_FOUND"),
        refusal(403, "FORBIDDEN"),
    )
    assert (await environment().run(withdraw, ASK)).status == "withdrawn"
    assert await environment().run(withdraw, ASK) == Decision("q1", "answered", 1)
    assert (await environment().run(withdraw, ASK)).status == "withdrawn"
    assert (await failure(environment(), withdraw, ASK)).type == "AUTHORIZATION"
    assert [each.method for each in world.gateway.asked(path)][:3] == ["DELETE", "DELETE", "GET"]


# Events and callbacks


def published(*types: str, **data: Any) -> PublishInput:
    return PublishInput(CONTEXT, "key", [JobEvent(each, data) for each in types])


class Refusing:
    """Streams that fail as they are told."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def publish(self, client_id: str, events: Sequence[JobEvent], key: str) -> None:
        raise self.error


async def test_events_are_published_logged_and_counted(world: World) -> None:
    figures = Figures()
    publishing = Publishing(world.publisher, figures, log_into(world.lines))
    times = {"started_at": "2026-01-01T00:00:00.000Z", "ended_at": "2026-01-01T00:00:01.500Z"}
    asked = published("job.progress", "job.completed", status="completed", **times)
    asked.events[0].data = {"step": {"id": "a"}, "status": "running", "prompt": "secret"}
    await environment().run(publishing.publish_events, asked)
    assert world.gateway.types("job:op-1") == ["job.progress", "job.completed"]
    assert figures.ended == [("kind", "completed")]
    assert [each["step"] for each in world.lines] == ["a", None]
    assert "secret" not in str(world.lines)
    other = replace(published("job.completed"), client_id="ada", key="other")
    await environment().run(publishing.publish_events, other)
    assert world.gateway.types("ada") == ["job.completed"]
    assert len(figures.ended) == 1
    untimed = replace(published("job.completed", status="completed"), key="third")
    await environment().run(publishing.publish_events, untimed)
    assert len(figures.ended) == 2


async def test_events_that_were_published_are_also_where_they_can_not_be_logged(
    world: World,
) -> None:
    log = log_into(world.lines, "workflow_event")
    publishing = Publishing(world.publisher, Figures(), log)
    await environment().run(publishing.publish_events, published("job.started"))
    assert world.gateway.types("job:op-1") == ["job.started"]
    assert await environment().run(publishing.along, published("job.started"))


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (NotPublishedError("away"), False),
        (NotPublishedError("too large", final=True), True),
        (ConnectionError("10.0.0.1"), False),
    ],
)
async def test_events_that_can_not_be_published_now_are_tried_on(
    world: World, error: Exception, final: bool
) -> None:
    publishing = Publishing(Refusing(error), Figures(), log_into(world.lines))
    failed = await failure(environment(50), publishing.publish_events, published("job.started"))
    assert failed.non_retryable is final
    assert "10.0.0.1" not in str(failed)
    assert not world.lines


@pytest.mark.parametrize(("status", "final"), [(413, True), (503, False), (401, False)])
async def test_what_the_gateway_says_of_events_decides(
    world: World, status: int, final: bool
) -> None:
    world.gateway.put("/api/v1/events/job:op-1", refusal(status, "X"), _cut)
    for expected in (final, False):
        with pytest.raises(NotPublishedError) as failed:
            await world.publisher.publish("job:op-1", [JobEvent("job.started", {})], "k")
        assert failed.value.final is expected
    assert repr(world.publisher).startswith("<HttpPublisher <GatewayHttp")


async def test_events_that_a_dead_worker_told_at_another_time_are_not_told_again(
    world: World,
) -> None:
    error = {"code": "UNPROCESSABLE", "message": other_body().message, "request_id": "r"}
    world.gateway.put("/api/v1/events/job:op-1", answer(422, {"error": error}))
    await world.publisher.publish("job:op-1", [JobEvent("job.started", {})], "k")


async def test_a_client_id_never_becomes_another_path(world: World) -> None:
    target = "/api/v1/events/a%2F..%2Fquestions%3Fx"
    world.gateway.put(target, answer(202))
    await world.publisher.publish("a/../questions?x", [JobEvent("job.failed", {})], "k")
    assert [each.target for each in world.gateway.seen] == [target]


async def test_a_callback_is_one_attempt_with_the_same_bytes(world: World) -> None:
    receiver = Receiver()
    receiver.outcomes.extend(
        [
            CallbackOutcome("answered 503", retry_after_seconds=9999.0),
            CallbackOutcome("no connection"),
            CallbackOutcome("answered 410", final=True, retry_after_seconds=5),
        ]
    )
    callbacks = Callbacks(receiver, log_into(world.lines))
    told = CallbackInput(
        CONTEXT, "https://a.example/?s=secret", "msg_1", "job.completed", {"updated_at": "then"}
    )
    first = await failure(environment(), callbacks.deliver_callback, told)
    second = await failure(environment(2), callbacks.deliver_callback, told)
    third = await failure(environment(3), callbacks.deliver_callback, told)
    await environment(4).run(callbacks.deliver_callback, told)
    assert first.next_retry_delay == timedelta(seconds=300)
    assert (second.next_retry_delay, second.non_retryable) == (None, False)
    assert (third.next_retry_delay, third.non_retryable) == (None, True)
    assert receiver.taken[0][2] == {
        "type": "job.completed", "timestamp": "then", "data": {"updated_at": "then"},
    }  # fmt: skip
    assert all(each == receiver.taken[0] for each in receiver.taken)
    assert [each["event"] for each in world.lines][-1] == "job_callback.delivered"
    assert "secret" not in str(world.lines)


async def test_session_ids_are_never_the_same() -> None:
    first, second = [await environment().run(new_session_id) for _ in range(2)]
    assert first != second
    assert len(first) == 36


async def test_what_was_done_is_known_also_when_its_answer_is_too_large(world: World) -> None:
    world.gateway.put(PATH, answer(200, ["x" * 100]))
    call = replace(CALL, most_bytes=50, rules=[ResultRule({"type": "string"}, "skip")])
    result = await environment().run(world.calls.route_to_service, call)
    assert (result.broken, result.answer.status, result.answer.body) == ("fail", 200, None)
    assert "50 bytes" in result.message
    for status in (200, 500):
        world.gateway.put(PATH, answer(status, ["x" * 100]))
        call = replace(CALL, most_bytes=50, any_status=True, retry=Retry(max_attempts=1))
        failed = await failure(environment(), world.calls.route_to_service, call)
        assert (failed.type, failed.non_retryable) == ("VALIDATION", True)


# News that go along


def of_gate(news: PublishInput | None) -> GateInput:
    return GateInput(CONTEXT, ServiceRequest("orders", "/1"), news)


async def test_news_are_told_beside_the_first_question(world: World) -> None:
    answered = await environment().run(world.calls.authenticate_request, of_gate(published("a")))
    assert answered == GateAnswer(told=True)
    assert world.gateway.types("job:op-1") == ["a"]


async def test_news_are_told_at_the_first_try_only(world: World) -> None:
    answered = await environment(2).run(world.calls.check_rate_limit, of_gate(published("a")))
    assert answered == GateAnswer(told=False)
    assert not world.gateway.types("job:op-1")


async def test_news_are_told_also_where_the_first_question_gets_no_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_TELLING_SECONDS", PATIENCE_SECONDS)
    released = asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.Response:
        await released.wait()
        return answer(202)

    async def away(request: web.BaseRequest) -> web.Response:
        await world.gateway.until(lambda: bool(world.gateway.asked(events)))
        asyncio.get_running_loop().call_later(0.1, released.set)
        return refusal(503, "SERVICE_UNAVAILABLE")

    events = "/api/v1/events/job:op-1"
    world.gateway.put(events, slow)
    world.gateway.put("/internal/jobs/admission", away)
    await failure(environment(), world.calls.authenticate_request, of_gate(published("a")))
    assert [line["event"] for line in world.lines] == ["workflow_event"]


async def test_a_job_does_not_wait_for_who_watches_it(world: World) -> None:
    async def held(request: web.BaseRequest) -> web.Response:
        await asyncio.get_running_loop().create_future()
        return web.Response()

    world.gateway.put("/api/v1/events/job:op-1", held)
    answered = await environment().run(world.calls.authenticate_request, of_gate(published("a")))
    assert answered == GateAnswer(told=False)


async def test_the_news_of_the_end_go_with_the_line_about_the_request(world: World) -> None:
    made = LogInput(CONTEXT, ServiceRequest("orders", "/1"), 200, 1, 5)
    assert await environment().run(world.calls.log_api_request, made) is False
    made.news = published("job.completed", status="completed")
    assert await environment().run(world.calls.log_api_request, made) is True
    assert world.gateway.types("job:op-1") == ["job.completed"]
    world.gateway.put("/api/v1/events/job:op-1", refusal(503, "SERVICE_UNAVAILABLE"))
    assert await environment().run(world.calls.log_api_request, made) is False
