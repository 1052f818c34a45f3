"""Who may read and publish: tokens, their scopes and client ids; and what is open without a key."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import signal
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.processes import Running, run_gateway
from tests.streams import (
    LOCAL,
    SECRET,
    bearer,
    event,
    get,
    post,
    publish,
    published,
    refusal,
    sign,
    subscribe,
    who,
)
from tests.wire import Message, start_gateway

KEYED = {"JWT_SECRET": SECRET}


def challenge(response: Message) -> bytes:
    """The one WWW-Authenticate field."""
    found = response.get("www-authenticate")
    assert found, response.head
    assert found.lower().startswith(b"bearer")
    return found


READERS = {
    "the own subject": (who("alice"), True),
    "a client id of the token": (who("bob", client_ids=["carol", "alice"]), True),
    "events:read": (who("bob", "events:read"), True),
    "events:read among others": (who("bob", "jobs:read", "events:read"), True),
    "no subject but events:read": (who(None, "events:read"), True),
    "another subject": (who("bob"), False),
    "other client ids": (who("bob", client_ids=["carol"]), False),
    "events:write": (who("bob", "events:write"), False),
    "a scope that only begins alike": (who("bob", "events:reader"), False),
    "a subject in capitals": (who("Alice"), False),
    "no subject": (who(None), False),
}


@pytest.mark.parametrize(("field", "may"), READERS.values(), ids=READERS.keys())
async def test_who_may_read_a_client_id(field: bytes, may: bool) -> None:
    async with start_gateway(**KEYED) as gateway:
        if may:
            async with subscribe(gateway, "alice", field) as stream:
                assert stream.established.data["client_id"] == "alice"
        else:
            response = await gateway.ask(get("alice", field))
            refusal(response, 403, "FORBIDDEN")


WRITERS = {
    "events:write": (who("svc", "events:write"), True),
    "events:write among others": (who("svc", "events:read", "events:write"), True),
    "the own subject": (who("alice"), False),
    "events:read": (who("alice", "events:read"), False),
    "a scope that contains it": (who("alice", "xevents:write"), False),
}


@pytest.mark.parametrize(("field", "may"), WRITERS.values(), ids=WRITERS.keys())
async def test_who_may_publish(field: bytes, may: bool) -> None:
    async with start_gateway(**KEYED) as gateway:
        response = await publish(gateway, "alice", event(), field)
        if may:
            assert response.status == 202
        else:
            refusal(response, 403, "FORBIDDEN")


async def test_with_a_key_writing_does_not_depend_on_the_host() -> None:
    async with start_gateway(**KEYED) as gateway:
        writer = who("svc", "events:write")
        fields = (writer, b"Origin: https://page.test", b"X-Forwarded-For: 192.0.2.1")
        response = await publish(gateway, "alice", event(), *fields, host=b"gateway.test")
        assert response.status == 202


async def test_scope_internal_may_publish_the_gateways_own_types() -> None:
    async with start_gateway(**KEYED) as gateway:
        writer = who("svc", "events:write")
        refusal(await publish(gateway, "a", event(1, "job.step"), writer), 422, "UNPROCESSABLE")
        for scopes in (("events:write", "internal"),):
            await published(gateway, "a", event(1, "job.step"), who("svc", *scopes))


@pytest.mark.parametrize("data", [get("alice"), post("/api/v1/events/alice", event())])
async def test_without_a_credential_it_is_401_with_a_challenge(data: bytes) -> None:
    async with start_gateway(**KEYED) as gateway:
        response = await gateway.ask(data)
        refusal(response, 401, "UNAUTHORIZED")
        assert b"error" not in challenge(response)


async def test_an_event_source_without_rights_gets_a_real_refusal() -> None:
    async with start_gateway(**KEYED) as gateway:
        assert (await gateway.ask(get("alice"))).status == 401
        assert (await gateway.ask(get("alice", who("bob")))).status == 403


def unsigned(**claims: object) -> str:
    """A token of algorithm none."""
    parts = [{"alg": "none", "typ": "JWT"}, {"sub": "alice", "exp": 4102444800} | claims]
    encoded = [base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in parts]
    return b".".join([*encoded, b""]).decode()


def _broken(token: str) -> str:
    head, payload, signature = token.split(".")
    other = "A" if signature[5] != "A" else "B"
    return f"{head}.{payload}.{signature[:5]}{other}{signature[6:]}"


BAD = {
    "another secret": sign("alice", key="x" * 40),
    "a broken signature": _broken(sign("alice")),
    "expired": sign("alice", seconds=-3600),
    "no exp": sign("alice", exp=None),
    "not yet valid": sign("alice", nbf=4102444800),
    "no algorithm": unsigned(),
    "two parts": ".".join(sign("alice").split(".")[:2]),
    "nonsense": "nonsense",
    "dots": "..",
    "empty": "",
}


@pytest.mark.parametrize("token", BAD.values(), ids=BAD.keys())
async def test_a_bad_token_is_401_and_says_nothing_of_it(token: str) -> None:
    async with start_gateway(**KEYED) as gateway:
        for data in (get("alice", bearer(token)), post("/api/v1/events/a", {}, bearer(token))):
            response = await gateway.ask(data)
            assert response.status == 401
            error = refusal(response, 401, response.json()["error"]["code"])
            assert error["code"] == "AUTH_FAILED" or (token == "" and error["code"])
            assert b"invalid_token" in challenge(response) or token == ""
            if len(token) > 10:
                assert token.encode() not in response.head + response.body
                assert SECRET.encode() not in response.head + response.body


@pytest.mark.parametrize(
    "field",
    [
        b"Authorization: Basic YWxpY2U6eA==",
        b"Authorization: Bearer",
        b"Authorization: Bearer  ",
        b"Authorization: token",
    ],
)
async def test_another_scheme_is_401(field: bytes) -> None:
    async with start_gateway(**KEYED) as gateway:
        response = await gateway.ask(get("alice", field))
        assert response.status == 401
        challenge(response)


async def test_two_credentials_are_none() -> None:
    async with start_gateway(**KEYED) as gateway:
        response = await gateway.ask(get("alice", who("alice"), who("bob")))
        assert response.status in (400, 401)


async def test_the_scheme_is_read_whatever_its_case() -> None:
    async with start_gateway(**KEYED) as gateway:
        field = who("alice").replace(b"Bearer", b"bEARER")
        async with subscribe(gateway, "alice", field):
            pass


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
async def test_a_public_key_verifies_its_algorithm_and_no_other(algorithm: str) -> None:
    private = (
        rsa.generate_private_key(public_exponent=65537, key_size=2048)
        if algorithm == "RS256"
        else ec.generate_private_key(ec.SECP256R1())
    )
    pem = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    async with start_gateway(JWT_PUBLIC_KEY=pem.decode()) as gateway:
        async with subscribe(gateway, "alice", who("alice", key=private, algorithm=algorithm)):
            pass
        parts = [{"alg": "HS256", "typ": "JWT"}, {"sub": "alice", "exp": 4102444800}]
        text = b".".join(
            base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in parts
        )
        mac = hmac.digest(pem, text, hashlib.sha256)
        token = text + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")
        for bad in (token.decode(), unsigned(), sign("alice")):
            refusal(await gateway.ask(get("alice", bearer(bad))), 401, "AUTH_FAILED")


@pytest.mark.parametrize(
    ("setting", "value", "claim", "good", "bad"),
    [
        ("JWT_ISSUER", "https://issuer.test", "iss", "https://issuer.test", "https://other.test"),
        ("JWT_AUDIENCE", "gateway", "aud", "gateway", "other"),
        ("JWT_AUDIENCE", "gateway", "aud", ["x", "gateway"], ["x"]),
    ],
)
async def test_issuer_and_audience_are_held_where_they_are_set(
    setting: str, value: str, claim: str, good: object, bad: object
) -> None:
    async with start_gateway(**KEYED, **{setting: value}) as gateway:
        async with subscribe(gateway, "alice", bearer(sign("alice", **{claim: good}))):
            pass
        for token in (sign("alice", **{claim: bad}), sign("alice")):
            refusal(await gateway.ask(get("alice", bearer(token))), 401, "AUTH_FAILED")


@pytest.mark.parametrize(
    "claims",
    [
        {"scope": ["events:read"]},
        {"scope": 7},
        {"client_ids": "alice"},
        {"client_ids": {"alice": 1}},
        {"client_ids": [1, None]},
        {"sub": 7},
        {"sub": ["alice"]},
    ],
    ids=repr,
)
async def test_claims_of_another_shape_give_no_rights_and_no_error_of_ours(
    claims: dict[str, object],
) -> None:
    async with start_gateway(**KEYED) as gateway:
        token = jwt.api_jws.PyJWS().encode(
            json.dumps({"sub": "bob", "exp": 4102444800} | claims).encode(), SECRET, "HS256"
        )
        response = await gateway.ask(get("alice2", bearer(token)))
        assert response.status in (401, 403), response.start


async def test_a_stream_ends_when_the_token_that_opened_it_ends_and_says_so() -> None:
    async with start_gateway(**KEYED) as gateway:
        async with subscribe(gateway, "alice", who("alice", seconds=3)) as stream:
            [sent] = await published(gateway, "alice", event(), who("svc", "events:write"))
            got = await stream.rest()
        assert [each.type for each in got] == ["note", "stream.expired"]
        assert got[0].id == sent
        assert got[1].id is None
        async with subscribe(gateway, "alice", who("alice"), after=sent) as again:
            assert again.established.data["resumed"] is True


async def test_a_stream_without_a_token_does_not_end() -> None:
    async with start_gateway(HEARTBEAT_SECONDS=0.5) as gateway, subscribe(gateway) as stream:
        for _ in range(4):
            assert (await stream.event(heartbeats=True)).type == "heartbeat"


async def test_refusals_for_bad_credentials_have_a_bucket_of_their_own() -> None:
    async with start_gateway(**KEYED) as gateway:
        data = get("alice", bearer("nonsense"))
        with gateway.stopped_clock():
            statuses = [(await gateway.ask(data)).status for _ in range(25)]
        assert statuses == [401] * 20 + [429] * 5
        async with subscribe(gateway, "alice", who("alice")):
            pass


# Without a signing key.


def answered(response: Message) -> int:
    """Its status; refusals are held against the shape."""
    if response.status != 202:
        refusal(response, 401, "UNAUTHORIZED")
    return response.status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"localhost", 202),
        (b"LocalHost:8081", 202),
        (b"127.0.0.1", 202),
        (b"127.0.0.1:8081", 202),
        (b"127.255.3.4", 202),
        (b"[::1]", 202),
        (b"[::1]:8081", 202),
        (b"gateway.test", 401),
        (b"localhost.evil.test", 401),
        (b"127.0.0.1.evil.test", 401),
        (b"evil.test:8081", 401),
        (b"192.168.0.1", 401),
        (b"0.0.0.0", 401),
        (b"[::]", 401),
        (b"127.1", 401),
        (b"2130706433", 401),
    ],
)
async def test_keyless_writing_needs_a_host_that_is_this_machine(host: bytes, status: int) -> None:
    async with start_gateway() as gateway:
        assert answered(await publish(gateway, "alice", event(), host=host)) == status


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([b"Origin: http://127.0.0.1"], 202),
        ([b"Origin: http://evil.test"], 401),
        ([b"Origin: null"], 401),
        ([b"Origin: http://127.0.0.1.evil.test"], 401),
        ([b"Sec-Fetch-Site: cross-site"], 401),
        ([b"Sec-Fetch-Site: same-origin"], 202),
        ([b"Sec-Fetch-Site: none"], 202),
        ([b"X-Forwarded-For: 127.0.0.1"], 401),
        ([b"X-Forwarded-Host: localhost"], 401),
        ([b"X-Forwarded-Proto: http"], 401),
        ([b"Forwarded: for=127.0.0.1"], 401),
    ],
)
async def test_keyless_writing_is_not_for_pages_and_proxies(
    fields: list[bytes], status: int
) -> None:
    async with start_gateway() as gateway:
        assert answered(await publish(gateway, "alice", event(), *fields)) == status


@pytest.mark.parametrize("host", [b"gateway.test", LOCAL])
async def test_keyless_reading_is_open(host: bytes) -> None:
    async with start_gateway() as gateway, gateway.connect() as client:
        client.send(get().replace(LOCAL, host))
        assert b" 200 " in await client.line()


@pytest.mark.parametrize(("allow", "status"), [(None, 401), ("true", 202)])
async def test_beyond_loopback_keyless_writing_needs_to_be_allowed(
    allow: str | None, status: int
) -> None:
    async with start_gateway(HOST="0.0.0.0", ALLOW_ANONYMOUS=allow) as gateway:
        gateway.address = ("127.0.0.1", gateway.address[1])
        assert answered(await publish(gateway, "alice", event())) == status
        async with subscribe(gateway):
            pass


@pytest.mark.parametrize("keyed", [False, True])
def test_that_writing_is_open_is_said_once_at_start(keyed: bool, tmp_path: Path) -> None:
    extra = {"JWT_SECRET": SECRET} if keyed else {}
    with Running(STATE_DIR=str(tmp_path / "state"), **extra) as running:
        running.port()
        running.send(signal.SIGTERM)
        assert running.end()[0] == 0
        loud = [line for line in running.lines if line["level"] in ("warning", "error")]
        said = [line for line in loud if "JWT_SECRET" in json.dumps(line)]
        assert len(said) == (0 if keyed else 1), loud


async def test_a_token_of_the_command_line_opens_and_publishes() -> None:
    words = ("token", "--sub", "alice", "--scope", "events:write")
    done = await asyncio.to_thread(run_gateway, *words, JWT_SECRET=SECRET)
    assert done.returncode == 0, done.stderr
    field = bearer(done.stdout.strip())
    async with start_gateway(**KEYED) as gateway, subscribe(gateway, "alice", field) as stream:
        [sent] = await published(gateway, "alice", event(), field)
        assert (await stream.event()).id == sent
