"""Tickets are redeemed once and in time; stream grants open one client id's streams and no more."""

from __future__ import annotations

import json
import stat
from base64 import urlsafe_b64decode
from http.cookies import SimpleCookie
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.auth import Authenticator, Credentials, Identity
from gateway.policy.revocations import Revocations
from gateway.policy.signatures import Signatures
from gateway.policy.tickets import (
    COOKIE_NAME,
    KEY_FILE,
    MAX_TICKETS,
    StreamGrants,
    Tickets,
    grant_key,
)
from gateway.settings import Settings, SettingsError
from tests.policy.keys import NOW, SECRET, token

ALICE = Identity(
    "alice",
    "acme",
    "pro",
    frozenset(("events:read", "admin")),
    frozenset(("board", "team")),
    NOW + 3600,
)
KEY = "a" * 64
GRANTS = StreamGrants(KEY)


def cookie(
    identity: Identity = ALICE, client_id: str = "board", at: float = NOW, key: str = KEY
) -> bytes:
    """The Cookie field that a browser makes of the grant."""
    field = StreamGrants(key).set_cookie(identity, client_id, at, secure=False)
    assert field is not None
    return field.partition(b";")[0]


# Tickets


def test_a_ticket_gives_its_owners_rights_once() -> None:
    tickets = Tickets()
    ticket = tickets.issue(ALICE, "board", NOW)
    assert tickets.redeem(ticket, "board", NOW + 1) == ALICE
    assert tickets.redeem(ticket, "board", NOW + 1) is None
    assert repr(tickets) == "<Tickets 0>"


@pytest.mark.parametrize(("age", "good"), [(0, True), (29.999, True), (30, False), (31, False)])
def test_a_ticket_lives_30_seconds(age: float, good: bool) -> None:
    tickets = Tickets()
    ticket = tickets.issue(ALICE, "board", NOW)
    assert (tickets.redeem(ticket, "board", NOW + age) is not None) is good
    assert tickets.redeem(ticket, "board", NOW) is None


def test_a_ticket_is_nothing_for_another_client_id() -> None:
    tickets = Tickets()
    ticket = tickets.issue(ALICE, "board", NOW)
    for other in ("team", "alice", "boar", "board2", ""):
        assert tickets.redeem(ticket, other, NOW) is None
    assert tickets.redeem(ticket, "board", NOW) == ALICE


def test_a_ticket_ends_with_its_owners_token() -> None:
    tickets = Tickets()
    owner = Identity(subject="alice", expires_at=NOW + 5)
    assert tickets.redeem(tickets.issue(owner, "alice", NOW), "alice", NOW + 4.9) == owner
    assert tickets.redeem(tickets.issue(owner, "alice", NOW), "alice", NOW + 5) is None


@pytest.mark.parametrize("guess", ["", "x", "é", "\udcff", "a" * 43, "a" * 5000])
def test_a_guess_is_nothing(guess: str) -> None:
    tickets = Tickets()
    ticket = tickets.issue(ALICE, "board", NOW)
    for tried in (guess, ticket + guess if guess else "", ticket[:-1]):
        assert tickets.redeem(tried, "board", NOW) is None


def test_tickets_are_never_the_same_and_fit_a_url() -> None:
    tickets = Tickets()
    issued = {tickets.issue(ALICE, "board", NOW) for _ in range(100)}
    assert len(issued) == 100
    assert all(
        len(one) == 43 and one.replace("-", "a").replace("_", "a").isalnum() for one in issued
    )


def test_tickets_are_bounded_and_the_oldest_go() -> None:
    tickets = Tickets()
    issued = [tickets.issue(ALICE, "board", NOW) for _ in range(MAX_TICKETS + 2)]
    assert len(tickets) == MAX_TICKETS
    assert [tickets.redeem(one, "board", NOW) for one in issued[:2]] == [None, None]
    assert tickets.redeem(issued[2], "board", NOW) == ALICE


def test_tickets_that_ran_out_are_let_go() -> None:
    tickets = Tickets()
    for second in range(100):
        tickets.issue(ALICE, "board", NOW + second)
        assert len(tickets) <= 31
    tickets.issue(ALICE, "board", NOW + 1000)
    assert len(tickets) == 1


def test_what_is_kept_holds_no_ticket() -> None:
    tickets = Tickets()
    ticket = tickets.issue(ALICE, "board", NOW)
    assert ticket not in str({name: getattr(tickets, name) for name in Tickets.__slots__})


# Stream grants


def test_a_grant_opens_the_streams_of_its_client_id() -> None:
    found = GRANTS.read(cookie(), "board", NOW)
    assert found == Identity(
        subject="alice",
        tenant="acme",
        tier="pro",
        client_ids=frozenset(("board",)),
        expires_at=NOW + 3600,
    )
    assert found.may_read("board")


def test_a_grant_gives_no_other_right_of_its_owner() -> None:
    found = GRANTS.read(cookie(), "board", NOW)
    assert found is not None
    assert not found.may_read("team")
    assert not found.may("admin", "events:read", "events:write")


def test_a_grant_is_nothing_for_another_client_id() -> None:
    for other in ("team", "alice", "boar", "board2", ""):
        assert GRANTS.read(cookie(), other, NOW) is None


def test_the_cookie_is_for_the_browser_alone_and_for_one_path() -> None:
    field = GRANTS.set_cookie(ALICE, "board", NOW + 0.5, secure=False)
    assert field is not None
    name, _, rest = field.decode("ascii").partition("=")
    _, *attributes = rest.split("; ")
    assert name == COOKIE_NAME == "gateway_stream"
    assert attributes == [
        *("Path=/api/v1/events/board", "Max-Age=3599", "HttpOnly", "SameSite=Strict")
    ]
    jar = SimpleCookie(field.decode("ascii"))
    assert jar[COOKIE_NAME]["path"] == "/api/v1/events/board"


def test_under_tls_the_cookie_is_secure() -> None:
    field = GRANTS.set_cookie(ALICE, "board", NOW, secure=True)
    assert field is not None
    assert field.endswith(b"; HttpOnly; SameSite=Strict; Secure")


@pytest.mark.parametrize("written", ["a@b:c", "a%40b%3Ac", "a%40b:c", "%61@b:c"])
def test_the_cookies_path_is_as_the_page_wrote_it(written: str) -> None:
    # RFC 6265 §5.1.4 compares paths as they are written.
    field = GRANTS.set_cookie(ALICE, "a@b:c", NOW, secure=False, written=written)
    assert field is not None
    assert f"; Path=/api/v1/events/{written};" in field.decode("ascii")
    assert GRANTS.read(field.partition(b";")[0], "a@b:c", NOW) is not None


@pytest.mark.parametrize("written", ["other", "", "a@b:c;x", "a@b:c/x", "a@b:c; Domain=x", "é"])
def test_another_path_is_an_error(written: str) -> None:
    with pytest.raises(ValueError, match="written must be the client id"):
        GRANTS.set_cookie(ALICE, "a@b:c", NOW, secure=False, written=written)


def test_a_grant_ends_with_its_owners_token() -> None:
    owner = Identity(subject="alice", expires_at=NOW + 60)
    assert GRANTS.read(cookie(owner, "alice"), "alice", NOW + 59.9) is not None
    assert GRANTS.read(cookie(owner, "alice"), "alice", NOW + 60) is None


def test_a_grant_without_an_end_is_a_session_cookie_of_12_hours() -> None:
    field = GRANTS.set_cookie(Identity(subject="service"), "service", NOW, secure=False)
    assert field is not None
    assert b"Max-Age" not in field
    assert b"Expires" not in field
    sent = field.partition(b";")[0]
    assert GRANTS.read(sent, "service", NOW + 12 * 3600 - 1) is not None
    assert GRANTS.read(sent, "service", NOW + 12 * 3600) is None


def test_a_token_that_just_ended_makes_a_cookie_that_is_dropped() -> None:
    field = GRANTS.set_cookie(ALICE, "board", NOW + 3605, secure=False)
    assert field is not None
    assert b"; Max-Age=0;" in field


def test_who_has_no_credential_gets_no_cookie() -> None:
    # Else what a gateway without a key gave away would stay open once it has one.
    assert GRANTS.set_cookie(Identity(open_read=True), "board", NOW, secure=False) is None


def test_a_grant_under_another_key_is_nothing() -> None:
    assert GRANTS.read(cookie(key="b" * 64), "board", NOW) is None


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_changed_grant_is_nothing(at: int, byte: int) -> None:
    sent = cookie()
    at %= len(sent)
    changed = sent[:at] + bytes((byte,)) + sent[at + 1 :]
    if changed != sent:
        assert GRANTS.read(changed, "board", NOW) is None


@pytest.mark.parametrize(
    "change",
    [
        {"client_id": None},
        {"client_id": ["board"]},
        {"sub": None},
        {"sub": 7},
        {"tenant": 7},
        {"tier": None},
        {"exp": None},
        {"exp": "x"},
    ],
)
def test_a_grant_of_odd_claims_is_nothing(change: dict[str, object]) -> None:
    good = {"client_id": "board", "sub": "a", "tenant": None, "tier": "free", "exp": NOW + 9}
    signed = Signatures(KEY).sign(good)
    assert GRANTS.read(f"{COOKIE_NAME}={signed}".encode(), "board", NOW) is not None
    signed = Signatures(KEY).sign(good | change)
    assert GRANTS.read(f"{COOKIE_NAME}={signed}".encode(), "board", NOW) is None


def test_a_grant_is_found_among_other_cookies() -> None:
    sent = cookie()
    for field in (
        b"theme=dark; " + sent,
        sent + b";theme=dark",
        b"gateway_stream_=x; xgateway_stream=y;  " + sent + b" ; ",
        cookie(client_id="team") + b"; " + sent,
    ):
        assert GRANTS.read(field, "board", NOW) is not None


@given(st.binary(max_size=200))
def test_no_cookie_brings_more_than_nothing(raw: bytes) -> None:
    assert GRANTS.read(raw, "board", NOW) is None
    assert GRANTS.read(b"gateway_stream=" + raw, "board", NOW) is None


def test_only_a_few_cookies_of_the_name_are_tried() -> None:
    assert GRANTS.read(b"gateway_stream=a.b.c; " * 4 + cookie(), "board", NOW) is None
    assert GRANTS.read(None, "board", NOW) is None
    assert GRANTS.read(b"", "board", NOW) is None


def test_a_grant_of_the_longest_names_fits_a_browsers_cookie() -> None:
    # RFC 6265 §6.1: at least 4096 bytes for name, value and attributes.
    name = "\N{SNOWMAN}" * 255
    owner = Identity(name, name, "enterprise", expires_at=NOW + 9, jti=name)
    field = GRANTS.set_cookie(owner, "c" * 128, NOW, secure=True)
    assert field is not None
    assert len(field) < 4096
    assert GRANTS.read(field.partition(b";")[0], "c" * 128, NOW) is not None


def test_a_grant_is_no_token_and_a_token_no_grant() -> None:
    # Even where someone gives both uses the same secret.
    settings = Settings(jwt_secret=SECRET, cookie_secret=SECRET)
    key = grant_key(settings)
    value = cookie(key=key).partition(b"=")[2]
    found = Authenticator(settings).identify(Credentials([b"Bearer " + value]), NOW)
    assert not isinstance(found, Identity)
    raw = token(client_id="board", tier="pro", tenant="acme")
    assert StreamGrants(key).read(b"gateway_stream=" + raw, "board", NOW) is None


def test_a_grant_ends_with_the_credential_it_came_from() -> None:
    revocations = Revocations()
    grants = StreamGrants(grant_key(Settings(cookie_secret=SECRET)), revocations)
    kept = []
    for jti in ("t-1", "t-2", None):
        field = grants.set_cookie(Identity("alice", jti=jti), "board", NOW, secure=True)
        assert field is not None
        kept.append(field.partition(b";")[0])
    found = [grants.read(each, "board", NOW) for each in kept]
    assert [each and each.jti for each in found] == ["t-1", "t-2", None]
    revocations.revoke("t-1", None)
    found = [grants.read(each, "board", NOW) for each in kept]
    assert [each is not None for each in found] == [False, True, True]


def test_a_ticket_is_worth_nothing_once_its_owners_token_is_revoked() -> None:
    revocations = Revocations()
    tickets = Tickets(revocations)
    issued = [tickets.issue(Identity("alice", jti=jti), "board", NOW) for jti in ("t-1", "t-2")]
    revocations.revoke("t-1", None)
    found = [tickets.redeem(ticket, "board", NOW) for ticket in issued]
    assert found == [None, Identity("alice", jti="t-2")]


# The key


def test_the_key_comes_of_the_cookie_secret_and_is_not_it(tmp_path: Path) -> None:
    settings = Settings(cookie_secret=SECRET, state_dir=tmp_path / "state")
    assert grant_key(settings) == grant_key(settings)
    assert SECRET not in grant_key(settings)
    assert grant_key(settings) != grant_key(Settings(cookie_secret=SECRET + "x"))
    assert list(tmp_path.iterdir()) == []


def test_the_token_secret_never_signs_a_cookie(tmp_path: Path) -> None:
    kept = grant_key(Settings(jwt_secret=SECRET, state_dir=tmp_path))
    assert kept != grant_key(Settings(jwt_secret=SECRET, state_dir=tmp_path / "other"))


def test_without_a_secret_a_key_is_made_once_and_kept(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "a" / "state")
    key = grant_key(settings)
    file = settings.state_dir / KEY_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert grant_key(settings) == key
    assert [found.name for found in settings.state_dir.iterdir()] == [KEY_FILE]
    assert file.read_text().strip() not in key


@pytest.mark.parametrize("content", [b"", b"a" * 65])
def test_a_damaged_key_is_an_error_that_names_the_setting(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KEY_FILE).write_bytes(content)
    with pytest.raises(SettingsError, match=r"holds no key of this gateway.*or COOKIE_SECRET"):
        grant_key(Settings(state_dir=tmp_path))


def test_a_grant_says_no_more_than_it_must() -> None:
    payload = cookie().partition(b"=")[2].split(b".")[1]
    claims = json.loads(urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
    assert set(claims) == {"client_id", "sub", "tenant", "tier", "exp"}


def test_a_grant_may_be_for_another_path_than_that_of_the_client_ids_events() -> None:
    path = "/api/v1/workflows/a-1/stream"
    field = GRANTS.set_cookie(ALICE, "job:a-1", NOW, secure=False, path=path)
    assert field is not None
    assert b"Path=/api/v1/workflows/a-1/stream;" in field
    assert GRANTS.read(field.split(b";")[0], "job:a-1", NOW) is not None


@pytest.mark.parametrize("path", ["", "x", "/a;b", "/a b", "/a\r\nb", "/" + "a" * 512])
def test_a_path_that_no_cookie_can_name_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        GRANTS.set_cookie(ALICE, "job:a-1", NOW, secure=False, path=path)
