"""Channels: which histories are kept, and for how long."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest

from sse.channels import Channel, Channels
from sse.ring import HistoryLimits, Ring


class House:
    """Channels under bounds, with a clock that a test moves."""

    def __init__(self, most: int = 100, most_bytes: int = 1 << 20, seconds: float = 10.0) -> None:
        self.now = 0.0
        limits = HistoryLimits(events=5, seconds=seconds)
        self.channels = Channels(limits, most, most_bytes, lambda: self.now, random.Random(1))

    def publish(self, client_id: str, size: int = 10) -> Channel:
        channel = self.channels.get(client_id)
        self.channels.add(channel, channel.ring.frame(b"x" * size))
        self.channels.used(channel)
        return channel

    def reader(self, channel: Channel) -> Any:
        stream = cast(Any, type("Stream", (), {})())
        channel.add(stream)
        self.channels.used(channel)
        return stream

    @property
    def known(self) -> list[str]:
        return sorted(channel.client_id for channel in self.channels)


def test_a_new_history_has_an_epoch_of_its_own() -> None:
    house = House()
    epochs = {house.publish(str(number)).ring.epoch for number in range(50)}
    assert len(epochs) == 50
    assert all(len(epoch) == 8 and epoch.isalnum() and epoch == epoch.lower() for epoch in epochs)


def test_a_history_is_forgotten_after_its_time() -> None:
    house = House(seconds=10)
    first = house.publish("a").ring.epoch
    house.now = 9
    house.publish("b")
    house.channels.expire()
    assert house.known == ["a", "b"]
    house.now = 11
    house.channels.expire()
    assert house.known == ["b"]
    assert house.publish("a").ring.epoch != first


def test_publishing_begins_its_time_anew() -> None:
    house = House(seconds=10)
    house.publish("a")
    house.now = 9
    house.publish("a")
    house.now = 18
    house.channels.expire()
    assert house.known == ["a"]


def test_while_somebody_reads_it_is_kept_and_then_for_its_time() -> None:
    house = House(seconds=10)
    channel = house.publish("a")
    stream = house.reader(channel)
    house.now = 1000
    house.channels.expire()
    assert house.known == ["a"]
    channel.remove(stream)
    house.channels.used(channel)
    house.now = 1009
    house.channels.expire()
    assert house.known == ["a"]
    house.now = 1011
    house.channels.expire()
    assert house.known == []
    assert house.channels.size_bytes == 0


def test_of_too_many_the_least_recently_used_without_readers_goes() -> None:
    house = House(most=3)
    house.reader(house.publish("read"))
    house.publish("old")
    house.publish("new")
    house.publish("old")
    house.publish("newest")
    assert house.known == ["newest", "old", "read"]


def test_where_all_are_read_one_more_is_kept() -> None:
    house = House(most=1)
    house.reader(house.publish("a"))
    house.publish("b")
    assert house.known == ["a", "b"]


def test_the_bytes_of_all_are_bounded_idle_ones_first() -> None:
    house = House(most_bytes=1000)
    for number in range(10):
        house.publish(str(number), size=180)
        assert house.channels.size_bytes <= 1000
    assert house.known == ["5", "6", "7", "8", "9"][-len(house.known) :]
    assert house.channels.size_bytes == sum(c.ring.size_bytes for c in house.channels)


def test_where_all_are_read_the_one_that_grows_loses_its_oldest() -> None:
    house = House(most_bytes=500)
    first, second = house.publish("a", 100), house.publish("b", 100)
    house.reader(first)
    house.reader(second)
    for _ in range(4):
        house.publish("a", 100)
    assert house.channels.size_bytes <= 500
    assert len(second.ring.frames) == 1
    assert first.ring.last == 5
    assert len(first.ring.frames) == 3


def test_one_frame_larger_than_everything_is_still_delivered() -> None:
    house = House(most_bytes=50)
    channel = house.publish("a", 100)
    assert len(channel.ring.frames) == 1
    assert house.channels.is_full(0)


def test_another_history_in_its_place_is_counted() -> None:
    house = House()
    channel = house.publish("a", 100)
    ring = Ring("other123")
    ring.append(ring.frame(b"y"), house.channels.limits)
    before = house.channels.exchange(channel, ring)
    assert before.last == 1
    assert house.channels.size_bytes == ring.size_bytes


@pytest.mark.parametrize("leaving", [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]])
def test_readers_leave_in_any_order(leaving: list[int]) -> None:
    house = House()
    channel = house.publish("a")
    streams = [house.reader(channel) for _ in range(3)]
    for index in leaving:
        channel.remove(streams[index])
        assert streams[index] not in channel.streams
        assert [stream.index for stream in channel.streams] == list(range(len(channel.streams)))
    assert channel.streams == []


def test_reprs_show_the_state() -> None:
    house = House()
    channel = house.publish("a")
    assert repr(channel) == f"<Channel a {channel.ring!r} readers=0>"
    assert repr(house.channels).startswith("<Channels 1 idle=1 ")
    assert len(house.channels) == 1
    assert house.channels.find("b") is None
