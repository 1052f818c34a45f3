"""What a row or a service says of times, sizes and fields, as both ends see it. Rewriting and
changed fields are in `test_routes`.
"""

from __future__ import annotations

import time

import jwt
import pytest

from tests.policy.keys import SECRET
from tests.routed import hang, routed
from tests.wire import Link, TruncatedError, answer, assert_error, holds, request

GET = request(b"GET /r/x")
OK = answer(b"ok")


async def test_a_row_has_a_time_of_its_own_for_the_head() -> None:
    async with routed(hang, row="head_timeout = 0.1") as at:
        error = assert_error(await at.ask(GET), 504, "TIMEOUT")
        assert "0.1 s" in error["message"]


async def test_a_row_may_give_more_time_than_its_service() -> None:
    async def slow(link: Link) -> None:
        await link.request()
        await holds(lambda: not link.ended, 0.6)
        link.send(OK)

    async with routed(slow, row="head_timeout = 30", service="head_timeout = 0.1") as at:
        assert (await at.ask(GET)).status == 200


async def half(link: Link) -> None:
    """Half an answer."""
    await link.request()
    link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    await link.closed(60)


async def test_a_row_has_a_time_of_its_own_between_bytes() -> None:
    async with routed(half, row="idle_timeout = 0.1") as at:
        with pytest.raises(TruncatedError):
            await at.ask(GET)
        (record,) = await at.gateway.records(1)
        assert record["error_code"] == "TIMEOUT"
        assert at.judged == (1, 1)


async def stream(link: Link) -> None:
    """The beginning of an event stream."""
    await link.request()
    link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
    link.send(b"Transfer-Encoding: chunked\r\n\r\n3\r\na\n\n\r\n")
    await link.closed(60)


async def test_that_holds_for_its_streams_too() -> None:
    async with routed(stream, row="idle_timeout = 0.1") as at:
        with pytest.raises(TruncatedError):
            await at.ask(GET)


async def test_a_service_has_a_time_of_its_own_for_streams() -> None:
    service = "idle_timeout = 30\nstream_idle_timeout = 0.1"
    async with routed(stream, service=service) as at:
        with pytest.raises(TruncatedError):
            await at.ask(GET)


async def test_a_tunnel_has_the_time_of_its_row() -> None:
    async def script(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
        link.send(b"Connection: Upgrade\r\n\r\n")
        await link.closed()

    ask = request(b"GET /r/x", b"Upgrade: websocket", b"Connection: Upgrade")
    async with routed(script, row="idle_timeout = 0.1") as at, at.connect() as client:
        assert (await client.ask(ask)).status == 101
        await client.closed()
        (record,) = await at.gateway.records(1)
        assert record["end_reason"] == "idle"


async def test_a_row_has_a_time_for_the_whole_request() -> None:
    async with routed(hang, row="total_timeout = 0.1") as at:
        error = assert_error(await at.ask(GET), 504, "TIMEOUT")
        assert "0.1 s" in error["message"]
        await at.upstreams[0].links[0].closed()
        assert at.judged == (1, 1)


async def test_it_counts_through_retries() -> None:
    row = "total_timeout = 1.0\nretries = { attempts = 9, on = ['504'], try_timeout = 0.7 }"
    async with routed(hang, row=row) as at:
        response = await at.ask(GET)
        assert_error(response, 504, "TIMEOUT")
        assert len(at.upstreams[0].links) == 2


async def test_it_cuts_an_answer_that_trickles() -> None:
    async def trickle(link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not link.ended:
            link.send(b".")
            await holds(lambda: True, 0.02)

    async with routed(trickle, row="total_timeout = 0.8") as at:
        with pytest.raises(TruncatedError):
            await at.ask(GET)
        (record,) = await at.gateway.records(1)
        assert (record["status"], record["error_code"]) == (200, "TIMEOUT")


async def test_a_client_that_is_still_sending_then_is_to_blame_itself() -> None:
    async with routed(hang, row="total_timeout = 0.2") as at, at.connect() as client:
        client.send(request(b"POST /r/x", b"Content-Length: 10"), b"half")
        assert_error(await client.response(b"POST"), 504, "TIMEOUT")
        assert at.judged == (0, 0)


async def test_it_does_not_end_streams_and_tunnels() -> None:
    async with routed(stream, row="total_timeout = 0.8") as at, at.connect() as client:
        client.send(GET)
        await client.until(lambda: b"a\n\n" in client.received, "the stream")
        await holds(lambda: not client.ended, 1.4)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_row_has_a_bound_of_its_own_for_bodies(chunked: bool) -> None:
    async with routed(OK, row="max_body_bytes = 10") as at, at.connect() as client:
        assert (await at.ask(request(b"POST /r/x", body=b"b" * 10))).status == 200
        if chunked:
            client.send(
                request(b"POST /r/x", b"Transfer-Encoding: chunked"), b"b\r\nhello world\r\n"
            )
        else:
            client.send(request(b"POST /r/x", b"Content-Length: 11"))
        error = assert_error(await client.response(b"POST"), 413, "PAYLOAD_TOO_LARGE")
        assert "10 bytes" in error["message"]
        assert at.asked == [1]


async def test_a_row_may_take_larger_bodies_than_its_service() -> None:
    async with routed(OK, row="max_body_bytes = 1000", service="max_body_bytes = 10") as at:
        assert (await at.ask(request(b"POST /r/x", body=b"b" * 1000))).status == 200


async def test_a_field_that_a_row_sets_has_no_alias_from_the_client() -> None:
    row = "request_headers = { set = { X-Stage = 'prod' }, remove = ['Cookie'] }"
    async with routed(OK, row=row) as at, at.connect() as client:
        fields = (b"X-Stage: mine", b"x_stage: mine", b"X.Stage: mine", b"Cookie: a=b", b"A_B: c")
        await client.ask(request(b"GET /r/x", *fields))
        (seen,) = at.upstreams[0].requests
        assert seen.get("x-stage") == b"prod"
        assert not {b"x_stage", b"x.stage", b"cookie"} & seen.names
        assert seen.get("a_b") == b"c"


async def test_a_field_that_a_row_sets_or_removes_does_not_come_as_a_trailer_either() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    reply = chunked + b"2\r\nok\r\n0\r\nX-Inner: 1\r\nX-Sum: 2\r\n\r\n"
    row = "request_headers = { set = { X-Stage = 'prod' } }"
    row += "\nresponse_headers = { remove = ['X-Inner'] }"
    async with routed(reply, row=row) as at, at.connect() as client:
        client.send(request(b"POST /r/x", b"Transfer-Encoding: chunked", b"TE: trailers"))
        client.send(b"2\r\nhi\r\n0\r\nX-Stage: mine\r\nX-Other: 1\r\n\r\n")
        response = await client.response(b"POST")
        assert at.upstreams[0].requests[0].trailers == [(b"X-Other", b"1")]
        assert response.trailers == [(b"X-Sum", b"2")]


async def test_a_field_that_a_row_removes_is_not_in_an_early_hint_either() -> None:
    reply = b"HTTP/1.1 103 Early Hints\r\nX-Inner: 1\r\nLink: </a>\r\n\r\n" + OK
    async with routed(reply, row="response_headers = { remove = ['X-Inner'] }") as at:
        response = await at.ask(GET)
        assert [hint.names for hint in response.interim] == [{b"link"}]


async def test_who_asks_is_told_and_the_credential_passed_on_unless_the_service_says_no() -> None:
    claims = {"sub": "alice", "tenant": "acme", "tier": "pro", "exp": time.time() + 600}
    bearer = b"Authorization: Bearer " + jwt.encode(claims, SECRET).encode()
    ask = request(b"GET /r/x", bearer, b"X-User-ID: mallory")
    for service, passed in (("", True), ("pass_authorization = false", False)):
        async with routed(OK, service=service, JWT_SECRET=SECRET) as at:
            assert (await at.ask(ask)).status == 200
            (seen,) = at.upstreams[0].requests
            assert seen.get("x-user-id") == b"alice"
            assert seen.get("x-tenant-id") == b"acme"
            assert seen.get("x-user-tier") == b"pro"
            assert bool(seen.all("authorization")) is passed


async def test_origins_are_the_gateways_business_where_it_has_some() -> None:
    own = (
        b"Access-Control-Allow-Origin: *",
        b"access-control-allow-methods: PUT",
        b"Vary: Accept",
        b"X-A: b",
    )
    for origin, allowed in ((b"https://a.test", [b"https://a.test"]), (b"https://b.test", [])):
        async with routed(answer(b"ok", *own), CORS_ORIGINS="https://a.test") as at:
            response = await at.ask(request(b"GET /r/x", b"Origin: " + origin))
            assert response.all("access-control-allow-origin") == allowed
            assert response.all("access-control-allow-methods") == []
            assert response.tokens("vary") == [b"accept", b"origin"]
            assert response.get("x-a") == b"b"
    async with routed(answer(b"ok", *own)) as at:
        response = await at.ask(request(b"GET /r/x", b"Origin: https://a.test"))
        assert response.get("access-control-allow-origin") == b"*"


async def test_errors_too_may_be_read_by_pages_of_an_allowed_origin() -> None:
    async with routed(hang, row="head_timeout = 0.1", CORS_ORIGINS="https://a.test") as at:
        response = await at.ask(request(b"GET /r/x", b"Origin: https://a.test"))
        assert_error(response, 504, "TIMEOUT")
        assert response.get("access-control-allow-origin") == b"https://a.test"


async def test_a_preflight_asks_nobody_and_says_each_thing_once() -> None:
    async with routed(OK, CORS_ORIGINS="https://a.test") as at:
        ask = (b"Origin: https://a.test", b"Access-Control-Request-Method: GET")
        response = await at.ask(request(b"OPTIONS /r/x", *ask))
        assert response.status == 204
        assert response.get("access-control-allow-origin") == b"https://a.test"
        assert response.all("vary") != []
        assert len(response.all("vary")) == 1
        assert at.asked == [0]


async def test_an_upload_that_is_not_taken_has_the_time_of_its_row() -> None:
    async def script(link: Link) -> None:
        link.hold()
        await link.closed(60)

    head = request(b"POST /r/x", b"Content-Length: 50000000")
    row = "idle_timeout = 0.2\nmax_body_bytes = 100_000_000"
    async with routed(script, row=row) as at, at.connect() as client:
        client.send(head)
        await client.push(b"b" * 65536, 700)
        error = assert_error(await client.response(b"POST"), 504, "TIMEOUT")
        assert "0.2 s" in error["message"]
