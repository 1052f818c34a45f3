"""Publishing over HTTP: what is accepted, refusals with pointers, sizes at the edge, keys."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from typing import Any

import pytest

from tests.messages import chunks, request
from tests.streams import (
    LOCAL,
    TIMESTAMP,
    Stream,
    event,
    events,
    post,
    publish,
    publish_many,
    published,
    quiet,
    refusal,
    split_id,
    subscribe,
)
from tests.wire import Message, RunningGateway, start_gateway

PATH = "/api/v1/events/alice"
MIB = 1024 * 1024


async def test_one_event_is_accepted_with_its_id_and_the_number_of_subscribers() -> None:
    async with start_gateway() as gateway:
        response = await publish(gateway, "alice", event({"a": 1}))
        assert response.status == 202
        assert (response.get("content-type") or b"").startswith(b"application/json")
        assert response.get("x-request-id")
        document = response.json()
        assert document["subscribers"] == 0
        assert [split_id(each)[1] for each in document["ids"]] == [1]
        async with subscribe(gateway), subscribe(gateway), subscribe(gateway, "bob"):
            assert (await publish(gateway, "alice", event())).json()["subscribers"] == 2


@pytest.mark.parametrize("count", [1, 2, 100])
async def test_a_list_gets_contiguous_ids_in_its_order(count: int) -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        ids = await published(gateway, "alice", events(count))
        assert [split_id(each)[1] for each in ids] == list(range(1, count + 1))
        got = await stream.events(count)
        assert [each.id for each in got] == ids
        assert [each.data["n"] for each in got] == list(range(count))


async def test_lists_published_at_once_are_not_mixed() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        answers = await asyncio.gather(
            *(published(gateway, "alice", [event([k, n]) for n in range(10)]) for k in range(10))
        )
        for ids in answers:
            first = split_id(ids[0])[1]
            assert [split_id(each)[1] for each in ids] == list(range(first, first + 10))
        got = [each.data for each in await stream.events(100)]
        for start in range(0, 100, 10):
            assert got[start : start + 10] == [[got[start][0], n] for n in range(10)]


VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    0.1,
    1e308,
    5e-324,
    2**53 + 1,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
    "",
    "text",
    [],
    {},
    [[], {}, [None]],
    {"": {"a": [1, 2.5, "x"]}},
    {"a/b~c": 1, "data": {"data": 2}},
    "\r\n\r\ndata: forged\n\nid: x\r",
    "\u2028\u2029\x85\x0b\x0c",
    "\x00\x01\x1f\x7f",
    "\U0001f600\u00e9\u4e2d",
    "\ufeff",
    "</script>",
    '"\\',
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
async def test_any_json_value_is_data_and_keeps_its_value(value: Any) -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        for body in (event(value), json.dumps(event(value), ensure_ascii=False).encode()):
            [sent] = await published(gateway, "alice", body)
            got = await stream.event()
            assert got.id == sent
            assert got.data == value
            assert type(got.data) is type(value)


async def test_missing_data_is_null() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        await published(gateway, "alice", {"event_type": "a"})
        assert (await stream.event()).data is None


async def test_the_envelope_has_its_time() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        await published(gateway, "alice", event())
        envelope = (await stream.event()).envelope
        assert TIMESTAMP.fullmatch(envelope["timestamp"])
        milliseconds = int(uuid.UUID(envelope["id"]).hex[:12], 16)
        assert abs(milliseconds / 1000 - time.time()) < 60


NOT_JSON = {
    "empty": b"",
    "blank": b" ",
    "word": b"hello",
    "open": b'{"event_type": "a"',
    "more": b'{"event_type": "a"} x',
    "two": b'{"event_type": "a"}{"event_type": "b"}',
    "comma": b'{"event_type": "a",}',
    "single quotes": b"{'event_type': 'a'}",
    "comment": b'{"event_type": "a" /* x */}',
    "NaN": b'{"event_type": "a", "data": NaN}',
    "Infinity": b'{"event_type": "a", "data": Infinity}',
    "-Infinity": b'{"event_type": "a", "data": [-Infinity]}',
    "lone surrogate": b'{"event_type": "a", "data": "\\ud800"}',
    "low surrogate": b'{"event_type": "a", "data": {"\\udc00": 1}}',
    "half a pair": b'{"event_type": "a", "data": "\\ud83dx"}',
    "raw line end": b'{"event_type": "a", "data": "x\ny"}',
    "raw NUL": b'{"event_type": "a", "data": "x\x00y"}',
    "bad UTF-8": b'{"event_type": "a", "data": "\xff"}',
    "overlong UTF-8": b'{"event_type": "a", "data": "\xc0\xaf"}',
    "UTF-8 surrogate": b'{"event_type": "a", "data": "\xed\xa0\x80"}',
    "UTF-16": '{"event_type": "a"}'.encode("utf-16"),
    "bad escape": b'{"event_type": "a", "data": "\\x41"}',
    "leading zero": b'{"event_type": "a", "data": 01}',
    "plus": b'{"event_type": "a", "data": +1}',
    "dot": b'{"event_type": "a", "data": .5}',
    "deep": b'{"event_type": "a", "data": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "deep and open": b"[" * 60_000,
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
async def test_what_is_not_json_is_400(body: bytes) -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        refusal(await publish(gateway, "alice", body), 400, "BAD_REQUEST")
        assert await quiet(stream, gateway, "alice") == []


REFUSED: dict[str, tuple[Any, str]] = {
    "a number": (1, ""),
    "a text": ("a", ""),
    "null": (None, ""),
    "an empty list": ([], ""),
    "no type": ({"data": 1}, "/event_type"),
    "an empty object": ({}, "/event_type"),
    "a type that is null": ({"event_type": None}, "/event_type"),
    "a type that is a number": ({"event_type": 1}, "/event_type"),
    "an empty type": (event(1, ""), "/event_type"),
    "a type in capitals": (event(1, "Run"), "/event_type"),
    "a type with a space": (event(1, "a b"), "/event_type"),
    "a type with a line end": (event(1, "a\n"), "/event_type"),
    "a type with a slash": (event(1, "a/b"), "/event_type"),
    "a type with umlauts": (event(1, "\u00e9"), "/event_type"),
    "a type of 65": (event(1, "a" * 65), "/event_type"),
    "an unknown member": (event(1) | {"extra": 1}, "/extra"),
    "an id of one's own": (event(1) | {"id": "x"}, "/id"),
    "a timestamp of one's own": (event(1) | {"timestamp": "x"}, "/timestamp"),
    "an escaped member": (event(1) | {"a/b~c": 1}, "/a~1b~0c"),
    "a bad member of a list": ([event(1), event(1, "B")], "/1/event_type"),
    "a list in a list": ([event(1), [event(1)]], "/1"),
    "a member that is null": ([event(1), event(2), None], "/2"),
    "an unknown member in a list": ([event(1) | {"x": 1}, event(1)], "/0/x"),
}


@pytest.mark.parametrize(("body", "pointer"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_is_no_event_is_422_with_a_pointer_and_nothing_of_it_is_published(
    body: Any, pointer: str
) -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        response = await publish(gateway, "alice", body)
        refusal(response, 422, "UNPROCESSABLE", *([pointer] if pointer else []))
        assert await quiet(stream, gateway, "alice") == []


async def test_all_that_is_wrong_is_said_at_once() -> None:
    async with start_gateway() as gateway:
        body = [event(1, "B"), event(1), event(1) | {"x": 1}]
        refusal(
            await publish(gateway, "alice", body), 422, "UNPROCESSABLE", "/0/event_type", "/2/x"
        )


@pytest.mark.parametrize("count", [101, 1000])
async def test_a_list_of_more_than_100_is_422(count: int) -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        refusal(await publish(gateway, "alice", events(count)), 422, "UNPROCESSABLE")
        assert await quiet(stream, gateway, "alice") == []


@pytest.mark.parametrize(
    "event_type",
    [
        "connection.established",
        "connection.x",
        "stream.reset",
        "stream.closing",
        "stream.x",
        "heartbeat",
        "question.resolved",
        "job.started",
        "job.mine",
    ],
)
async def test_the_gateways_own_types_are_422(event_type: str) -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        response = await publish(gateway, "alice", event(1, event_type))
        refusal(response, 422, "UNPROCESSABLE", "/event_type")
        response = await publish(gateway, "alice", [event(1), event(1, event_type)])
        refusal(response, 422, "UNPROCESSABLE", "/1/event_type")
        assert await quiet(stream, gateway, "alice") == []


@pytest.mark.parametrize(
    "event_type",
    [
        "run.start",
        "run.progress",
        "run.complete",
        "run.error",
        "node.complete",
        "node.error",
        "a",
        "a" * 64,
        "0_.-",
        "heartbeats",
        "streams.x",
        "jobs",
        "connection",
        "stream",
        "question.mine",
    ],
)
async def test_any_other_type_is_published(event_type: str) -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        await published(gateway, "alice", event(1, event_type))
        assert (await stream.event()).type == event_type


async def data_line(stream: Stream, gateway: RunningGateway) -> int:
    """How long the JSON of a data line is beside a text of its data."""
    await published(gateway, "alice", event("", "size"))
    raw = (await stream.event()).raw
    line = next(line for line in raw.split(b"\n") if line.startswith(b"data: "))
    return len(line) - len(b"data: ")


@pytest.mark.parametrize("as_list", [False, True], ids=["alone", "in a list"])
async def test_the_data_line_may_hold_64_kib_and_no_more(as_list: bool) -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        beside = await data_line(stream, gateway)
        room = 65536 - beside
        fits = event("x" * (room - len("data: ")), "size")
        large = event("x" * (room + 1), "size")
        await published(gateway, "alice", [event(1), fits] if as_list else fits)
        got = (await stream.events(2 if as_list else 1))[-1]
        assert got.data == fits["data"]
        response = await publish(gateway, "alice", [event(1), large] if as_list else large)
        refusal(response, 413, "PAYLOAD_TOO_LARGE")
        assert await quiet(stream, gateway, "alice") == []


async def test_the_size_is_that_of_the_frame_and_not_of_the_body() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        spaced = b'{"event_type": "a", "data": [' + b" " * 200_000 + b"1]}"
        await published(gateway, "alice", spaced)
        assert (await stream.event()).data == [1]
        escaped = b'{"event_type": "a", "data": "' + b"\\u0041" * 20_000 + b'"}'
        await published(gateway, "alice", escaped)
        assert (await stream.event()).data == "A" * 20_000
        line_ends = event("\n" * 40_000)  # \n of a frame takes two bytes
        refusal(await publish(gateway, "alice", line_ends), 413, "PAYLOAD_TOO_LARGE")


def padded(size: int) -> bytes:
    """A list of 100 events whose body has exactly that size."""
    body = json.dumps([event("x" * 9000)] * 100).encode()
    return body[:-1] + b" " * (size - len(body)) + b"]"


async def test_a_list_may_have_1_mib_and_no_more() -> None:
    async with start_gateway() as gateway:
        assert len(padded(MIB)) == MIB
        await publish_many(gateway, "alice", 1)
        response = await publish(gateway, "alice", padded(MIB))
        assert response.status == 202
        refusal(await publish(gateway, "alice", padded(MIB + 1)), 413, "PAYLOAD_TOO_LARGE")
        refusal(await publish(gateway, "alice", padded(5 * MIB)), 413, "PAYLOAD_TOO_LARGE")


async def test_a_chunked_body_is_published_and_bounded_as_well() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        head = request(b"POST " + PATH.encode(), b"Transfer-Encoding: chunked", host=LOCAL)
        response = await gateway.ask(head + chunks(b'{"event_type":', b'"a","data":7}'))
        assert response.status == 202
        assert (await stream.event()).data == 7
        large = chunks(*[b" " * 65536] * 17)
        refusal(await gateway.ask(head + large), 413, "PAYLOAD_TOO_LARGE")


async def test_two_publications_on_one_connection_have_their_answers_in_order() -> None:
    async with (
        start_gateway() as gateway,
        subscribe(gateway) as stream,
        gateway.connect() as client,
    ):
        client.send(b"".join(post(PATH, event(number)) for number in range(20)))
        ids = [(await client.response()).json()["ids"][0] for _ in range(20)]
        got = await stream.events(20)
        assert [each.id for each in got] == ids
        assert [each.data for each in got] == list(range(20))


async def test_a_publication_cut_off_in_its_body_publishes_nothing() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        async with gateway.connect() as client:
            client.send(post(PATH, event(1))[:-3])
            await client.flush()
        assert await quiet(stream, gateway, "alice") == []


def key(name: str) -> bytes:
    """The field."""
    return b"Idempotency-Key: " + name.encode()


async def test_the_same_key_and_body_gets_the_first_answer_and_publishes_once() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        first = await publish(gateway, "alice", events(3), key("k1"))
        assert first.status == 202
        assert first.get("idempotent-replayed") is None
        again = await publish(gateway, "alice", events(3), key("k1"))
        assert (again.status, again.body) == (first.status, first.body)
        assert again.get("idempotent-replayed") == b"true"
        assert len(await quiet(stream, gateway, "alice")) == 3


async def test_the_same_key_with_another_body_is_422() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        await published(gateway, "alice", event(1), key("k1"))
        response = await publish(gateway, "alice", event(2), key("k1"))
        refusal(response, 422, "UNPROCESSABLE")
        assert [each.data for each in await quiet(stream, gateway, "alice")] == [1]


async def test_two_keys_are_two_publications() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        await published(gateway, "alice", event(1), key("k1"))
        await published(gateway, "alice", event(1), key("k2"))
        assert len(await quiet(stream, gateway, "alice")) == 2


async def test_a_refused_publication_does_not_use_up_its_key() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        refusal(await publish(gateway, "alice", b"{", key("k1")), 400, "BAD_REQUEST")
        await published(gateway, "alice", event(1), key("k1"))
        assert (await stream.event()).data == 1


@pytest.mark.parametrize("name", ["", "x" * 5000])
async def test_a_key_that_is_none_is_refused_or_ignored_but_never_an_error_of_ours(
    name: str,
) -> None:
    async with start_gateway() as gateway:
        response: Message = await publish(gateway, "alice", event(1), key(name))
        assert response.status in (202, 400, 422)


async def test_the_same_key_at_the_same_time_publishes_once() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        answers = await asyncio.gather(
            *(publish(gateway, "alice", event(1), key("k1")) for _ in range(20))
        )
        assert {each.status for each in answers} <= {202, 409}
        assert len({each.body for each in answers if each.status == 202}) == 1
        assert len(await quiet(stream, gateway, "alice")) == 1


async def test_a_publisher_that_expects_100_is_told_to_go_on() -> None:
    async with (
        start_gateway() as gateway,
        subscribe(gateway) as stream,
        gateway.connect() as client,
    ):
        head, _, body = post(PATH, event("asked first"), b"Expect: 100-continue").partition(
            b"\r\n\r\n"
        )
        client.send(head + b"\r\n\r\n")

        async def go_on(interim: Message) -> None:
            assert interim.status == 100
            client.send(body)

        assert (await client.response(b"POST", go_on)).status == 202
        assert (await stream.event()).data == "asked first"


async def test_a_publisher_that_expects_100_for_too_much_is_told_no_at_once() -> None:
    async with start_gateway() as gateway, gateway.connect() as client:
        length = b"Content-Length: %d" % (20 * MIB)
        client.send(request(b"POST " + PATH.encode(), length, b"Expect: 100-continue", host=LOCAL))
        response = await client.response(b"POST")
        assert not response.interim
        refusal(response, 413, "PAYLOAD_TOO_LARGE")


async def test_a_refusal_by_the_limit_leaves_the_body_out_of_the_next_request() -> None:
    async with start_gateway(RATE_LIMIT="1/hour") as gateway, gateway.connect() as client:
        assert (await client.ask(post(PATH, event(1)))).status == 202
        inner = request(b"GET /health/live")
        refusal(await client.ask(post(PATH, inner)), 429, "RATE_LIMITED")
        with contextlib.suppress(ConnectionError):
            assert (await client.ask(request(b"GET /nowhere"))).status == 404
        assert client.unread == b""


async def test_a_refusal_is_a_problem_document_for_who_accepts_that() -> None:
    async with start_gateway() as gateway:
        accept = b"Accept: application/problem+json"
        response = await publish(gateway, "alice", event(1, "B"), accept)
        assert response.status == 422
        assert (response.get("content-type") or b"").startswith(b"application/problem+json")
        problem = response.json()
        assert (problem["status"], problem["code"]) == (422, "UNPROCESSABLE")
        assert [each["pointer"] for each in problem["details"]] == ["/event_type"]


async def test_a_thousand_publications_at_once_get_a_thousand_ids() -> None:
    async with start_gateway(HISTORY_EVENTS=2000) as gateway, subscribe(gateway) as stream:

        async def some(first: int) -> list[str]:
            async with gateway.connect() as client:
                client.send(b"".join(post(PATH, event(first + n)) for n in range(100)))
                return [(await client.response()).json()["ids"][0] for _ in range(100)]

        lists = await asyncio.gather(*(some(1000 * k) for k in range(10)))
        ids = sorted(split_id(each)[1] for ids in lists for each in ids)
        assert ids == list(range(1, 1001))
        assert [each.seq for each in await stream.events(1000)] == ids
