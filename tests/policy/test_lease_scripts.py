"""The scripts of leases in a real Redis: what is granted, what counts, and whose share is whose."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from gateway.policy.lease_scripts import (
    GATEWAYS_KEY,
    STATE_KEY,
    LateError,
    LostError,
    bucket_key,
    run_of,
)
from tests.policy.leasing import Callers
from tests.redis_server import RedisServer, redis_server

KEY = bucket_key("rule", "s:alice")
SMALL = ((10, 1.0),)


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with redis_server() as started:
        yield started


@pytest.fixture
async def callers(server: RedisServer) -> AsyncIterator[Callers]:
    made = Callers(server.url)
    yield made
    await made.close()


async def test_a_bucket_nobody_used_is_full(callers: Callers) -> None:
    (here,) = await callers.there(b"here")
    answer = await here.lease(KEY, SMALL, need=10)
    assert answer == (10, 0, 0.0, (0.0,))


async def test_what_is_granted_ahead_is_a_share_of_what_is_left(callers: Callers) -> None:
    (here,) = await callers.there(b"here")
    assert (await here.lease(KEY, SMALL, want=8)).granted == 5
    there = await callers.make(b"there")
    await there.beat()
    assert (await there.lease(KEY, SMALL, want=8)).granted == 1
    assert (await there.lease(KEY, SMALL, need=2, want=8, held=1)).granted == 2


async def test_tokens_come_at_the_rate_and_not_beyond_the_capacity(callers: Callers) -> None:
    (here,) = await callers.there(b"here")
    await here.lease(KEY, SMALL, need=10)
    answer = await here.lease(KEY, SMALL, need=1)
    assert answer.granted == 0
    assert answer.left[0] == pytest.approx(0.0, abs=0.1)
    await callers.pass_by(4.0, here)
    assert (await here.lease(KEY, SMALL, need=10)).granted == 4
    await callers.pass_by(100.0, here)
    assert (await here.lease(KEY, SMALL, need=20)).granted == 10


async def test_what_gateways_hold_counts_towards_the_capacity(callers: Callers) -> None:
    here, there = await callers.there(b"here", b"there")
    await here.lease(KEY, SMALL, need=6)
    await callers.pass_by(2.0, here, there)
    answer = await there.lease(KEY, SMALL, need=6)
    assert (answer.granted, answer.others) == (4, 6)
    assert 0.0 < answer.others_seconds <= 1.0
    await callers.pass_by(0.9, here, there)
    assert (await there.lease(KEY, SMALL, need=6, held=4)).granted == 0


async def test_what_is_given_back_is_there_again_and_what_was_used_is_not(callers: Callers) -> None:
    here, there = await callers.there(b"here", b"there")
    await here.lease(KEY, SMALL, need=10)
    answer = await here.lease(KEY, SMALL, held=2, back=5)
    assert answer.left[0] == pytest.approx(5.0, abs=0.1)
    assert (await there.lease(KEY, SMALL, need=10)).granted == 5


async def test_nobody_gives_back_more_than_it_was_granted(callers: Callers) -> None:
    (here,) = await callers.there(b"here")
    await here.lease(KEY, SMALL, need=4)
    answer = await here.lease(KEY, SMALL, back=100)
    assert answer.left[0] == pytest.approx(10.0, abs=0.1)
    # What is held without having been granted is taken.
    answer = await here.lease(KEY, SMALL, held=12)
    assert answer.left[0] == pytest.approx(-2.0, abs=0.1)


async def test_a_token_is_taken_of_every_bucket_or_of_none(callers: Callers) -> None:
    (here,) = await callers.there(b"here")
    answer = await here.lease(KEY, ((10, 1.0), (3, 0.01)), need=5)
    assert answer.granted == 3
    assert answer.left[0] == pytest.approx(7.0, abs=0.1)
    answer = await here.lease(KEY, ((10, 1.0), (3, 0.01)), need=5)
    assert answer.granted == 0
    assert answer.left[0] == pytest.approx(7.0, abs=0.1)


async def test_fewer_than_would_be_of_use_are_not_granted(callers: Callers) -> None:
    (here,) = await callers.there(b"here")
    await here.lease(KEY, SMALL, need=8)
    assert (await here.lease(KEY, SMALL, need=5, least=5)).granted == 0
    assert (await here.lease(KEY, SMALL, need=5, least=2)).granted == 2


async def test_a_lease_that_ended_counts_as_used(callers: Callers) -> None:
    here, there = await callers.there(b"here", b"there")
    await here.lease(KEY, SMALL, need=10)
    await callers.pass_by(2.7, here, there)
    assert (await there.lease(KEY, SMALL, need=1)).granted == 0
    await callers.pass_by(0.4, here, there)
    assert (await there.lease(KEY, SMALL, need=1)).others == 0
    # Only from then on the bucket fills.
    await callers.pass_by(1.95, here, there)
    assert (await there.lease(KEY, SMALL, need=10)).granted == 2


async def test_a_bucket_is_at_most_what_a_gateway_knows_it_to_be(callers: Callers) -> None:
    (here,) = await callers.there(b"here")
    answer = await here.lease(KEY, SMALL, at_most=[3.5])
    assert answer.left == (3.5,)


async def test_commands_that_come_too_late_do_nothing(callers: Callers) -> None:
    (here,) = await callers.there(b"here")
    before = await callers.call("HGETALL", STATE_KEY)
    with pytest.raises(LateError):
        await here.beat(not_after=1)
    with pytest.raises(LateError):
        await here.leases(not_after=1)
    assert await callers.call("HGETALL", STATE_KEY) == before


async def test_a_gateway_of_another_epoch_gets_nothing(callers: Callers) -> None:
    (here,) = await callers.there(b"here")
    here.epoch = b"another"
    with pytest.raises(LostError):
        await here.lease(KEY, SMALL, need=1)
    await callers.call("FLUSHALL")
    with pytest.raises(LostError):
        await here.lease(KEY, SMALL, need=1)


async def test_gateways_are_counted_until_they_leave_or_are_unheard_for_long(
    callers: Callers,
) -> None:
    here, there, gone = await callers.there(b"here", b"there", b"gone")
    assert (await here.beat()).gateways == 3
    await there.beat(leaves=True)
    assert (await here.beat()).gateways == 2
    await callers.pass_by(9.5, here)
    assert (await here.beat()).gateways == 2
    await callers.pass_by(0.6, here)
    assert await here.beat() == (here.epoch, 1, False, False)
    assert (await gone.beat()).forgotten
    assert not (await gone.beat()).forgotten


async def test_a_gateway_waits_until_one_that_believed_to_be_alone_has_heard_of_it(
    callers: Callers,
) -> None:
    first = await callers.make(b"first")
    await first.beat()
    await first.beat()
    second = await callers.make(b"second", of=4)  # it was told how many there would be
    assert (await second.beat()).is_hidden
    assert not (await first.beat()).is_hidden  # now it hears of the second
    assert (await second.beat()).is_hidden
    await first.beat()  # now it shows that it has heard
    assert not (await second.beat()).is_hidden
    # One that is not heard any more may have ended.
    await callers.call("FLUSHALL")
    dead = await callers.make(b"dead")
    await dead.beat()
    third = await callers.make(b"third", of=4)
    assert (await third.beat()).is_hidden
    await callers.pass_by(0.5, third)
    assert (await third.beat()).is_hidden
    await callers.pass_by(0.2, third)
    assert not (await third.beat()).is_hidden


async def test_the_share_of_a_silent_gateway_is_its_own(callers: Callers) -> None:
    here, _ = await callers.there(b"here", b"silent")
    await here.lease(KEY, ((100, 10.0),), need=100)
    await here.lease(KEY, ((100, 10.0),))
    await callers.pass_by(0.6, here)  # by now it may go on alone
    await callers.pass_by(4.0, here)
    said = await here.leases()
    assert said.live == 0.5
    answer = await here.lease(KEY, ((100, 10.0),), need=100)
    assert answer.granted == pytest.approx(6 + 20, abs=1)


async def test_what_a_silent_gateway_may_gather_counts_towards_the_capacity(
    callers: Callers,
) -> None:
    here, silent = await callers.there(b"here", b"silent")
    await callers.pass_by(2.6, here)
    answer = await here.lease(KEY, ((100, 10.0),), need=100)
    assert answer.granted == pytest.approx(100 - 10, abs=1)
    other = bucket_key("rule", "s:bob")
    await callers.pass_by(4.0, here)
    await silent.beat()
    # It is back and may have used them: they come again at the rate.
    answer = await here.lease(other, ((100, 10.0),), need=100)
    assert answer.granted == pytest.approx(100 - 30, abs=1)
    third = bucket_key("rule", "s:carol")
    await callers.pass_by(1.2, here, silent)
    answer = await here.lease(third, ((100, 10.0),), need=100)
    assert answer.granted == pytest.approx(100 - 18, abs=1)


async def test_a_silent_gateway_never_takes_all_of_a_bucket(callers: Callers) -> None:
    here, _ = await callers.there(b"here", b"silent")
    await callers.pass_by(9.0, here)
    assert (await here.lease(KEY, SMALL, need=10)).granted == pytest.approx(6, abs=1)
    assert (await here.lease(KEY, ((2, 10.0),), need=2)).granted == 0
    other = bucket_key("rule", "s:bob")
    assert (await here.lease(other, ((2, 10.0),), need=2)).granted == 1


async def test_when_nobody_was_heard_the_clock_stood_and_all_was_used(callers: Callers) -> None:
    here, there = await callers.there(b"here", b"there")
    await here.lease(KEY, ((100, 10.0),), need=50)
    await here.lease(KEY, ((100, 10.0),))
    await callers.pass_by(5.6)
    answer = await here.lease(KEY, ((100, 10.0),), need=100)
    assert answer.granted == pytest.approx(50, abs=1)
    other = bucket_key("rule", "s:bob")
    await here.beat()
    await there.beat()
    assert (await there.lease(other, ((100, 10.0),), need=100)).granted == pytest.approx(50, abs=1)
    await callers.pass_by(1.0, here, there)
    third = bucket_key("rule", "s:carol")
    assert (await there.lease(third, ((100, 10.0),), need=100)).granted == pytest.approx(60, abs=1)


async def test_nobody_is_forgotten_because_redis_was_away_for_long(callers: Callers) -> None:
    here, there = await callers.there(b"here", b"there")
    await here.lease(KEY, SMALL, need=6)
    await callers.pass_by(60.0)
    assert (await there.beat()).gateways == 2
    assert not (await here.beat()).forgotten
    assert (await there.lease(KEY, SMALL)).others == 6


async def test_for_the_only_gateway_the_clock_runs_on(callers: Callers) -> None:
    (here,) = await callers.there(b"here")
    await here.lease(KEY, ((100, 10.0),), need=100)
    await here.lease(KEY, ((100, 10.0),))
    await callers.pass_by(5.0)
    await here.beat()
    answer = await here.lease(KEY, ((100, 10.0),), need=100)
    assert answer.granted == pytest.approx(50, abs=1)


async def test_who_begins_after_all_others_ended_finds_nobody(callers: Callers) -> None:
    await callers.there(b"one", b"two")
    await callers.pass_by(11.0)
    new = await callers.make(b"new")
    assert (await new.beat()).gateways == 1
    assert (await new.lease(KEY, ((100, 10.0),), need=100)).granted == 100


async def test_in_a_redis_that_lost_its_data_buckets_are_empty(callers: Callers) -> None:
    (here,) = await callers.there(b"here")
    await here.lease(KEY, SMALL, need=1)
    await callers.call("FLUSHALL")
    said = await here.beat()
    assert (said.gateways, said.forgotten) == (1, False)
    assert (await here.lease(KEY, SMALL, need=1)).granted == 0
    await callers.pass_by(3.0, here)
    assert (await here.lease(KEY, SMALL, need=10)).granted == 3


async def test_after_a_restart_with_older_data_buckets_are_empty_too(callers: Callers) -> None:
    (here,) = await callers.there(b"here")
    await here.lease(KEY, SMALL, need=1)
    epoch, here.run = here.epoch, b"next"
    assert (await here.beat()).epoch != epoch
    for key in (KEY, bucket_key("rule", "s:bob")):
        assert (await here.lease(key, SMALL, need=1)).granted == 0


async def test_after_a_restart_a_new_gateway_finds_empty_buckets_too(callers: Callers) -> None:
    here, _ = await callers.there(b"here", b"there")
    new = await callers.make(b"new", run=b"next")
    assert (await new.beat()).gateways == 3  # and waits for those that Redis still knows of
    assert (await new.lease(KEY, SMALL, need=1)).granted == 0
    here.run = b"next"
    assert (await here.beat()).gateways == 3


async def test_who_comes_first_after_a_loss_leaves_the_others_their_share(
    callers: Callers,
) -> None:
    one, two, three, four = await callers.there(b"1", b"2", b"3", b"4")
    await callers.call("FLUSHALL")
    assert (await one.beat()).gateways == 4
    await one.lease(KEY, ((100, 10.0),))
    await callers.pass_by(4.0, one)
    answer = await one.lease(KEY, ((100, 10.0),), need=100)
    assert answer.granted == pytest.approx(10, abs=1)
    for caller in (two, three, four):
        said = await caller.beat()
        assert (said.gateways, said.forgotten) == (4, False)
    await callers.pass_by(1.0, one, two, three, four)
    answer = await one.lease(KEY, ((100, 10.0),), need=100)
    assert answer.granted == pytest.approx(10, abs=1)
    names = await callers.call("HKEYS", GATEWAYS_KEY)
    assert sorted(names) == [b"1", b"2", b"3", b"4"]


async def test_who_remembers_a_loss_makes_it_one_for_a_gateway_that_came_first(
    callers: Callers,
) -> None:
    (here,) = await callers.there(b"here")
    await callers.call("FLUSHALL")
    new = await callers.make(b"new")
    await new.beat()
    assert (await new.lease(KEY, SMALL, need=1)).granted == 1
    await here.beat(before=b"older")
    epoch = here.epoch
    with pytest.raises(LostError):
        await new.lease(KEY, SMALL, need=1)
    await new.beat()
    assert (await new.lease(KEY, SMALL, need=1)).granted == 0
    # A third one that remembers changes nothing any more.
    third = await callers.make(b"third")
    assert (await third.beat(before=b"older")).epoch == new.epoch == epoch


async def test_a_bucket_of_an_older_epoch_is_none(callers: Callers) -> None:
    (here,) = await callers.there(b"here")
    await here.lease(KEY, SMALL, need=7)
    await callers.call("HSET", KEY, "epoch", "older")
    answer = await here.lease(KEY, SMALL)
    assert answer.left == (10.0,)


async def test_keys_tell_nobodys_name_and_end(callers: Callers) -> None:
    (here,) = await callers.there(b"here")
    await here.lease(KEY, SMALL, need=5)
    keys = await callers.call("KEYS", "*")
    assert set(keys) == {STATE_KEY, GATEWAYS_KEY, KEY}
    for key in keys:
        assert b"alice" not in key
        assert await callers.call("PTTL", key) > 0
    # Twice the time until the bucket is full, and as long as a lease and a silence may last.
    assert await callers.call("PTTL", KEY) == pytest.approx(2 * 5000 + 13_000, abs=500)
    assert bucket_key("rule", 1) != bucket_key("rule", "1") != bucket_key("other", "1")


def test_the_run_of_redis_is_what_info_says() -> None:
    assert run_of(b"# Server\r\nredis_version:7\r\nrun_id:abc\r\n") == b"abc"
    assert run_of(b"") == run_of(None) == b"-"


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_three_gateways_do_the_limit_holds(callers: Callers, seed: int) -> None:
    """Random leases, uses, give-backs and silences; each gateway admits alone when it may."""
    draw = random.Random(seed)
    gateways = await callers.there(b"1", b"2", b"3")
    holds = dict.fromkeys(range(3), 0)
    alone: dict[int, float] = {}  # since when, by the time that passed
    gathered = dict.fromkeys(range(3), 0.0)
    capacity, rate = 12, 4.0
    now, uses = 0.0, list[float]()

    async def turn(number: int) -> None:
        here = gateways[number]
        if number in alone:
            if draw.random() < 0.3:
                del alone[number]
                holds[number], gathered[number] = 0, 0.0
                await here.beat()
            return
        used = draw.randint(0, holds[number])
        uses.extend([now] * used)
        back = draw.randint(0, holds[number] - used) if draw.random() < 0.3 else 0
        held = holds[number] - used - back
        need = draw.randint(0, 4)
        answer = await here.lease(KEY, ((capacity, rate),), need, 8, held=held, back=back)
        holds[number] = held + answer.granted

    for _ in range(60):
        await turn(draw.randrange(3))
        if draw.random() < 0.08 and len(alone) < 3:
            alone.setdefault(draw.randrange(3), now + 0.6)
        step = draw.choice((0.05, 0.2, 0.4))
        heard = [one for number, one in enumerate(gateways) if number not in alone]
        await callers.pass_by(step, *heard)
        now += step
        for number, since in alone.items():
            holds[number] = 0  # as if the lease had ended
            gained = rate / 3 * max(0.0, min(step, now - since))
            gathered[number] = min(capacity / 3, gathered[number] + gained)
            while gathered[number] >= 1.0 and draw.random() < 0.7:
                gathered[number] -= 1.0
                uses.append(now)
    uses.sort()
    real = 2.0  # seconds that the test itself may take; Redis counts them too
    for first, begin in enumerate(uses):
        for last in range(first, len(uses)):
            assert last - first + 1 <= capacity + rate * (uses[last] - begin) + rate * real
