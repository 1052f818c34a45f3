"""A ring of frames: numbers, bounds, and where a reader begins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse.ring import HistoryLimits, Position, Ring

EPOCH = "abcd1234"


def filled(count: int, events: int = 5, body: bytes = b"x") -> Ring:
    """A ring after `count` events."""
    ring = Ring(EPOCH)
    for _ in range(count):
        ring.append(ring.frame(body), HistoryLimits(events))
    return ring


def test_numbers_start_at_1_and_have_no_holes() -> None:
    ring = filled(3)
    assert ring.frames == [b"id: abcd1234-%d\nx" % number for number in (1, 2, 3)]
    assert (ring.first, ring.last, ring.id_of(2)) == (1, 3, "abcd1234-2")


def test_an_empty_ring_may_go_on_behind_a_number() -> None:
    ring = Ring(EPOCH, last=41)
    assert (ring.first, ring.last) == (42, 41)
    assert ring.frame(b"x") == b"id: abcd1234-42\nx"


def test_its_repr_shows_what_is_retained() -> None:
    assert repr(filled(7)) == f"<Ring {EPOCH} 3..7 80 bytes>"


@given(st.lists(st.integers(0, 60), max_size=40), st.integers(1, 8), st.integers(60, 200))
def test_it_keeps_the_newest_within_both_bounds(sizes: list[int], most: int, room: int) -> None:
    ring, limits = Ring(EPOCH), HistoryLimits(most, room)
    written: list[bytes] = []
    for size in sizes:
        frame = ring.frame(b"y" * size)
        dropped = ring.dropped_by(len(frame), limits)
        before = len(ring.frames)
        ring.append(frame, limits)
        assert len(ring.frames) == before - dropped + 1
        written.append(frame)
        assert ring.frames == written[-len(ring.frames) :]
        assert ring.last == len(written)
        assert ring.size_bytes == sum(map(len, ring.frames))
        assert len(ring.frames) <= most
        assert ring.size_bytes <= room or len(ring.frames) == 1
    if len(written) > most:
        assert ring.first > 1


def test_a_frame_larger_than_the_bound_stays_alone() -> None:
    ring = filled(3)
    ring.append(ring.frame(b"z" * 100), HistoryLimits(5, 50))
    assert (ring.first, ring.last, len(ring.frames)) == (4, 4, 1)


def test_dropping_none_changes_nothing() -> None:
    ring = filled(2)
    ring.drop(0)
    assert len(ring.frames) == 2


@pytest.mark.parametrize(
    ("cursor", "end", "most", "numbers"),
    [
        (1, 3, 1000, [1, 2, 3]),
        (2, 3, 1000, [2, 3]),
        (1, 2, 1000, [1, 2]),
        (4, 3, 1000, []),
        (1, 3, 34, [1, 2]),
        (1, 3, 31, [1]),
        (1, 3, 1, [1]),  # at least one, or a large frame would never leave
        (1, 3, 17, [1]),
    ],
)
def test_a_reader_is_given_what_one_write_carries(
    cursor: int, end: int, most: int, numbers: list[int]
) -> None:
    ring = filled(3)
    found = ring.since(cursor, end, most)
    assert list(found) == [b"id: abcd1234-%d\nx" % number for number in numbers]


@pytest.mark.parametrize(
    ("named", "position"),
    [
        (None, Position(8, resumed=False)),
        ("", Position(8, resumed=False)),
        ("earliest", Position(3, resumed=False)),
        (f"{EPOCH}-7", Position(8, resumed=True)),
        (f"{EPOCH}-4", Position(5, resumed=True)),
        (f"{EPOCH}-2", Position(3, resumed=True)),
        (f"{EPOCH}-1", Position(3, resumed=False, reset="trimmed", lost=1)),
        (f"{EPOCH}-0", Position(3, resumed=False, reset="trimmed", lost=2)),
        (f"{EPOCH}-8", Position(3, resumed=False, reset="future")),
        (f"{EPOCH}-{'9' * 40}", Position(3, resumed=False, reset="future")),
        ("zzzz9999-7", Position(3, resumed=False, reset="epoch")),
        ("zzzz9999-0", Position(3, resumed=False, reset="epoch")),
        *((bad, Position(3, resumed=False, reset="invalid"))
          for bad in ("x", EPOCH, f"{EPOCH}-", f"{EPOCH}-07", f"{EPOCH}--1", f"{EPOCH}-7 ",
                      f"{EPOCH.upper()}-7", "-7", f"{EPOCH}-\u0667", "Earliest", "\n",
                      f"{EPOCH}-{'9' * 56}")),
    ],
)  # fmt: skip
def test_where_a_reader_begins(named: str | None, position: Position) -> None:
    assert filled(7).locate(named) == position


def test_on_an_empty_ring_its_own_beginning_resumes() -> None:
    assert Ring(EPOCH).locate(f"{EPOCH}-0") == Position(1, resumed=True)


def test_an_old_copy_believes_who_knows_more() -> None:
    ring = filled(7)
    assert ring.locate(f"{EPOCH}-9", ahead=True) == Position(10, resumed=True)
    assert ring.locate(f"{EPOCH}-5", ahead=True) == Position(6, resumed=True)
    assert ring.locate("zzzz9999-9", ahead=True).reset == "epoch"
