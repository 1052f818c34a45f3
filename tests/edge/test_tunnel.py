"""The borders of WebSocket frames; whole tunnels are in `scenarios/test_upgrades.py`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.tunnel import GOING_AWAY, FrameBorders


def frame(payload: bytes, *, masked: bool = False, opcode: int = 2) -> bytes:
    """RFC 6455 §5.2"""
    mask = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        length = bytes([mask | size])
    elif size < 65536:
        length = bytes([mask | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([mask | 127]) + size.to_bytes(8, "big")
    return bytes([0x80 | opcode]) + length + (b"mask" if masked else b"") + payload


def after(*pieces: bytes) -> bool:
    borders = FrameBorders()
    for piece in pieces:
        borders.feed(piece)
    return borders.at_border


def test_before_the_first_byte_is_a_border() -> None:
    assert after()
    assert after(b"")


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 300, 65535, 65536, 70000])
def test_a_border_is_behind_each_frame_and_nowhere_else(size: int, masked: bool) -> None:
    wire = frame(b"\x81" * size, masked=masked)
    assert after(wire)
    assert after(wire, wire, wire)
    assert after(wire + wire)
    for cut in {1, 2, 3, 9, 10, 13, len(wire) // 2, len(wire) - 1}:
        if 0 < cut < len(wire):
            assert not after(wire[:cut])
            assert not after(wire + wire[:cut])
            assert after(wire[:cut], wire[cut:])


@given(
    st.lists(st.tuples(st.integers(0, 400), st.booleans()), max_size=6),
    st.integers(1, 40),
)
def test_the_pieces_that_frames_come_in_do_not_matter(
    frames: list[tuple[int, bool]], piece_bytes: int
) -> None:
    wire = b""
    borders_at = {0}
    for size, masked in frames:
        wire += frame(bytes(size), masked=masked)
        borders_at.add(len(wire))
    borders = FrameBorders()
    for at in range(0, len(wire), piece_bytes):
        borders.feed(wire[at : at + piece_bytes])
        assert borders.at_border is (min(at + piece_bytes, len(wire)) in borders_at)


def test_the_close_frame_is_whole_and_says_going_away() -> None:
    # RFC 6455 §5.5.1, §7.4.1: opcode 8, status 1001; §5.1: a server's is not masked.
    assert frame((1001).to_bytes(2, "big"), opcode=8) == GOING_AWAY
    assert after(GOING_AWAY)
