"""Who may see figures and who may administer; the door's fields decide, never a client's."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from gateway.control.access import may_administer, may_read_figures
from gateway.policy.auth import Identity
from gateway.settings import Settings
from tests.control.conftest import LOCAL

ADMIN_FROM = (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"))
NOBODY = Identity()
ALICE = Identity(subject="alice", scopes=frozenset({"events:read"}))
ADMIN = Identity(subject="root", scopes=frozenset({"admin"}))
OWNER = Identity(open_read=True, open_write=True)  # as the door says it while no key is set
READER = Identity(open_read=True)
AT_HOME = LOCAL | {"X-Forwarded-Host": "localhost:8081"}


@pytest.mark.parametrize(
    ("client_address", "direct", "allowed"),
    [
        ("127.0.0.1", True, True),
        ("127.9.9.9", True, True),
        ("::1", True, True),
        ("::ffff:127.0.0.1", True, True),
        ("::1", False, False),
        ("192.0.2.77", False, True),
        ("::ffff:192.0.2.77", False, True),
        ("2001:db8::1", True, True),
        ("198.51.100.1", True, False),
        ("2001:db9::1", True, False),
        ("", True, False),
    ],
)
def test_loopback_and_the_listed_networks_may_read_figures(
    client_address: str, direct: bool, allowed: bool
) -> None:
    headers = {"X-Gateway-Client": client_address, "X-Gateway-Direct": "1" if direct else "0"}
    settings = Settings(admin_from=ADMIN_FROM)
    assert may_read_figures(settings, NOBODY, headers) is allowed


def test_the_scope_admin_reads_figures_from_anywhere_and_no_other_does() -> None:
    far = {"X-Gateway-Client": "198.51.100.1"}
    assert may_read_figures(Settings(), ADMIN, far)
    assert not may_read_figures(Settings(), ALICE, far)
    assert not may_read_figures(Settings(), OWNER, far)  # ALLOW_ANONYMOUS opens writing, not this


@pytest.mark.parametrize(
    ("identity", "headers", "allowed"),
    [
        (ADMIN, {"X-Gateway-Client": "198.51.100.1"}, True),
        (ADMIN, {}, True),
        (ALICE, AT_HOME, False),  # with a key its scope is needed, also on this machine
        (NOBODY, AT_HOME, False),
        (READER, AT_HOME, False),
        (OWNER, AT_HOME, True),
        (OWNER, AT_HOME | {"X-Gateway-Client": "::1", "X-Forwarded-Host": "[::1]:8081"}, True),
        (OWNER, AT_HOME | {"X-Gateway-Client": "::ffff:127.0.0.1"}, True),
        (OWNER, AT_HOME | {"X-Gateway-Client": "192.0.2.1"}, False),
        (OWNER, AT_HOME | {"X-Gateway-Client": "unknown"}, False),
        (OWNER, AT_HOME | {"X-Gateway-Direct": "0"}, False),
        (OWNER, AT_HOME | {"X-Forwarded-Host": "rebound.example:8081"}, False),
        (OWNER, LOCAL, False),  # HTTP/1.0 without a Host
        (OWNER, AT_HOME | {"Origin": "http://localhost:3000"}, True),
        (OWNER, AT_HOME | {"Origin": "https://evil.example"}, False),
        (OWNER, AT_HOME | {"Origin": "null"}, False),
        (OWNER, AT_HOME | {"Sec-Fetch-Site": "cross-site"}, False),
        (OWNER, AT_HOME | {"Sec-Fetch-Site": "same-origin"}, True),
    ],
)
def test_the_scope_or_while_there_is_no_key_the_owner_of_this_machine_administers(
    identity: Identity, headers: dict[str, str], allowed: bool
) -> None:
    assert may_administer(identity, headers) is allowed
