"""The words between the backplane and Redis; what the scripts do is tested with a real one."""

from __future__ import annotations

import re

import pytest

from sse.backplane_scripts import (
    PUBLISH,
    History,
    Nudge,
    Place,
    calling,
    fresh_epochs,
    group,
    histories,
    nudge,
    places,
    run,
    visits,
)
from sse.ring import EPOCH_ALPHABET, EPOCH_LENGTH

FRAME = b'event: x\ndata: {"data":"a\\n\\nb"}\n\n'


def test_epochs_are_what_the_ring_knows_and_differ() -> None:
    epochs = fresh_epochs(100)
    assert len(set(epochs)) == 100
    for epoch in epochs:
        assert re.fullmatch(f"[{EPOCH_ALPHABET}]{{{EPOCH_LENGTH}}}", epoch.decode())
    assert fresh_epochs(0) == []


@pytest.mark.parametrize("count", [1, 2, 100])
def test_a_nudge_gives_its_events_back_as_they_were(count: int) -> None:
    bodies = [FRAME.replace(b"a", b"%d" % at) for at in range(count)]
    payload = b"abcdefgh 17 %d\n" % count + b"".join(bodies)
    assert nudge(payload) == Nudge("abcdefgh", 17, bodies)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\n", b"a 1\n" + FRAME, b"a b 1\n" + FRAME, b"a 1 2\n" + FRAME, b"a 1 x\n" + FRAME],
)
def test_what_is_no_nudge_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"values to unpack|a nudge of|invalid literal"):
        nudge(payload)


def test_a_history_is_numbered_from_its_end() -> None:
    reply = [[b"abcdefgh", 7, [b"five", b"six", b"seven"]], [b"abcdefgh", 3, []], [b"", 0, []]]
    assert histories(reply) == [
        History("abcdefgh", 5, [b"five", b"six", b"seven"], 7),
        History("abcdefgh", 4, [], 3),
        History("", 1, [], 0),
    ]


def test_places_come_in_the_order_asked() -> None:
    assert places([b"abcdefgh", 3, 40, b"", 0, 0]) == [Place("abcdefgh", 3, 40), Place("", 0, 0)]


def test_arguments_hold_what_the_scripts_read() -> None:
    assert group("a:1~", b"abcdefgh", 3, "", listening=True) == b"a:1~ abcdefgh 3 1 -"
    assert group("a", b"abcdefgh", 1, "f00", listening=False) == b"a abcdefgh 1 0 f00"
    first, second = visits([("a", 2), ("b", 0)])
    assert re.fullmatch(rb"a [a-z2-7]{8} 2", first)
    assert re.fullmatch(rb"b [a-z2-7]{8} 0", second)
    assert calling(PUBLISH, b"a", 1).startswith(b"*5\r\n$7\r\nEVALSHA\r\n$40\r\n")


def said(aof: bytes, run: bytes, followed: bytes) -> bytes:
    return (
        b"# Server\r\nredis_version:6.2.14\r\nrun_id:%b\r\n# Persistence\r\naof_enabled:%b\r\n"
        b"# Replication\r\nmaster_replid:whatever\r\nmaster_replid2:%b\r\n" % (run, aof, followed)
    )


@pytest.mark.parametrize(
    ("aof", "appendfsync", "whole"),
    [(b"1", b"always", 1), (b"1", b"everysec", 0), (b"0", b"always", 0), (b"1", b"unknown", 0)],
)
def test_only_a_file_synced_at_every_write_is_whole(
    aof: bytes, appendfsync: bytes, whole: int
) -> None:
    assert run(said(aof, b"run1", b"0000"), appendfsync) == (b"run1", whole, b"0000")


def test_what_redis_does_not_say_of_itself_has_a_word_too() -> None:
    assert run(b"", b"always") == run(b"nothing", b"no") == (b"-", 0, b"-")
