"""What a route asks of its callers."""

from __future__ import annotations

import pytest

from gateway.policy.auth import AuthRule, Identity

BARE = ((b"WWW-Authenticate", b'Bearer realm="gateway"'),)
ALICE = Identity("alice", scopes=frozenset(("events:read", "a")))
NAMELESS = Identity("", scopes=frozenset(("a",)))
OWNER = Identity(open_read=True, open_write=True)
READER = Identity(open_read=True)


@pytest.mark.parametrize("text", ["none", "optional", "required"])
def test_a_rule_is_read(text: str) -> None:
    assert AuthRule.parse(text).kind == text
    assert AuthRule.parse(text).scopes == frozenset()


def test_a_rule_of_scopes_is_read() -> None:
    assert AuthRule.parse("scope:a") == AuthRule("scope", frozenset(("a",)))
    assert AuthRule.parse("scope:a, jobs:write") == AuthRule(
        "scope", frozenset(("a", "jobs:write"))
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "None",
        "jwt",
        "scope",
        "scope:",
        "scope:a,",
        "scope:a b",
        'scope:"',
        "scopes:a",
        "scope:é",
    ],
)
def test_another_rule_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"^none, optional, required, or scope: "):
        AuthRule.parse(text)


@pytest.mark.parametrize("text", ["none", "optional"])
@pytest.mark.parametrize("caller", [Identity(), ALICE, NAMELESS, OWNER, READER])
def test_nothing_is_asked_where_a_credential_is_not_needed(text: str, caller: Identity) -> None:
    assert AuthRule.parse(text).check(caller) is None


def test_a_verified_credential_is_enough_where_one_is_required() -> None:
    rule = AuthRule.parse("required")
    assert [rule.check(each) for each in (ALICE, NAMELESS, OWNER)] == [None, None, None]
    nobody = rule.check(Identity())
    assert nobody is not None
    assert (nobody.code, nobody.status, nobody.headers) == ("UNAUTHORIZED", 401, BARE)


def test_without_a_key_nobody_can_have_a_credential_and_is_told_so() -> None:
    for rule in (AuthRule.parse("required"), AuthRule.parse("scope:a")):
        refusal = rule.check(READER)
        assert refusal is not None
        assert (refusal.code, "JWT_SECRET" in refusal.message) == ("UNAUTHORIZED", True)
        assert rule.check(OWNER) is None


def test_one_scope_of_a_rule_suffices() -> None:
    rule = AuthRule.parse("scope:a,b")
    assert rule.check(ALICE) is None
    assert rule.check(NAMELESS) is None
    assert rule.check(Identity("bob", scopes=frozenset(("b",)))) is None


def test_a_credential_without_the_scope_is_forbidden_and_told_which() -> None:
    refusal = AuthRule.parse("scope:x:write,x:all").check(ALICE)
    assert refusal is not None
    assert (refusal.code, refusal.status) == ("FORBIDDEN", 403)
    assert refusal.message == ("this credential is not enough; it takes the scope x:all or x:write")
    challenge = b'Bearer realm="gateway", error="insufficient_scope", scope="x:all x:write"'
    assert refusal.headers == ((b"WWW-Authenticate", challenge),)


def test_without_a_credential_a_scope_is_asked_for_without_an_error() -> None:
    # RFC 6750 §3: no error code where there was no credential.
    refusal = AuthRule.parse("scope:a").check(Identity())
    assert refusal is not None
    assert (refusal.code, refusal.status) == ("UNAUTHORIZED", 401)
    assert refusal.headers == ((b"WWW-Authenticate", b'Bearer realm="gateway", scope="a"'),)


def test_the_gateways_own_scope_is_nobodys_without_a_key() -> None:
    refusal = AuthRule.parse("scope:internal").check(OWNER)
    assert refusal is not None
    assert refusal.code == "UNAUTHORIZED"
