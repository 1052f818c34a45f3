"""Signatures of tokens: algorithms are bound to keys, and no token chooses either.

The kind of a key says what it is used with (RFC 8725 §3.1): a secret HS256, HS384 and HS512; an RSA
key RS and PS with SHA-256, -384 and -512; a key on a curve the one ES of that curve; an Edwards key
EdDSA. A key that says more is bound to less: one made for RSASSA-PSS to PS, one of a JWK Set with
`alg` to that one. A token's `alg` can only name one of those pairs, so a public key is never taken
for a secret and nothing goes unsigned; its `kid` can only pick among keys that are here already,
and `jku`, `jwk`, `x5u` and `x5c` choose nothing. What a token claims is read in auth.
"""

from __future__ import annotations

import re
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Protocol

import jwt
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import (
    Algorithm,
    ECAlgorithm,
    HMACAlgorithm,
    OKPAlgorithm,
    RSAAlgorithm,
    RSAPSSAlgorithm,
)

from gateway.settings import SettingsError

# RFC 7518 §3.3: "A key of size 2048 bits or larger MUST be used." Above 8192 a signature takes
# longer to verify than a request may cost.
_RSA_BITS: Final = range(2048, 8193)
_EXPECTED: Final = (
    "a PEM public key: RSA from 2048 to 8192 bits, EC P-256, P-384 or P-521, Ed25519 or Ed448"
)
# RFC 4055 §3: id-RSASSA-PSS, as it stands in a key that is for PSS only.
_PSS_ONLY: Final = bytes.fromhex("06092a864886f70d01010a")

_PEM_BODY: Final = re.compile(r"-----BEGIN PUBLIC KEY-----(.*?)-----END", re.DOTALL)

_HMAC: Final[Mapping[str, HMACAlgorithm]] = {
    "HS256": HMACAlgorithm(HMACAlgorithm.SHA256),
    "HS384": HMACAlgorithm(HMACAlgorithm.SHA384),
    "HS512": HMACAlgorithm(HMACAlgorithm.SHA512),
}
_PSS: Final[Mapping[str, Algorithm]] = {
    "PS256": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA256),
    "PS384": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA384),
    "PS512": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA512),
}
_RSA: Final[Mapping[str, Algorithm]] = {
    "RS256": RSAAlgorithm(RSAAlgorithm.SHA256),
    "RS384": RSAAlgorithm(RSAAlgorithm.SHA384),
    "RS512": RSAAlgorithm(RSAAlgorithm.SHA512),
    **_PSS,
}
# RFC 7518 §3.4: one algorithm a curve.
_EC: Final[Mapping[str, Mapping[str, Algorithm]]] = {
    SECP256R1.name: {"ES256": ECAlgorithm(ECAlgorithm.SHA256, SECP256R1)},
    SECP384R1.name: {"ES384": ECAlgorithm(ECAlgorithm.SHA384, SECP384R1)},
    SECP521R1.name: {"ES512": ECAlgorithm(ECAlgorithm.SHA512, SECP521R1)},
}
_ED: Final[Mapping[str, Algorithm]] = {"EdDSA": OKPAlgorithm()}

PUBLIC_ALGORITHMS: Final = frozenset(
    (*_RSA, *(name for curve in _EC.values() for name in curve), *_ED)
)

_HS256_HEADER: Final = urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")


class BadTokenError(Exception):
    """A token's form or signature is wrong; the text says which and holds nothing of the token."""


class UnknownKeyError(BadTokenError):
    """A token names a key of the issuer's that is not here; its newer keys may have it."""


class VerifyingKey:
    """A key with the algorithms that are bound to it."""

    __slots__ = ("_algorithms", "_key", "kid")

    def __init__(
        self, key: object, algorithms: Mapping[str, Algorithm], kid: str | None = None
    ) -> None:
        self._key = key
        self._algorithms = algorithms
        self.kid = kid

    def __repr__(self) -> str:
        return f"<VerifyingKey {self.kid} {' '.join(self._algorithms)}>"

    @property
    def algorithms(self) -> Collection[str]:
        """The names of what it is used with."""
        return self._algorithms.keys()

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's, under an algorithm that is bound to it."""
        bound = self._algorithms.get(algorithm)
        return bound is not None and bound.verify(signed, self._key, signature)


class IssuedKeys(Protocol):
    """The keys that an issuer publishes, as far as they are known now."""

    def keys_for(self, algorithm: str, kid: str | None) -> Sequence[VerifyingKey] | None:
        """Those that a token may be signed with; None: no key by this name is known."""


class Signatures:
    """JSON Web Signatures (RFC 7515) under the keys given: a secret, a public key in PEM, the keys
    of an issuer, or several of them.

    Raises SettingsError, one line without key material, for a key that can't be used.
    """

    __slots__ = ("_issued", "_jws", "_own", "_secret", "algorithms")

    def __init__(
        self, secret: str | None, public_key: str | None = None, issued: IssuedKeys | None = None
    ) -> None:
        self._jws = jwt.PyJWS(algorithms=[])  # it reads tokens; keys and algorithms are ours
        self._issued = issued
        self._secret = b""
        self._own: list[VerifyingKey] = []
        names = set(PUBLIC_ALGORITHMS) if issued is not None else set()
        if secret is not None:
            self._secret = _checked_secret(secret)
            self._own.append(VerifyingKey(self._secret, _HMAC))
        if public_key is not None:
            self._own.append(_public_key(public_key))
        self.algorithms: list[str] = sorted(names.union(*(key.algorithms for key in self._own)))

    def __repr__(self) -> str:
        return f"<Signatures {' '.join(self.algorithms)}>"

    def claims(self, token: bytes) -> dict[str, object]:
        """The claims of a token with a good signature; whether they hold is not looked at.

        Raises BadTokenError, and UnknownKeyError where the issuer's newer keys may help.
        """
        try:
            # The signature is verified below: it reads the parts and their encoding, and refuses
            # what RFC 7515 §4.1.11 calls critical.
            parts = self._jws.decode_complete(token, options={"verify_signature": False})
        except jwt.PyJWTError:
            raise BadTokenError("it is no well-formed JSON Web Token") from None
        algorithm, kid = parts["header"].get("alg"), parts["header"].get("kid")
        if not isinstance(algorithm, str) or algorithm not in self.algorithms:
            raise BadTokenError(f"it is not signed with {self._names()}")
        self._verify(algorithm, kid, token.rpartition(b".")[0], parts["signature"])
        try:
            claims = orjson.loads(parts["payload"])
        except orjson.JSONDecodeError:
            claims = None
        if not isinstance(claims, dict):
            raise BadTokenError("its claims are no JSON object")
        return claims

    def sign(self, claims: dict[str, Any]) -> str:
        """A token with these claims under HS256; there must be a secret. Raises TypeError for what
        is no JSON.
        """
        body = urlsafe_b64encode(orjson.dumps(claims)).rstrip(b"=")
        signed = _HS256_HEADER + b"." + body
        signature = urlsafe_b64encode(_HMAC["HS256"].sign(signed, self._secret)).rstrip(b"=")
        return (signed + b"." + signature).decode("ascii")

    def _verify(self, algorithm: str, kid: str | None, signed: bytes, signature: bytes) -> None:
        """Raises BadTokenError unless a key that may have made this signature did."""
        issued: Sequence[VerifyingKey] | None = ()
        if self._issued is not None and algorithm in PUBLIC_ALGORITHMS:
            issued = self._issued.keys_for(algorithm, kid)
        keys = [key for key in (*(issued or ()), *self._own) if algorithm in key.algorithms]
        for key in keys:
            if key.verifies(algorithm, signed, signature):
                return
        if issued is None:
            raise UnknownKeyError("it is signed with a key that its issuer does not publish")
        if not keys:
            raise BadTokenError("the key that it names is for another algorithm")
        raise BadTokenError("its signature does not match")

    def _names(self) -> str:
        *most, last = self.algorithms or ["any key"]
        return f"{', '.join(most)} or {last}" if most else last


def bind(key: object, only: str | None = None, kid: str | None = None) -> VerifyingKey:
    """A public key with the algorithms of its kind, or `only` that one of them.

    Raises ValueError, saying what the key is, for one that can't be used.
    """
    if isinstance(key, RSAPublicKey):
        if key.key_size not in _RSA_BITS:
            raise ValueError("a short RSA key" if key.key_size < _RSA_BITS[0] else "a huge RSA key")
        bound = _RSA
    elif isinstance(key, EllipticCurvePublicKey) and key.curve.name in _EC:
        bound = _EC[key.curve.name]
    elif isinstance(key, Ed25519PublicKey | Ed448PublicKey):
        bound = _ED
    else:
        raise ValueError("of a kind that signs no tokens here")
    if only is not None:
        if only not in bound:
            raise ValueError("for another algorithm than its kind has")
        bound = {only: bound[only]}
    return VerifyingKey(key, bound, kid)


def key_bytes(secret: str) -> bytes:
    """The bytes of a secret, as they stood in the environment also where they are no UTF-8."""
    return secret.encode("utf-8", "surrogateescape")


def _checked_secret(secret: str) -> bytes:
    try:
        return _HMAC["HS256"].prepare_key(key_bytes(secret))
    except jwt.InvalidKeyError:
        raise SettingsError(
            "settings: JWT_SECRET is a key in PEM, DER or JWK, expected a secret text "
            "(a public key goes to JWT_PUBLIC_KEY)"
        ) from None


def _public_key(pem: str) -> VerifyingKey:
    if "PRIVATE KEY-----" in pem:
        raise SettingsError(f"settings: JWT_PUBLIC_KEY is a private key, expected {_EXPECTED}")
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SettingsError(
            f"settings: JWT_PUBLIC_KEY can't be read, expected {_EXPECTED}"
        ) from None
    try:
        bound = bind(key)
    except ValueError as error:
        raise SettingsError(f"settings: JWT_PUBLIC_KEY is {error}, expected {_EXPECTED}") from None
    return VerifyingKey(key, _PSS) if _is_for_pss(pem) else bound


def _is_for_pss(pem: str) -> bool:
    """Whether a PEM public key is one for RSASSA-PSS only; what reads it leaves that out."""
    body = _PEM_BODY.search(pem)
    return body is not None and _PSS_ONLY in b64decode(body[1])[:64]
