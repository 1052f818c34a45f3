"""Texts as the tables take them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.tables import api_requests
from gateway.store.texts import fitting, is_storable, most_characters, plain


@pytest.mark.parametrize("text", ["", "plain", "é", "日本", "\x01 ~"])
def test_usual_text_stays_as_it_is(text: str) -> None:
    assert plain(text) == text
    assert is_storable(text, api_requests.c.tenant)


@pytest.mark.parametrize(
    ("text", "kept"),
    [("a\0b", "a\\x00b"), ("é\0", "é\\x00"), ("a\ud800", "a\\ud800"), ("\udfff\0", "\\udfff\\x00")],
)
def test_what_a_database_does_not_take_is_escaped(text: str, kept: str) -> None:
    assert plain(text) == kept
    assert not is_storable(text, api_requests.c.tenant)


def test_what_is_too_long_is_cut() -> None:
    most = most_characters(api_requests.c.method)
    assert most == 32
    assert fitting("x" * 33, most) == "x" * 32
    assert is_storable("x" * 32, api_requests.c.method)
    assert not is_storable("x" * 33, api_requests.c.method)
    assert fitting(None, most) is None


@given(st.text(st.characters()), st.integers(1, 20))
def test_whatever_is_kept_fits_and_is_utf8(text: str, most: int) -> None:
    kept = fitting(text, most)
    assert kept is not None
    assert len(kept) <= most
    assert "\0" not in kept
    assert kept.encode("utf-8").decode("utf-8") == kept
