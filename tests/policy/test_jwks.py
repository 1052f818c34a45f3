"""The keys of an issuer over real sockets: when they are fetched, and what an issuer may do."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import structlog
import trustme
from aiohttp import web

from gateway.policy.jwks import MAX_BYTES, MAX_WAITING, Jwks, Pace
from gateway.settings import SettingsError
from tests.callbacks.receiver import silence
from tests.connection import eventually
from tests.edge.clock import Time
from tests.policy.issuer import Answer, Issuer, issuer, jwk, jwk_set
from tests.policy.keys import ec_key, rsa_key

RSA = jwk(rsa_key(), "r")
EC = jwk(ec_key(), "e")
QUICK = Pace(usual=0.02, least=0.02, most=0.02, retry=0.01)


@asynccontextmanager
async def jwks(url: str, **options: Any) -> AsyncIterator[Jwks]:
    made = Jwks(url, **options)
    made.start()
    try:
        yield made
    finally:
        await made.close()


async def fetched(keys: Jwks) -> None:
    """The fetch that is under way is over."""
    pending = keys.ask()
    assert pending is not None
    await pending.wait


def had(keys: Jwks) -> bool:
    return keys.has_keys


def has(keys: Jwks, kid: str) -> bool:
    return keys.keys_for("RS256", kid) is not None


async def test_the_keys_are_there_after_the_start() -> None:
    async with issuer(RSA, EC) as there, jwks(there.url) as keys:
        assert not had(keys)
        assert keys.state == {"state": "degraded", "keys": 0, "error": "not fetched yet"}
        await fetched(keys)
        assert had(keys)
        assert keys.state == {"state": "healthy", "keys": 2, "error": None}
        assert (has(keys, "r"), has(keys, "x")) == (True, False)
        (seen,) = there.seen
        assert seen["accept-encoding"] == "identity"
        assert "cookie" not in seen


async def test_nothing_is_asked_before_the_start_and_after_the_end() -> None:
    async with issuer(RSA) as there:
        keys = Jwks(there.url)
        assert keys.ask() is None
        await keys.close()
        keys.start()
        keys.start()
        await fetched(keys)
        await keys.close()
        assert keys.ask() is None
        assert has(keys, "r")
        assert len(there.seen) == 1


async def test_who_waits_is_freed_at_the_end() -> None:
    with silence() as port:
        keys = Jwks(f"http://127.0.0.1:{port}", wait_seconds=60)
        keys.start()
        pending = keys.ask()
        assert pending is not None
        await keys.close()
        await pending.wait


# Unknown keys


async def test_an_unknown_key_brings_one_fetch_in_ten_seconds_however_many_ask() -> None:
    time = Time()
    async with issuer(RSA) as there, jwks(there.url, clock=time.clock) as keys:
        await fetched(keys)
        there.keys = jwk_set(RSA, jwk(rsa_key(3072), "new"))
        asked = [keys.ask() for _ in range(100)]
        await asyncio.gather(*(pending.wait for pending in asked if pending is not None))
        assert None not in asked
        assert has(keys, "new")
        assert len(there.seen) == 2
        for _ in range(100):
            assert keys.ask() is None
        time.pass_by(9.9)
        assert keys.ask() is None
        time.pass_by(0.1)
        await fetched(keys)
        assert keys.ask() is None
        assert len(there.seen) == keys.fetches == 3


async def test_asking_does_not_end_with_one_who_leaves() -> None:
    async with issuer(RSA) as there, jwks(there.url) as keys:
        first, second = keys.ask(), keys.ask()
        assert first is not None
        assert second is not None
        leaving = asyncio.ensure_future(first.wait)
        await asyncio.sleep(0)
        leaving.cancel()
        await second.wait
        assert has(keys, "r")


async def test_a_request_waits_no_longer_than_its_time() -> None:
    with silence() as port:
        async with jwks(f"http://127.0.0.1:{port}", wait_seconds=0.01) as keys:
            for _ in range(3):  # the fetch goes on, and others wait for it again
                await fetched(keys)
            assert keys.fetches == 1
            assert not keys.has_keys


async def test_those_who_wait_are_bounded() -> None:
    with silence() as port:
        async with jwks(f"http://127.0.0.1:{port}") as keys:
            waiting = []
            while (pending := keys.ask()) is not None:
                waiting.append(asyncio.ensure_future(pending.wait))
                await asyncio.sleep(0)
            assert len(waiting) == MAX_WAITING
            waiting.pop().cancel()
            await eventually(lambda: keys.ask() is not None)
            await keys.close()
            await asyncio.gather(*waiting)


# Refreshing


async def test_the_keys_are_fetched_again_and_rotate() -> None:
    async with issuer(RSA) as there, jwks(there.url, pace=QUICK) as keys:
        await there.asked(3)
        assert keys.version == 0
        there.keys = jwk_set(RSA, EC)
        await eventually(lambda: has(keys, "e"))
        assert keys.version == 0  # a key that came changes nothing that was verified
        there.keys = jwk_set(EC)
        await eventually(lambda: not has(keys, "r"))
        assert keys.version == 1
        there.keys = jwk_set(EC | {"alg": "ES256"})
        await there.asked(len(there.seen) + 2)
        assert keys.version == 1
        there.keys = jwk_set(jwk(rsa_key(3072), "e"))
        await eventually(lambda: keys.version == 2)


@pytest.mark.parametrize(
    ("cache_control", "seconds"),
    [
        (None, 600),
        ("", 600),
        ("public, max-age=900", 900),
        ("MAX-AGE=900", 900),
        ('private,max-age="900"', 900),
        ("max-age=0", 60),
        ("max-age=59", 60),
        ("max-age=86400", 3600),
        ("s-maxage=900", 600),
        ("no-store", 600),
        ("max-age=-1", 600),
        ("max-age=x", 600),
        ("max-age=99999999999", 3600),
        ("x-max-age=900", 600),
    ],
)
async def test_the_next_fetch_is_when_cache_control_says_within_bounds(
    cache_control: str | None, seconds: float
) -> None:
    async with issuer(RSA) as there:
        there.headers = {} if cache_control is None else {"Cache-Control": cache_control}
        async with jwks(there.url) as keys:
            await fetched(keys)
            assert keys.next_seconds == seconds


async def test_a_failing_issuer_is_asked_ever_less_often() -> None:
    time = Time()
    async with issuer() as there, jwks(there.url, clock=time.clock) as keys:
        await fetched(keys)
        waits = [keys.next_seconds]
        for _ in range(8):
            time.pass_by(10)
            await fetched(keys)
            waits.append(keys.next_seconds)
        assert waits == [5, 10, 20, 40, 80, 160, 320, 600, 600]
        there.keys = jwk_set(RSA)
        time.pass_by(10)
        await fetched(keys)
        assert keys.next_seconds == 600
        there.keys = b""
        time.pass_by(10)
        await fetched(keys)
        assert keys.next_seconds == 5


# What an issuer may do


def status(code: int, body: bytes = jwk_set(EC), **headers: str) -> Answer:
    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=code, body=body, headers=headers)

    return answer


async def endless(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 65536)


async def dripping(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"{")
    return await hanging(request)


async def hanging(_: web.BaseRequest) -> web.StreamResponse:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("never")


async def dropping(request: web.BaseRequest) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def cut(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "9999"})
    await response.prepare(request)
    await response.write(jwk_set(EC))
    assert request.transport is not None
    request.transport.abort()
    return response


async def garbage(request: web.BaseRequest) -> web.StreamResponse:
    transport = cast(asyncio.Transport, request.transport)
    transport.write(b"\x00\x01 nonsense\r\n\r\n")
    transport.close()
    return web.Response()


FAULTS: list[tuple[Answer, str]] = [
    (status(500), "the issuer answered 500"),
    (status(404), "the issuer answered 404"),
    (status(204, b""), "the issuer answered 204"),
    (status(301, Location="/other"), "the issuer answered 301"),
    (status(302, Location="http://127.0.0.1:9/"), "the issuer answered 302"),
    (status(307, Location="https://attacker.test/"), "the issuer answered 307"),
    (status(200, b" " * MAX_BYTES + jwk_set(EC)), f"the issuer sent more than {MAX_BYTES} bytes"),
    (endless, f"the issuer sent more than {MAX_BYTES} bytes"),
    (status(200, b"<html>"), "the issuer sent no JSON"),
    (status(200, b""), "the issuer sent no JSON"),
    (status(200, b"[]"), "the issuer sent no JSON Web Key Set"),
    (status(200, b'{"keys": []}'), "the issuer sent a set without a key for tokens"),
    (hanging, "the issuer did not answer in time"),
    (dripping, "the issuer did not answer in time"),
    (dropping, "no answer from the issuer (ServerDisconnectedError)"),
    (cut, "no answer from the issuer (ClientPayloadError)"),
    (garbage, "no answer from the issuer (ClientResponseError)"),
]


@pytest.mark.parametrize(("answer", "why"), FAULTS)
async def test_a_fault_of_the_issuer_leaves_the_keys_as_they_were(answer: Answer, why: str) -> None:
    time = Time()
    seconds = 0.7 if answer in (hanging, dripping) else 20
    with structlog.testing.capture_logs() as logged:
        async with (
            issuer(RSA) as there,
            jwks(there.url, clock=time.clock, fetch_seconds=seconds, wait_seconds=30) as keys,
        ):
            await fetched(keys)
            there.answer = answer
            for _ in range(3):
                await fetched(keys)
                time.pass_by(10)
            assert keys.state == {"state": "degraded", "keys": 1, "error": why}
            assert (has(keys, "r"), keys.keys_for("ES256", "e"), keys.version) == (True, None, 0)
            assert keys.fetches == 4
            there.answer = None
            await fetched(keys)
            assert keys.state == {"state": "healthy", "keys": 1, "error": None}
    # Once each: that they came, that they fail, that they are back.
    assert [(line["event"], line.get("reason")) for line in logged] == [
        ("jwks_loaded", None),
        ("jwks_failed", why),
        ("jwks_loaded", None),
    ]
    assert "s3cret" not in str(logged)
    assert "127.0.0.1" not in str(logged)


async def test_an_issuer_that_is_away_at_first_is_found_later() -> None:
    with silence() as port:
        pass  # nobody listens there any more
    async with jwks(f"http://127.0.0.1:{port}/", pace=QUICK) as keys:
        await eventually(lambda: keys.fetches > 2)
        assert keys.state["error"] == "no answer from the issuer (ClientConnectorError)"
        async with at(port) as there:
            await eventually(lambda: keys.has_keys)
            assert there.seen


@asynccontextmanager
async def at(port: int) -> AsyncIterator[Issuer]:
    started = Issuer(jwk_set(RSA))
    runner = web.ServerRunner(web.Server(started.handle))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        yield started
    finally:
        await runner.cleanup()


async def test_a_set_of_the_greatest_size_is_taken() -> None:
    async with issuer() as there:
        there.keys = jwk_set(RSA).ljust(MAX_BYTES)
        async with jwks(there.url) as keys:
            await fetched(keys)
            assert has(keys, "r")


async def test_a_redirect_is_not_followed() -> None:
    async with issuer(EC) as other, issuer() as there:
        there.answer = status(302, b"", Location=other.url)
        async with jwks(there.url) as keys:
            await fetched(keys)
            assert not keys.has_keys
            assert other.seen == []


async def test_what_goes_wrong_here_is_a_failed_fetch_too() -> None:
    class Broken(Jwks):
        async def _fetch(self) -> tuple[bytes, float | None]:
            raise KeyError("s3cret")

    keys = Broken("https://issuer.test")
    keys.start()
    await fetched(keys)
    assert keys.state["error"] == "no answer from the issuer (KeyError)"
    assert keys.ask() is not None
    await keys.close()


# TLS and addresses


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


async def test_over_tls_the_issuers_certificate_must_be_trusted() -> None:
    server, client = contexts()
    async with issuer(RSA, tls=server) as there:
        async with jwks(there.url, tls=client) as keys:
            await fetched(keys)
            assert has(keys, "r")
        for tls in (None, contexts()[1]):
            async with jwks(there.url, tls=tls) as keys:
                await fetched(keys)
                assert keys.state["error"] == "the issuer's certificate was not accepted"
        assert len(there.seen) == 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "keys",
        "/keys",
        "http://issuer.test/keys",
        "http://10.0.0.1/keys",
        "http://127.0.0.1.attacker.test/",
        "http://localhost.attacker.test/",
        "http://[::2]/",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "https://",
        "https:///keys",
        "https://user@issuer.test/s3cret",
        "https://user:s3cret@issuer.test/",
        "https://:s3cret@issuer.test/",
        "http://user:s3cret@127.0.0.1/",
        "http://[",
        "https://issuer.test:99999/",
    ],
)
def test_keys_are_not_trusted_from_anywhere(url: str) -> None:
    with pytest.raises(SettingsError) as error:
        Jwks(url)
    line = str(error.value)
    assert line.startswith("settings: JWKS_URL is no such address, expected https://")
    assert "s3cret" not in line


@pytest.mark.parametrize(
    "url",
    [
        "https://issuer.test/.well-known/jwks.json",
        "https://10.0.0.1:8443/keys?x=1",
        "http://localhost:8080/keys",
        "http://127.0.0.2/keys",
        "http://[::1]:8080/keys",
    ],
)
def test_https_and_this_machine_are_good_addresses(url: str) -> None:
    assert repr(Jwks(url)).startswith("<Jwks ")


async def test_showing_it_shows_no_secret() -> None:
    async with issuer(RSA) as there, jwks(there.url) as keys:
        await fetched(keys)
        assert repr(keys) == "<Jwks 127.0.0.1 <KeySet 1 skipped=0> error=None>"
