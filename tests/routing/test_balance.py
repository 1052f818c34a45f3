"""Whose turn it is among the endpoints of a service."""

from __future__ import annotations

import random
from collections import Counter
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.balance import (
    Balancer,
    ConsistentHash,
    LeastOutstanding,
    RoundRobin,
    balancer,
)

KINDS = ("round_robin", "weighted", "p2c", "hash")


class Place:
    """All that a balancer knows of an endpoint."""

    def __init__(self, name: str, share: float = 1.0, outstanding: int = 0) -> None:
        self.name = name
        self.share = share
        self.outstanding = outstanding
        self.credit = 0.0
        self.seed = random.Random(name).getrandbits(64)

    def __repr__(self) -> str:
        return self.name


def places(*shares: float) -> list[Place]:
    """Called a, b, c …"""
    return [Place(chr(ord("a") + at), share) for at, share in enumerate(shares)]


def turns(balance: Balancer, among: list[Place], count: int, key: bytes | None = None) -> str:
    """The names of those picked."""
    even = len({each.share for each in among}) == 1
    return "".join(balance.pick(among, key, even=even).name for _ in range(count))


def owners(among: list[Place], keys: range) -> dict[int, str]:
    """Which endpoint each key has while nothing is under way."""
    balance = ConsistentHash(RoundRobin())
    even = len({each.share for each in among}) == 1
    return {key: balance.pick(among, b"%d" % key, even=even).name for key in keys}


def drawing(seed: int) -> Balancer:
    """Two choices by a known chance."""
    return LeastOutstanding(random.Random(seed).random)


# Round robin


def test_endpoints_take_turns_in_the_order_they_are_given() -> None:
    assert turns(RoundRobin(), places(1, 1, 1), 7) == "abcabca"


def test_two_turns_of_two_services_do_not_mix() -> None:
    one, other, among = RoundRobin(), RoundRobin(), places(1, 1)
    found = [turns(balance, among, 1) for balance in (one, other, one, other)]
    assert found == ["a", "a", "b", "b"]


def test_turns_go_on_when_endpoints_come_and_go() -> None:
    balance, among = RoundRobin(), places(1, 1, 1)
    assert turns(balance, among, 3) + turns(balance, among[:2], 3) == "abcaba"


@given(endpoints=st.integers(1, 20), count=st.integers(0, 200))
def test_no_endpoint_is_ever_two_turns_ahead(endpoints: int, count: int) -> None:
    balance, among = RoundRobin(), places(*[1.0] * endpoints)
    taken = Counter(dict.fromkeys((place.name for place in among), 0))
    taken.update(turns(balance, among, count))
    assert max(taken.values()) - min(taken.values()) <= 1


def test_heavy_endpoints_take_more_turns_and_not_all_at_once() -> None:
    """nginx's own example of its smooth weighted round robin."""
    assert turns(RoundRobin(), places(5, 1, 1), 14) == "aabacaaaabacaa"


@given(weights=st.lists(st.integers(1, 20), min_size=2, max_size=6))
def test_in_a_full_round_each_endpoint_takes_as_many_turns_as_it_weighs(
    weights: list[int],
) -> None:
    among = places(*weights)
    if len(set(weights)) == 1:
        return
    taken = Counter(turns(RoundRobin(), among, sum(weights)))
    assert [taken[place.name] for place in among] == weights


def test_an_endpoint_that_is_away_leaves_its_turns_to_the_others_by_weight() -> None:
    balance, (a, b, c) = RoundRobin(), places(5, 2, 1)
    turns(balance, [a, b, c], 5)
    taken = Counter(turns(balance, [b, c], 30))
    assert taken["b"] == pytest.approx(20, abs=3)


# Least outstanding of two


def test_of_two_drawn_the_less_busy_one_is_taken() -> None:
    a, b = Place("a", outstanding=7), Place("b", outstanding=2)
    for seed in range(20):
        assert turns(drawing(seed), [a, b], 1) == "b"


def test_the_busiest_of_many_is_never_taken() -> None:
    among = places(*[1.0] * 8)
    for load, place in enumerate(among):
        place.outstanding = load
    assert "h" not in turns(drawing(1), among, 2000)


def test_two_that_are_drawn_are_never_the_same() -> None:
    """Else the busier of two would be taken now and then."""
    draws = iter([0.5, 0.0, 0.5, 0.999, 0.0, 0.0, 0.999, 0.999])
    balance = LeastOutstanding(lambda: next(draws))
    assert turns(balance, [Place("a", outstanding=1), Place("b")], 4) == "bbbb"


def test_idle_endpoints_are_drawn_by_their_share() -> None:
    taken = Counter(turns(drawing(2), places(1, 3), 4000))
    assert taken["b"] / taken["a"] == pytest.approx(3, rel=0.15)
    taken = Counter(turns(drawing(3), places(1, 1, 1, 1), 4000))
    assert min(taken.values()) > 850


def test_a_heavier_endpoint_may_be_busier() -> None:
    a, b = Place("a", 1.0, outstanding=2), Place("b", 4.0, outstanding=6)
    for seed in range(20):
        assert turns(drawing(seed), [a, b], 1) == "b"


def test_a_draw_that_rounding_leaves_over_takes_the_last() -> None:
    assert turns(LeastOutstanding(lambda: 1.0), places(1, 2, 4), 1) == "c"


def test_one_that_is_alone_is_taken() -> None:
    for kind in KINDS:
        balance = balancer(kind, random.Random(1).random)
        assert turns(balance, places(1), 2, b"key") == "aa"
        assert balance.pick(places(1), None, even=False).name == "a"


# Consistent hash


def test_a_key_keeps_its_endpoint() -> None:
    among = places(1, 1, 1)
    assert owners(among, range(500)) == owners(list(reversed(among)), range(500))
    assert len(set(turns(ConsistentHash(RoundRobin()), among, 50, b"somebody"))) == 1


def test_keys_spread_over_all_endpoints_by_their_shares() -> None:
    counted = Counter(owners(places(1, 1, 1, 1), range(8000)).values())
    assert all(counted[name] == pytest.approx(2000, rel=0.08) for name in "abcd")
    counted = Counter(owners(places(1, 2, 5), range(8000)).values())
    shares = [counted[name] for name in "abc"]
    assert shares == [pytest.approx(part, rel=0.1) for part in (1000, 2000, 5000)]


def test_removing_an_endpoint_moves_its_keys_and_no_others() -> None:
    among = places(*[1.0] * 10)
    before = owners(among, range(10_000))
    after = owners(among[:4] + among[5:], range(10_000))
    moved = {key for key in before if before[key] != after[key]}
    assert moved == {key for key, name in before.items() if name == "e"}
    assert len(moved) == pytest.approx(1000, rel=0.1)
    taken = Counter(after[key] for key in moved)
    assert len(taken) == 9, "they spread over all others"
    assert max(taken.values()) < 2 * len(moved) / 9


def test_an_endpoint_that_is_added_takes_its_share_and_moves_nothing_else() -> None:
    among = places(*[1.0] * 5)
    before, after = owners(among[:4], range(10_000)), owners(among, range(10_000))
    moved = {key for key in before if before[key] != after[key]}
    assert {after[key] for key in moved} == {"e"}
    assert len(moved) == pytest.approx(2000, rel=0.1)


def test_a_share_that_grows_takes_keys_only_to_itself() -> None:
    before = owners(places(1, 1, 0.25), range(5000))
    after = owners(places(1, 1, 0.75), range(5000))
    assert {after[key] for key in before if before[key] != after[key]} == {"c"}
    full = owners(places(1, 1, 1), range(5000))
    assert {full[key] for key in before if after[key] != full[key]} == {"c"}


def test_a_busy_endpoint_passes_a_key_on_always_to_the_same_one() -> None:
    among = places(1, 1, 1, 1)
    (name,) = {turns(ConsistentHash(RoundRobin()), among, 1, b"somebody")}
    owner = next(place for place in among if place.name == name)
    owner.outstanding = 50
    second = turns(ConsistentHash(RoundRobin()), among, 20, b"somebody")
    assert len(set(second)) == 1
    assert second[0] != name
    owner.outstanding = 0
    assert turns(ConsistentHash(RoundRobin()), among, 1, b"somebody") == name


@given(
    shares=st.lists(st.sampled_from([1.0, 2.0, 5.0]), min_size=2, max_size=8),
    keys=st.lists(st.integers(0, 3), min_size=1, max_size=120),
    ends=st.lists(st.integers(0, 200), max_size=60),
)
def test_no_endpoint_has_more_than_a_quarter_above_its_share(
    shares: list[float], keys: list[int], ends: list[int]
) -> None:
    """However few the keys are: all requests could be of one."""
    among, balance = places(*shares), ConsistentHash(RoundRobin())
    even = len(set(shares)) == 1
    under_way: list[Place] = []
    for key in keys:
        picked = balance.pick(among, b"%d" % key, even=even)
        picked.outstanding += 1
        under_way.append(picked)
        bound = ceil(1.25 * len(under_way) * picked.share / sum(shares))
        assert picked.outstanding <= bound
        if ends and len(under_way) > ends[0]:
            under_way.pop(ends.pop(0) % len(under_way)).outstanding -= 1


def test_requests_without_a_key_take_turns() -> None:
    assert turns(ConsistentHash(RoundRobin()), places(1, 1, 1), 4) == "abca"


# Shares that grow (slow start), with every balancer


@pytest.mark.parametrize("kind", KINDS)
def test_an_endpoint_with_a_tenth_of_its_share_gets_about_a_tenth(kind: str) -> None:
    balance, among = balancer(kind, random.Random(5).random), places(1, 1, 0.1)
    taken = Counter(
        balance.pick(among, b"%d" % key if kind == "hash" else None, even=False).name
        for key in range(6300)
    )
    assert taken["c"] == pytest.approx(300, rel=0.25)
    assert taken["a"] == pytest.approx(3000, rel=0.1)
