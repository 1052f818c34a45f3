"""Who may: tokens of every algorithm, the tricks with them, API keys, what a route asks for, and
how a credential ends before its time.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.messages import Message, answer, assert_error, request
from tests.policy.keys import ec_key, ed25519_key, hand_made, public_pem, rsa_key
from tests.processes import run_gateway
from tests.scenarios.governed import ADMIN, asks_until, get, governed, in_front, row, service
from tests.streams import SECRET, bearer, metric, post, sign, subscribe, who
from tests.wire import RunningGateway, ScriptedUpstream

X = "/api/v1/svc/x"
KEYS: dict[str, PrivateKeyTypes] = {
    "RS256": rsa_key(),
    "PS256": rsa_key(),
    "ES256": ec_key(),
    "EdDSA": ed25519_key(),
}


def refused(response: Message) -> bytes:
    """A bad credential's answer; the challenge (RFC 6750 §3)."""
    assert_error(response, 401, "AUTH_FAILED")
    told = response.get("www-authenticate") or b""
    assert told.startswith(b"Bearer "), told
    assert b'error="invalid_token"' in told
    return told


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512", *KEYS])
async def test_every_algorithm_of_the_key_is_believed(algorithm: str) -> None:
    key = KEYS.get(algorithm)
    named: dict[str, Any] = {"JWT_SECRET": None, "JWT_PUBLIC_KEY": public_pem(key)} if key else {}
    good = bearer(sign("alice", key=key or SECRET, algorithm=algorithm, tier="pro", tenant="acme"))
    async with in_front(**named) as (gateway, upstream):
        assert (await get(gateway, X, good)).status == 200
        (told,) = upstream.requests
        assert told.all("x-user-id") == [b"alice"]
        assert told.all("x-tenant-id") == [b"acme"]
        assert told.all("x-user-tier") == [b"pro"]


async def test_a_token_made_by_the_command_is_believed() -> None:
    done = run_gateway(
        "token", "--sub", "bob", "--tier", "free", "--scope", "a:b c", JWT_SECRET=SECRET
    )
    assert done.returncode == 0, done.stderr
    async with in_front() as (gateway, upstream):
        assert (await get(gateway, X, bearer(done.stdout.strip()))).status == 200
        assert upstream.requests[0].all("x-user-id") == [b"bob"]


def good_claims() -> dict[str, Any]:
    return {"sub": "root", "exp": time.time() + 3600, "scope": "admin"}


async def test_the_algorithm_is_the_keys_and_never_the_tokens() -> None:
    pem = public_pem(rsa_key()).encode()
    header, claims, _ = sign("root", key=rsa_key(), algorithm="RS256").encode().split(b".")
    own = jwt.PyJWK.from_json(RSAAlgorithm.to_jwk(rsa_key(3072).public_key()))
    tricks = [
        hand_made({"alg": "none"}, good_claims()).rpartition(b".")[0] + b".",
        hand_made({"alg": "NonE"}, good_claims()).rpartition(b".")[0] + b".",
        hand_made({"typ": "JWT"}, good_claims(), pem),
        hand_made({"alg": "HS256"}, good_claims(), pem),
        hand_made({"alg": "HS256"}, good_claims(), pem.strip()),
        hand_made({"alg": "RS256"}, good_claims(), pem),
        hand_made({"alg": "HS256", "kid": "/dev/null"}, good_claims(), b""),
        hand_made(
            {"alg": "HS256", "kid": "../../proc/sys/kernel/ostype"}, good_claims(), b"Linux\n"
        ),
        hand_made({"alg": "HS256", "kid": "x' UNION SELECT 'k"}, good_claims(), b"k"),
        header + b"." + claims + b".",
        jwt.encode(good_claims(), rsa_key(3072), "RS256", {"jwk": own._jwk_data}).encode(),
        jwt.encode(good_claims(), rsa_key(3072), "RS256", {"jku": "http://127.0.0.1:9/"}).encode(),
        jwt.encode(good_claims(), ec_key(), "ES256").encode(),
    ]
    environ: dict[str, Any] = {"JWT_SECRET": None, "JWT_PUBLIC_KEY": pem.decode()}
    async with in_front(**environ) as (gateway, upstream):
        for number, token in enumerate(tricks):
            response = await get(gateway, X, b"Authorization: Bearer " + token)
            assert (number, response.status) == (number, 401)
            refused(response)
        assert upstream.requests == []


async def test_claims_are_held_against_the_clock_and_the_settings() -> None:
    now = time.time()
    right = {"iss": "https://issuer", "aud": "gateway"}
    cases: list[tuple[dict[str, Any], int]] = [
        (right, 200),
        (right | {"aud": ["other", "gateway"]}, 200),
        (right | {"aud": "other"}, 401),
        (right | {"aud": None}, 401),
        (right | {"iss": "https://issuer/"}, 401),
        (right | {"iss": None}, 401),
        (right | {"exp": now - 20}, 200),  # 30 s leeway
        (right | {"exp": now - 40}, 401),
        (right | {"exp": None}, 401),
        (right | {"exp": "soon"}, 401),
        (right | {"nbf": now + 20}, 200),
        (right | {"nbf": now + 60}, 401),
    ]
    environ = {"JWT_ISSUER": "https://issuer", "JWT_AUDIENCE": "gateway"}
    async with in_front(**environ) as (gateway, _):
        for claims, status in cases:
            response = await get(gateway, X, who("alice", **claims))
            assert (claims, response.status) == (claims, status)


async def test_a_token_that_is_known_is_not_mistaken_for_one_that_looks_like_it() -> None:
    good = sign("alice")
    head, claims, signature = good.split(".")
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    more = json.loads(base64.urlsafe_b64decode(claims + "==")) | {"scope": "admin"}
    changed = base64.urlsafe_b64encode(json.dumps(more).encode()).decode().rstrip("=")
    async with in_front() as (gateway, _):
        assert (await get(gateway, X, bearer(good))).status == 200
        for bad in (f"{head}.{claims}.{flipped}", f"{head}.{changed}.{signature}", good + "A"):
            refused(await get(gateway, X, bearer(bad)))
        assert (await get(gateway, X, bearer(good))).status == 200


async def test_a_credential_that_no_one_can_read_is_a_bad_one() -> None:
    good = sign("alice").encode()
    async with in_front() as (gateway, upstream):
        for fields in (
            [b"Authorization: Bearer"],
            [b"Authorization: Bearer " + good + b" " + good],
            [b"Authorization: Bearer " + good] * 2,
            [b"Authorization: Bearer \xff\xfe"],
        ):
            response = await get(gateway, X, *fields)
            assert response.status in (400, 401), (fields, response.start)
        assert upstream.requests == []


@dataclass(frozen=True)
class MadeKey:
    """A key that the command made, and the file it is in."""

    field: bytes
    file: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeKey:
    """One for the tools of acme."""
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    options = ("--tier", "pro", "--scope", "reports:read", "--sub", "tool", "--tenant", "acme")
    done = run_gateway("key", "new", *options, API_KEYS=str(file))
    assert done.returncode == 0, done.stderr
    (key,) = done.stdout.split()
    assert key.startswith("gw_")
    assert key not in file.read_text() + done.stderr
    return MadeKey(key.encode(), file)


async def test_an_api_key_is_a_credential_in_both_fields(made: MadeKey) -> None:
    rows = (row("/reports", 'auth = "scope:reports:read"'), row("/users", 'auth = "scope:users"'))
    key = made.field
    async with in_front("", *rows, API_KEYS=made.file) as (gateway, upstream):
        for field in (b"Authorization: Bearer " + key, b"X-API-Key: " + key):
            upstream.requests.clear()
            assert (await get(gateway, "/reports", field)).status == 200
            (told,) = upstream.requests
            assert told.all("x-user-id") == [b"tool"]
            assert told.all("x-tenant-id") == [b"acme"]
            assert told.all("x-user-tier") == [b"pro"]
            assert_error(await get(gateway, "/users", field), 403, "FORBIDDEN")
            flipped = field[:-1] + (b"1" if field.endswith(b"0") else b"0")
            refused(await get(gateway, "/reports", flipped))
            refused(await get(gateway, X, field[:-4]))
        assert key.decode() not in gateway.log_path.read_text()


async def test_an_api_key_is_revoked_at_once(made: MadeKey) -> None:
    key = made.field
    async with in_front(API_KEYS=made.file) as (gateway, _):
        assert (await get(gateway, X, b"X-API-Key: " + key)).status == 200
        body = {"key_id": key.rpartition(b"_")[0].decode()}
        done = await gateway.ask(post("/admin/tokens/revoke", body, ADMIN))
        assert done.status in (200, 204), done.start
        refused(await get(gateway, X, b"X-API-Key: " + key))
        refused(await get(gateway, X, b"Authorization: Bearer " + key))


async def test_a_service_that_gets_no_credential_gets_no_api_key(made: MadeKey) -> None:
    lines, key = ("pass_authorization = false",), made.field
    async with in_front(lines=lines, API_KEYS=made.file) as (gateway, upstream):
        for field in (b"X-API-Key: " + key, b"Authorization: Bearer " + key):
            assert (await get(gateway, X, field)).status == 200
        assert not [link for link in upstream.received if key in link]


AUTH_ROWS = (
    row("/none/*", 'auth = "none"'),
    row("/optional/*", 'auth = "optional"'),
    row("/required/*", 'auth = "required"'),
    row("/scoped/*", 'auth = "scope:reports:read"'),
    row("/either/*", 'auth = "scope:reports:read,reports:write"'),
)
NOBODY: tuple[bytes, ...] = ()
BAD = (b"Authorization: Bearer nonsense",)
ALICE = (who("alice"),)
READER = (who("alice", "reports:read"),)


async def test_a_row_says_who_may() -> None:
    expected = {
        "/none/x": (200, 200, 200, 200),
        "/optional/x": (200, 401, 200, 200),
        "/required/x": (401, 401, 200, 200),
        "/scoped/x": (401, 401, 403, 200),
        "/either/x": (401, 401, 403, 200),
    }
    async with in_front("", *AUTH_ROWS) as (gateway, upstream):
        for path, wanted in expected.items():
            got = [await get(gateway, path, *caller) for caller in (NOBODY, BAD, ALICE, READER)]
            assert (path, *(each.status for each in got)) == (path, *wanted)
        assert len(upstream.requests) == 4 + 3 + 2 + 1 + 1


async def test_refusals_say_what_is_missing() -> None:
    async with in_front("", *AUTH_ROWS) as (gateway, _):
        nobody = await get(gateway, "/required/x")
        assert_error(nobody, 401, "UNAUTHORIZED")
        told = nobody.get("www-authenticate") or b""
        assert told.startswith(b"Bearer")
        assert b"error" not in told
        refused(await get(gateway, "/required/x", *BAD))
        few = await get(gateway, "/scoped/x", *ALICE)
        assert_error(few, 403, "FORBIDDEN")
        told = few.get("www-authenticate") or b""
        assert told.startswith(b"Bearer ")
        assert b'error="insufficient_scope"' in told
        assert b'scope="reports:read"' in told


async def test_where_no_credential_is_looked_at_nobody_is_known() -> None:
    async with in_front("", *AUTH_ROWS) as (gateway, upstream):
        assert (await get(gateway, "/none/x", *ALICE, b"X-User-ID: root")).status == 200
        (told,) = upstream.requests
        assert told.all("x-user-id") == []


async def test_auth_default_is_for_the_open_line() -> None:
    expected = {
        "none": (200, 200, 200),
        "optional": (200, 401, 200),
        "required": (401, 401, 200),
        None: (200, 401, 200),
    }
    for setting, wanted in expected.items():
        async with in_front(AUTH_DEFAULT=setting) as (gateway, _):
            got = [(await get(gateway, X, *caller)).status for caller in (NOBODY, BAD, ALICE)]
            assert (setting, *got) == (setting, *wanted)


async def test_a_service_gets_the_credential_or_not() -> None:
    credential = ALICE[0].partition(b": ")[2]
    for lines, passed in ((), [credential]), (("pass_authorization = false",), []):
        async with in_front(lines=lines) as (gateway, upstream):
            assert (await get(gateway, X, *ALICE)).status == 200
            (told,) = upstream.requests
            assert told.all("authorization") == passed
            assert told.all("x-user-id") == [b"alice"]


async def test_claims_that_would_break_a_field_never_reach_a_service() -> None:
    evil = "a\r\nX-Evil: 1"
    async with in_front() as (gateway, upstream):
        for claims in ({"sub": evil}, {"tenant": evil}, {"tier": evil}, {"sub": "a\0b"}):
            response = await get(gateway, X, who(**({"sub": "alice"} | claims)))
            assert response.status in (200, 401)
        for told in upstream.requests:
            assert b"x-evil" not in told.names


def revoke(gateway: RunningGateway, jti: str, *fields: bytes) -> Any:
    """Asks for the end of a token."""
    body = {"jti": jti, "expires_at": int(time.time()) + 3600}
    return gateway.ask(post("/admin/tokens/revoke", body, *fields))


async def test_a_revoked_token_is_refused_at_once_and_no_other() -> None:
    first, second = who("alice", jti="t-1"), who("alice", jti="t-2")
    async with in_front() as (gateway, _):
        assert (await get(gateway, X, first)).status == 200
        for fields in ((), (who("mallory", "events:read"),)):
            assert_error(await revoke(gateway, "t-1", *fields), 404, "NOT_FOUND")
        assert (await get(gateway, X, first)).status == 200
        assert (await revoke(gateway, "t-1", ADMIN)).status == 200
        refused(await get(gateway, X, first))
        assert (await get(gateway, X, second)).status == 200


async def test_the_open_streams_of_a_revoked_token_end() -> None:
    reader, other = who("alice", jti="t-1"), who("alice", jti="t-2")
    async with (
        in_front() as (gateway, _),
        subscribe(gateway, "alice", reader) as stream,
        subscribe(gateway, "alice", other) as left,
    ):
        assert (await revoke(gateway, "t-1", ADMIN)).status == 200
        *_, last = await stream.rest()
        assert (last.type, last.id) == ("stream.expired", None)
        assert await metric(gateway, "gateway_sse_clients") == 1
        assert not left.over
        assert (await get(gateway, "/api/v1/events/alice", reader)).status == 401


async def test_what_a_browser_got_for_a_token_ends_with_it() -> None:
    tickets = "/api/v1/events/alice/ticket"
    reader = who("alice", jti="t-1")
    async with in_front() as (gateway, _):
        first, second = [
            (await gateway.ask(post(tickets, b"", reader))).json()["ticket"] for _ in range(2)
        ]
        async with subscribe(gateway, "alice", query=f"ticket={first}") as stream:
            (cookie,) = stream.head.all("set-cookie")
            assert (await revoke(gateway, "t-1", ADMIN)).status == 200
            *_, last = await stream.rest()
            assert last.type == "stream.expired"
        field = b"Cookie: " + cookie.partition(b";")[0]
        for path, fields in ((f"?ticket={second}", ()), ("", (field,))):
            assert (await get(gateway, f"/api/v1/events/alice{path}", *fields)).status == 401


async def test_a_revocation_is_there_after_a_restart_and_at_other_gateways(tmp_path: Path) -> None:
    token = who("alice", jti="t-1")
    async with in_front(STATE_DIR=tmp_path) as (gateway, _), in_front(STATE_DIR=tmp_path) as both:
        other, _ = both
        assert (await get(other, X, token)).status == 200
        assert (await revoke(gateway, "t-1", ADMIN)).status == 200
        await asks_until(other, request(f"GET {X}".encode(), token), 401)
    async with in_front(STATE_DIR=tmp_path) as (gateway, _):
        await asks_until(gateway, request(f"GET {X}".encode(), token), 401)


class Issuer:
    """A server that publishes keys."""

    def __init__(self, upstream: ScriptedUpstream, **keys: tuple[Any, str]) -> None:
        self.upstream = upstream
        self.publish(**keys)

    def publish(self, **keys: tuple[Any, str]) -> None:
        """These are its keys from now on."""
        kinds = {"R": RSAAlgorithm, "P": RSAAlgorithm, "E": ECAlgorithm}
        found = []
        for kid, (key, algorithm) in keys.items():
            kind: Any = OKPAlgorithm if algorithm == "EdDSA" else kinds[algorithm[0]]
            public = kind.to_jwk(key.public_key(), as_dict=True)
            found.append(public | {"kid": kid, "alg": algorithm, "use": "sig"})
        document = json.dumps({"keys": found}).encode()
        self.answer = answer(document, b"Content-Type: application/jwk-set+json")

    @property
    def asked(self) -> int:
        """How often it was."""
        return len(self.upstream.requests)


@contextlib.asynccontextmanager
async def issuing(
    **keys: tuple[Any, str],
) -> AsyncIterator[tuple[RunningGateway, Issuer]]:
    """A gateway that believes an issuer with these keys."""
    issuer: Issuer

    async def publishes(link: Any) -> None:
        while True:
            await link.request()
            link.send(issuer.answer)

    async with ScriptedUpstream(publishes) as server, ScriptedUpstream() as upstream:
        issuer = Issuer(server, **keys)
        environ: dict[str, Any] = {"JWT_SECRET": None, "JWKS_URL": f"{server.url}/jwks.json"}
        async with governed(service("svc", [upstream]), **environ) as gateway:
            yield gateway, issuer


def by(kid: str, key: Any, algorithm: str) -> bytes:
    """The field with a token that names its key."""
    claims = {"sub": "alice", "exp": time.time() + 3600}
    return bearer(jwt.encode(claims, key, algorithm, {"kid": kid}))


async def test_keys_of_an_issuer_are_believed_each_for_its_algorithm() -> None:
    keys = {
        "a": (rsa_key(), "RS256"),
        "b": (rsa_key(), "PS256"),
        "c": (ec_key(), "ES256"),
        "d": (ed25519_key(), "EdDSA"),
    }
    async with issuing(**keys) as (gateway, _):
        for kid, (key, algorithm) in keys.items():
            assert (await get(gateway, X, by(kid, key, algorithm))).status == 200
        pem = public_pem(rsa_key()).encode()
        confused = hand_made({"alg": "HS256", "kid": "a"}, good_claims(), pem)
        refused(await get(gateway, X, b"Authorization: Bearer " + confused))
        refused(await get(gateway, X, by("a", rsa_key(), "PS256")))
        refused(await get(gateway, X, by("c", rsa_key(), "RS256")))


async def test_a_key_that_the_issuer_adds_is_believed_and_one_it_drops_is_not() -> None:
    old, new = (rsa_key(), "RS256"), (ec_key(), "ES256")
    async with issuing(old=old) as (gateway, issuer):
        assert (await get(gateway, X, by("old", *old))).status == 200
        issuer.publish(new=new)
        assert (await get(gateway, X, by("new", *new))).status == 200
        fresh = jwt.encode({"sub": "bob", "exp": time.time() + 60}, old[0], "RS256", {"kid": "old"})
        refused(await get(gateway, X, bearer(fresh)))


async def test_unknown_keys_ask_the_issuer_once_however_many_they_are() -> None:
    async with issuing(a=(ec_key(), "ES256")) as (gateway, issuer):
        assert (await get(gateway, X, by("a", ec_key(), "ES256"))).status == 200
        before = issuer.asked
        tokens = [by(f"unknown-{number}", ed25519_key(), "EdDSA") for number in range(15)]
        answers = await asyncio.gather(*(get(gateway, X, token) for token in tokens))
        assert {each.status for each in answers} == {401}
        assert issuer.asked - before <= 1


async def test_keys_are_kept_while_the_issuer_is_away_or_talks_nonsense() -> None:
    known = (ec_key(), "ES256")
    async with issuing(a=known) as (gateway, issuer):
        assert (await get(gateway, X, by("a", *known))).status == 200
        issuer.answer = answer(b"<html>", status=b"503 Service Unavailable")
        refused(await get(gateway, X, by("b", *known)))
        claims = {"sub": "bob", "exp": time.time() + 60}
        other = jwt.encode(claims, known[0], "ES256", {"kid": "a"})
        assert (await get(gateway, X, bearer(other))).status == 200


async def test_without_the_issuers_keys_no_token_is_believed_and_the_rest_goes_on() -> None:
    environ: dict[str, Any] = {"JWT_SECRET": None, "JWKS_URL": "http://127.0.0.1:9/jwks.json"}
    async with in_front(**environ) as (gateway, upstream):
        assert (await get(gateway, X)).status == 200
        response = await get(gateway, X, by("a", ec_key(), "ES256"))
        # Nobody knows whether it is a bad one.
        assert_error(response, (401, 503), ("AUTH_FAILED", "SERVICE_UNAVAILABLE"))
        assert len(upstream.requests) == 1
