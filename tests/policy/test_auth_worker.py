"""The service token: a worker's credential, beside every other rule."""

from __future__ import annotations

import hashlib
import math

import pytest

from gateway.errors import Rejection
from gateway.policy.api_keys import ApiKeys
from gateway.policy.auth import Authenticator, Credentials
from gateway.policy.identity import Identity, Verified
from gateway.settings import Settings
from tests.policy.keys import NOW, SECRET, token

TOKEN = "a-service-token-of-a-worker"
WORKER = Identity(
    "gateway-worker", None, "enterprise", frozenset(("internal",)), jti="gw_service_token"
)
KEYLESS = Authenticator(Settings(), service_token=TOKEN)
KEYED = Authenticator(Settings(jwt_secret=SECRET), service_token=TOKEN)
WITH_API_KEYS = Authenticator(
    Settings(),
    keys=ApiKeys(
        {hashlib.sha256(b"gw_a").digest(): Verified(Identity("tool"), -math.inf, math.inf)}
    ),
    service_token=TOKEN,
)
ALL = pytest.mark.parametrize("authenticator", [KEYLESS, KEYED, WITH_API_KEYS])


def said(field: bytes) -> Credentials:
    return Credentials(authorization=[field], host=b"localhost", address="127.0.0.1")


@ALL
def test_it_is_the_workers_also_without_a_signing_key(authenticator: Authenticator) -> None:
    field = b"Bearer " + TOKEN.encode()
    assert authenticator.identify(said(field), NOW) == WORKER
    assert authenticator.recall(field, NOW) == WORKER
    assert authenticator.is_service(field)


@ALL
@pytest.mark.parametrize(
    "field",
    [
        b"Bearer " + TOKEN[:-1].encode(),
        b"Bearer " + TOKEN.encode() + b"x",
        b"Bearer " + TOKEN.upper().encode(),
        b"Bearer  " + TOKEN.encode(),
        b"bearer " + TOKEN.encode(),
        b"Basic " + TOKEN.encode(),
        TOKEN.encode(),
        b"Bearer ",
        b"",
    ],
)
def test_what_is_not_exactly_it_is_no_workers(authenticator: Authenticator, field: bytes) -> None:
    assert authenticator.identify(said(field), NOW) != WORKER
    assert authenticator.recall(field, NOW) != WORKER
    assert not authenticator.is_service(field)


def test_two_credentials_are_none() -> None:
    field = b"Bearer " + TOKEN.encode()
    found = KEYED.identify(Credentials(authorization=[field, field]), NOW)
    assert isinstance(found, Rejection)
    assert found.code == "BAD_REQUEST"
    assert not KEYED.is_service(None)
    both = Credentials(authorization=[field], api_key=[b"gw_a"])
    found = WITH_API_KEYS.identify(both, NOW)
    assert isinstance(found, Rejection)
    assert found.code == "BAD_REQUEST"


def test_without_one_nobody_is_a_worker() -> None:
    for authenticator in (Authenticator(Settings()), Authenticator(Settings(jwt_secret=SECRET))):
        for text in (b"", b"None", TOKEN.encode()):
            assert not authenticator.is_service(b"Bearer " + text)
            assert authenticator.identify(said(b"Bearer " + text), NOW) != WORKER


def test_it_does_not_close_an_open_gateway() -> None:
    assert KEYLESS.is_keyless
    owner = KEYLESS.identify(Credentials(host=b"localhost", address="127.0.0.1"), NOW)
    assert isinstance(owner, Identity)
    assert owner.open_write
    assert not owner.may("internal")


def test_tokens_are_taken_beside_it() -> None:
    found = KEYED.identify(said(b"Bearer " + token(sub="ann")), NOW)
    assert isinstance(found, Identity)
    assert found.subject == "ann"


def test_it_is_never_shown() -> None:
    assert TOKEN not in repr(KEYED) + repr(KEYLESS.warnings())
