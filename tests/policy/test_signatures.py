"""Signatures: which are good, that a token chooses no key, and what is said of bad keys."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256K1, SECP384R1
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.signatures import BadTokenError, Signatures
from gateway.settings import SettingsError
from tests.policy.keys import (
    SECRET,
    base64url,
    ec_key,
    hand_made,
    private_pem,
    public_pem,
    rsa_key,
)

CLAIMS = {"sub": "alice", "exp": 1_800_000_000}
SECRETS = Signatures(SECRET)
GOOD = hand_made({"alg": "HS256"}, CLAIMS)


def refused(signatures: Signatures, token: bytes) -> str:
    with pytest.raises(BadTokenError) as error:
        signatures.claims(token)
    return str(error.value)


def rsa() -> Signatures:
    return Signatures(None, public_pem(rsa_key()))


def ec() -> Signatures:
    return Signatures(None, public_pem(ec_key()))


def test_a_token_under_the_secret_is_good() -> None:
    assert SECRETS.claims(GOOD) == CLAIMS
    assert SECRETS.claims(SECRETS.sign(CLAIMS).encode()) == CLAIMS


def test_the_kind_of_a_public_key_decides_the_algorithm() -> None:
    assert (rsa().algorithms, ec().algorithms) == (["RS256"], ["ES256"])
    assert rsa().claims(jwt.encode(CLAIMS, rsa_key(), "RS256").encode()) == CLAIMS
    assert ec().claims(jwt.encode(CLAIMS, ec_key(), "ES256").encode()) == CLAIMS


def test_with_a_secret_and_a_public_key_both_kinds_of_token_are_good() -> None:
    both = Signatures(SECRET, public_pem(rsa_key()))
    assert both.algorithms == ["HS256", "RS256"]
    assert both.claims(GOOD) == CLAIMS
    assert both.claims(jwt.encode(CLAIMS, rsa_key(), "RS256").encode()) == CLAIMS


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", ""])
def test_an_unsigned_token_is_refused(alg: str) -> None:
    head = base64url(json.dumps({"alg": alg}).encode())
    unsigned = head + b"." + base64url(json.dumps(CLAIMS).encode()) + b"."
    for signatures in (SECRETS, rsa(), Signatures(SECRET, public_pem(ec_key()))):
        assert refused(signatures, unsigned).startswith("it is not signed with ")
        assert refused(signatures, unsigned + base64url(b"x"))


@pytest.mark.parametrize("key", [rsa_key, ec_key])
def test_a_public_key_is_never_taken_for_a_secret(key: Callable[[], object]) -> None:
    made = rsa_key() if key is rsa_key else ec_key()
    pem = public_pem(made)
    der = made.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for material in (pem.encode(), pem.strip().encode(), der):
        forged = hand_made({"alg": "HS256"}, CLAIMS, material)
        assert refused(Signatures(None, pem), forged).startswith("it is not signed with ")
        assert refused(Signatures(SECRET, pem), forged) == "its signature does not match"


def test_a_secret_is_never_taken_for_a_public_key() -> None:
    forged = hand_made({"alg": "RS256"}, CLAIMS)
    assert refused(SECRETS, forged) == "it is not signed with HS256"
    both = Signatures(SECRET, public_pem(rsa_key()))
    assert refused(both, forged) == "its signature does not match"


@pytest.mark.parametrize("alg", ["HS384", "HS512"])
def test_another_hash_with_the_same_secret_is_refused(alg: str) -> None:
    forged = hand_made({"alg": alg}, CLAIMS, digest=f"sha{alg[2:]}")
    assert refused(SECRETS, forged) == "it is not signed with HS256"


@pytest.mark.parametrize("alg", ["RS384", "RS512", "PS256"])
def test_another_algorithm_of_the_same_rsa_key_is_refused(alg: str) -> None:
    assert refused(rsa(), jwt.encode(CLAIMS, rsa_key(), alg).encode()).startswith("it is not")


def test_a_token_of_the_other_kind_of_key_is_refused() -> None:
    assert refused(rsa(), jwt.encode(CLAIMS, ec_key(), "ES256").encode()).startswith("it is not")
    assert refused(ec(), jwt.encode(CLAIMS, rsa_key(), "RS256").encode()).startswith("it is not")
    both = Signatures(SECRET, public_pem(rsa_key()))
    assert refused(both, jwt.encode(CLAIMS, ec_key(), "ES256").encode()).startswith("it is not")


def test_a_signature_of_another_kind_under_a_good_name_does_not_match() -> None:
    body = jwt.encode(CLAIMS, ec_key(), "ES256").encode().split(b".")
    named = base64url(b'{"alg":"RS256"}')
    assert refused(rsa(), b".".join((named, *body[1:]))) == "its signature does not match"


def test_another_key_of_the_same_kind_does_not_match() -> None:
    stranger = jwt.encode(CLAIMS, rsa_key(3072), "RS256").encode()
    assert refused(rsa(), stranger) == "its signature does not match"
    assert refused(Signatures("x" * 40), GOOD) == "its signature does not match"


@pytest.mark.parametrize(
    "names",
    [
        {"kid": "/dev/null"},
        {"kid": "../../../dev/null"},
        {"kid": "' UNION SELECT 'x"},
        {"jku": "http://attacker.test/keys"},
        {"x5u": "http://attacker.test/key.pem"},
        {"jwk": {"kty": "oct", "k": "YXR0YWNrZXI"}},
        {"x5c": ["YXR0YWNrZXI"]},
    ],
)
def test_no_other_field_of_a_header_chooses_a_key(names: dict[str, object]) -> None:
    header = {"alg": "HS256"} | names
    for secret in (b"", b"\x00", b"attacker"):
        assert refused(SECRETS, hand_made(header, CLAIMS, secret)) == "its signature does not match"
    assert SECRETS.claims(hand_made(header, CLAIMS)) == CLAIMS


def test_a_key_inside_the_token_is_not_used() -> None:
    header = {"jwk": json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(rsa_key(3072).public_key()))}
    assert refused(rsa(), jwt.encode(CLAIMS, rsa_key(3072), "RS256", header).encode())


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"alg": None},
        {"alg": 1},
        {"alg": ["HS256"]},
        {"alg": {"HS256": 1}},
        {"alg": "hs256"},
        {"alg": "HS256", "kid": 7},
        {"alg": "HS256", "crit": ["exp"]},
        {"alg": "HS256", "crit": []},
        {"alg": "HS256", "crit": ["b64"], "b64": False},
        {"alg": "HS256", "b64": False},
    ],
)
def test_a_header_that_is_not_understood_is_refused(header: dict[str, object]) -> None:
    # RFC 7515 §4.1.11: what is critical and not understood makes the token invalid.
    assert refused(SECRETS, hand_made(header, CLAIMS))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b'"x"',
        b"7",
        b"null",
        b'{"exp": NaN}',
        b'{"sub": "\\ud800"}',
        b'{"sub": "\xff"}',
        b"[" * 100_000,
        b'{"sub": "alice"',
    ],
)
def test_claims_that_are_no_json_object_are_refused(payload: bytes) -> None:
    assert refused(SECRETS, hand_made({"alg": "HS256"}, payload)) == "its claims are no JSON object"


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b".",
        b"..",
        b"a.b.c",
        b"a.b",
        GOOD + b".",
        b"." + GOOD,
        GOOD[:-1],
        GOOD.replace(b".", b"..", 1),
        base64url(b"[" * 50_000) + b".e30.x",
        base64url(b'{"alg": ' + b"9" * 5000 + b"}") + b".e30.x",
        base64url(b"[]") + b".e30.x",
        base64url(b'{"alg":"\xff"}') + b".e30.x",
    ],
)
def test_what_is_no_token_is_refused(token: bytes) -> None:
    for signatures in (SECRETS, rsa(), ec()):
        assert refused(signatures, token)


@given(st.binary(max_size=300))
def test_no_bytes_bring_more_than_a_refusal(token: bytes) -> None:
    assert refused(SECRETS, token)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_changed_byte_is_noticed(at: int, byte: int) -> None:
    changed = GOOD[:at] + bytes((byte,)) + GOOD[at + 1 :]
    if changed != GOOD:
        assert refused(SECRETS, changed)


def certificate() -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, rsa_key().public_key(), 1)
    builder = builder.not_valid_before(start).not_valid_after(start + datetime.timedelta(9))
    return builder.sign(rsa_key(), SHA256()).public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: "", "can't be read"),
        (lambda: "nothing", "can't be read"),
        (lambda: "-----BEGIN PUBLIC KEY-----\nbm90IGEga2V5\n-----END PUBLIC KEY-----", "can't"),
        (lambda: "-----BEGIN PUBLIC KEY-----\n\udcff\n-----END PUBLIC KEY-----", "can't"),
        (certificate, "can't be read"),
        (lambda: private_pem(rsa_key()), "is a private key"),
        (lambda: private_pem(ec_key()), "is a private key"),
        (lambda: public_pem(rsa_key(1024)), "is a short RSA key"),
        (lambda: public_pem(ec_key(SECP384R1)), "is neither RSA nor EC P-256"),
        (lambda: public_pem(ec_key(SECP256K1)), "is neither RSA nor EC P-256"),
        (lambda: public_pem(Ed25519PrivateKey.generate()), "is neither RSA nor EC P-256"),
    ],
)
def test_a_key_that_cannot_be_used_is_one_line_without_it(
    make: Callable[[], str], what: str
) -> None:
    pem = make()
    with pytest.raises(SettingsError) as error:
        Signatures(None, pem)
    line = str(error.value)
    assert line.startswith(f"settings: JWT_PUBLIC_KEY {what}")
    assert line.endswith(", expected a PEM public key: RSA from 2048 bits, or EC P-256")
    assert "\n" not in line
    assert not [word for word in pem.split() if len(word) > 12 and word in line]
    assert error.value.__cause__ is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: public_pem(rsa_key()),
        lambda: public_pem(ec_key()).strip(),
        certificate,
        lambda: '{"kty": "oct", "k": "c2VjcmV0"}',
    ],
)
def test_a_key_in_place_of_the_secret_is_one_line_without_it(make: Callable[[], str]) -> None:
    with pytest.raises(SettingsError, match=r"^settings: JWT_SECRET is a key in PEM, DER or JWK"):
        Signatures(make())


def test_a_secret_may_be_short_or_odd_bytes() -> None:
    # Warnings are errors in these tests: none must come of a short one.
    for secret in ("x", "\udcff\udcfe", "\N{SNOWMAN}"):
        signatures = Signatures(secret)
        assert signatures.claims(signatures.sign(CLAIMS).encode()) == CLAIMS


def test_showing_it_shows_no_key() -> None:
    shown = repr(Signatures(SECRET, public_pem(rsa_key())))
    assert shown == "<Signatures HS256 RS256>"
