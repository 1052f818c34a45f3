"""API keys of command line tools: `gw_<id>_<secret>`, known by their SHA-256 (`API_KEYS`).

The file has a table `[keys.<id>]` for each: `hash`, `tier`, `scopes`, `created`, and where they are
wanted `sub`, `tenant`, `client_ids` and `expires`. Nothing in it opens anything.

A plain SHA-256 and a look-up in a dictionary are enough here, where they would not be for a
password: a key is 256 random bits, so there is no list of likely ones to try against a stolen file,
and what a look-up's time tells of digests is of no use to one who would have to find a text for
them. Making keys is in gateway.cli_keys.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from gateway.policy.identity import LEAST_TIER, TIERS, Identity, Verified, is_name, is_scope
from gateway.settings_file import read_tables
from gateway.settings_values import SettingsError, Value

PREFIX: Final = b"gw_"
# Read whole at start and at SIGHUP, on the loop: 0.1 ms each, 0.2 s then.
MAX_KEYS: Final = 2_000

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch
_HASH: Final = re.compile(r"[0-9a-f]{64}").fullmatch
_ID_BYTES: Final = 6  # enough that the ids of one file differ; the id is no secret
_SECRET_BYTES: Final = 32
_MEMBERS: Final = ("hash", "tier", "scopes", "created", "sub", "tenant", "client_ids", "expires")


class ApiKeys:
    """The keys of one file, by digest."""

    __slots__ = ("_by_digest",)

    def __init__(self, by_digest: Mapping[bytes, Verified] | None = None) -> None:
        self._by_digest = dict(by_digest or {})

    def __repr__(self) -> str:
        return f"<ApiKeys {len(self._by_digest)}>"

    def __len__(self) -> int:
        """How many there are, the ended ones too."""
        return len(self._by_digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ApiKeys) and self._by_digest == other._by_digest

    def __hash__(self) -> int:
        return hash(frozenset(self._by_digest))

    def find(self, digest: bytes) -> Verified | None:
        """Whose key has this SHA-256; that it has not ended is not looked at."""
        return self._by_digest.get(digest)

    def not_in(self, other: ApiKeys) -> frozenset[str]:
        """The ids of those keys that are here and that `other` has not, or says other things of."""
        return frozenset(
            key.identity.jti
            for digest, key in self._by_digest.items()
            if key.identity.jti is not None and other.find(digest) != key
        )

    def has(self, key_id: str) -> bool:
        """Whether a key has this id; not for each request."""
        return any(each.identity.jti == key_id for each in self._by_digest.values())

    @classmethod
    def read(cls, file: Path) -> ApiKeys:
        """The keys of a file; none where it is missing.

        Raises SettingsError (`file:line: …`) for the first that is wrong. No hash is shown.
        """
        if not file.exists():
            return cls()
        tables = read_tables(file, "keys")
        if len(tables) > MAX_KEYS:
            raise SettingsError(f"{file}:1: {len(tables)} keys, expected at most {MAX_KEYS}")
        found: dict[bytes, Verified] = {}
        for name, members in tables.items():
            digest, verified = _key(name, members)
            if digest in found:
                twin = found[digest].identity.jti
                raise members["hash"].error(f"is that of keys.{twin} too", "a key of its own")
            found[digest] = verified
        return cls(found)


def digest_of(key: bytes) -> bytes:
    """Under what a key is kept."""
    return hashlib.sha256(key).digest()


def new_key() -> tuple[str, str]:
    """A new key and its id, which is its beginning."""
    key_id = f"{PREFIX.decode()}{secrets.token_hex(_ID_BYTES)}"
    return f"{key_id}_{secrets.token_hex(_SECRET_BYTES)}", key_id


def _key(name: str, members: Mapping[str, Value]) -> tuple[bytes, Verified]:
    """What one table says. Raises SettingsError."""
    table = members[""]
    if not _ID(name):
        raise table.error("is no id", "1 to 64 of A-Z a-z 0-9 _ -")
    for member, value in members.items():
        if member and member not in _MEMBERS:
            raise value.error("is unknown", f"one of {', '.join(_MEMBERS)}")
    given = members.get("hash")
    if given is None:
        raise table.error("has no hash", "the SHA-256 of a key, as gateway key new writes it")
    if not isinstance(given.raw, str) or not _HASH(given.raw):
        # Not shown: someone may have put the key itself there.
        raise given.error("is no SHA-256", "64 characters of 0-9 a-f")
    _time(members, "created")
    ends_at = _time(members, "expires")
    tier = members.get("tier")
    if tier is not None and tier.raw not in TIERS:
        raise tier.wrong(" or ".join(TIERS))
    identity = Identity(
        subject=_name(members, "sub") or name,
        tenant=_name(members, "tenant"),
        tier=LEAST_TIER if tier is None else str(tier.raw),
        scopes=_texts(members, "scopes", is_scope, "a list of scopes, each without a space"),
        client_ids=_texts(members, "client_ids", is_name, "a list of texts of 1 to 255 characters"),
        expires_at=ends_at,
        jti=name,
    )
    # No leeway: key and clock are the gateway's own.
    end = math.inf if ends_at is None else ends_at
    return bytes.fromhex(given.raw), Verified(identity, -math.inf, end)


def _name(members: Mapping[str, Value], member: str) -> str | None:
    value = members.get(member)
    if value is None:
        return None
    if not is_name(value.raw):
        raise value.wrong("a text of 1 to 255 characters")
    return str(value.raw)


def _time(members: Mapping[str, Value], member: str) -> float | None:
    """Unix seconds of an offset date-time (TOML 1.0)."""
    value = members.get(member)
    if value is None:
        return None
    if not isinstance(value.raw, datetime) or value.raw.tzinfo is None:
        raise value.wrong("a date and time with its offset, such as 2030-01-31T12:00:00Z")
    return value.raw.timestamp()


def _texts(
    members: Mapping[str, Value], member: str, check: Callable[[str], bool], expected: str
) -> frozenset[str]:
    value = members.get(member)
    if value is None:
        return frozenset()
    texts = value.raw
    if not isinstance(texts, list) or not all(
        isinstance(text, str) and check(text) for text in texts
    ):
        raise value.wrong(expected)
    return frozenset(texts)
