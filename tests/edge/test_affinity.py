"""What of a request is hashed."""

from __future__ import annotations

import pytest

from gateway.edge.affinity import cookie_field, hash_key
from gateway.edge.message import RequestHead
from gateway.edge.reading import HeadLimits, RequestReader
from gateway.policy.auth import Identity
from gateway.settings_balancing import HashSource


def head(*lines: bytes) -> RequestHead:
    reader = RequestReader(HeadLimits())
    reader.feed(b"\r\n".join([b"GET /x HTTP/1.1", b"Host: a.test", *lines, b"", b""]))
    assert reader.head is not None, reader.failure
    return reader.head


@pytest.mark.parametrize(
    ("source", "lines", "key"),
    [
        (("address",), (), b"192.0.2.1"),
        (("header", b"x-key"), (b"X-KEY: one",), b"one"),
        (("header", b"x-key"), (b"X-Key: one", b"x-key: two"), b"one,two"),
        (("header", b"x-key"), (), None),
        (("header", b"host"), (), b"a.test"),
        (("header", b"user-agent"), (b"User-Agent: me",), b"me"),
        (("cookie", b"k"), (b"Cookie: a=b; k=v",), b"v"),
        (("cookie", b"k"), (b"Cookie: a=b", b"Cookie: k=v"), b"v"),
        (("cookie", b"k"), (b"Cookie: kk=v",), None),
        (("cookie", b"k"), (), None),
    ],
)
def test_the_key_is_what_the_source_says(
    source: HashSource, lines: tuple[bytes, ...], key: bytes | None
) -> None:
    assert hash_key(source, head(*lines), "192.0.2.1", None) == key


def test_who_asks_is_not_what_the_client_says() -> None:
    asked = head(b"X-User-ID: mallory", b"X-Tenant-ID: other")
    alice = Identity(subject="alice", tenant="acme")
    nobody = Identity()
    for identity, keys in (
        (alice, (b"alice", b"acme")),
        (nobody, (None, None)),
        (None, (None, None)),
    ):
        assert hash_key(("header", b"x-user-id"), asked, "", identity) == keys[0]
        assert hash_key(("header", b"x-tenant-id"), asked, "", identity) == keys[1]


def test_split_cookies_are_one_field() -> None:
    assert cookie_field(head(b"Cookie: a=b", b"cookie: c=d")) == b"a=b; c=d"
    assert cookie_field(head()) is None
