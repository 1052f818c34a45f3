"""X-On-Behalf-Of: what is signed is read back; whatever else comes is refused."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import jwt
import pytest

from gateway.policy.identity import Identity
from gateway.policy.on_behalf import (
    LIFE_SECONDS,
    MOST_BYTES,
    MOST_KNOWN,
    MOST_WAIT_SECONDS,
    Assertion,
    Assertions,
    BadAssertionError,
)

NOW = 1_800_000_000.25
KEY, OLD, OTHER = b"k" * 32, b"o" * 32, b"x" * 32
SIGNER = Assertions({"now": KEY, "old": OLD})
STEP = Assertion(
    service="orders",
    job="0123456789abcdef-1",
    subject="ann",
    tenant="acme",
    tier="pro",
    scopes=frozenset(("jobs:write", "orders")),
    client_ids=frozenset(("ann", "team")),
    address="2001:db8::1",
)
CLAIMS: dict[str, Any] = {
    "iss": "gateway-worker",
    "aud": "gateway",
    "iat": int(NOW),
    "exp": int(NOW) + LIFE_SECONDS,
    "jti": "one",
    "sub": "ann",
    "tier": "pro",
    "scopes": "",
    "client_ids": [],
    "addr": "",
    "job": "j",
    "svc": "orders",
    "spent": False,
}
HEADER = {"typ": "on-behalf-of+jwt", "kid": "now"}


def signed(
    *, key: bytes = KEY, algorithm: str = "HS256", header: dict[str, Any] = HEADER, **claims: Any
) -> bytes:
    """A token as a worker might make it; a claim that is `...` is left out."""
    said = {name: value for name, value in (CLAIMS | claims).items() if value is not ...}
    return jwt.encode(said, key, algorithm, header).encode()


def refused(token: bytes, now: float = NOW) -> str:
    """Why it is not believed."""
    with pytest.raises(BadAssertionError) as caught:
        SIGNER.verify(token, now)
    return str(caught.value)


@pytest.mark.parametrize(
    "assertion",
    [
        STEP,
        replace(STEP, spent=True, open_write=True),
        replace(STEP, agent="GPTBot"),
        replace(STEP, wait_seconds=0.5),
        replace(STEP, wait_seconds=MOST_WAIT_SECONDS),
        replace(STEP, subject=None, tenant=None, tier="anonymous", address="192.0.2.1"),
        replace(STEP, subject="", scopes=frozenset(), client_ids=frozenset(), address=""),
        replace(STEP, subject="Zoë 東", tenant="a b"),
    ],
)
def test_what_is_signed_is_read_back(assertion: Assertion) -> None:
    assert SIGNER.verify(SIGNER.sign(assertion, NOW).encode(), NOW) == assertion


def test_every_signature_is_another() -> None:
    assert SIGNER.sign(STEP, NOW) != SIGNER.sign(STEP, NOW)


def test_a_key_of_before_still_verifies_and_never_signs() -> None:
    before = Assertions({"old": OLD})
    assert SIGNER.verify(before.sign(STEP, NOW).encode(), NOW) == STEP
    with pytest.raises(BadAssertionError, match="not one of PAYLOAD_KEYS"):
        before.verify(SIGNER.sign(STEP, NOW).encode(), NOW)


def test_without_a_key_nothing_is_signed() -> None:
    with pytest.raises(ValueError, match="no key"):
        Assertions({})


def test_it_lives_a_minute_and_the_clocks_leeway() -> None:
    token = SIGNER.sign(STEP, NOW).encode()
    end = int(NOW) + LIFE_SECONDS + 30
    assert SIGNER.verify(token, end - 0.1) == STEP
    assert refused(token, end) == "it has expired (exp)"
    assert SIGNER.verify(token, int(NOW) - 30) == STEP
    assert refused(token, int(NOW) - 30.1).startswith("it is from a time to come")


@pytest.mark.parametrize("life", [LIFE_SECONDS + 1, 86_400, 0, -5])
def test_one_that_would_live_longer_is_refused_however_it_is_signed(life: int) -> None:
    assert refused(signed(exp=int(NOW) + life)) == "it is for longer than 60 s"


def altered(part: int, token: bytes = b"") -> bytes:
    """One character of a part is another."""
    parts = (token or signed()).split(b".")
    middle = len(parts[part]) // 2
    digit = b"A" if parts[part][middle : middle + 1] != b"A" else b"B"
    parts[part] = parts[part][:middle] + digit + parts[part][middle + 1 :]
    return b".".join(parts)


def unsigned(header: dict[str, Any]) -> bytes:
    """A token with this header and no signature worth the name."""
    parts = [json.dumps(header).encode(), json.dumps(CLAIMS).encode(), b"none"]
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)


@pytest.mark.parametrize(
    "token",
    [
        signed(key=OTHER),
        signed(key=OLD),
        signed(algorithm="HS512", key=KEY + KEY),
        altered(1),
        altered(2),
        signed().rpartition(b".")[0] + b".AAAA",
        unsigned({"alg": "none", "typ": "on-behalf-of+jwt", "kid": "now"}),
        unsigned({"alg": "HS256", "typ": "on-behalf-of+jwt", "kid": "now"}),
        signed(header=HEADER | {"crit": ["b64"], "b64": True}),
        signed(header=HEADER | {"jwk": {}}),
        unsigned({"alg": "HS256", "typ": "on-behalf-of+jwt", "kid": ["now"]}),
    ],
)
def test_a_forged_one_is_refused(token: bytes) -> None:
    assert refused(token) == "its signature does not match"


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"x",
        b"a.b",
        b"a.b.c.d",
        b"..",
        b" " + signed(),
        signed() + b"\n",
        signed() + b"=",
        b"Bearer " + signed(),
        b"\xff.\xff.\xff",
        signed().replace(b".", b",", 1),
    ],
)
def test_what_has_not_the_form_is_refused(token: bytes) -> None:
    assert refused(token) == "it is no JSON Web Token"


def test_a_long_one_is_refused_unread() -> None:
    assert refused(b"a" * (MOST_BYTES + 1)) == "it is too long"


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "on-behalf-of+jwt", "kid": "later"},
        {"typ": "on-behalf-of+jwt"},
        {"typ": "on-behalf-of+jwt", "kid": ""},
    ],
)
def test_an_unknown_key_is_refused(header: dict[str, Any]) -> None:
    assert refused(signed(header=header)) == "the key that it names is not one of PAYLOAD_KEYS"


@pytest.mark.parametrize("head", [b"[]", b"7", b"{", b"\xff", b"null"])
def test_a_header_that_is_none_is_refused(head: bytes) -> None:
    parts = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (head, b"{}", b"none")]
    assert refused(b".".join(parts)) == "its signature does not match"
    assert refused(b"A.A.A") == "its signature does not match"


def test_a_token_of_another_kind_is_refused_under_the_right_key() -> None:
    assert refused(signed(header={"typ": "JWT", "kid": "now"})) == "it is a token of another kind"


def test_claims_that_are_no_object_are_refused() -> None:
    for payload in (b"[]", b"1", b"{", b"\xff"):
        token = jwt.PyJWS().encode(payload, KEY, "HS256", HEADER).encode()
        assert refused(token) in (
            "its claims are no JSON object",
            "its signature does not match",
        )


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"iss": "gateway"}, "(iss, aud)"),
        ({"iss": ...}, "(iss, aud)"),
        ({"aud": ["gateway"]}, "(iss, aud)"),
        ({"iat": ...}, "iat"),
        ({"exp": ...}, "exp"),
        ({"exp": float(NOW) + 5}, "exp"),
        ({"iat": True}, "iat"),
        ({"sub": 7}, "sub"),
        ({"sub": "a\r\nX-User-Tier: enterprise"}, "sub"),
        ({"sub": " ann"}, "sub"),
        ({"sub": "a" * 256}, "sub"),
        ({"tenant": ""}, "tenant"),
        ({"tenant": ["acme"]}, "tenant"),
        ({"tier": "platinum"}, "tier"),
        ({"tier": ...}, "tier"),
        ({"tier": ["pro"]}, "tier"),
        ({"scopes": ["internal"]}, "scopes"),
        ({"scopes": 'a"b'}, "scopes"),
        ({"scopes": ...}, "scopes"),
        ({"client_ids": "ann"}, "client_ids"),
        ({"client_ids": ["a\n"]}, "client_ids"),
        ({"addr": "example.com"}, "addr"),
        ({"addr": "1.2.3.4, 5.6.7.8"}, "addr"),
        ({"addr": None}, "addr"),
        ({"agent": ""}, "agent"),
        ({"agent": ["GPTBot"]}, "agent"),
        ({"agent": "a\r\nb"}, "agent"),
        ({"job": ""}, "job, svc or jti"),
        ({"svc": ...}, "job, svc or jti"),
        ({"jti": ...}, "job, svc or jti"),
        ({"spent": 1}, "spent"),
        ({"spent": ...}, "spent"),
        ({"open": "yes"}, "open"),
        ({"wait": "60"}, "wait"),
        ({"wait": True}, "wait"),
        ({"wait": 0}, "wait"),
        ({"wait": -1.5}, "wait"),
        ({"wait": MOST_WAIT_SECONDS + 1}, "wait"),
        ({"admin": True}, "a claim that nobody reads"),
    ],
)
def test_a_claim_of_the_wrong_kind_is_refused_though_signed(
    claims: dict[str, Any], why: str
) -> None:
    assert why in refused(signed(**claims))


@pytest.mark.parametrize(
    "assertion",
    [
        replace(STEP, tier="platinum"),
        replace(STEP, subject="a\nb"),
        replace(STEP, address="somewhere"),
        replace(STEP, agent=""),
        replace(STEP, client_ids=frozenset(f"client-{n:04}" for n in range(2000))),
    ],
)
def test_what_would_not_be_believed_is_not_signed(assertion: Assertion) -> None:
    with pytest.raises(ValueError, match="not to be signed"):
        SIGNER.sign(assertion, NOW)


def test_the_caller_is_as_it_was_and_never_the_worker() -> None:
    identity = STEP.identity(keyless=True)
    assert identity == Identity(
        "ann", "acme", "pro", STEP.scopes, STEP.client_ids, open_read=False, open_write=False
    )
    assert not identity.may("internal")


def test_what_the_keyless_rules_opened_is_open_only_while_they_hold() -> None:
    owner = replace(STEP, subject=None, open_write=True)
    assert owner.identity(keyless=True).open_write
    assert not owner.identity(keyless=False).open_write
    assert not owner.identity(keyless=False).open_read


def test_no_key_is_shown() -> None:
    assert repr(Assertions({"now": KEY, "old": OLD})) == "<Assertions keys=2 known=0>"


def test_one_that_is_known_holds_no_longer_and_no_sooner() -> None:
    verifier = Assertions({"now": KEY})
    token = SIGNER.sign(STEP, NOW).encode()
    end = int(NOW) + LIFE_SECONDS + 30
    for now in (NOW, NOW + 1, int(NOW) - 30, end - 0.1):
        assert verifier.verify(token, now) == STEP
    assert repr(verifier) == "<Assertions keys=1 known=1>"
    for now, why in ((int(NOW) - 30.1, "a time to come"), (end, "it has expired")):
        with pytest.raises(BadAssertionError, match=why):
            verifier.verify(token, now)
    assert repr(verifier) == "<Assertions keys=1 known=0>"
    with pytest.raises(BadAssertionError, match="it has expired"):
        verifier.verify(token, end)


def test_what_is_refused_is_not_known() -> None:
    verifier = Assertions({"now": KEY})
    late = SIGNER.sign(STEP, NOW - 100).encode()
    for token in (late, signed(key=OTHER), signed(sub=7), signed(exp=int(NOW) + 90), b"a.b.c"):
        with pytest.raises(BadAssertionError):
            verifier.verify(token, NOW)
    assert repr(verifier) == "<Assertions keys=1 known=0>"


def test_another_one_by_a_letter_is_another() -> None:
    verifier = Assertions({"now": KEY})
    token = signed()
    verifier.verify(token, NOW)
    for part in (0, 1, 2):
        with pytest.raises(BadAssertionError):
            verifier.verify(altered(part, token), NOW)


def test_those_that_spent_and_those_that_did_not_are_told_apart() -> None:
    verifier = Assertions({"now": KEY})
    for spent in (True, False) * 2:
        token = signed(spent=spent)
        assert verifier.verify(token, NOW).spent is spent


def test_so_many_are_known_and_the_oldest_goes_first() -> None:
    verifier = Assertions({"now": KEY})
    tokens = [signed(jti=str(number)) for number in range(MOST_KNOWN + 2)]
    for token in tokens:
        verifier.verify(token, NOW)
    assert repr(verifier) == f"<Assertions keys=1 known={MOST_KNOWN}>"
    assert verifier.verify(tokens[0], NOW).job == "j"  # verified anew
