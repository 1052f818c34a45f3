"""Signatures: which are good, that a token chooses no key, and what is said of bad keys."""

from __future__ import annotations

import datetime
import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256K1,
    SECP384R1,
    SECP521R1,
    EllipticCurve,
)
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import (
    MGF1,
    PSS,
    AsymmetricPadding,
    PKCS1v15,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import AllowedPrivateKeys

from gateway.policy.signatures import BadTokenError, Signatures
from gateway.settings import SettingsError
from tests.policy.keys import (
    SECRET,
    base64url,
    ec_key,
    ed25519_key,
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


RSA_NAMES = ["PS256", "PS384", "PS512", "RS256", "RS384", "RS512"]
SECRET_NAMES = ["HS256", "HS384", "HS512"]
KINDS: list[tuple[Callable[[], AllowedPrivateKeys], list[str]]] = [
    (rsa_key, RSA_NAMES),
    (ec_key, ["ES256"]),
    (lambda: ec_key(SECP384R1), ["ES384"]),
    (lambda: ec_key(SECP521R1), ["ES512"]),
    (ed25519_key, ["EdDSA"]),
    (Ed448PrivateKey.generate, ["EdDSA"]),
]


@pytest.mark.parametrize(("make", "names"), KINDS)
def test_the_kind_of_a_public_key_decides_the_algorithms(
    make: Callable[[], AllowedPrivateKeys], names: list[str]
) -> None:
    key = make()
    signatures = Signatures(None, public_pem(key))
    assert signatures.algorithms == names
    for alg in names:
        assert signatures.claims(jwt.encode(CLAIMS, key, alg).encode()) == CLAIMS


@pytest.mark.parametrize("alg", SECRET_NAMES)
def test_a_secret_is_for_the_three_hashes_of_hmac(alg: str) -> None:
    signed = hand_made({"alg": alg}, CLAIMS, digest=f"sha{alg[2:]}")
    assert SECRETS.claims(signed) == CLAIMS


@pytest.mark.parametrize("alg", SECRET_NAMES)
@pytest.mark.parametrize("digest", ["sha1", "md5", "sha224", "sha256", "sha384", "sha512"])
def test_the_hash_is_the_one_that_is_named(alg: str, digest: str) -> None:
    signed = hand_made({"alg": alg}, CLAIMS, digest=digest)
    if digest != f"sha{alg[2:]}":
        assert refused(SECRETS, signed) == "its signature does not match"


def test_with_a_secret_and_a_public_key_both_kinds_of_token_are_good() -> None:
    both = Signatures(SECRET, public_pem(rsa_key()))
    assert both.algorithms == sorted(SECRET_NAMES + RSA_NAMES)
    assert both.claims(GOOD) == CLAIMS
    assert both.claims(jwt.encode(CLAIMS, rsa_key(), "RS256").encode()) == CLAIMS


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", ""])
def test_an_unsigned_token_is_refused(alg: str) -> None:
    head = base64url(json.dumps({"alg": alg}).encode())
    unsigned = head + b"." + base64url(json.dumps(CLAIMS).encode()) + b"."
    for signatures in (SECRETS, rsa(), Signatures(SECRET, public_pem(ec_key()))):
        assert refused(signatures, unsigned).startswith("it is not signed with ")
        assert refused(signatures, unsigned + base64url(b"x"))


@pytest.mark.parametrize(("make", "names"), KINDS)
@pytest.mark.parametrize("alg", SECRET_NAMES)
def test_a_public_key_is_never_taken_for_a_secret(
    make: Callable[[], AllowedPrivateKeys], names: list[str], alg: str
) -> None:
    key = make()
    pem = public_pem(key)
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for material in (pem.encode(), pem.strip().encode(), der):
        forged = hand_made({"alg": alg}, CLAIMS, material, f"sha{alg[2:]}")
        assert refused(Signatures(None, pem), forged).startswith("it is not signed with ")
        assert refused(Signatures(SECRET, pem), forged) == "its signature does not match"
        for name in names:
            named = hand_made({"alg": name}, CLAIMS, material, f"sha{alg[2:]}")
            assert refused(Signatures(SECRET, pem), named) == "its signature does not match"


@pytest.mark.parametrize(("make", "names"), KINDS)
def test_a_secret_is_never_taken_for_a_public_key(
    make: Callable[[], AllowedPrivateKeys], names: list[str]
) -> None:
    for name in names:
        forged = hand_made({"alg": name}, CLAIMS)
        assert refused(SECRETS, forged) == "it is not signed with HS256, HS384 or HS512"
        both = Signatures(SECRET, public_pem(make()))
        assert refused(both, forged) == "its signature does not match"


@pytest.mark.parametrize("signed", RSA_NAMES)
@pytest.mark.parametrize("named", RSA_NAMES)
def test_a_signature_is_verified_under_the_algorithm_that_is_named(signed: str, named: str) -> None:
    # Both kinds of padding may be used with an RSA key, but never one in place of the other.
    _, body, signature = jwt.encode(CLAIMS, rsa_key(), signed).encode().split(b".")
    header = base64url(json.dumps({"alg": named, "typ": "JWT"}, separators=(",", ":")).encode())
    if signed != named:
        renamed = b".".join((header, body, signature))
        assert refused(rsa(), renamed) == "its signature does not match"
        signs_it = rsa_key().sign(header + b"." + body, *padding_of(signed))
        swapped = b".".join((header, body, base64url(signs_it)))
        assert refused(rsa(), swapped) == "its signature does not match"


def padding_of(name: str) -> tuple[AsymmetricPadding, HashAlgorithm]:
    hashed = {"256": SHA256(), "384": SHA384(), "512": SHA512()}[name[2:]]
    return (PKCS1v15() if name[0] == "R" else PSS(MGF1(hashed), hashed.digest_size)), hashed


def pss_only_pem() -> str:
    """The public key as RFC 4055 §3 writes one that is for RSASSA-PSS only."""
    der = rsa_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    general = bytes.fromhex("300d06092a864886f70d0101010500")
    pss = bytes.fromhex("300b06092a864886f70d01010a")
    assert der[4:19] == general
    body = pss + der[19:]
    made = b"\x30\x82" + len(body).to_bytes(2, "big") + body
    lines = b64encode(made).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{lines}\n-----END PUBLIC KEY-----\n"


def test_a_key_that_is_for_pss_is_used_for_nothing_else() -> None:
    signatures = Signatures(None, "a line before\n" + pss_only_pem())
    assert signatures.algorithms == ["PS256", "PS384", "PS512"]
    assert signatures.claims(jwt.encode(CLAIMS, rsa_key(), "PS384").encode()) == CLAIMS
    other = jwt.encode(CLAIMS, rsa_key(), "RS256").encode()
    assert refused(signatures, other) == "it is not signed with PS256, PS384 or PS512"


@pytest.mark.parametrize("curve", [SECP384R1, SECP521R1])
def test_a_curve_has_one_algorithm(curve: type[EllipticCurve]) -> None:
    # RFC 7518 §3.4
    key = ec_key(curve)
    header = base64url(b'{"alg":"ES256"}')
    body = base64url(json.dumps(CLAIMS).encode())
    r, s = decode_dss_signature(key.sign(header + b"." + body, ECDSA(SHA256())))
    for size in (32, (key.key_size + 7) // 8):
        if max(r, s).bit_length() <= 8 * size:
            raw = r.to_bytes(size, "big") + s.to_bytes(size, "big")
            forged = b".".join((header, body, base64url(raw)))
            assert refused(Signatures(None, public_pem(key)), forged).startswith("it is not")
            both = Signatures(None, public_pem(ec_key()))
            assert refused(both, forged) == "its signature does not match"


def test_the_pkcs1_form_of_a_key_is_read_too() -> None:
    pem = rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1).decode()
    assert Signatures(None, pem).algorithms == RSA_NAMES


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


class HugeKey:
    """A public key of 16,384 bits; making a private one would take a minute."""

    def public_key(self) -> RSAPublicKey:
        return RSAPublicNumbers(65537, (1 << 16383) + 1).public_key()


def huge_rsa_key() -> Any:
    return HugeKey()


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
        (lambda: public_pem(huge_rsa_key()), "is a huge RSA key"),
        (lambda: public_pem(ec_key(SECP256K1)), "is of a kind that signs no tokens here"),
        (lambda: public_pem(X25519PrivateKey.generate()), "is of a kind that signs no tokens"),
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
    assert line.endswith(
        ", expected a PEM public key: RSA from 2048 to 8192 bits, EC P-256, P-384 or P-521, "
        "Ed25519 or Ed448"
    )
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
    assert shown == f"<Signatures {' '.join(SECRET_NAMES + RSA_NAMES)}>"
