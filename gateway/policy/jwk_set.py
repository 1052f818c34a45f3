"""JSON Web Key Sets (RFC 7517): from what an issuer publishes to keys bound to algorithms. Pure.

What can't verify a token is left out and counted: keys for encryption, symmetric ones (whoever can
read a set could sign with them), private ones (the same), and kinds that are not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import jwt
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.policy.signatures import VerifyingKey, bind

# Issuers publish the keys of now, of before and of next: a few, of a few hundred bytes each.
MAX_KEYS: Final = 64
# A token is tried with this many at most: keys that share a `kid` (RFC 7517 §4.5 allows it), or
# those that fit where a token names none. More would make a bad token dear.
MAX_TRIED: Final = 4

_KINDS: Final[Mapping[str, Callable[[dict[str, Any]], Any]]] = {
    "RSA": RSAAlgorithm.from_jwk,
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
}
# Of the numbers in base64url: more than 8192 bits take, and an exponent that keeps verifying cheap
# (64 bits; nearly all have 17).
_LENGTHS: Final = (("n", 2048), ("e", 11), ("x", 2048), ("y", 2048))
_KID_LENGTH: Final = 255


class KeySet:
    """The usable keys of a set, at most 64, found by name.

    `fingerprints` are the keys as far as they matter, to tell one set from another.
    """

    __slots__ = ("_by_kid", "_keys", "fingerprints", "skipped")

    def __init__(self, keys: Sequence[tuple[VerifyingKey, object]] = (), skipped: int = 0) -> None:
        self._keys = [key for key, _ in keys]
        self._by_kid: dict[str, list[VerifyingKey]] = {}
        for key in self._keys:
            if key.kid is not None:
                self._by_kid.setdefault(key.kid, []).append(key)
        self.fingerprints = frozenset(fingerprint for _, fingerprint in keys)
        self.skipped = skipped

    def __repr__(self) -> str:
        return f"<KeySet {len(self._keys)} skipped={self.skipped}>"

    def __len__(self) -> int:
        """The keys that can be used."""
        return len(self._keys)

    def keys_for(self, algorithm: str, kid: str | None) -> Sequence[VerifyingKey] | None:
        """The keys that a token with this header may be signed with: those of its `kid`, or, where
        it has none, those for its algorithm, if they are few. None: there is none of that name.
        """
        if kid is None:
            fitting = [key for key in self._keys if algorithm in key.algorithms]
            return fitting if 0 < len(fitting) <= MAX_TRIED else None
        named = self._by_kid.get(kid)
        if named is None:
            return None
        return [key for key in named if algorithm in key.algorithms][:MAX_TRIED]

    @classmethod
    def parse(cls, body: bytes) -> KeySet:
        """From JSON. Raises ValueError, saying why, for what is no set, or has no usable key."""
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise ValueError("no JSON") from None
        listed = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(listed, list):
            raise ValueError("no JSON Web Key Set")
        keys = [key for each in listed[:MAX_KEYS] if (key := _key(each)) is not None]
        if not keys:
            raise ValueError("a set without a key for tokens")
        return cls(keys, len(listed) - len(keys))


def _key(member: object) -> tuple[VerifyingKey, object] | None:
    """One key and its fingerprint; None for one that verifies no tokens here."""
    if not isinstance(member, dict) or not _is_for_tokens(member):
        return None
    kid, only = member.get("kid"), member.get("alg")
    try:
        public = _KINDS[member["kty"]](member)
        bound = bind(public, only, kid)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        return None
    numbers = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return bound, (kid, tuple(bound.algorithms), numbers)


def _is_for_tokens(member: Mapping[str, object]) -> bool:
    """Whether a key says that it may verify, names itself by a text, is public and not huge."""
    kid, operations = member.get("kid"), member.get("key_ops", ["verify"])
    return (
        member.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
        and isinstance(member.get("alg"), str | None)
        and (kid is None or (isinstance(kid, str) and len(kid) <= _KID_LENGTH))
        and "d" not in member  # a private key in the open: anyone may have signed with it
        and all(len(str(member.get(name, ""))) <= most for name, most in _LENGTHS)
    )
