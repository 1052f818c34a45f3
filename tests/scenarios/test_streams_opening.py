"""How a stream begins: its head, its first event, who it is for, and requests that are odd."""

from __future__ import annotations

import pytest

from tests.messages import STATUS_LINE, chunks, read_head, request
from tests.streams import (
    EVENT_STREAM,
    LOCAL,
    Stream,
    event,
    get,
    path_of,
    published,
    raw_stream,
    read_events,
    refusal,
    subscribe,
)
from tests.wire import eventually, start_gateway


async def test_the_head_is_that_of_an_event_stream_and_the_first_event_comes_at_once() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        head = stream.head
        assert head.start.startswith(b"HTTP/1.1 200")
        assert head.get("content-type") == b"text/event-stream; charset=utf-8"
        assert head.get("cache-control") == b"no-cache, no-transform"
        assert head.get("x-accel-buffering") == b"no"
        assert head.tokens("transfer-encoding") == [b"chunked"]
        assert not {b"content-length", b"content-encoding", b"server"} & head.names
        assert head.get("x-request-id")
        first = stream.established
        assert set(first.data) == {"client_id", "epoch", "resumed", "heartbeat_seconds"}
        assert first.data["client_id"] == "alice"
        assert first.data["resumed"] is False
        assert first.data["heartbeat_seconds"] == 30
        assert first.id is None


async def test_the_heartbeat_that_is_set_is_said() -> None:
    async with start_gateway(HEARTBEAT_SECONDS=12) as gateway, subscribe(gateway) as stream:
        assert stream.established.data["heartbeat_seconds"] == 12


async def test_the_first_event_says_when_to_come_back_and_not_to_everybody_the_same() -> None:
    async with start_gateway() as gateway:
        told = set()
        for _ in range(12):
            async with subscribe(gateway) as stream:
                retry = stream.established.retry
                assert retry is not None
                assert 2000 <= retry <= 3000
                told.add(retry)
        assert len(told) > 3


async def test_the_first_bytes_are_the_first_event_whose_block_holds_retry() -> None:
    async with start_gateway() as gateway, gateway.connect() as client:
        client.send(get(version=b"HTTP/1.0"))
        await read_head(client, STATUS_LINE)
        await client.until(lambda: b"\n\n" in client.unread, "the first event")
        lines = client.unread.split(b"\n")
        assert lines[0].startswith(b"retry: ")
        assert lines[1] == b"event: connection.established"
        assert lines[2].startswith(b'data: {"id":')


async def test_a_request_id_is_taken_over_and_two_streams_have_two() -> None:
    async with start_gateway() as gateway:
        async with subscribe(gateway, "alice", b"X-Request-ID: mine") as stream:
            assert stream.head.get("x-request-id") == b"mine"
        async with subscribe(gateway) as one, subscribe(gateway) as two:
            assert one.head.get("x-request-id") != two.head.get("x-request-id")


async def test_opening_a_stream_and_publishing_take_a_token_each_and_say_so() -> None:
    async with start_gateway(RATE_LIMIT="3/hour") as gateway:
        async with subscribe(gateway) as stream:
            assert stream.head.get("x-ratelimit-limit") == b"3"
            assert stream.head.get("x-ratelimit-remaining") == b"2"
            assert stream.head.get("x-ratelimit-reset")
            assert stream.head.get("ratelimit-policy")
            assert stream.head.get("ratelimit")
            await published(gateway, "alice", [event(), event(), event()])
            await published(gateway, "alice", event())
            assert len(await stream.events(4)) == 4
        response = await gateway.ask(get())
        error = refusal(response, 429, "RATE_LIMITED")
        assert error["retry_after"] == int(response.get("retry-after") or b"0") > 0
        assert response.get("x-ratelimit-remaining") == b"0"


@pytest.mark.parametrize(
    ("path", "client_id"),
    [
        ("alice", "alice"),
        ("a%40b", "a@b"),
        ("a@b", "a@b"),
        ("%41", "A"),
        ("x:1~x_y.z-0", "x:1~x_y.z-0"),
        ("x%3a1", "x:1"),
        ("a" * 128, "a" * 128),
        ("%61" * 128, "a" * 128),
    ],
)
async def test_a_client_id_is_decoded_once(path: str, client_id: str) -> None:
    async with start_gateway() as gateway, subscribe(gateway, path) as stream:
        assert stream.established.data["client_id"] == client_id
        [sent] = await published(gateway, path, event(1))
        assert (await stream.event()).id == sent


async def test_a_jobs_client_id_is_read_and_published_to_like_any_other() -> None:
    async with start_gateway() as gateway, subscribe(gateway, "job%3a1") as stream:
        assert stream.established.data["client_id"] == "job:1"
        [sent] = await published(gateway, "job:1", event(1))
        assert (await stream.event()).id == sent


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "path",
    [
        "a" * 129,
        "%2540",
        "a%2Fb",
        "a%20b",
        "a+b",
        "a%00",
        "a%0a",
        "%zz",
        "a%",
        "%C3%A9",
        "a,b",
        "a%3Fb",
        "*",
        "a;b",
        "$",
    ],
)
async def test_another_client_id_is_400(method: str, path: str) -> None:
    async with start_gateway() as gateway:
        head = f"{method} /api/v1/events/{path}".encode()
        body = b'{"event_type": "a", "data": 1}' if method == "POST" else None
        response = await gateway.ask(request(head, EVENT_STREAM, body=body, host=LOCAL))
        refusal(response, 400, "BAD_REQUEST")


@pytest.mark.parametrize("path", [b"/api/v1/events", b"/api/v1/events/alice/nothing/here"])
async def test_what_lies_beside_the_streams_is_404(path: bytes) -> None:
    async with start_gateway() as gateway:
        refusal(await gateway.ask(request(b"GET " + path, host=LOCAL)), 404, "NOT_FOUND")


async def test_a_service_cannot_take_the_name_of_the_streams() -> None:
    async with (
        start_gateway(EVENTS_URL="http://127.0.0.1:9") as gateway,
        subscribe(gateway) as stream,
    ):
        assert stream.established.data["client_id"] == "alice"


@pytest.mark.parametrize("method", [b"PUT", b"DELETE", b"PATCH", b"PROPFIND"])
async def test_another_method_is_405_and_told_which_there_are(method: bytes) -> None:
    async with start_gateway() as gateway:
        response = await gateway.ask(request(method + b" /api/v1/events/alice", host=LOCAL))
        refusal(response, 405, "METHOD_NOT_ALLOWED")
        assert {b"get", b"head", b"post"} <= set(response.tokens("allow"))
        assert b"put" not in response.tokens("allow")


@pytest.mark.parametrize(
    "accept",
    [
        None,
        b"Accept: text/event-stream",
        b"Accept: Text/Event-Stream",
        b"Accept: */*",
        b"Accept: text/*",
        b"Accept: application/json, text/event-stream;q=0.1",
        b"Accept: text/event-stream; q=0.5, */*;q=0",
        b"Accept: text/html, */*;q=0.1",
        b"Accept: text/*;q=0, text/event-stream",
        b"Accept: application/json\r\nAccept: text/event-stream",
    ],
)
async def test_who_accepts_event_streams_gets_one(accept: bytes | None) -> None:
    async with start_gateway() as gateway, raw_stream(gateway, get(accept=accept)) as stream:
        assert (await stream.event()).type == "connection.established"


@pytest.mark.parametrize(
    "accept",
    [
        b"application/json",
        b"text/html",
        b"application/*",
        b"text/event-stream;q=0",
        b"text/event-stream;q=0, */*",
        b"text/event-stream; q=0.000, text/*",
        b"text/*;q=0, */*",
        b"*/*;q=0",
        b"text/event-streams",
    ],
)
async def test_who_excludes_event_streams_gets_406(accept: bytes) -> None:
    async with start_gateway() as gateway:
        response = await gateway.ask(get(accept=b"Accept: " + accept))
        refusal(response, 406, "NOT_ACCEPTABLE")


async def test_publishing_does_not_ask_for_event_streams_in_accept() -> None:
    async with start_gateway() as gateway:
        await published(gateway, "alice", event(), b"Accept: application/json")


async def test_an_http_1_0_client_gets_a_stream_that_its_close_delimits() -> None:
    async with (
        start_gateway() as gateway,
        raw_stream(gateway, get(version=b"HTTP/1.0")) as stream,
    ):
        assert not {b"transfer-encoding", b"content-length"} & stream.head.names
        assert b"keep-alive" not in stream.head.tokens("connection")
        assert (await stream.event()).type == "connection.established"
        sent = await published(gateway, "alice", [event(1), event(2)])
        assert [got.id for got in await stream.events(2)] == sent


async def test_an_http_1_0_stream_that_the_gateway_ends_ends_with_its_connection() -> None:
    async with (
        start_gateway(DRAIN_SECONDS=1) as gateway,
        raw_stream(gateway, get(version=b"HTTP/1.0")) as stream,
    ):
        await stream.event()
        await gateway.drain(grace=True)
        assert [got.type for got in await stream.rest()] == ["stream.closing"]
        assert stream.client.how_ended == "eof"


async def test_head_says_what_get_would_and_opens_nothing() -> None:
    async with start_gateway(MAX_STREAMS=1) as gateway:
        for _ in range(3):
            async with gateway.connect() as client:
                response = await client.ask(get(method=b"HEAD"))
                assert response.status == 200
                assert response.get("content-type") == b"text/event-stream; charset=utf-8"
                assert response.get("cache-control") == b"no-cache, no-transform"
                assert response.body == b""
                if b"close" in response.tokens("connection"):
                    await client.closed()
                else:
                    assert (await client.ask(request(b"GET /health/live"))).status == 200
                assert client.unread == b""
        async with subscribe(gateway):
            pass


@pytest.mark.parametrize("accept", [b"Accept: application/json"])
async def test_head_is_406_where_get_is(accept: bytes) -> None:
    async with start_gateway() as gateway:
        response = await gateway.ask(get(accept=accept, method=b"HEAD"))
        assert response.status == 406
        assert response.body == b""


BODIES = {
    "counted": (b"Content-Length: 36", b"GET /health HTTP/1.1\r\nHost: a.bcd\r\n\r\n"[:36]),
    "chunked": (b"Transfer-Encoding: chunked", chunks(b"GET /health", b" HTTP/1.1\r\n\r\n")),
}


@pytest.mark.parametrize(("framing", "body"), BODIES.values(), ids=BODIES.keys())
async def test_a_get_with_a_body_is_served_or_refused_and_the_body_is_never_a_request(
    framing: bytes, body: bytes
) -> None:
    async with start_gateway() as gateway:
        async with gateway.connect() as client:
            client.send(get("alice", framing) + body)
            head = await read_head(client, STATUS_LINE)
            assert head.status in (200, 400), head.head
            if head.status == 200:
                stream = Stream(client, head)
                assert (await stream.event()).type == "connection.established"
                [sent] = await published(gateway, "alice", event("after"))
                assert (await stream.event()).id == sent
        await eventually(lambda: gateway.access_records(), "a record")
        assert not [record for record in gateway.access_records() if "health" in record["path"]]


async def test_a_client_that_half_closes_goes_on_being_served_or_is_ended() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        stream.client.end()
        await published(gateway, "alice", event("after"))
        got: list[str] = []
        try:
            got = [(await stream.event()).data]
        except (EOFError, ConnectionError):
            pass
        assert got in ([], ["after"])
        assert (await gateway.ask(request(b"GET /health/live"))).status == 200


PIPELINED = {
    "another request": request(b"GET /health/live"),
    "a publication": request(b"POST /api/v1/events/alice", body=b'{"event_type":"x"}', host=LOCAL),
    "not HTTP": b"\x00\xff\r\n\r\nnonsense",
    "a second stream": get("bob"),
    "much": b"x" * 3_000_000,
}


@pytest.mark.parametrize("together", [True, False], ids=["in one write", "later"])
@pytest.mark.parametrize("garbage", PIPELINED.values(), ids=PIPELINED.keys())
async def test_what_follows_the_request_is_never_parsed_as_another(
    garbage: bytes, together: bool
) -> None:
    async with start_gateway() as gateway:
        async with gateway.connect() as client:
            client.send(get() + (garbage if together else b""))
            head = await read_head(client, STATUS_LINE)
            assert head.status == 200
            stream = Stream(client, head)
            try:
                assert (await stream.event()).type == "connection.established"
                if not together:
                    client.send(garbage)
                sent = await published(gateway, "alice", event("after"))
                assert (await stream.event()).id == sent[0]
            except (EOFError, ConnectionError):
                pass  # cut, which is as good
        await eventually(lambda: stream_records(gateway), "the stream's record")
        paths = [record["path"] for record in gateway.access_records()]
        assert set(paths) == {"/api/v1/events/alice"}
        assert len(paths) <= 2


def stream_records(gateway: object) -> list[dict[str, object]]:
    """The records of streams."""
    records = gateway.access_records()  # type: ignore[attr-defined]
    return [record for record in records if record["method"] == "GET"]


async def test_a_stream_on_a_connection_that_was_used_before() -> None:
    async with start_gateway() as gateway, gateway.connect() as client:
        assert (await client.ask(request(b"GET /health/live"))).status == 200
        client.send(get())
        stream = Stream(client, await read_head(client, STATUS_LINE))
        assert (await stream.event()).type == "connection.established"


async def test_a_stream_asked_for_behind_another_request_comes_behind_its_answer() -> None:
    async with start_gateway() as gateway, gateway.connect() as client:
        client.send(request(b"GET /health/live") + get())
        assert (await client.response()).status == 200
        stream = Stream(client, await read_head(client, STATUS_LINE))
        assert (await stream.event()).type == "connection.established"


async def test_a_request_that_comes_byte_by_byte_opens_a_stream() -> None:
    async with start_gateway() as gateway, gateway.connect() as client:
        for byte in get():
            client.send(bytes([byte]))
            await client.flush()
        stream = Stream(client, await read_head(client, STATUS_LINE))
        assert (await stream.event()).type == "connection.established"


async def test_no_comment_and_no_lone_retry_is_ever_sent() -> None:
    async with (
        start_gateway(HEARTBEAT_SECONDS=0.3, DRAIN_SECONDS=1) as gateway,
        raw_stream(gateway, get(version=b"HTTP/1.0")) as stream,
    ):
        while (await stream.event(heartbeats=True)).type != "heartbeat":
            pass
        await gateway.drain(grace=True)
        await stream.rest()
        body = bytes(stream.client.received).partition(b"\r\n\r\n")[2]
        got = read_events(body)
        assert [got[0].type, got[-1].type] == ["connection.established", "stream.closing"]


async def test_the_paths_of_streams_and_questions_are_described() -> None:
    async with start_gateway() as gateway:
        document = (await gateway.ask(request(b"GET /openapi.json"))).json()
        assert {
            "/api/v1/events/{client_id}",
            "/api/v1/events/{client_id}/ticket",
            "/api/v1/events/{client_id}/response",
            "/api/v1/events/{client_id}/questions",
            "/api/v1/questions",
        } <= set(document["paths"])
        assert {"get", "post"} <= set(document["paths"]["/api/v1/events/{client_id}"])


async def test_a_path_is_the_same_with_and_without_a_query_that_means_nothing() -> None:
    async with (
        start_gateway() as gateway,
        subscribe(gateway, query="unknown=1&_=2") as stream,
    ):
        assert stream.established.data["client_id"] == "alice"
        assert path_of("alice") == b"/api/v1/events/alice"
