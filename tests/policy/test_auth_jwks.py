"""Tokens of an issuer whose keys are fetched: waiting for one, doing without, keys taken back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.errors import Rejection
from gateway.policy.auth import Authenticator, Credentials, Identity
from gateway.policy.jwks import Jwks, Pace
from gateway.policy.pending import Pending
from gateway.settings import Settings
from tests.callbacks.receiver import silence
from tests.connection import eventually
from tests.edge.clock import Time
from tests.policy.issuer import issued, issuer, jwk, jwk_set
from tests.policy.keys import NOW, SECRET, ec_key, ed25519_key, public_pem, rsa_key, token

RSA = jwk(rsa_key(), "r")
NEW = jwk(rsa_key(3072), "new")
GOOD = issued(rsa_key(), "RS256", "r")
YOUNG = issued(rsa_key(3072), "RS256", "new")
PUBLIC = Settings(jwt_audience="gateway")


@asynccontextmanager
async def door(
    url: str, settings: Settings | None = None, time: Time | None = None, **options: float
) -> AsyncIterator[tuple[Authenticator, Jwks]]:
    jwks = Jwks(url, clock=(time or Time()).clock, **options)  # type: ignore[arg-type]
    jwks.start()
    try:
        yield Authenticator(settings or Settings(), jwks=jwks), jwks
    finally:
        await jwks.close()


def ask(
    authenticator: Authenticator, raw: bytes, waited: bool = False
) -> Identity | Rejection | Pending:
    return authenticator.identify(Credentials([b"Bearer " + raw]), NOW, waited)


async def caller(authenticator: Authenticator, raw: bytes) -> Identity | Rejection:
    """As the door asks: it waits once."""
    found = ask(authenticator, raw)
    if isinstance(found, Pending):
        await found.wait
        found = ask(authenticator, raw, waited=True)
    assert not isinstance(found, Pending)
    return found


async def refused(authenticator: Authenticator, raw: bytes) -> str:
    found = await caller(authenticator, raw)
    assert isinstance(found, Rejection)
    assert (found.code, found.status) == ("AUTH_FAILED", 401)
    return found.message.removeprefix("the token is refused: ")


async def test_a_token_that_comes_before_the_keys_waits_for_them() -> None:
    async with issuer(RSA) as there, door(there.url) as (authenticator, _):
        assert isinstance(ask(authenticator, GOOD), Pending)
        found = await caller(authenticator, GOOD)
        assert isinstance(found, Identity)
        assert found.subject == "alice"
        assert ask(authenticator, GOOD) is found
        assert len(there.seen) == 1


async def test_a_key_that_rotated_in_is_found_at_once() -> None:
    async with issuer(RSA) as there, door(there.url) as (authenticator, _):
        await caller(authenticator, GOOD)
        there.keys = jwk_set(RSA, NEW)
        found = await asyncio.gather(*(caller(authenticator, YOUNG) for _ in range(50)))
        assert all(isinstance(each, Identity) for each in found)
        assert len(there.seen) == 2


async def test_unknown_keys_bring_one_fetch_in_ten_seconds() -> None:
    time = Time()
    async with issuer(RSA) as there, door(there.url, time=time) as (authenticator, _):
        await caller(authenticator, GOOD)
        for kid in ("x", "../../etc/passwd", "' OR 1=1", "y" * 500):
            for _ in range(20):
                raw = issued(rsa_key(3072), "RS256", kid)
                why = "it is signed with a key that its issuer does not publish"
                assert await refused(authenticator, raw) == why
        assert len(there.seen) == 2
        assert isinstance(await caller(authenticator, GOOD), Identity)
        time.pass_by(10)
        assert isinstance(ask(authenticator, YOUNG), Pending)


async def test_a_bad_token_that_no_key_could_make_good_brings_no_fetch() -> None:
    async with issuer(RSA) as there, door(there.url, Settings(jwt_secret=SECRET)) as (keyed, jwks):
        await caller(keyed, GOOD)
        for raw in (
            b"a.b.c",
            GOOD[:-4] + b"AAAA",
            issued(rsa_key(3072), "RS256", "r"),
            issued(ec_key(), "ES256", "r"),
            token()[:-4] + b"AAAA",
            token(exp=NOW - 99),
            issued(rsa_key(), "RS256", "r", exp=NOW - 99),
        ):
            await refused(keyed, raw)
        assert jwks.fetches == len(there.seen) == 1
        assert isinstance(ask(keyed, token()), Identity)


async def test_an_issuer_that_never_answered_is_503_and_no_fault_of_the_token() -> None:
    with silence() as port:
        url = f"http://127.0.0.1:{port}"
        async with door(url, wait_seconds=0.01) as (authenticator, _):
            found = await caller(authenticator, GOOD)
            assert isinstance(found, Rejection)
            assert (found.code, found.status) == ("SERVICE_UNAVAILABLE", 503)
            assert (found.retry_after_seconds, found.headers) == (5, ())


async def test_an_issuer_that_is_away_later_is_not_missed() -> None:
    async with issuer(RSA) as there, door(there.url) as (authenticator, jwks):
        await caller(authenticator, GOOD)
        there.keys = b"gone"
        await refused(authenticator, YOUNG)
        assert jwks.state["state"] == "degraded"
        for raw in (GOOD, issued(rsa_key(), "RS256", "r", sub="bob")):
            assert isinstance(ask(authenticator, raw), Identity)


async def test_a_key_taken_back_ends_what_it_signed_also_where_it_is_remembered() -> None:
    async with issuer(RSA, NEW) as there:
        jwks = Jwks(there.url, pace=Pace(usual=0.02, least=0.02, most=0.02))
        jwks.start()
        authenticator = Authenticator(Settings(), jwks=jwks)
        for raw in (GOOD, YOUNG):
            assert isinstance(await caller(authenticator, raw), Identity)
        there.keys = jwk_set(NEW)
        await eventually(lambda: jwks.version == 1)
        assert isinstance(ask(authenticator, GOOD, waited=True), Rejection)
        assert isinstance(ask(authenticator, YOUNG), Identity)
        await jwks.close()


async def test_claims_are_held_to_the_settings_here_too() -> None:
    settings = Settings(jwt_issuer="https://issuer.test", jwt_audience="gateway")
    async with issuer(RSA) as there, door(there.url, settings) as (authenticator, _):
        right = {"iss": "https://issuer.test", "aud": ["gateway"]}
        good = issued(rsa_key(), "RS256", "r", **right)
        assert isinstance(await caller(authenticator, good), Identity)
        for wrong, why in (
            ({"iss": "https://other.test"}, "its issuer (iss) is another"),
            ({"aud": "other"}, "it is for another audience (aud)"),
            ({"exp": NOW - 30}, "it has expired (exp)"),
            ({"nbf": NOW + 31}, "it is not valid yet (nbf)"),
            ({"exp": None}, "its exp claim is no time in seconds"),
        ):
            raw = issued(rsa_key(), "PS256", "r", **(right | wrong))
            assert await refused(authenticator, raw) == why


async def test_keys_of_ones_own_serve_beside_the_issuers() -> None:
    settings = Settings(jwt_secret=SECRET, jwt_public_key=public_pem(ed25519_key()))
    async with issuer(RSA) as there, door(there.url, settings) as (authenticator, _):
        for raw in (token(), issued(ed25519_key(), "EdDSA", "any"), GOOD):
            assert isinstance(await caller(authenticator, raw), Identity)


@pytest.mark.parametrize("started", [True, False])
async def test_an_issuer_is_a_signing_key(started: bool) -> None:
    jwks = Jwks("https://issuer.test")
    authenticator = Authenticator(Settings(), jwks=jwks)
    assert authenticator.identify(Credentials(host=b"localhost"), NOW) == Identity()
    assert not authenticator.is_keyless
    found = ask(authenticator, GOOD, waited=started)
    assert isinstance(found, Rejection)
    assert found.code == "SERVICE_UNAVAILABLE"


def test_an_issuer_without_an_audience_is_said_at_start() -> None:
    jwks = Jwks("https://issuer.test")
    assert Authenticator(PUBLIC, jwks=jwks).warnings() == []
    assert Authenticator(Settings(), jwks=jwks).warnings() == [
        "JWKS_URL is set without JWT_AUDIENCE: tokens that the issuer made for others are taken "
        "here too"
    ]


def test_an_issuers_door_knows_its_algorithms() -> None:
    names = Authenticator(Settings(), jwks=Jwks("https://issuer.test")).algorithms
    assert names == [
        *("ES256", "ES384", "ES512", "EdDSA"),
        *("PS256", "PS384", "PS512", "RS256", "RS384", "RS512"),
    ]
