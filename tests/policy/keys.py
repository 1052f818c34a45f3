"""Keys and tokens for tests: real keys, and tokens that no library would agree to make."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurve,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import (
    generate_private_key as generate_rsa_key,
)
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

SECRET = "a secret of the tests, longer than 32 bytes"
NOW = 1_800_000_000.0


@cache
def rsa_key(bits: int = 2048) -> RSAPrivateKey:
    """An RSA key; made once, since that takes a while."""
    return generate_rsa_key(65537, bits)


@cache
def ec_key(curve: type[EllipticCurve] = SECP256R1) -> EllipticCurvePrivateKey:
    """A key on a curve."""
    return generate_private_key(curve())


@cache
def ed25519_key() -> Ed25519PrivateKey:
    """A key for EdDSA."""
    return Ed25519PrivateKey.generate()


def public_pem(key: PrivateKeyTypes) -> str:
    """Its public half as JWT_PUBLIC_KEY takes it."""
    return (
        key.public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        .decode("ascii")
    )


def private_pem(key: PrivateKeyTypes) -> str:
    """The half that never goes to a gateway."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def base64url(data: bytes) -> bytes:
    """RFC 7515 §2: base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=")


def hand_made(
    header: dict[str, Any], claims: object, secret: bytes = SECRET.encode(), digest: str = "sha256"
) -> bytes:
    """A token with this very header, signed with HMAC whatever the header says."""
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    signed = base64url(json.dumps(header).encode()) + b"." + base64url(payload)
    return signed + b"." + base64url(hmac.new(secret, signed, getattr(hashlib, digest)).digest())


def token(**claims: object) -> bytes:
    """A good HS256 token for alice that ends an hour after NOW, but for these claims; a claim
    given as ... is left out.
    """
    given = {"sub": "alice", "exp": NOW + 3600} | claims
    kept = {name: value for name, value in given.items() if value is not ...}
    return hand_made({"typ": "JWT", "alg": "HS256"}, kept)
