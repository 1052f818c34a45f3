"""One rule and key at a gateway: what it asks for, what it tells, and its share without Redis."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from gateway.policy.lease_entry import PAUSE_SECONDS, Entry, Kind, Share
from gateway.policy.lease_scripts import Answer
from gateway.policy.limit_rules import Bucket, Rule

RULE = Rule("two", (Bucket("burst", 20, 10.0, 2), Bucket("minute", 100, 1.0, 100)))
ERA = 4


def answered(
    granted: int, *left: float, others: int = 0, others_seconds: float = 0.0, now: float = 0.0
) -> Entry:
    """What Redis said at `now`."""
    entry = Entry(RULE, "s:alice", now, ERA)
    entry.need = 1
    ask = entry.ask(now)
    entry.answer(ask, Answer(granted, others, others_seconds, left), 1.0, now + 2.5, now)
    return entry


def flat(levels: Iterable[tuple[int, float]]) -> object:
    """Levels, for comparison; the slack of Redis is a thousandth of a token."""
    return pytest.approx([number for level in levels for number in level], abs=1e-3)


def test_the_first_ask_wants_some_more_than_is_needed() -> None:
    entry = Entry(RULE, "s:alice", 0.0, ERA)
    entry.need, entry.least = 3, 1
    ask = entry.ask(0.0)
    assert (ask.need, ask.least, ask.want, ask.held, ask.back) == (3, 1, 8, 0, 0)
    assert ask.buckets == ((20, 10.0), (100, 1.0))


def test_a_lease_is_sized_by_what_was_used_lately() -> None:
    entry = answered(8, 12.0, 92.0)
    for _ in range(8):
        entry.take(1, 0.05)
    assert entry.ask(0.1).want == 16  # 8 in 0.1 s are 16 in 0.2 s
    assert entry.ask(0.2).want == 8  # and it falls by half at most


def test_more_is_asked_for_when_half_is_left() -> None:
    entry = answered(8, 12.0, 92.0)
    assert [entry.take(1, 0.0) for _ in range(5)] == [False, False, False, True, True]
    entry.asked = True
    assert not entry.take(1, 0.0)


def test_a_lease_holds_until_its_end_and_in_its_era() -> None:
    entry = answered(2, 12.0, 92.0)
    assert entry.holds(2, ERA, 2.4)
    assert not entry.holds(3, ERA, 2.4)
    assert not entry.holds(1, ERA, 2.5)
    assert not entry.holds(1, ERA + 1, 2.4)
    assert entry.ask(2.5).held == 0


def test_what_is_given_back_is_no_longer_here() -> None:
    entry = answered(5, 12.0, 92.0)
    entry.gives = True
    ask = entry.ask(1.0)
    assert (ask.back, ask.held, ask.want) == (5, 0, 0)
    assert not entry.holds(1, ERA, 1.0)


def test_who_needs_tokens_gives_none_back() -> None:
    entry = answered(5, 12.0, 92.0)
    entry.gives, entry.need, entry.least = True, 7, 7
    ask = entry.ask(1.0)
    assert (ask.back, ask.held, ask.need, ask.least) == (0, 5, 2, 2)


def test_the_wait_is_that_of_the_slowest_bucket() -> None:
    entry = answered(0, 0.5, 0.25)
    assert entry.wait(1, 0.0) == pytest.approx(0.75)
    assert entry.wait(1, 0.5) == pytest.approx(0.25)
    assert entry.wait(2, 0.5) == pytest.approx(1.25)
    assert entry.wait(1, 0.8) == 0.0


def test_an_empty_bucket_is_left_alone_for_a_moment_and_asked_again_after_a_while() -> None:
    entry = answered(0, 0.999, 50.0)
    assert entry.wait(1, 0.0) == pytest.approx(PAUSE_SECONDS)
    entry = answered(0, 5.0, -50.0)
    assert entry.wait(1, 1.0) == pytest.approx(50.0)
    assert entry.wait(1, 1.01) == 0.0  # others may have given some back


def test_while_others_hold_too_much_the_wait_is_until_their_leases_have_ended() -> None:
    entry = answered(0, 0.0, 50.0, others=20, others_seconds=3.0)
    assert entry.wait(1, 0.0) == pytest.approx(3.1)


def test_what_is_there_is_what_redis_has_and_what_is_here() -> None:
    entry = answered(4, 10.0, 90.0)
    assert flat(entry.standing(0.0)) == [14, 0.6, 94, 6.0]
    assert entry.standing(0.3)[0][0] == 17
    assert entry.standing(5.0)[0] == (20, 0.0)
    assert Entry(RULE, "s:alice", 0.0, ERA).standing(0.0) == [(20, 0.0), (100, 0.0)]
    assert flat(answered(0, -3.0, -3.0).standing(0.0)) == [0, 2.3, 0, 103.0]


def test_of_what_nobody_knows_nothing_is_left() -> None:
    entry = Entry(RULE, "s:alice", 0.0, ERA)
    entry.refused_until = 0.02
    assert entry.standing(0.0) == [(0, 0.02), (0, 0.02)]
    assert entry.standing(0.02) == [(20, 0.0), (100, 0.0)]


def test_without_redis_a_key_begins_with_its_lease_and_gains_its_share_from_then_on() -> None:
    entry = answered(2, 12.0, 92.0, now=100.0)
    entry.begin(Share(Kind.SPLIT, 101.0, 4, ERA), 100.5)
    assert entry.wait_alone(2, 100.5) == 0.0
    entry.take_alone(1, 100.5)
    entry.take_alone(1, 100.5)
    assert entry.wait_alone(1, 100.5) == pytest.approx(0.5 + 4.0)  # a quarter of one a second
    assert entry.wait_alone(1, 104.0) == pytest.approx(1.0)
    assert entry.wait_alone(1, 105.0) == 0.0
    assert flat(entry.standing(105.0)) == [5, 0.0, 1, 96.0]
    assert flat(entry.standing(1e6)) == [5, 0.0, 25, 0.0]


def test_a_lease_that_would_have_ended_is_void_without_redis_too() -> None:
    entry = answered(5, 12.0, 92.0, now=100.0)
    entry.begin(Share(Kind.SPLIT, 1000.0, 4, ERA), 100.5)
    entry.take_alone(2, 100.5)
    assert entry.wait_alone(3, 102.4) == 0.0
    assert entry.wait_alone(1, 102.5) > 0.0


@pytest.mark.parametrize(("now", "era"), [(102.5, ERA), (100.5, ERA - 1)])
def test_a_lease_that_holds_no_more_counts_for_nothing(now: float, era: int) -> None:
    entry = answered(5, 12.0, 92.0, now=100.0)
    entry.era = era
    entry.begin(Share(Kind.SPLIT, 1000.0, 4, ERA), now)
    assert entry.wait_alone(1, now) > 0.0


def test_a_limit_below_the_number_of_gateways_lets_one_request_in() -> None:
    entry = Entry(Rule("one", (Bucket("burst", 1, 1.0, 1),)), "s:alice", 0.0, ERA)
    entry.begin(Share(Kind.SPLIT, 0.0, 4, ERA), 0.0)
    assert entry.wait_alone(1, 0.0) == pytest.approx(4.0)
    assert entry.wait_alone(1, 4.0) == 0.0


def test_who_never_met_redis_has_its_share_at_once_and_tells_what_is_missing() -> None:
    entry = Entry(RULE, "s:alice", 0.0, ERA)
    entry.begin(Share(Kind.APART, 0.0, 2, -2), 0.0)
    assert entry.wait_alone(10, 0.0) == 0.0
    for _ in range(8):
        entry.take_alone(1, 0.0)
    assert entry.wait_alone(3, 0.0) == pytest.approx(0.2)
    entry.report(1.0, forgotten=False)
    entry.forget()
    assert entry.has_news
    assert entry.ask(1.0).at_most == [17.0, 92.5]
    assert not entry.has_news


def test_the_only_gateway_goes_on_with_what_redis_had() -> None:
    entry = answered(4, 10.0, 90.0)
    entry.begin(Share(Kind.ALONE, 0.0, 1, ERA), 0.5)
    for _ in range(16):
        assert entry.wait_alone(1, 0.5) == 0.0
        entry.take_alone(1, 0.5)
    assert entry.wait_alone(4, 0.5) == pytest.approx(0.1)
    assert entry.standing(0.5)[0][0] == 3
    # Full buckets gain nothing, so what is used then counts from then on.
    assert entry.wait_alone(20, 50.0) == 0.0
    entry.take_alone(20, 50.0)
    assert entry.wait_alone(1, 50.0) == pytest.approx(0.1)
    entry.report(50.2, forgotten=False)
    entry.forget()
    at_most = entry.ask(50.2).at_most
    assert at_most is not None
    assert at_most[0] == pytest.approx(2.0)


def test_a_key_that_the_only_gateway_did_not_know_nobody_used_since_it_is_alone() -> None:
    entry = Entry(RULE, "s:alice", 100.0, ERA)
    entry.begin(Share(Kind.ALONE, 99.0, 1, ERA), 100.0)
    assert entry.wait_alone(1, 100.0) == 0.0
    assert entry.wait_alone(2, 100.0) == pytest.approx(1.0)


def test_what_was_used_beyond_the_lease_while_redis_was_slow_is_told() -> None:
    entry = answered(1, 10.0, 50.0)
    entry.trust(0.0, 0.0)
    entry.take_alone(1, 0.0)
    assert entry.tokens == 0
    entry.take_alone(2, 0.0)
    assert entry.has_news
    ask = entry.ask(0.0)
    assert (ask.held, ask.at_most) == (0, [8.0, 48.0])
    entry.take_alone(1, 0.0)  # while that is on its way
    entry.answer(ask, Answer(3, 0, 0.0, (5.0, 45.0)), 1.0, 2.5, 0.0)
    assert entry.tokens == 2
    assert not entry.credit


def test_only_a_gateway_that_was_forgotten_tells_what_it_used_of_its_share() -> None:
    for forgotten, told in ((False, None), (True, [17.0, 97.0])):
        entry = Entry(RULE, "s:alice", 0.0, ERA)
        entry.begin(Share(Kind.SPLIT, 0.0, 4, ERA), 0.0)
        entry.take_alone(3, 100.0)
        entry.report(100.0, forgotten=forgotten)
        entry.forget()
        assert entry.ask(100.0).at_most == told
    entry = Entry(RULE, "s:alice", 0.0, ERA)
    entry.begin(Share(Kind.SPLIT, 0.0, 4, ERA), 0.0)
    entry.report(100.0, forgotten=True)
    assert not entry.has_news


def test_showing_them_tells_how_they_stand() -> None:
    entry = answered(2, 12.0, 92.0)
    assert repr(entry).startswith("<Entry tokens=2 told=[(20, 10.0, 12.0, 20)")
    assert repr(Share(Kind.SPLIT, 0.0, 4, ERA)) == "<Share split 1/4>"
