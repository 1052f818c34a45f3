"""Repeats of a publication by key, at one gateway."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sse.event import Refused
from sse.idempotency import (
    KEEP_SECONDS,
    KEYS,
    UNDER_WAY_SECONDS,
    IdempotencyKeys,
    Stored,
    body_digest,
    key_id,
    publishing_scope,
    read_key,
)

A, B = body_digest(b"a"), body_digest(b"b")
SCOPE = publishing_scope("alice", "publisher", "192.0.2.1")


def refused(keys: IdempotencyKeys, digest: bytes, now: float, key: str = "k") -> str:
    """The code of the refusal that beginning meets."""
    with pytest.raises(Refused) as caught:
        keys.begin(SCOPE, key, digest, now)
    return caught.value.code


def test_a_repeat_gets_the_first_answer_again() -> None:
    keys = IdempotencyKeys()
    assert keys.begin(SCOPE, "k", A, 0.0) is None
    keys.finish(SCOPE, "k", b'{"ids":[]}', 1.0)
    assert keys.begin(SCOPE, "k", A, 2.0) == Stored(b'{"ids":[]}')
    assert keys.begin(SCOPE, "k", A, 3.0) == Stored(b'{"ids":[]}')


def test_another_body_under_the_same_key_is_unprocessable() -> None:
    keys = IdempotencyKeys()
    keys.begin(SCOPE, "k", A, 0.0)
    assert refused(keys, B, 0.0) == "UNPROCESSABLE"
    keys.finish(SCOPE, "k", b"1", 0.0)
    assert refused(keys, B, 0.0) == "UNPROCESSABLE"
    assert keys.begin(SCOPE, "k", A, 0.0) == Stored(b"1")


def test_a_repeat_while_the_first_is_under_way_is_a_conflict() -> None:
    keys = IdempotencyKeys()
    keys.begin(SCOPE, "k", A, 0.0)
    assert refused(keys, A, UNDER_WAY_SECONDS - 1) == "CONFLICT"


def test_an_attempt_that_never_ended_holds_its_key_for_a_while_only() -> None:
    keys = IdempotencyKeys()
    keys.begin(SCOPE, "k", A, 0.0)
    assert keys.begin(SCOPE, "k", B, UNDER_WAY_SECONDS) is None
    assert refused(keys, B, UNDER_WAY_SECONDS) == "CONFLICT"


def test_an_attempt_that_failed_does_not_burn_the_key() -> None:
    keys = IdempotencyKeys()
    keys.begin(SCOPE, "k", A, 0.0)
    keys.forget(SCOPE, "k")
    assert keys.begin(SCOPE, "k", B, 0.0) is None


def test_what_is_finished_is_not_forgotten() -> None:
    keys = IdempotencyKeys()
    keys.begin(SCOPE, "k", A, 0.0)
    keys.finish(SCOPE, "k", b"1", 0.0)
    keys.forget(SCOPE, "k")
    keys.forget(SCOPE, "never seen")
    assert keys.begin(SCOPE, "k", A, 0.0) == Stored(b"1")


def test_keys_count_for_a_day_from_their_answer() -> None:
    keys = IdempotencyKeys()
    keys.begin(SCOPE, "k", A, 0.0)
    keys.finish(SCOPE, "k", b"1", 10.0)
    assert keys.begin(SCOPE, "k", A, KEEP_SECONDS + 9.0) == Stored(b"1")
    assert keys.begin(SCOPE, "k", B, KEEP_SECONDS + 10.0) is None
    assert KEEP_SECONDS == 24 * 60 * 60


def test_the_oldest_of_too_many_keys_go() -> None:
    keys = IdempotencyKeys(max_keys=3)
    for number in range(3):
        keys.begin(SCOPE, f"{number}", A, 0.0)
    keys.finish(SCOPE, "0", b"0", 1.0)  # the newest now
    keys.begin(SCOPE, "3", A, 2.0)
    assert len(keys) == 3
    assert [(SCOPE, f"{n}") in keys for n in range(4)] == [True, False, True, True]
    keys.finish(SCOPE, "1", b"1", 3.0)  # too late: nothing to keep it under
    assert keys.begin(SCOPE, "1", B, 3.0) is None
    assert repr(keys) == "<IdempotencyKeys 3/3 under_way=2>"
    with pytest.raises(ValueError, match="max_keys"):
        IdempotencyKeys(max_keys=0)


def test_ten_thousand_keys_are_honoured() -> None:
    keys = IdempotencyKeys()
    for number in range(KEYS + 1):
        keys.begin(SCOPE, f"{number}", A, 0.0)
        keys.finish(SCOPE, f"{number}", b"%d" % number, 0.0)
    assert len(keys) == KEYS == 10_000
    assert keys.begin(SCOPE, "1", A, 0.0) == Stored(b"1")
    assert keys.begin(SCOPE, "0", A, 0.0) is None


def test_lapsed_keys_leave_the_table() -> None:
    keys = IdempotencyKeys()
    for number in range(100):
        keys.begin(SCOPE, f"{number}", A, 0.0)
    for number in range(100, 150):
        keys.begin(SCOPE, f"{number}", A, KEEP_SECONDS)
    assert len(keys) == 50


def test_an_answer_given_elsewhere_is_kept_here() -> None:
    keys = IdempotencyKeys(max_keys=1)
    keys.begin(SCOPE, "j", A, 0.0)
    keys.keep(SCOPE, "k", A, b"1", 0.0)
    assert keys.begin(SCOPE, "k", A, 0.0) == Stored(b"1")
    assert len(keys) == 1


def test_a_clock_set_back_keeps_keys_longer() -> None:
    keys = IdempotencyKeys()
    keys.begin(SCOPE, "k", A, 1000.0)
    keys.finish(SCOPE, "k", b"1", 1000.0)
    assert keys.begin(SCOPE, "k", A, 0.0) == Stored(b"1")


@pytest.mark.parametrize(
    ("client_id", "subject", "address"),
    [
        ("bob", "publisher", "192.0.2.1"),
        ("alice", "other", "192.0.2.1"),
        ("alice", None, "192.0.2.1"),
        ("alice", None, "publisher"),
        ("alice", "publisher ", ""),
        ("alice", "", ""),
        ("alice", "\ud800", ""),
    ],
)
def test_callers_and_client_ids_do_not_share_keys(
    client_id: str, subject: str | None, address: str
) -> None:
    keys = IdempotencyKeys()
    keys.begin(SCOPE, "k", A, 0.0)
    assert keys.begin(publishing_scope(client_id, subject, address), "k", B, 0.0) is None


def test_a_caller_with_a_credential_is_the_same_from_anywhere() -> None:
    assert publishing_scope("a", "s", "192.0.2.1") == publishing_scope("a", "s", "192.0.2.2")
    assert publishing_scope("a", None, "192.0.2.1") != publishing_scope("a", None, "192.0.2.2")
    assert publishing_scope("a", None, "x") != publishing_scope("a", "x", "x")


def test_neither_body_nor_key_is_held() -> None:
    assert len(body_digest(b"x" * 100_000)) == 16
    assert len(key_id(SCOPE, "k" * 255)) == 16


@pytest.mark.parametrize("field", [b"k", b"~" * 255, b"!", b'"8e03978e-40d5-43dd"', b"a,b"])
def test_keys(field: bytes) -> None:
    assert read_key(field) == field.decode()


@pytest.mark.parametrize("field", [b"", b"k" * 256, b"a b", b"a\tb", b"\x7f", b"\xc3\xa9", b"a\n"])
def test_what_is_no_key_is_a_bad_request(field: bytes) -> None:
    with pytest.raises(Refused) as caught:
        read_key(field)
    assert caught.value.code == "BAD_REQUEST"


class AgainstAPlainDict(RuleBasedStateMachine):
    """The table against a dict of what was said, with a clock that goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = IdempotencyKeys(max_keys=1000, keep_seconds=100.0)
        self.now = 0.0
        self.model: dict[str, tuple[bytes, bytes | None, float]] = {}

    names = st.sampled_from(["a", "b", "c"])

    @rule(seconds=st.sampled_from([1.0, 29.0, 30.0, 70.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=names, digest=st.sampled_from([A, B]))
    def begin(self, key: str, digest: bytes) -> None:
        known = self.model.get(key)
        if known is not None:
            limit = 100.0 if known[1] is not None else UNDER_WAY_SECONDS
            if self.now - known[2] >= limit:
                known = None
        if known is None:
            assert self.keys.begin(SCOPE, key, digest, self.now) is None
            self.model[key] = (digest, None, self.now)
        elif known[0] != digest:
            assert refused(self.keys, digest, self.now, key) == "UNPROCESSABLE"
        elif known[1] is None:
            assert refused(self.keys, digest, self.now, key) == "CONFLICT"
        else:
            assert self.keys.begin(SCOPE, key, digest, self.now) == Stored(known[1])

    @rule(key=names)
    def finish(self, key: str) -> None:
        known = self.model.get(key)
        if known is None or known[1] is not None or self.now - known[2] >= UNDER_WAY_SECONDS:
            return
        answer = f"{key} {self.now}".encode()
        self.keys.finish(SCOPE, key, answer, self.now)
        self.model[key] = (known[0], answer, self.now)

    @rule(key=names)
    def forget(self, key: str) -> None:
        self.keys.forget(SCOPE, key)
        if key in self.model and self.model[key][1] is None:
            del self.model[key]

    @invariant()
    def nothing_piles_up(self) -> None:
        assert len(self.keys) <= 3


TestAgainstAPlainDict = AgainstAPlainDict.TestCase
# Another process may have the machine just now: no example is timed.
TestAgainstAPlainDict.settings = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
