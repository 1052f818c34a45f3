"""X-On-Behalf-Of: for whom a worker's request is made, signed by the gateway's own keys.

A job outlives the credential that started it, and a history must never hold one. So a worker sends
what was true of the caller at the start of the job: a JSON Web Token (RFC 7519) for this one
purpose, good for a minute and for one service. Alone it is worth nothing: it is believed only
beside a credential with scope `internal`, so one that was overheard is no way in, and what it can
be replayed for ends with its minute. Who may send it is decided at the door (edge/on_behalf.py);
the keys are derived from PAYLOAD_KEYS in payload_keys. The clock is passed in (Unix seconds).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final, NamedTuple, NoReturn
from uuid import uuid4

import jwt
import orjson

from gateway.policy.identity import (
    LEAST_TIER,
    LEEWAY_SECONDS,
    TIERS,
    Identity,
    is_name,
    is_scopes,
)

PURPOSE: Final = b"on behalf of"  # what the keys are derived for
HEADER: Final = "X-On-Behalf-Of"
# As long as a request may wait for its turn at the gateway; a retry is signed anew.
LIFE_SECONDS: Final = 60
# As long as any request of a job may take (jobs/types.py).
MOST_WAIT_SECONDS: Final = 3 * 86_400.0
# A token's claims at most (client ids, scopes), and far below what a head may have.
MOST_BYTES: Final = 8192
# Verifying one takes 180 µs, knowing it 2. The requests of a job that say the same follow each
# other closely: more would be kept for nobody. 1 MB with usual ones, 10 at worst.
MOST_KNOWN: Final = 1024

_ISSUER: Final = "gateway-worker"
_AUDIENCE: Final = "gateway"
_ALGORITHM: Final = "HS256"
_TYPE: Final = "on-behalf-of+jwt"  # RFC 8725 §3.11: no other kind of token is one of these
_FORM: Final = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+").fullmatch
_CLAIMS: Final = frozenset(
    (
        "iss", "aud", "iat", "exp", "jti", "sub", "tenant", "tier", "scopes", "client_ids",
        "addr", "agent", "job", "svc", "spent", "open", "wait",
    )
)  # fmt: skip


class BadAssertionError(Exception):
    """An assertion is refused; the text says why and holds nothing of it."""


@dataclass(frozen=True, slots=True)
class Assertion:
    """For whom a request to `service` is made, by the job with the operation id `job`.

    `subject` is None for a caller without a credential; `address` is what tells those apart.
    `agent` is the AI agent that started the job, by the name that figures have for it. `spent`: the
    caller's limits have counted this request already. `open_write`: no signing key was set when the
    job was started, and the caller was let in by the keyless rules. `wait_seconds`: how long the
    step may take, where that is longer than others are waited for.
    """

    service: str
    job: str
    subject: str | None = None
    tenant: str | None = None
    tier: str = LEAST_TIER
    scopes: frozenset[str] = frozenset()
    client_ids: frozenset[str] = frozenset()
    address: str = ""
    agent: str | None = None
    spent: bool = False
    open_write: bool = False
    wait_seconds: float | None = None

    def identity(self, *, keyless: bool) -> Identity:
        """The caller, as it was at the start of the job; `keyless`: whether the door still lets
        people in by the keyless rules.
        """
        is_open = keyless and self.open_write
        return Identity(
            subject=self.subject,
            tenant=self.tenant,
            tier=self.tier,
            scopes=self.scopes,
            client_ids=self.client_ids,
            open_read=is_open,
            open_write=is_open,
        )


class _Known(NamedTuple):
    """What a token says under a good signature, and when it holds (Unix seconds)."""

    assertion: Assertion
    issued: int
    ends: int


class Assertions:
    """Signs and verifies them, under keys with ids: `PayloadKeys(…).derive(PURPOSE)`.

    The first key signs, all of them verify, so that keys can be changed one after the other. What
    was verified is remembered by the token's SHA-256: the keys here never change, using one takes
    nothing from it, and its time is looked at each time.
    """

    __slots__ = ("_current", "_jws", "_keys", "_known")

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """`keys`: 32 bytes each, by id, the current one first. ValueError when there is none."""
        if not keys:
            raise ValueError("no key to sign assertions with")
        self._keys = dict(keys)
        self._current = next(iter(self._keys))
        self._jws = jwt.PyJWS(algorithms=[_ALGORITHM])
        self._known: dict[bytes, _Known] = {}  # the oldest first

    def __repr__(self) -> str:
        return f"<Assertions keys={len(self._keys)} known={len(self._known)}>"

    def sign(self, assertion: Assertion, wall_seconds: float) -> str:
        """The value of the field. Raises ValueError for one that `verify` would not take."""
        issued = int(wall_seconds)
        claims: dict[str, object] = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "iat": issued,
            "exp": issued + LIFE_SECONDS,
            "jti": uuid4().hex,
            "tier": assertion.tier,
            "scopes": " ".join(sorted(assertion.scopes)),
            "client_ids": sorted(assertion.client_ids),
            "addr": assertion.address,
            "job": assertion.job,
            "svc": assertion.service,
            "spent": assertion.spent,
        }
        if assertion.subject is not None:
            claims["sub"] = assertion.subject
        if assertion.tenant is not None:
            claims["tenant"] = assertion.tenant
        if assertion.agent is not None:
            claims["agent"] = assertion.agent
        if assertion.open_write:
            claims["open"] = True
        if assertion.wait_seconds is not None:
            claims["wait"] = assertion.wait_seconds
        try:
            _read(claims)
        except BadAssertionError as error:
            raise ValueError(f"not to be signed: {error}") from None
        token = self._jws.encode(
            orjson.dumps(claims),
            self._keys[self._current],
            _ALGORITHM,
            {"typ": _TYPE, "kid": self._current},
        )
        if len(token) > MOST_BYTES:
            raise ValueError(f"not to be signed: longer than {MOST_BYTES} bytes")
        return token

    def verify(self, token: bytes, wall_seconds: float) -> Assertion:
        """What a field says. Raises BadAssertionError."""
        if len(token) > MOST_BYTES:
            _refuse("it is too long")
        digest = hashlib.sha256(token).digest()
        known = self._known.get(digest)
        said = self._verified(token) if known is None else known
        if wall_seconds >= said.ends + LEEWAY_SECONDS:
            self._known.pop(digest, None)
            _refuse("it has expired (exp)")
        if wall_seconds < said.issued - LEEWAY_SECONDS:
            _refuse("it is from a time to come (iat): are the clocks right?")
        if known is None:
            if len(self._known) >= MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[digest] = said
        return said.assertion

    def _verified(self, token: bytes) -> _Known:
        """Signature and claims, all but the time."""
        if not _FORM(token):
            _refuse("it is no JSON Web Token")
        claims = self._claims(token)
        assertion = _read(claims)
        issued, ends = claims["iat"], claims["exp"]
        if not 0 < ends - issued <= LIFE_SECONDS:
            _refuse(f"it is for longer than {LIFE_SECONDS} s")
        return _Known(assertion, issued, ends)

    def _claims(self, token: bytes) -> dict[str, Any]:
        """The claims under a good signature, of any kind."""
        payload = self._signed(token)
        if payload is None:
            _refuse(self._fault(token))
        try:
            claims = orjson.loads(payload)
        except orjson.JSONDecodeError:
            claims = None
        if not isinstance(claims, dict):
            _refuse("its claims are no JSON object")
        return claims

    def _signed(self, token: bytes) -> bytes | None:
        """What was signed, where header and signature are as `sign` makes them. The keys are tried
        in order, and not by the id in the token: as a rule the first is it, and the token is read
        once.
        """
        for name, key in self._keys.items():
            try:
                found = self._jws.decode_complete(token, key, algorithms=[_ALGORITHM])
            except jwt.InvalidSignatureError:
                continue
            except jwt.PyJWTError:
                return None
            expected = {"alg": _ALGORITHM, "kid": name, "typ": _TYPE}
            payload: bytes = found["payload"]
            return payload if found["header"] == expected else None
        return None

    def _fault(self, token: bytes) -> str:
        """What is wrong with a token whose header or signature is."""
        try:
            header = self._jws.get_unverified_header(token)
        except jwt.PyJWTError:
            header = {"kid": self._current, "typ": _TYPE}
        if header.get("kid") not in self._keys:
            return "the key that it names is not one of PAYLOAD_KEYS"
        if header.get("typ") != _TYPE:
            return "it is a token of another kind"
        return "its signature does not match"


def _read(claims: dict[str, Any]) -> Assertion:
    """The claims, each of its kind; a claim more is a mistake of who signs. Raises
    BadAssertionError.
    """
    if not claims.keys() <= _CLAIMS:
        _refuse("it has a claim that nobody reads")
    if claims.get("iss") != _ISSUER or claims.get("aud") != _AUDIENCE:
        _refuse("it is from or for another (iss, aud)")
    for name in ("iat", "exp"):
        if type(claims.get(name)) is not int:
            _refuse(f"its {name} claim is no time in seconds")
    subject, tenant, tier = claims.get("sub"), claims.get("tenant"), claims.get("tier")
    scopes, client_ids = claims.get("scopes"), claims.get("client_ids")
    address, agent, spent = claims.get("addr"), claims.get("agent"), claims.get("spent")
    is_open, wait = claims.get("open", False), claims.get("wait")
    # A token without `sub` names nobody, and is a credential all the same: an empty subject.
    if subject not in (None, "") and not is_name(subject):
        _refuse("its sub claim is no name")
    if tenant is not None and not is_name(tenant):
        _refuse("its tenant claim is no name")
    if tier not in TIERS:
        _refuse("its tier claim is none")
    if not is_scopes(scopes):
        _refuse("its scopes claim is no text of scopes with spaces between")
    if not isinstance(client_ids, list) or not all(map(is_name, client_ids)):
        _refuse("its client_ids claim is no list of texts")
    if not isinstance(address, str) or not _is_address(address):
        _refuse("its addr claim is no address")
    if agent is not None and not is_name(agent):
        _refuse("its agent claim is no name")
    if not all(is_name(claims.get(name)) for name in ("job", "svc", "jti")):
        _refuse("its job, svc or jti claim is no name")
    if not (isinstance(spent, bool) and isinstance(is_open, bool)):
        _refuse("its spent or open claim is neither true nor false")
    if wait is not None and not (type(wait) in (int, float) and 0 < wait <= MOST_WAIT_SECONDS):
        _refuse("its wait claim is no time that a request may take")
    return Assertion(
        service=claims["svc"],
        job=claims["job"],
        subject=subject,
        tenant=tenant,
        tier=tier,
        scopes=frozenset(scopes.split()),
        client_ids=frozenset(client_ids),
        address=address,
        agent=agent,
        spent=spent,
        open_write=is_open,
        wait_seconds=wait,
    )


def _is_address(text: str) -> bool:
    """Whether it is an IP address, or empty: not known."""
    try:
        return text == "" or bool(ip_address(text).version)
    except ValueError:
        return False


def _refuse(why: str) -> NoReturn:
    raise BadAssertionError(why)
