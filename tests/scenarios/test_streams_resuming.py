"""Where a stream goes on: positions, resets that say why and how many, epochs, what is retained."""

from __future__ import annotations

import pytest

from tests.streams import (
    Ledger,
    event,
    events,
    numbers,
    post,
    publish_many,
    published,
    quiet,
    split_id,
    subscribe,
)
from tests.wire import eventually, holds, start_gateway


async def test_without_a_position_a_stream_is_live_only() -> None:
    async with start_gateway() as gateway:
        await publish_many(gateway, "alice", 5)
        async with subscribe(gateway) as stream:
            assert stream.established.data["resumed"] is False
            assert await quiet(stream, gateway, "alice") == []


async def test_ids_are_epoch_and_a_sequence_from_1_without_holes() -> None:
    async with start_gateway() as gateway, subscribe(gateway) as stream:
        ids = await publish_many(gateway, "alice", 7)
        got = await stream.events(7)
        assert [each.id for each in got] == ids
        assert [each.seq for each in got] == list(range(1, 8))
        assert {each.epoch for each in got} == {stream.established.data["epoch"]}
        assert numbers(got) == list(range(7))


async def test_two_client_ids_have_two_epochs_and_two_sequences() -> None:
    async with start_gateway() as gateway:
        [one] = await published(gateway, "alice", event())
        [two] = await published(gateway, "bob", event())
        assert split_id(one)[1] == split_id(two)[1] == 1
        assert split_id(one)[0] != split_id(two)[0]


HOW = {
    "header": lambda position: {"after": position},
    "query": lambda position: {"query": f"last_event_id={position}"},
    "encoded query": lambda position: {"query": "last_event_id=" + position.replace("-", "%2D")},
    "header over query": lambda position: {
        "after": position,
        "query": "last_event_id=earliest",
    },
    "header over a bad query": lambda position: {"after": position, "query": "last_event_id=x"},
}


@pytest.mark.parametrize("how", HOW.values(), ids=HOW.keys())
async def test_a_stream_goes_on_behind_the_id_it_is_given(how: object) -> None:
    async with start_gateway() as gateway:
        ids = await publish_many(gateway, "alice", 5)
        async with subscribe(gateway, **how(ids[1])) as stream:  # type: ignore[operator]
            assert stream.established.data["resumed"] is True
            assert stream.established.data["epoch"] == split_id(ids[0])[0]
            assert [got.id for got in await stream.events(3)] == ids[2:]
            sent = await published(gateway, "alice", event("live"))
            assert (await stream.event()).id == sent[0]


@pytest.mark.parametrize("options", [{"after": ""}, {"query": "last_event_id="}])
async def test_an_empty_id_is_none(options: dict[str, str]) -> None:
    async with start_gateway() as gateway:
        await publish_many(gateway, "alice", 3)
        async with subscribe(gateway, **options) as stream:
            assert await quiet(stream, gateway, "alice") == []


@pytest.mark.parametrize("options", [{"after": "earliest"}, {"query": "last_event_id=earliest"}])
@pytest.mark.parametrize("retained", [3, 5])
async def test_earliest_is_all_that_is_retained_without_a_reset(
    options: dict[str, str], retained: int
) -> None:
    async with start_gateway(HISTORY_EVENTS=retained) as gateway:
        ids = await publish_many(gateway, "alice", 5)
        async with subscribe(gateway, **options) as stream:
            assert [got.id for got in await stream.events(retained)] == ids[-retained:]
            assert await quiet(stream, gateway, "alice") == []


async def test_earliest_of_an_empty_history_is_nothing() -> None:
    async with start_gateway() as gateway, subscribe(gateway, after="earliest") as stream:
        assert await quiet(stream, gateway, "alice") == []


async def test_the_newest_id_is_resumed_with_nothing_to_replay() -> None:
    async with start_gateway() as gateway:
        ids = await publish_many(gateway, "alice", 3)
        async with subscribe(gateway, after=ids[-1]) as stream:
            assert stream.established.data["resumed"] is True
            assert await quiet(stream, gateway, "alice") == []


@pytest.mark.parametrize(
    ("given", "lost"), [(0, 5), (1, 4), (2, 3), (4, 1)], ids=lambda value: str(value)
)
async def test_an_id_before_what_is_retained_is_told_how_many_it_lost(
    given: int, lost: int
) -> None:
    async with start_gateway(HISTORY_EVENTS=5) as gateway:
        ids = await publish_many(gateway, "alice", 10)
        epoch = split_id(ids[0])[0]
        for _ in range(2):  # the same id is told the same again
            async with subscribe(gateway, after=f"{epoch}-{given}") as stream:
                assert stream.established.data["resumed"] is False
                reset = await stream.event()
                assert reset.type == "stream.reset"
                assert reset.data == {"reason": "trimmed", "lost": lost}
                assert reset.id is None
                assert [got.id for got in await stream.events(5)] == ids[5:]
                assert await quiet(stream, gateway, "alice") == []
            ids = [f"{epoch}-{split_id(ids[0])[1] + step + 1}" for step in range(10)]
            lost += 1


async def test_the_id_just_before_what_is_retained_lost_nothing() -> None:
    async with start_gateway(HISTORY_EVENTS=5) as gateway:
        ids = await publish_many(gateway, "alice", 10)
        async with subscribe(gateway, after=ids[4]) as stream:
            assert stream.established.data["resumed"] is True
            assert [got.id for got in await stream.events(5)] == ids[5:]


async def test_zero_of_this_epoch_is_the_place_before_the_first() -> None:
    async with start_gateway() as gateway:
        ids = await publish_many(gateway, "alice", 2)
        async with subscribe(gateway, after=f"{split_id(ids[0])[0]}-0") as stream:
            assert stream.established.data["resumed"] is True
            assert [got.id for got in await stream.events(2)] == ids


async def test_an_id_of_another_epoch_is_a_reset_with_what_is_retained() -> None:
    async with start_gateway() as gateway:
        ids = await publish_many(gateway, "alice", 3)
        async with subscribe(gateway, after="zbcdef12-2") as stream:
            assert stream.established.data["resumed"] is False
            reset = await stream.event()
            assert (reset.type, reset.id) == ("stream.reset", None)
            assert reset.data == {"reason": "epoch", "lost": None}
            assert [got.id for got in await stream.events(3)] == ids
            assert await quiet(stream, gateway, "alice") == []


@pytest.mark.parametrize("ahead", [1, 1000, 2**63, 10**40])
async def test_an_id_beyond_the_newest_is_a_reset_with_what_is_retained(ahead: int) -> None:
    async with start_gateway() as gateway:
        ids = await publish_many(gateway, "alice", 3)
        epoch = split_id(ids[0])[0]
        async with subscribe(gateway, after=f"{epoch}-{3 + ahead}") as stream:
            assert stream.established.data["resumed"] is False
            reset = await stream.event()
            assert reset.data == {"reason": "future", "lost": None}
            assert [got.id for got in await stream.events(3)] == ids


INVALID = [
    "x",
    "-",
    "3",
    "0",
    "EPOCH",
    "EPOCH-",
    "EPOCH--1",
    "EPOCH-1x",
    "EPOCH-1-1",
    "EPOCH- 1",
    "EPOCH-+1",
    "EPOCH-1_0",
    "EPOCH-1.0",
    "-1",
    "Earliest",
    "EPOCH-" + "1" * 60,
    "a" * 65,
    "a" * 5000,
    "\u00e9\u00e9",
    "EPOCH-\u0661",
    "null",
    "undefined",
    "../../etc",
    "'; drop table",
]


@pytest.mark.parametrize("given", INVALID)
async def test_an_id_that_is_none_is_a_reset_and_never_a_400(given: str) -> None:
    async with start_gateway() as gateway:
        ids = await publish_many(gateway, "alice", 3)
        after = given.replace("EPOCH", split_id(ids[0])[0])
        async with subscribe(gateway, after=after) as stream:
            assert stream.established.data["resumed"] is False
            reset = await stream.event()
            assert reset.type == "stream.reset"
            assert reset.data == {"reason": "invalid", "lost": None}
            assert [got.id for got in await stream.events(3)] == ids


@pytest.mark.parametrize("raw", [b"\xff\xfe-1", b"a\tb"])
async def test_bytes_that_are_no_text_are_an_invalid_id(raw: bytes) -> None:
    async with start_gateway() as gateway:
        await publish_many(gateway, "alice", 1)
        async with subscribe(gateway, "alice", b"Last-Event-ID: " + raw) as stream:
            assert (await stream.event()).data["reason"] == "invalid"


@pytest.mark.parametrize(
    ("given", "reason"),
    [("zbcdef12-7", "epoch"), ("NEW-7", "future"), ("garbage", "invalid")],
)
async def test_on_an_empty_history_a_reset_is_said_once(given: str, reason: str) -> None:
    async with start_gateway() as gateway, subscribe(gateway) as other:
        epoch = other.established.data["epoch"]
        async with subscribe(gateway, after=given.replace("NEW", epoch)) as stream:
            assert stream.established.data["resumed"] is False
            reset = await stream.event()
            assert reset.data == {"reason": reason, "lost": None}
            assert reset.id == f"{stream.established.data['epoch']}-0"
            assert stream.established.data["epoch"] == epoch
        async with subscribe(gateway, after=reset.id) as stream:
            assert stream.established.data["resumed"] is True
            assert await quiet(stream, gateway, "alice") == []


async def test_a_place_before_the_first_event_misses_nothing_published_meanwhile() -> None:
    async with start_gateway() as gateway:
        async with subscribe(gateway, after="garbage") as stream:
            zero = (await stream.event()).id
        ids = await publish_many(gateway, "alice", 2)
        async with subscribe(gateway, after=zero) as stream:
            assert stream.established.data["resumed"] is True
            assert [got.id for got in await stream.events(2)] == ids


async def test_a_history_in_memory_does_not_outlive_its_gateway() -> None:
    async with start_gateway() as gateway:
        ids = await publish_many(gateway, "alice", 3)
    async with start_gateway() as gateway, subscribe(gateway, after=ids[-1]) as stream:
        reset = await stream.event()
        assert reset.data == {"reason": "epoch", "lost": None}
        assert reset.epoch != split_id(ids[0])[0]
        new = await publish_many(gateway, "alice", 1)
        assert (await stream.event()).id == new[0]
        assert split_id(new[0]) == (reset.epoch, 1)


async def test_a_history_nobody_uses_is_forgotten_and_begins_again() -> None:
    async with start_gateway(HISTORY_SECONDS=0.3) as gateway:
        ids = await publish_many(gateway, "alice", 3)
        await holds(lambda: True, 2.5)
        [new] = await published(gateway, "alice", event())
        assert split_id(new)[1] == 1
        assert split_id(new)[0] != split_id(ids[0])[0]
        async with subscribe(gateway, after=ids[-1]) as stream:
            assert (await stream.event()).data == {"reason": "epoch", "lost": None}
            assert (await stream.event()).id == new


async def test_a_history_with_a_reader_is_not_forgotten() -> None:
    async with start_gateway(HISTORY_SECONDS=0.3) as gateway, subscribe(gateway) as stream:
        ids = await publish_many(gateway, "alice", 3)
        await holds(lambda: True, 2.5)
        [new] = await published(gateway, "alice", event())
        assert split_id(new) == (split_id(ids[0])[0], 4)
        async with subscribe(gateway, after=ids[1]) as second:
            assert [got.seq for got in await second.events(2)] == [3, 4]
        assert len(await stream.events(4)) == 4


async def test_no_more_than_100_events_are_retained() -> None:
    async with start_gateway() as gateway:
        ids = await publish_many(gateway, "alice", 130)
        async with subscribe(gateway, after="earliest") as stream:
            assert [got.id for got in await stream.events(100)] == ids[30:]
            assert await quiet(stream, gateway, "alice") == []


async def test_no_more_than_4_mib_are_retained() -> None:
    async with start_gateway() as gateway:
        ids = []
        for _ in range(10):
            ids += await published(gateway, "alice", [event("x" * 60_000)] * 10)
        async with subscribe(gateway, after=ids[0]) as stream:
            reset = await stream.event()
            assert reset.data["reason"] == "trimmed"
            got = [await stream.event()]
            while got[-1].id != ids[-1]:
                got.append(await stream.event())
        assert reset.data["lost"] == 99 - len(got)
        assert [each.id for each in got] == ids[-len(got) :]
        size = sum(len(each.raw) for each in got)
        assert 4 * 1024 * 1024 - 130_000 < size <= 4 * 1024 * 1024


async def test_all_histories_together_are_bounded_and_a_forgotten_one_says_so() -> None:
    names = [f"client-{number}" for number in range(12)]
    async with start_gateway(HISTORY_BYTES="1MiB") as gateway:
        first = {}
        for name in names:
            first[name] = (await published(gateway, name, [event("x" * 60_000)] * 4))[0]
        retained = 0
        for name in reversed(names):
            ledger = Ledger()
            ledger.last = first[name]
            async with subscribe(gateway, name, after=first[name]) as stream:
                await published(gateway, name, event("mark", "test.mark"))
                for got in await stream.until("test.mark"):
                    ledger.take(got)
                    retained += len(got.raw) if got.id else 0
            if name == names[-1]:
                assert not ledger.resets
        assert retained < 2 * 1024 * 1024


async def test_nothing_is_lost_or_doubled_between_replay_and_live() -> None:
    async with start_gateway(STREAMS_PER_CLIENT=200) as gateway:
        ids = await publish_many(gateway, "alice", 50)
        for round_number in range(10):
            ledger = Ledger()
            ledger.last = ids[-40]
            async with gateway.connect() as publisher:
                body = events(1, 1000 + round_number)[0]
                publisher.send(post("/api/v1/events/alice", body))
                async with subscribe(gateway, after=ids[-40]) as stream:
                    ids += (await publisher.response()).json()["ids"]
                    while ledger.last != ids[-1]:
                        ledger.take(await stream.event())
                    assert not ledger.resets
                    assert len(ledger.got) == 40


async def test_a_stream_that_was_left_goes_on_where_it_was() -> None:
    async with start_gateway() as gateway:
        ledger = Ledger()
        async with subscribe(gateway) as stream:
            await publish_many(gateway, "alice", 3)
            for got in await stream.events(3):
                ledger.take(got)
        await eventually(lambda: gateway.access_records(), "its end")
        await publish_many(gateway, "alice", 30, 3)
        async with subscribe(gateway, after=ledger.last) as stream:
            for got in await stream.events(30):
                ledger.take(got)
        assert numbers(ledger.got) == list(range(33))
        assert not ledger.resets
