"""The signature: the standard's own example, several keys, and what a receiver makes of it."""

from __future__ import annotations

from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.callbacks.signature import signature, signed_fields
from tests.callbacks.receiving import is_genuine

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = b64decode(SECRET.removeprefix("whsec_"))
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
BODY = b'{"test": 2432232314}'


def test_the_example_of_the_standards_libraries_is_signed_alike() -> None:
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signature([KEY], ID, 1614265330, BODY) == expected


def test_a_receiver_accepts_what_was_signed_at_any_fraction_of_a_second() -> None:
    fields = signed_fields([KEY], ID, 1614265330.9, BODY)
    assert fields["webhook-timestamp"] == "1614265330"
    assert is_genuine(SECRET, fields, BODY, 1614265331)


@given(st.binary(max_size=300), st.binary(min_size=24, max_size=64), st.integers(0, 2**40))
def test_a_receiver_accepts_any_body_under_any_key(body: bytes, key: bytes, now: int) -> None:
    secret = "whsec_" + b64encode(key).decode()
    assert is_genuine(secret, signed_fields([key], ID, now, body), body, now)


def test_while_keys_change_either_is_enough_newest_first() -> None:
    newer = b"n" * 32
    fields = signed_fields([newer, KEY], ID, 1614265330, BODY)
    first, second = fields["webhook-signature"].split(" ")
    assert first == signature([newer], ID, 1614265330, BODY)
    assert second == signature([KEY], ID, 1614265330, BODY)
    for key in (newer, KEY):
        assert is_genuine("whsec_" + b64encode(key).decode(), fields, BODY, 1614265330)
    assert not is_genuine("whsec_" + b64encode(b"x" * 32).decode(), fields, BODY, 1614265330)


def test_a_receiver_refuses_another_body_id_or_time() -> None:
    fields = signed_fields([KEY], ID, 1614265330, BODY)
    assert not is_genuine(SECRET, fields, BODY + b" ", 1614265330)
    assert not is_genuine(SECRET, fields | {"webhook-id": "msg_2"}, BODY, 1614265330)
    later = fields | {"webhook-timestamp": "1614265331"}
    assert not is_genuine(SECRET, later, BODY, 1614265330)
    assert not is_genuine(SECRET, fields, BODY, 1614265330 + 301)


def test_an_id_with_a_full_stop_is_never_signed() -> None:
    with pytest.raises(ValueError, match="full stop"):
        signature([KEY], "a.1", 5, b"")
