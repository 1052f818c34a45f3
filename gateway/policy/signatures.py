"""Signatures of tokens: each algorithm is bound to the one key that it is used with.

A token names its algorithm; that name can only choose among pairs made from the settings, so that a
public key is never taken for a secret and nothing goes unsigned (RFC 8725 §3.1). `kid`, `jku`,
`jwk` and `x5u` in a token's header choose nothing. What a token claims is read in auth.
"""

from __future__ import annotations

from typing import Any, Final

import jwt
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, RSAAlgorithm

from gateway.settings import SettingsError

# RFC 7518 §3.3: "A key of size 2048 bits or larger MUST be used."
_RSA_BITS: Final = 2048
_EXPECTED: Final = "a PEM public key: RSA from 2048 bits, or EC P-256"


class BadTokenError(Exception):
    """A token's form or signature is wrong; the text says which and holds nothing of the token."""


class _Hs256(HMACAlgorithm):
    """HS256 with one secret, whatever key it is called with."""

    def __init__(self, secret: bytes) -> None:
        super().__init__(HMACAlgorithm.SHA256)
        self._secret = super().prepare_key(secret)

    def prepare_key(self, key: object) -> bytes:
        return self._secret

    def check_key_length(self, key: object) -> None:
        """Nothing for each token: a short secret is said once, at start."""


class _Rs256(RSAAlgorithm):
    """RS256 with one public key, whatever key it is called with."""

    def __init__(self, key: RSAPublicKey) -> None:
        super().__init__(RSAAlgorithm.SHA256)
        self._key = key

    def prepare_key(self, key: object) -> RSAPublicKey:
        return self._key


class _Es256(ECAlgorithm):
    """ES256 with one public key, whatever key it is called with."""

    def __init__(self, key: EllipticCurvePublicKey) -> None:
        super().__init__(ECAlgorithm.SHA256, SECP256R1)
        self._key = key

    def prepare_key(self, key: object) -> EllipticCurvePublicKey:
        return self._key


class Signatures:
    """JSON Web Signatures (RFC 7515) under the keys given: a secret, a public key in PEM, or both.

    Raises SettingsError, one line without key material, for a key that can't be used.
    """

    __slots__ = ("_jws", "algorithms")

    def __init__(self, secret: str | None, public_key: str | None = None) -> None:
        self._jws = jwt.PyJWS(algorithms=[])  # none but those registered here
        if secret is not None:
            self._jws.register_algorithm("HS256", _hs256(secret))
        if public_key is not None:
            key = _public_key(public_key)
            if isinstance(key, RSAPublicKey):
                self._jws.register_algorithm("RS256", _Rs256(key))
            else:
                self._jws.register_algorithm("ES256", _Es256(key))
        self.algorithms: list[str] = sorted(self._jws.get_algorithms())

    def __repr__(self) -> str:
        return f"<Signatures {' '.join(self.algorithms)}>"

    def claims(self, token: bytes) -> dict[str, object]:
        """The claims of a token with a good signature; whether they hold is not looked at.

        Raises BadTokenError.
        """
        try:
            payload: bytes = self._jws.decode(token, algorithms=self.algorithms)
        except jwt.InvalidSignatureError:
            raise BadTokenError("its signature does not match") from None
        except jwt.InvalidAlgorithmError:
            raise BadTokenError(f"it is not signed with {self._names()}") from None
        except jwt.PyJWTError:
            raise BadTokenError("it is no well-formed JSON Web Token") from None
        try:
            claims = orjson.loads(payload)
        except orjson.JSONDecodeError:
            claims = None
        if not isinstance(claims, dict):
            raise BadTokenError("its claims are no JSON object")
        return claims

    def sign(self, claims: dict[str, Any]) -> str:
        """A token with these claims under HS256, which must be among the algorithms."""
        return self._jws.encode(orjson.dumps(claims), b"", "HS256")

    def _names(self) -> str:
        return " or ".join(self.algorithms)


def key_bytes(secret: str) -> bytes:
    """The bytes of a secret, as they stood in the environment also where they are no UTF-8."""
    return secret.encode("utf-8", "surrogateescape")


def _hs256(secret: str) -> _Hs256:
    try:
        return _Hs256(key_bytes(secret))
    except jwt.InvalidKeyError:
        raise SettingsError(
            "settings: JWT_SECRET is a key in PEM, DER or JWK, expected a secret text "
            "(a public key goes to JWT_PUBLIC_KEY)"
        ) from None


def _public_key(pem: str) -> RSAPublicKey | EllipticCurvePublicKey:
    if "PRIVATE KEY-----" in pem:
        raise SettingsError(f"settings: JWT_PUBLIC_KEY is a private key, expected {_EXPECTED}")
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SettingsError(
            f"settings: JWT_PUBLIC_KEY can't be read, expected {_EXPECTED}"
        ) from None
    if isinstance(key, RSAPublicKey) and key.key_size >= _RSA_BITS:
        return key
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return key
    what = "a short RSA key" if isinstance(key, RSAPublicKey) else "neither RSA nor EC P-256"
    raise SettingsError(f"settings: JWT_PUBLIC_KEY is {what}, expected {_EXPECTED}")
