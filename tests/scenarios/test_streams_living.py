"""A stream while it lives: live events, the filter of types, heartbeats, its record and figures."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.connection import PATIENCE_SECONDS
from tests.messages import request
from tests.streams import (
    LOCAL,
    event,
    get,
    metric,
    post,
    publish_many,
    published,
    quiet,
    refusal,
    sign,
    subscribe,
    who,
)
from tests.wire import RunningGateway, eventually, start_gateway


async def test_an_event_reaches_every_subscriber_of_its_client_id_and_nobody_else() -> None:
    async with (
        start_gateway() as gateway,
        subscribe(gateway) as one,
        subscribe(gateway) as two,
        subscribe(gateway, "bob") as other,
    ):
        sent = await published(gateway, "alice", event({"deep": [1, {"x": None}]}, "run.progress"))
        for stream in (one, two):
            got = await stream.event()
            assert got.id == sent[0]
            assert got.type == "run.progress"
            assert got.data == {"deep": [1, {"x": None}]}
        assert await quiet(other, gateway, "bob") == []


async def test_every_subscriber_gets_the_same_order_whoever_publishes() -> None:
    async with (
        start_gateway() as gateway,
        subscribe(gateway) as one,
        subscribe(gateway) as two,
    ):
        lists = await asyncio.gather(*(publish_many(gateway, "alice", 5) for _ in range(12)))
        ids = sorted((each for ids in lists for each in ids), key=lambda each: int(each[9:]))
        assert [got.id for got in await one.events(60)] == ids
        assert [got.id for got in await two.events(60)] == ids


async def test_ids_of_the_envelope_are_unlike_each_other_and_the_same_for_everybody() -> None:
    async with (
        start_gateway() as gateway,
        subscribe(gateway) as one,
        subscribe(gateway) as two,
    ):
        await publish_many(gateway, "alice", 100)
        first, second = await one.events(100), await two.events(100)
        assert len({got.envelope["id"] for got in first}) == 100
        assert [got.raw for got in first] == [got.raw for got in second]


FILTERS = {
    "run.progress": ["run.progress"],
    "run.*": ["run.start", "run.progress"],
    "run.*,question.mine": ["run.start", "run.progress", "question.mine"],
    "node.*,note": ["note"],
    "run.%2A%2Cnote": ["run.start", "run.progress", "note"],
    "runner": ["runner"],
    "run": [],
    "*": ["run.start", "run.progress", "note", "runner", "question.mine"],
}
TYPES = ("run.start", "run.progress", "note", "runner", "question.mine")


@pytest.mark.parametrize("replayed", [False, True], ids=["live", "replayed"])
@pytest.mark.parametrize(("query", "expected"), FILTERS.items(), ids=FILTERS.keys())
async def test_the_filter_lets_the_types_through_that_it_names(
    query: str, expected: list[str], replayed: bool
) -> None:
    end = "run.end.mark"
    async with start_gateway() as gateway:
        [first, *_] = await published(gateway, "alice", event())
        async with subscribe(gateway, query=f"types={query},{end}", after=first) as stream:
            ids = await published(gateway, "alice", [event(None, each) for each in TYPES])
            await published(gateway, "alice", event(None, end))
            got = (await stream.until(end))[:-1]
        if replayed:
            async with subscribe(gateway, query=f"types={query},{end}", after=first) as stream:
                again = (await stream.until(end))[:-1]
                assert [each.id for each in again] == [each.id for each in got]
        assert [each.type for each in got] == expected
        assert [each.id for each in got] == [ids[TYPES.index(each)] for each in expected]


async def test_the_filter_does_not_hold_up_what_the_gateway_says_itself() -> None:
    async with (
        start_gateway(HISTORY_EVENTS=3, HEARTBEAT_SECONDS=0.3, DRAIN_SECONDS=1) as gateway,
    ):
        ids = await publish_many(gateway, "alice", 9)
        async with subscribe(gateway, query="types=note", after=ids[0]) as stream:
            assert (await stream.event()).type == "stream.reset"
            await stream.events(3)
            while (await stream.event(heartbeats=True)).type != "heartbeat":
                pass
            await gateway.drain(grace=True)
            assert (await stream.rest())[-1].type == "stream.closing"


async def test_an_idle_stream_gets_heartbeats_without_an_id() -> None:
    async with (
        start_gateway(HEARTBEAT_SECONDS=0.3) as gateway,
        subscribe(gateway) as stream,
        subscribe(gateway, "bob") as other,
    ):
        for each in (stream, other):
            for _ in range(3):
                beat = await each.event(heartbeats=True)
                assert beat.type == "heartbeat"
                assert beat.id is None
                assert beat.retry is None


async def test_heartbeats_do_not_move_the_position() -> None:
    async with start_gateway(HEARTBEAT_SECONDS=0.3) as gateway:
        ids = await publish_many(gateway, "alice", 2)
        async with subscribe(gateway, after=ids[0]) as stream:
            assert (await stream.event()).id == ids[1]
            assert (await stream.event(heartbeats=True)).type == "heartbeat"
            [sent] = await published(gateway, "alice", event())
            got = await stream.event()
            assert got.id == sent
            assert got.seq == 3


async def test_a_heartbeat_and_its_stream_do_not_disturb_an_event_of_64_kib() -> None:
    async with (
        start_gateway(HEARTBEAT_SECONDS=0.3) as gateway,
        subscribe(gateway) as stream,
    ):
        for _ in range(5):
            [sent] = await published(gateway, "alice", event("x" * 65_000))
            got = await stream.event()
            assert got.id == sent
            assert got.data == "x" * 65_000


async def stream_record(gateway: RunningGateway, count: int = 1) -> dict[str, Any]:
    """The newest record of a stream, when there are so many."""

    def found() -> list[dict[str, Any]]:
        return [each for each in gateway.access_records() if each.get("end_reason")]

    await eventually(lambda: len(found()) >= count, "the record of a stream")
    assert len(found()) == count
    return found()[-1]


async def test_a_stream_has_one_record_when_it_is_over() -> None:
    async with start_gateway(JWT_SECRET=SIGNED) as gateway:
        fields = (who("alice", key=SIGNED, tenant="acme"), b"User-Agent: probe/1.0")
        writer = who("svc", "events:write", key=SIGNED)
        async with subscribe(gateway, "alice", *fields, query="types=note") as stream:
            ids = await published(gateway, "alice", [event(), event(), event()], writer)
            got = await stream.events(3)
            assert not [each for each in gateway.access_records() if each["method"] == "GET"]
            request_id = (stream.head.get("x-request-id") or b"").decode()
        record = await stream_record(gateway)
        assert record["request_id"] == request_id
        assert record["method"] == "GET"
        assert record["path"] == "/api/v1/events/alice"
        assert record["route"] == "/api/v1/events/{client_id}"
        assert record["status"] == 200
        assert record["user_id"] == "alice"
        assert record["tenant"] == "acme"
        assert record["client_ip"] == "127.0.0.1"
        assert record["user_agent"] == "probe/1.0"
        assert not record["error_code"]
        assert 3 <= record["events_sent"] <= 4
        assert record["last_event_id"] == ids[-1]
        assert record["end_reason"]
        sent = sum(len(each.raw) for each in [stream.established, *got])
        assert sent <= record["bytes_out"] <= stream.client.count + 100
        assert record["duration_ms"] >= 0


SIGNED = "another secret of the tests, also long enough to sign"


async def test_the_records_end_reason_tells_the_ends_apart() -> None:
    reasons = []
    async with start_gateway(DRAIN_SECONDS=1) as gateway:
        async with subscribe(gateway):
            pass
        reasons.append((await stream_record(gateway))["end_reason"])
        async with subscribe(gateway) as stream:
            await gateway.drain(grace=True)
            await stream.rest()
        reasons.append((await stream_record(gateway, 2))["end_reason"])
    async with start_gateway(JWT_SECRET=SIGNED) as gateway:
        async with subscribe(gateway, "alice", who("alice", key=SIGNED, seconds=3)) as stream:
            await stream.rest()
        reasons.append((await stream_record(gateway))["end_reason"])
    assert len(set(reasons)) == 3, reasons


async def test_a_refused_stream_has_a_record_with_its_code() -> None:
    async with start_gateway() as gateway:
        refusal(await gateway.ask(get("a%20b")), 400, "BAD_REQUEST")
        [record] = await gateway.records()
        assert record["error_code"] == "BAD_REQUEST"
        assert not record.get("end_reason")


async def test_publishing_has_a_record_too_and_the_data_is_not_in_it() -> None:
    async with start_gateway() as gateway:
        await published(gateway, "alice", event("a-secret-thing"))
        [record] = await gateway.records()
        assert record["method"] == "POST"
        assert record["status"] == 202
        assert record["route"] == "/api/v1/events/{client_id}"
        assert record["bytes_in"] > 0
        assert "a-secret-thing" not in gateway.log_path.read_text()


async def test_no_token_ticket_or_cookie_is_ever_in_a_record_or_a_log_line() -> None:
    async with start_gateway(JWT_SECRET=SIGNED, LOG_LEVEL="debug") as gateway:
        token = sign("alice", key=SIGNED)
        field = b"Authorization: Bearer " + token.encode()
        response = await gateway.ask(post("/api/v1/events/alice/ticket", b"", field))
        ticket = response.json()["ticket"]
        query = f"ticket={ticket}&last_event_id=x&types=note"
        async with subscribe(gateway, query=query) as stream:
            cookie = (stream.head.get("set-cookie") or b"").split(b";")[0].partition(b"=")[2]
        assert (await gateway.ask(get(query=f"access_token={token}"))).status == 401
        assert (await gateway.ask(get(query=f"ticket={token}"))).status == 401
        bad = bytearray(field)
        bad[-1:] = b"A" if bad[-1:] != b"A" else b"B"
        assert (await gateway.ask(get("alice", bytes(bad)))).status == 401
        await stream_record(gateway)
        text = gateway.log_path.read_text()
        for hidden in (ticket, token, token.split(".")[2], cookie.decode(), SIGNED):
            assert len(hidden) > 8
            assert hidden not in text


async def test_the_figures_follow_streams_events_deliveries_and_resets() -> None:
    async with start_gateway(HISTORY_EVENTS=3) as gateway:
        assert await metric(gateway, "gateway_sse_clients") == 0
        async with subscribe(gateway) as one, subscribe(gateway) as two:
            await eventually_metric(gateway, "gateway_sse_clients", 2)
            await published(gateway, "alice", event(None, "run.start"))
            ids = await publish_many(gateway, "alice", 5)
            await one.events(6)
            await two.events(6)
            assert await metric(gateway, 'gateway_sse_events_total{event_type="run.start"}') == 1
            assert await metric(gateway, 'gateway_sse_events_total{event_type="other"}') == 5
            await eventually_metric(gateway, "gateway_sse_deliveries_total", 12)
            assert await metric(gateway, "gateway_sse_resets_total") == 0
            async with subscribe(gateway, after=f"{ids[0][:8]}-1") as third:
                assert (await third.event()).type == "stream.reset"
                await eventually_metric(gateway, "gateway_sse_resets_total", 1)
        await eventually_metric(gateway, "gateway_sse_clients", 0)


async def eventually_metric(gateway: RunningGateway, name: str, value: float) -> None:
    """Waits until a series has this value."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await metric(gateway, name) != value:
            pass


async def test_no_label_holds_a_type_or_a_client_id_that_a_client_chose() -> None:
    async with start_gateway() as gateway, subscribe(gateway, "chosen-id"):
        await published(gateway, "chosen-id", event(None, "chosen.type"))
        text = (await gateway.ask(request(b"GET /metrics", host=LOCAL))).body
        assert b"chosen" not in text


async def test_streams_are_counted_as_requests_when_they_end() -> None:
    async with start_gateway() as gateway:
        async with subscribe(gateway):
            pass
        await stream_record(gateway)
        text = (await gateway.ask(request(b"GET /metrics", host=LOCAL))).body.decode()
        lines = [line for line in text.splitlines() if "/api/v1/events/{client_id}" in line]
        assert [line for line in lines if 'code="200"' in line and 'method="GET"' in line], text
