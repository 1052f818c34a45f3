"""The callback's request: the row's bytes, how they are signed, and when there is none."""

from __future__ import annotations

from base64 import b64encode

import pytest

from gateway.callbacks.address import Allowed
from gateway.callbacks.callback import CallbackRequests
from gateway.callbacks.roles import Hopeless
from gateway.callbacks.sending import NotSent
from tests.callbacks.receiving import is_genuine
from tests.callbacks.rows import ID, delivery, payload

KEY = b"k" * 32
SECRET = "whsec_" + b64encode(KEY).decode()
ALLOWED = Allowed()
MAKER = CallbackRequests([KEY], ALLOWED)


def test_the_rows_bytes_go_to_its_url_as_they_are() -> None:
    made = MAKER.request(delivery(target="https://h/x?token=1"), 1700000000.5)
    assert (made.method, str(made.url), made.allowed) == ("POST", "https://h/x?token=1", ALLOWED)
    assert made.body == payload()
    assert made.headers["Content-Type"] == "application/json"
    assert made.headers["webhook-id"] == f"msg_{ID}"


def test_the_id_and_the_body_stay_over_retries_and_each_attempt_is_signed_for_its_time() -> None:
    first = MAKER.request(delivery(), 1700000000)
    later = MAKER.request(delivery(attempts=5), 1700009000)
    assert first.headers["webhook-id"] == later.headers["webhook-id"]
    assert first.body == later.body
    assert is_genuine(SECRET, first.headers, first.body, 1700000000)
    assert is_genuine(SECRET, later.headers, later.body, 1700009000)
    assert not is_genuine(SECRET, first.headers, first.body, 1700009000)


def test_without_a_key_nothing_is_sent_now() -> None:
    with pytest.raises(NotSent, match="switched off") as caught:
        CallbackRequests([], ALLOWED).request(delivery(), 5)
    assert "WEBHOOK_SECRET" in caught.value.detail


@pytest.mark.parametrize("url", ["", "ftp://s3cret/"])
def test_what_is_no_url_is_never_sent_to(url: str) -> None:
    with pytest.raises(Hopeless, match="the URL") as caught:
        MAKER.request(delivery(target=url), 5)
    assert "s3cret" not in str(caught.value)
    assert MAKER.destination(delivery(target=url)) == "nowhere"


def test_deliveries_are_counted_by_host_and_port() -> None:
    assert MAKER.destination(delivery(target="https://A.example/x?y=s3cret")) == "a.example:443"


def test_no_key_is_shown() -> None:
    assert repr(MAKER) == "<CallbackRequests keys=1 <Allowed public>>"
