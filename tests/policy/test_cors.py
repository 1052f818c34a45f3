"""CORS: which origins get which fields, and what a preflight is answered with."""

from __future__ import annotations

import pytest

from gateway.policy.cors import EXPOSED, Cors
from gateway.settings import Settings

SETTINGS = Settings(
    cors_origins=("https://app.test", "http://localhost:5173"),
    cors_methods=("GET", "POST", "PURGE"),
    cors_headers=("Content-Type", "X-Beta"),
    cors_max_age=120,
)
CORS = Cors(SETTINGS)
ANY = Cors(Settings(cors_origins=("*",)))
APP = b"https://app.test"
VARY = (b"Vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers")
GRANTED = [
    (b"Access-Control-Allow-Origin", APP),
    (b"Access-Control-Allow-Credentials", b"true"),
    (b"Access-Control-Allow-Methods", b"GET, POST, PURGE"),
    (b"Access-Control-Allow-Headers", b"Content-Type, X-Beta"),
    (b"Access-Control-Max-Age", b"120"),
    VARY,
]


def test_an_origin_of_the_list_may_read_with_credentials() -> None:
    exposed = ", ".join(EXPOSED).encode()
    assert CORS.lines(APP) == (
        b"Access-Control-Allow-Origin: https://app.test\r\n"
        b"Access-Control-Allow-Credentials: true\r\n"
        b"Access-Control-Expose-Headers: " + exposed + b"\r\n"
        b"Vary: Origin\r\n"
    )
    assert b"X-Request-ID, " in exposed
    assert b"RateLimit-Policy" in exposed
    assert b"X-RateLimit-Remaining" in exposed


@pytest.mark.parametrize(
    "origin",
    [
        *(None, b"", b"null", b"https://app.test:443", b"https://app.test/", b"http://app.test"),
        *(b"https://APP.test", b"https://app.test.evil.test", b"https://x.app.test", b"*"),
        b"https://app.test, https://app.test",
    ],
)
def test_another_origin_is_told_nothing_but_that_the_answer_varies(origin: bytes | None) -> None:
    assert CORS.lines(origin) == b"Vary: Origin\r\n"
    if origin is not None:
        assert CORS.preflight(origin, b"GET") == [VARY]


@pytest.mark.parametrize("origin", [None, b"null", APP])
def test_any_origin_may_read_where_the_list_is_a_star_but_never_with_credentials(
    origin: bytes | None,
) -> None:
    lines = ANY.lines(origin)
    assert lines.startswith(b"Access-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: ")
    assert lines.endswith(b"\r\nVary: Origin\r\n")
    assert b"Credentials" not in lines
    fields = ANY.preflight(b"https://x.test", b"DELETE", b"authorization")
    assert fields is not None
    assert fields[0] == (b"Access-Control-Allow-Origin", b"*")
    assert (b"Access-Control-Allow-Credentials", b"true") not in fields


@pytest.mark.parametrize("headers", [b"", b"x-beta", b"content-type,X-BETA", b" X-Beta , ,"])
def test_a_preflight_is_granted_by_origin_method_and_fields(headers: bytes) -> None:
    assert CORS.preflight(APP, b"PURGE", headers) == GRANTED


@pytest.mark.parametrize(
    ("method", "headers"),
    [(b"DELETE", b""), (b"get", b""), (b"", b""), (b"GET", b"x-other"), (b"GET", b"x-beta,*")],
)
def test_a_preflight_for_more_than_is_allowed_is_granted_nothing(
    method: bytes, headers: bytes
) -> None:
    assert CORS.preflight(APP, method, headers) == [VARY]


def test_access_from_public_pages_to_a_private_network_is_granted_to_nobody() -> None:
    fields = CORS.preflight(APP, b"GET")
    assert fields is not None
    assert all(b"private" not in name.lower() for name, _ in fields)


def test_what_is_no_preflight_is_an_ordinary_request() -> None:
    assert CORS.preflight(None, b"GET") is None
    assert CORS.preflight(APP, None) is None


def test_it_shows_how_many_origins_it_knows() -> None:
    assert (repr(CORS), repr(ANY)) == ("<Cors origins=2>", "<Cors origins=any>")
