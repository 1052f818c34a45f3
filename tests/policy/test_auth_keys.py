"""API keys at the door, and credentials that were revoked."""

from __future__ import annotations

import hashlib
import math

import pytest

from gateway.errors import Rejection
from gateway.policy.api_keys import ApiKeys
from gateway.policy.auth import Authenticator, Credentials, Identity
from gateway.policy.identity import Verified
from gateway.policy.revocations import Revocations
from gateway.settings import Settings
from tests.policy.keys import NOW, SECRET, token

KEYED = Settings(jwt_secret=SECRET)
INVALID = ((b"WWW-Authenticate", b'Bearer realm="gateway", error="invalid_token"'),)

KEY = b"gw_0123456789ab_" + b"5" * 64
TOOL = Identity("tool", "acme", "pro", frozenset(("events:read",)), jti="gw_0123456789ab")
KEYS = ApiKeys(
    {
        hashlib.sha256(KEY).digest(): Verified(TOOL, -math.inf, math.inf),
        hashlib.sha256(b"gw_short").digest(): Verified(
            Identity("short", jti="gw_short", expires_at=NOW + 1), -math.inf, NOW + 1
        ),
    }
)
WITH_KEYS = Authenticator(KEYED, keys=KEYS)
KEYS_ONLY = Authenticator(Settings(), keys=KEYS)


@pytest.mark.parametrize("authenticator", [WITH_KEYS, KEYS_ONLY])
@pytest.mark.parametrize(
    "fields",
    [
        Credentials(authorization=[b"Bearer " + KEY]),
        Credentials(authorization=[b"bearer   " + KEY + b" "]),
        Credentials(api_key=[KEY]),
        Credentials(api_key=[b" " + KEY + b" "]),
    ],
)
def test_an_api_key_is_taken_from_either_field(
    authenticator: Authenticator, fields: Credentials
) -> None:
    assert authenticator.identify(fields, NOW) == TOOL


@pytest.mark.parametrize(
    "key", [b"", b"gw_", KEY[:-1], KEY + b"5", KEY[:-1] + b"6", KEY.upper(), b"\xff", token()]
)
def test_another_api_key_fails(key: bytes) -> None:
    for authenticator in (WITH_KEYS, KEYS_ONLY):
        found = authenticator.identify(Credentials(api_key=[key]), NOW)
        assert isinstance(found, Rejection)
        assert (found.code, found.headers) == ("AUTH_FAILED", INVALID)
        assert found.message == "the API key is not known here"


def test_an_api_key_has_no_leeway_at_its_end() -> None:
    for fields in (Credentials(api_key=[b"gw_short"]), Credentials([b"Bearer gw_short"])):
        assert isinstance(WITH_KEYS.identify(fields, NOW + 0.9), Identity)
        found = WITH_KEYS.identify(fields, NOW + 1)
        assert isinstance(found, Rejection)
        assert found.message == "the API key is refused: it has expired"


@pytest.mark.parametrize(
    "fields",
    [
        Credentials(authorization=[b"Bearer " + token()], api_key=[KEY]),
        Credentials(authorization=[b"Bearer " + KEY], api_key=[KEY]),
        Credentials(authorization=[b""], api_key=[b""]),
        Credentials(api_key=[KEY, KEY]),
    ],
)
def test_two_credentials_are_a_bad_request(fields: Credentials) -> None:
    # RFC 6750 §2: no more than one method in each request.
    found = WITH_KEYS.identify(fields, NOW)
    assert isinstance(found, Rejection)
    assert (found.code, found.status) == ("BAD_REQUEST", 400)
    assert found.headers == (
        (b"WWW-Authenticate", b'Bearer realm="gateway", error="invalid_request"'),
    )


def test_without_keys_the_field_is_some_services_own() -> None:
    authenticator = Authenticator(KEYED)
    assert not authenticator.takes_api_keys
    assert WITH_KEYS.takes_api_keys
    fields = Credentials(api_key=[b"of a service", b"of another"])
    assert authenticator.identify(fields, NOW) == Identity()
    fields.authorization = [b"Bearer " + token()]
    assert isinstance(authenticator.identify(fields, NOW), Identity)


def test_api_keys_alone_end_what_was_open_too() -> None:
    assert KEYS_ONLY.identify(Credentials(host=b"localhost"), NOW) == Identity()
    assert not KEYS_ONLY.is_keyless
    assert KEYS_ONLY.algorithms == KEYS_ONLY.warnings() == []
    assert "Bearer" in KEYS_ONLY.write_refusal().message
    found = KEYS_ONLY.identify(Credentials([b"Bearer " + token()]), NOW)
    assert isinstance(found, Rejection)
    assert found.message == "tokens are not taken here: send an API key"
    doubtful = Authenticator(Settings(allow_anonymous=True), keys=KEYS).warnings()
    assert doubtful == ["ALLOW_ANONYMOUS says nothing while a signing key is set"]


# Revocation


def test_a_token_is_refused_as_soon_as_it_is_revoked() -> None:
    revocations = Revocations()
    authenticator = Authenticator(KEYED, revocations=revocations)
    fields = Credentials([b"Bearer " + token(jti="t-1")])
    other = Credentials([b"Bearer " + token(jti="t-2")])
    found = authenticator.identify(fields, NOW)
    assert isinstance(found, Identity)
    assert found.jti == "t-1"
    revocations.revoke("t-1", NOW + 3600)
    for _ in range(2):
        refusal = authenticator.identify(fields, NOW)
        assert isinstance(refusal, Rejection)
        assert (refusal.code, refusal.headers) == ("AUTH_FAILED", INVALID)
        assert refusal.message == "the token is refused: it was revoked"
        assert isinstance(authenticator.identify(other, NOW), Identity)


def test_a_token_that_was_revoked_before_it_came_is_refused() -> None:
    revocations = Revocations()
    revocations.revoke("t-1", NOW + 3600)
    authenticator = Authenticator(KEYED, revocations=revocations)
    for raw in (token(jti="t-1"), token(jti="t-1", sub="bob")):
        assert isinstance(authenticator.identify(Credentials([b"Bearer " + raw]), NOW), Rejection)
    for raw in (token(), token(jti="t-10")):
        assert isinstance(authenticator.identify(Credentials([b"Bearer " + raw]), NOW), Identity)


def test_an_api_key_is_revoked_by_its_id() -> None:
    revocations = Revocations()
    authenticator = Authenticator(Settings(), keys=KEYS, revocations=revocations)
    assert authenticator.identify(Credentials(api_key=[KEY]), NOW) == TOOL
    revocations.revoke("gw_0123456789ab", None)
    for fields in (Credentials(api_key=[KEY]), Credentials([b"Bearer " + KEY])):
        found = authenticator.identify(fields, NOW)
        assert isinstance(found, Rejection)
        assert found.message == "the API key is refused: it was revoked"
