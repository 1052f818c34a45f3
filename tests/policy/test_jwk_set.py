"""JSON Web Key Sets: which keys count, what each is bound to, and how tokens find theirs."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256K1, SECP384R1, SECP521R1
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import AllowedPrivateKeys, RSAAlgorithm

from gateway.policy.jwk_set import MAX_KEYS, MAX_TRIED, KeySet
from gateway.policy.signatures import BadTokenError, Signatures, UnknownKeyError
from tests.policy.issuer import issued, jwk, jwk_set
from tests.policy.keys import SECRET, ec_key, ed25519_key, hand_made, public_pem, rsa_key

RSA = jwk(rsa_key(), "r")
EC = jwk(ec_key(), "e")


def parsed(*keys: Any) -> KeySet:
    return KeySet.parse(jwk_set(*keys))


def taken(keys: KeySet, token: bytes) -> bool:
    return Signatures(None, None, keys).claims(token)["sub"] == "alice"


def refused(keys: KeySet, token: bytes) -> str:
    with pytest.raises(BadTokenError) as error:
        Signatures(None, None, keys).claims(token)
    return str(error.value)


NOT_ITS_OWN = "the key that it names is for another algorithm"
MISMATCH = "its signature does not match"
UNKNOWN = "it is signed with a key that its issuer does not publish"


@pytest.mark.parametrize(
    ("key", "algorithms"),
    [
        (rsa_key(), ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
        (ec_key(), ["ES256"]),
        (ec_key(SECP384R1), ["ES384"]),
        (ec_key(SECP521R1), ["ES512"]),
        (ed25519_key(), ["EdDSA"]),
        (Ed448PrivateKey.generate(), ["EdDSA"]),
    ],
)
def test_a_key_without_alg_has_those_of_its_kind(
    key: AllowedPrivateKeys, algorithms: list[str]
) -> None:
    keys = parsed(jwk(key, "k"))
    for alg in algorithms:
        assert taken(keys, issued(key, alg, "k"))
        (found,) = keys.keys_for(alg, "k") or ()
        assert list(found.algorithms) == algorithms


@pytest.mark.parametrize("alg", ["RS256", "RS384", "PS256", "PS512"])
def test_a_key_with_alg_is_bound_to_that_alone(alg: str) -> None:
    keys = parsed(jwk(rsa_key(), "r", alg=alg))
    assert taken(keys, issued(rsa_key(), alg, "r"))
    for other in {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"} - {alg}:
        assert refused(keys, issued(rsa_key(), other, "r")) == NOT_ITS_OWN


def test_the_name_in_a_token_picks_among_the_keys() -> None:
    keys = parsed(RSA, jwk(rsa_key(3072), "s"), EC)
    assert taken(keys, issued(rsa_key(), "RS256", "r"))
    assert taken(keys, issued(rsa_key(3072), "RS256", "s"))
    assert refused(keys, issued(rsa_key(), "RS256", "s")) == MISMATCH
    assert refused(keys, issued(rsa_key(), "RS256", "e")) == NOT_ITS_OWN


@pytest.mark.parametrize(
    "kid", ["", "R", "r ", "../../dev/null", "/dev/null", "' OR '1'='1", "r\x00", "x" * 5000, "é"]
)
def test_a_name_that_no_key_has_is_unknown_and_reads_nothing(kid: str) -> None:
    keys = parsed(RSA, EC)
    with pytest.raises(UnknownKeyError) as error:
        Signatures(None, None, keys).claims(issued(rsa_key(), "RS256", kid))
    assert str(error.value) == UNKNOWN


def test_a_key_in_a_token_is_not_used() -> None:
    keys = parsed(RSA)
    for extra in (
        {"jwk": jwk(rsa_key(3072))},
        {"jku": "http://127.0.0.1:9/keys"},
        {"x5u": "http://127.0.0.1:9/keys"},
        {"x5c": [b64encode(b"certificate").decode()]},
    ):
        header = {"alg": "RS256", "kid": "r"} | extra
        with_extra = hand_made(header, {"sub": "alice"})
        assert refused(keys, with_extra) == MISMATCH


@pytest.mark.parametrize("alg", ["none", "HS256", "HS384", "HS512", "A128KW", ""])
def test_published_keys_are_for_public_algorithms_only(alg: str) -> None:
    keys = parsed(RSA, EC)
    for material in (public_pem(rsa_key()).encode(), json.dumps(RSA).encode(), b""):
        forged = hand_made({"alg": alg, "kid": "r"}, {"sub": "alice"}, material)
        assert refused(keys, forged).startswith("it is not signed with ")
        both = Signatures(SECRET, None, keys)
        with pytest.raises(BadTokenError):
            both.claims(forged)


def test_a_secret_and_published_keys_serve_side_by_side() -> None:
    both = Signatures(SECRET, public_pem(ec_key(SECP384R1)), parsed(RSA))
    assert both.claims(hand_made({"alg": "HS256", "kid": "r"}, {"sub": "a"})) == {"sub": "a"}
    assert both.claims(issued(rsa_key(), "RS256", "r"))["sub"] == "alice"
    # A key of one's own has no name, whatever a token calls it.
    assert both.claims(issued(ec_key(SECP384R1), "ES384", "x"))["sub"] == "alice"
    assert both.algorithms == sorted(
        [
            "EdDSA",
            "ES256",
            "ES384",
            "ES512",
            "HS256",
            "HS384",
            "HS512",
            "PS256",
            "PS384",
            "PS512",
            "RS256",
            "RS384",
            "RS512",
        ]
    )


# Tokens without a name, keys that share one


def test_a_token_without_a_name_is_tried_with_the_few_that_fit() -> None:
    keys = parsed(jwk(rsa_key()), RSA, jwk(rsa_key(3072)), EC)
    assert taken(keys, issued(rsa_key(3072), "RS256"))
    assert taken(keys, issued(ec_key(), "ES256"))
    assert refused(parsed(EC), issued(rsa_key(), "RS256")) == UNKNOWN


def test_a_token_without_a_name_is_not_tried_with_many() -> None:
    keys = parsed(*(jwk(rsa_key(), f"k{number}") for number in range(MAX_TRIED + 1)))
    assert refused(keys, issued(rsa_key(), "RS256")) == UNKNOWN
    assert taken(keys, issued(rsa_key(), "RS256", "k0"))


def test_a_name_that_keys_share_means_each_of_a_few() -> None:
    # RFC 7517 §4.5: keys may share a name, of different kinds above all.
    keys = parsed(jwk(rsa_key(), "k"), jwk(ec_key(), "k"), jwk(rsa_key(3072), "k"))
    for key, alg in ((rsa_key(), "RS256"), (rsa_key(3072), "PS256")):
        assert taken(keys, issued(key, alg, "k"))
    assert taken(keys, issued(ec_key(), "ES256", "k"))
    many = parsed(*(jwk(rsa_key(3072), "k"),) * MAX_TRIED, jwk(rsa_key(), "k"))
    assert refused(many, issued(rsa_key(), "RS256", "k")) == MISMATCH


# What does not count


@pytest.mark.parametrize(
    "member",
    [
        jwk(rsa_key(), "x", use="enc"),
        jwk(rsa_key(), "x", use=None),
        jwk(rsa_key(), "x", key_ops=["encrypt"]),
        jwk(rsa_key(), "x", key_ops="verify"),
        jwk(rsa_key(), "x", key_ops=[["verify"]]),
        jwk(rsa_key(), "x", alg="RSA-OAEP"),
        jwk(rsa_key(), "x", alg="ES256"),
        jwk(rsa_key(), "x", alg="none"),
        jwk(rsa_key(), "x", alg="HS256"),
        jwk(rsa_key(), "x", alg=7),
        jwk(rsa_key(), kid=None, kty="oct", k="c2VjcmV0", n=..., e=...),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "x"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "x", "alg": "HS256", "use": "sig"},
        jwk(rsa_key(), "x", kty="rsa"),
        jwk(rsa_key(), "x", kty="AKP"),
        jwk(rsa_key(), "x", kty=["RSA"]),
        jwk(rsa_key(), "x", kty=...),
        RSAAlgorithm.to_jwk(rsa_key(), as_dict=True) | {"key_ops": ["verify"]},
        jwk(rsa_key(1024), "x"),
        jwk(rsa_key(), "x", n="A" * 3000),
        jwk(rsa_key(), "x", n="_" * 2000),
        jwk(rsa_key(), "x", e="_" * 12),
        jwk(rsa_key(), "x", e="AA"),
        jwk(rsa_key(), "x", n="!"),
        jwk(rsa_key(), "x", n=7),
        jwk(rsa_key(), "x", n=...),
        jwk(rsa_key(), 7),  # type: ignore[arg-type]
        jwk(rsa_key(), "x" * 256),
        jwk(ec_key(), "x", crv="P-384"),
        jwk(ec_key(), "x", crv="P-257"),
        jwk(ec_key(), "x", crv=...),
        jwk(ec_key(), "x", y="AAAA"),
        jwk(ec_key(SECP256K1), "x"),
        jwk(ec_key(), "x", alg="ES384"),
        jwk(ed25519_key(), "x", crv="X25519"),
        jwk(ed25519_key(), "x", x="AAAA"),
        jwk(ed25519_key(), "x", alg="RS256"),
        None,
        7,
        "key",
        [],
        {},
    ],
)
def test_a_key_that_verifies_no_tokens_is_left_out(member: object) -> None:
    keys = parsed(RSA, member)
    assert (len(keys), keys.skipped) == (1, 1)
    assert repr(keys) == "<KeySet 1 skipped=1>"
    assert taken(keys, issued(rsa_key(), "RS256", "r"))
    with pytest.raises(ValueError, match="a set without a key for tokens"):
        parsed(member)


def test_a_set_is_read_up_to_its_bound() -> None:
    keys = parsed(*(jwk(rsa_key(), f"k{number}") for number in range(MAX_KEYS + 9)))
    assert (len(keys), keys.skipped) == (MAX_KEYS, 9)
    assert keys.keys_for("RS256", f"k{MAX_KEYS - 1}")
    assert keys.keys_for("RS256", f"k{MAX_KEYS}") is None


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no JSON"),
        (b"<html>", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"null", "no JSON Web Key Set"),
        (b"[]", "no JSON Web Key Set"),
        (b"{}", "no JSON Web Key Set"),
        (b'{"keys": {}}', "no JSON Web Key Set"),
        (b'{"keys": null}', "no JSON Web Key Set"),
        (b'{"keys": []}', "a set without a key for tokens"),
    ],
)
def test_what_is_no_set_is_said(body: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{why}$"):
        KeySet.parse(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
MEMBERS = st.sampled_from(
    ["kty", "kid", "alg", "use", "key_ops", "n", "e", "x", "y", "crv", "d", "k", "x5c"]
)


@given(st.sampled_from((RSA, EC, jwk(ed25519_key()), {})), st.dictionaries(MEMBERS, JSON))
def test_members_of_any_kind_are_a_key_or_none(key: dict[str, Any], odd: dict[str, Any]) -> None:
    assert len(parsed(jwk(ec_key(SECP384R1)), key | odd)) in (1, 2)


def test_two_sets_are_told_apart_by_what_matters() -> None:
    one = parsed(RSA, EC)
    assert one.fingerprints == parsed(EC, RSA).fingerprints
    assert one.fingerprints == parsed(RSA | {"x5t": "other"}, EC).fingerprints
    assert one.fingerprints != parsed(RSA).fingerprints
    assert one.fingerprints != parsed(RSA | {"kid": "other"}, EC).fingerprints
    assert one.fingerprints != parsed(jwk(rsa_key(3072), "r"), EC).fingerprints
    assert one.fingerprints != parsed(RSA | {"alg": "RS256"}, EC).fingerprints


def test_showing_a_key_shows_its_name_alone() -> None:
    (key,) = parsed(EC).keys_for("ES256", "e") or ()
    assert repr(key) == "<VerifyingKey e ES256>"
