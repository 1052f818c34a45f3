"""Who is calling: claims and their kinds, times and their edges, what each identity may do."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import AllowedPrivateKeys

from gateway.errors import Rejection
from gateway.policy.auth import (
    LEEWAY_SECONDS,
    MAX_REMEMBERED,
    Authenticator,
    Credentials,
    Identity,
    forbidden,
    unauthorized,
)
from gateway.policy.pending import Pending
from gateway.settings import Settings, SettingsError
from tests.policy.keys import (
    NOW,
    SECRET,
    ec_key,
    ed25519_key,
    hand_made,
    public_pem,
    rsa_key,
    token,
)

KEYED = Settings(jwt_secret=SECRET)
BARE = ((b"WWW-Authenticate", b'Bearer realm="gateway"'),)
INVALID = ((b"WWW-Authenticate", b'Bearer realm="gateway", error="invalid_token"'),)


def identify(
    authorization: bytes | None, at: float = NOW, settings: Settings = KEYED
) -> Identity | Rejection:
    fields = [] if authorization is None else [authorization]
    found = Authenticator(settings).identify(Credentials(authorization=fields), at)
    assert not isinstance(found, Pending)
    return found


def caller(raw: bytes, at: float = NOW, settings: Settings = KEYED) -> Identity:
    found = identify(b"Bearer " + raw, at, settings)
    assert isinstance(found, Identity), found
    return found


def refused(raw: bytes, at: float = NOW, settings: Settings = KEYED) -> str:
    found = identify(b"Bearer " + raw, at, settings)
    assert isinstance(found, Rejection), found
    assert (found.code, found.status, found.headers) == ("AUTH_FAILED", 401, INVALID)
    assert raw.decode("latin-1") not in found.message
    return found.message.removeprefix("the token is refused: ")


def test_the_claims_become_the_identity() -> None:
    found = caller(
        token(
            tenant="acme",
            tier="pro",
            scope="events:write  questions:ask",
            client_ids=["board", "job:7"],
        )
    )
    assert found == Identity(
        subject="alice",
        tenant="acme",
        tier="pro",
        scopes=frozenset(("events:write", "questions:ask")),
        client_ids=frozenset(("board", "job:7")),
        expires_at=NOW + 3600,
    )
    assert found.name == "alice"


def test_claims_left_out_give_the_least() -> None:
    assert caller(token()) == Identity(subject="alice", expires_at=NOW + 3600)
    assert caller(token()).tier == "anonymous"


@pytest.mark.parametrize("tier", ["anonymous", "free", "pro", "enterprise"])
def test_the_tiers_are_taken_as_they_are(tier: str) -> None:
    assert caller(token(tier=tier)).tier == tier


@pytest.mark.parametrize("tier", ["gold", "PRO", "root"])
def test_an_unknown_tier_is_the_least(tier: str) -> None:
    assert caller(token(tier=tier)).tier == "anonymous"


def test_a_token_of_a_public_key_is_as_good() -> None:
    claims = {"sub": "alice", "exp": NOW + 9}
    keys: list[tuple[AllowedPrivateKeys, str]] = [
        (rsa_key(), "RS256"),
        (rsa_key(), "PS512"),
        (ec_key(), "ES256"),
        (ed25519_key(), "EdDSA"),
    ]
    for key, alg in keys:
        settings = Settings(jwt_public_key=public_pem(key))
        assert caller(jwt.encode(claims, key, alg).encode(), NOW, settings).subject == "alice"
        assert refused(token(), NOW, settings).startswith("it is not signed with ")


# Times


@pytest.mark.parametrize("exp", [NOW, int(NOW), NOW + 0.5, NOW - 29.999])
def test_a_token_is_good_until_the_leeway_behind_its_end(exp: float) -> None:
    assert caller(token(exp=exp)).expires_at == exp


@pytest.mark.parametrize("exp", [NOW - 30, NOW - 31, 0, -1, -1e9, 1])
def test_a_token_is_refused_from_the_leeways_end_on(exp: float) -> None:
    # RFC 7519 §4.1.4: "on or after which the JWT MUST NOT be accepted".
    assert refused(token(exp=exp)) == "it has expired (exp)"


def test_an_end_without_a_token_is_refused() -> None:
    assert refused(token(exp=...)) == "it has no exp claim"


def test_a_token_is_not_good_before_its_time() -> None:
    assert caller(token(nbf=NOW + LEEWAY_SECONDS)).subject
    assert refused(token(nbf=NOW + LEEWAY_SECONDS + 0.5)) == "it is not valid yet (nbf)"
    assert caller(token(nbf=NOW - 5, iat=NOW - 5)).subject


def test_a_token_that_was_good_ends_too() -> None:
    authenticator = Authenticator(KEYED)
    fields = Credentials(authorization=[b"Bearer " + token(exp=NOW + 1, nbf=NOW)])
    assert isinstance(authenticator.identify(fields, NOW), Identity)
    assert isinstance(authenticator.identify(fields, NOW + 30.9), Identity)
    assert isinstance(authenticator.identify(fields, NOW + 31), Rejection)
    assert isinstance(authenticator.identify(fields, NOW - 31), Rejection)
    assert isinstance(authenticator.identify(fields, NOW), Identity)


# Issuer and audience


def test_the_issuer_is_compared_where_one_is_set() -> None:
    settings = Settings(jwt_secret=SECRET, jwt_issuer="https://issuer.test")
    assert caller(token(iss="https://issuer.test"), NOW, settings).subject
    for claims in ({}, {"iss": "https://other.test"}, {"iss": ["https://issuer.test"]}):
        assert refused(token(**claims), NOW, settings) == "its issuer (iss) is another"
    assert caller(token(iss="https://other.test")).subject


def test_the_audience_is_compared_where_one_is_set() -> None:
    settings = Settings(jwt_secret=SECRET, jwt_audience="gateway")
    assert caller(token(aud="gateway"), NOW, settings).subject
    assert caller(token(aud=["other", "gateway"]), NOW, settings).subject
    for aud in (..., "other", "gatewa", [], ["other"], {"gateway": 1}, None, 7, [["gateway"]]):
        assert refused(token(aud=aud), NOW, settings) == "it is for another audience (aud)"
    assert caller(token(aud="other")).subject


# Kinds of claims


def test_a_token_that_names_nobody_has_its_scopes_and_no_name() -> None:
    nobody = caller(token(sub=..., scope="events:read"))
    assert (nobody.subject, nobody.name) == ("", "anonymous")
    assert nobody.may_read("anyone")
    assert not caller(token(sub=..., scope="")).may_read("anyone")


@pytest.mark.parametrize("name", ["sub", "tenant", "tier", "jti"])
@pytest.mark.parametrize(
    "value",
    [None, 7, True, [], {}, ["a"], "", "a" * 256, "a\r\nX-User-ID: root", "a\x00", "\u202e", "\t"],
)
def test_a_name_is_a_text_that_can_stand_in_a_line(name: str, value: object) -> None:
    assert refused(token(**{name: value})) == (
        f"its {name} claim is no text of 1 to 255 characters"
    )


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "value", [None, "1900000000", True, [], {}, 1e300, -1e300, 10**30, 1 << 63]
)
def test_a_time_is_a_number_of_seconds(name: str, value: object) -> None:
    assert refused(token(**{name: value})) == f"its {name} claim is no time in seconds"


@pytest.mark.parametrize(
    "scope", [None, 7, ["events:read"], {}, "a\nb", "a\tb", 'a"b', "a\\b", "é"]
)
def test_scopes_are_a_text_with_spaces_between(scope: object) -> None:
    # RFC 6749 §3.3
    assert refused(token(scope=scope)).startswith("its scope claim is no text of scopes")


@pytest.mark.parametrize(
    "ids", [None, "a", 7, {}, {"a": 1}, [1], ["a", None], [["a"]], [""], ["\n"]]
)
def test_client_ids_are_a_list_of_texts(ids: object) -> None:
    assert refused(token(client_ids=ids)) == "its client_ids claim is no list of texts"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ("sub", "exp", "nbf", "iat", "iss", "aud", "tenant", "tier", "scope", "client_ids", "jti", "x")
)
STRICT = Authenticator(Settings(jwt_secret=SECRET, jwt_issuer="i", jwt_audience="a"))
LOOSE = Authenticator(KEYED)


@given(st.dictionaries(NAMES, JSON), st.booleans())
def test_claims_of_any_kind_are_an_identity_or_a_refusal(
    claims: dict[str, Any], usual: bool
) -> None:
    given_claims = {"sub": "alice", "exp": NOW + 9, "iss": "i", "aud": "a"} | claims
    raw = hand_made({"alg": "HS256"}, given_claims if usual else claims)
    for authenticator in (STRICT, LOOSE):
        found = authenticator.identify(Credentials(authorization=[b"Bearer " + raw]), NOW)
        if isinstance(found, Identity):
            assert found.subject
            assert found.expires_at is not None
            assert Identity.decode(found.encode()) == found
        else:
            assert isinstance(found, Rejection)
            assert (found.code, found.headers) == ("AUTH_FAILED", INVALID)


# The Authorization field


def test_no_credential_is_an_identity_without_rights() -> None:
    found = identify(None)
    assert found == Identity()
    assert isinstance(found, Identity)
    assert found.name == "anonymous"
    assert not found.may_read("alice")
    assert not found.may("events:read", "events:write", "admin", "internal")


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER ", b"Bearer   ", b" Bearer "])
def test_the_scheme_is_read_in_any_case(scheme: bytes) -> None:
    assert isinstance(identify(scheme + token() + b" "), Identity)


@pytest.mark.parametrize(
    "field",
    [b"", b" ", b"Basic YWxpY2U6c2VjcmV0", b"Digest a=b", b"Bearer\t" + token(), token(), b"\xff"],
)
def test_another_scheme_fails(field: bytes) -> None:
    found = identify(field)
    assert isinstance(found, Rejection)
    # RFC 6750 §3.1: no error code for an authentication method that is not supported.
    assert (found.code, found.headers) == ("AUTH_FAILED", BARE)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b'"' + token() + b'"',
        token() + b" x",
        token() + b"," + token(),
        b"a\xffb",
        b"null",
    ],
)
def test_what_is_no_one_token_fails(raw: bytes) -> None:
    found = identify(b"Bearer " + raw)
    assert isinstance(found, Rejection)
    assert (found.code, found.headers) == ("AUTH_FAILED", INVALID)


def test_an_api_key_fails_where_there_are_none() -> None:
    assert refused(b"gw_0123456789") == "API keys are not taken here: send a token"


def test_two_authorization_fields_are_a_bad_request() -> None:
    fields = Credentials(authorization=[b"Bearer " + token()] * 2)
    found = Authenticator(KEYED).identify(fields, NOW)
    assert isinstance(found, Rejection)
    assert (found.code, found.status) == ("BAD_REQUEST", 400)
    assert found.headers == (
        (b"WWW-Authenticate", b'Bearer realm="gateway", error="invalid_request"'),
    )


def test_a_forged_token_fails() -> None:
    forged = hand_made({"alg": "HS256"}, {"sub": "root", "exp": NOW + 9}, b"guess")
    assert refused(forged) == "its signature does not match"


# What is remembered


def test_only_good_signatures_are_remembered_and_not_the_tokens() -> None:
    authenticator = Authenticator(KEYED)
    for raw in (token(), token(), token(sub="bob"), token()[:-4] + b"AAAA", b"a.b.c"):
        authenticator.identify(Credentials(authorization=[b"Bearer " + raw]), NOW)
    assert repr(authenticator) == (
        "<Authenticator <Signatures HS256 HS384 HS512> <ApiKeys 0> known=2>"
    )


def test_what_is_remembered_is_bounded_and_the_oldest_goes() -> None:
    authenticator = Authenticator(KEYED)
    for number in range(MAX_REMEMBERED + 3):
        raw = b"Bearer " + token(sub=f"user-{number}")
        assert isinstance(authenticator.identify(Credentials(authorization=[raw]), NOW), Identity)
    assert repr(authenticator).endswith(f"known={MAX_REMEMBERED}>")
    again = authenticator.identify(
        Credentials(authorization=[b"Bearer " + token(sub="user-0")]), NOW
    )
    assert isinstance(again, Identity)
    assert again.subject == "user-0"


def test_a_token_is_remembered_until_it_ends() -> None:
    authenticator = Authenticator(KEYED)
    fields = Credentials([b"Bearer " + token(exp=NOW + 1)])
    authenticator.identify(fields, NOW + 30.9)
    assert repr(authenticator).endswith("known=1>")
    authenticator.identify(fields, NOW + 31)
    assert repr(authenticator).endswith("known=0>")


def test_a_token_is_one_however_it_is_spaced() -> None:
    authenticator = Authenticator(KEYED)
    for field in (b"Bearer %s", b"bearer   %s", b" Bearer %s ", b"BEARER %s  ", b"Bearer  %s"):
        found = authenticator.identify(Credentials([field % token()]), NOW)
        assert isinstance(found, Identity)
    assert repr(authenticator).endswith("known=1>")


# Without a key


def test_without_a_key_reading_is_open_and_the_owner_writes() -> None:
    authenticator = Authenticator(Settings(host="127.0.0.1"))
    owner = authenticator.identify(Credentials(host=b"localhost:8081"), NOW)
    assert owner == Identity(open_read=True, open_write=True)
    for fields in (
        Credentials(host=b"attacker.test"),
        Credentials(host=b"localhost", origin=b"http://attacker.test"),
        Credentials(host=b"localhost", fetch_site=b"cross-site"),
        Credentials(host=b"localhost", forwarded=True),
        Credentials(),
    ):
        assert authenticator.identify(fields, NOW) == Identity(open_read=True)


def test_without_a_key_a_credential_is_not_looked_at() -> None:
    authenticator = Authenticator(Settings())
    for field in (b"Bearer " + token(), b"Basic eDp5", b"Bearer", b""):
        fields = Credentials(authorization=[field, field], host=b"localhost")
        assert authenticator.identify(fields, NOW) == Identity(open_read=True, open_write=True)
        far = Credentials(authorization=[field], host=b"gateway.test")
        assert authenticator.identify(far, NOW) == Identity(open_read=True)


def test_a_key_ends_what_was_open() -> None:
    for settings in (
        KEYED,
        Settings(jwt_secret=SECRET, allow_anonymous=True),
        Settings(jwt_public_key=public_pem(ec_key())),
    ):
        found = Authenticator(settings).identify(Credentials(host=b"localhost"), NOW)
        assert found == Identity()


def test_allow_anonymous_opens_writing_on_any_listener() -> None:
    authenticator = Authenticator(Settings(host="0.0.0.0", allow_anonymous=True))
    found = authenticator.identify(Credentials(host=b"gateway.test", forwarded=True), NOW)
    assert found == Identity(open_read=True, open_write=True)


def test_an_encoded_identity_is_no_longer_than_its_token() -> None:
    raw = token(scope="events:write " * 300, client_ids=["é" * 200] * 3 + ["b"] * 900, tier="pro")
    assert len(caller(raw).encode()) <= len(raw)


# Answers, warnings, settings


def test_the_challenges_are_those_of_bearer_tokens() -> None:
    # RFC 6750 §3: no error code when there was no credential.
    missing = unauthorized()
    assert (missing.code, missing.status) == ("UNAUTHORIZED", 401)
    assert missing.headers == BARE
    assert all(kind in missing.message for kind in ("token", "API key", "Bearer", "X-API-Key"))
    denied = forbidden("not yours", "events:write")
    assert (denied.code, denied.status) == ("FORBIDDEN", 403)
    assert denied.message == "not yours; it takes the scope events:write"
    assert denied.headers == (
        (
            b"WWW-Authenticate",
            b'Bearer realm="gateway", error="insufficient_scope", scope="events:write"',
        ),
    )


def test_a_refused_writer_is_told_what_to_do() -> None:
    assert "Bearer" in Authenticator(KEYED).write_refusal().message
    local = Authenticator(Settings()).write_refusal()
    assert (local.code, "localhost" in local.message) == ("UNAUTHORIZED", True)


def test_what_is_doubtful_is_said_once_at_start() -> None:
    (open_line,) = Authenticator(Settings()).warnings()
    assert open_line.startswith("no signing key is set (JWT_SECRET or JWT_PUBLIC_KEY): ")
    assert Authenticator(KEYED).warnings() == []
    assert Authenticator(Settings(jwt_secret=SECRET, auth_default="required")).warnings() == []
    _, nobody = Authenticator(Settings(auth_default="required")).warnings()
    assert nobody.startswith("AUTH_DEFAULT is required: this needs a credential")
    assert Authenticator(Settings(jwt_secret="a" * 31, allow_anonymous=True)).warnings() == [
        "ALLOW_ANONYMOUS says nothing while a signing key is set",
        "JWT_SECRET is shorter than 32 bytes, which RFC 7518 §3.2 asks for",
    ]
    assert Authenticator(Settings(jwt_secret="é" * 16)).warnings() == []
    same = Authenticator(Settings(jwt_secret=SECRET, cookie_secret=SECRET)).warnings()
    assert same == ["COOKIE_SECRET is the same as JWT_SECRET: give it a value of its own"]


def test_a_short_secret_works_without_a_word_of_the_library() -> None:
    settings = Settings(jwt_secret="short")
    raw = hand_made({"alg": "HS256"}, {"sub": "alice", "exp": NOW + 9}, b"short")
    assert caller(raw, NOW, settings).subject == "alice"


def test_a_bad_key_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="JWT_PUBLIC_KEY can't be read"):
        Authenticator(Settings(jwt_secret=SECRET, jwt_public_key="nothing"))


def test_the_algorithms_are_those_of_the_keys() -> None:
    assert Authenticator(Settings()).algorithms == []
    both = Settings(jwt_secret=SECRET, jwt_public_key=public_pem(ec_key()))
    assert Authenticator(both).algorithms == ["ES256", "HS256", "HS384", "HS512"]


def test_nothing_secret_is_shown() -> None:
    fields = Credentials([b"Bearer secret"], b"localhost", cookie=b"gateway_stream=secret")
    assert "secret" not in repr(fields)
    assert "secret" not in repr(Authenticator(KEYED))
    assert repr(Authenticator(Settings())).startswith("<Authenticator <Keyless 127.0.0.1 ")
