"""An identity: what it may do, and how it travels inside the gateway."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.identity import Identity, is_name, is_scope, is_scopes
from tests.policy.keys import NOW

# What an identity may


def test_a_subscriber_reads_its_own_the_listed_and_with_the_scope_any() -> None:
    alice = Identity(subject="alice", client_ids=frozenset(("board",)))
    assert [alice.may_read(name) for name in ("alice", "board", "bob", "", "Alice")] == [
        *(True, True, False, False, False)
    ]
    assert Identity(subject="a", scopes=frozenset(("events:read",))).may_read("bob")
    assert not Identity(subject="a", scopes=frozenset(("admin", "events:write"))).may_read("bob")
    assert Identity(open_read=True).may_read("bob")
    assert not Identity(open_write=True).may_read("bob")


def test_who_has_neither_a_subject_nor_a_tenant_is_nameless() -> None:
    assert Identity(subject="").is_nameless
    named = (Identity(subject="a"), Identity(subject="", tenant="t"))
    assert not any(each.is_nameless for each in named)
    assert not Identity().is_nameless  # it came without a credential


def test_one_of_the_scopes_is_enough() -> None:
    alice = Identity(subject="alice", scopes=frozenset(("questions:ask",)))
    assert alice.may("events:write", "questions:ask")
    assert not alice.may("events:write")
    assert not alice.may()


def test_open_writing_stands_for_any_scope_but_internal() -> None:
    owner = Identity(open_write=True)
    assert owner.may("events:write")
    assert owner.may("admin")
    assert owner.may("internal", "events:write")
    assert not owner.may("internal")
    assert not owner.may()
    assert Identity(scopes=frozenset(("internal",))).may("internal")


# The header field between edge and control application

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
WORDS = st.frozensets(st.text("abc:.-é", min_size=1, max_size=9), max_size=5)


@given(
    st.builds(
        Identity,
        st.none() | TEXTS,
        st.none() | TEXTS,
        st.sampled_from(("anonymous", "pro")),
        WORDS,
        st.frozensets(TEXTS, max_size=5),
        st.none() | st.floats(0, 1e11),
        st.booleans(),
        st.booleans(),
        st.none() | TEXTS,
    )
)
def test_an_identity_survives_its_header_field(identity: Identity) -> None:
    encoded = identity.encode()
    assert encoded.isascii()
    assert not {*encoded} & {*b" \r\n,;"}
    assert Identity.decode(encoded) == identity
    assert Identity.decode(encoded.decode("ascii")) == identity


@pytest.mark.parametrize(
    "raw", [b"", b"x", b"====", b"bnVsbA==", b"W10=", b"e30=", b"WzEsMiwzLDQsNSw2LDcsOF0=", "\xe9"]
)
def test_what_encodes_no_identity_is_a_value_error(raw: bytes | str) -> None:
    with pytest.raises(ValueError, match="not an encoded identity"):
        Identity.decode(raw)


def test_an_id_for_revocation_is_sent_only_where_there_is_one() -> None:
    without, named = Identity("alice"), Identity("alice", jti="t-1")
    assert len(without.encode()) < len(named.encode())
    assert Identity.decode(named.encode()).jti == "t-1"
    assert Identity.decode(without.encode()).jti is None


def test_an_identity_ends_without_leeway() -> None:
    found = Identity("alice", expires_at=NOW + 1)
    assert (found.has_ended(NOW + 0.9), found.has_ended(NOW + 1)) == (False, True)
    assert not Identity().has_ended(math.inf)


def test_names_and_scopes_can_stand_in_a_line() -> None:
    for name in ("a", "a" * 255, "é b", "\N{SNOWMAN}"):
        assert is_name(name)
    for bad in ("", "a" * 256, "a\n", "\x00", None, 7, ["a"], "\udcff"):
        assert not is_name(bad)
    for scope in ("a", "events:read", "!~[]"):
        assert is_scope(scope)
    for bad_scope in ("", "a b", 'a"', "a\\", "é", "\x7f", "a\n"):
        assert not is_scope(bad_scope)
    assert is_scopes("")
    assert is_scopes(" a  b ")
    assert not is_scopes("a\tb")
    assert not is_scopes(["a"])
