"""Whose a job is, by its id alone."""

from __future__ import annotations

import re

import pytest

from gateway.jobs.owners import Owners, rest_for_key
from gateway.policy.identity import Identity

ONE, TWO = {"k1": b"1" * 32}, {"k2": b"2" * 32}
UUID = "019a8f10-6c1e-7b5d-9d2a-3f5b8c7e1a20"
TENANT = Identity(subject="alice", tenant="acme")


def test_a_tag_names_nobody() -> None:
    tag = Owners(ONE).tag(TENANT)
    assert re.fullmatch("[0-9a-f]{16}", tag)
    assert Owners(TWO).tag(TENANT) != tag


def test_one_tenant_is_one_owner_and_a_subject_without_one_another() -> None:
    owners = Owners(ONE)
    callers = [
        TENANT,
        Identity(subject="alice", tenant="other"),
        Identity(subject="alice"),
        Identity(subject="acme"),
        Identity(subject="t:acme"),
        Identity(),
    ]
    assert len({owners.tag(each) for each in callers}) == len(callers)
    assert owners.tag(TENANT) == owners.tag(Identity(subject="bob", tenant="acme"))


def test_a_credential_that_names_nobody_owns_nothing() -> None:
    owners = Owners(ONE)
    everybodys = f"{owners.tag(Identity())}-{UUID}"
    assert owners.owns(Identity(open_read=True), everybodys)  # of a gateway without keys
    assert not owners.owns(Identity(subject=""), everybodys)
    for ask in (owners.tag, owners.tags):
        with pytest.raises(ValueError, match="names nobody"):
            ask(Identity(subject=""))
    nobody = Identity(subject="", tenant="acme")
    assert owners.owns(nobody, f"{owners.tag(TENANT)}-{UUID}")


def test_ids_of_all_keys_are_owned() -> None:
    before, now = Owners(ONE), Owners(TWO | ONE)
    for owners in (before, now):
        assert now.owns(TENANT, f"{owners.tag(TENANT)}-{UUID}")
        assert now.owns(TENANT, f"{owners.tag(TENANT)}-{'0' * 32}")
    assert now.tags(TENANT) == (now.tag(TENANT), before.tag(TENANT))
    assert not before.owns(TENANT, f"{now.tag(TENANT)}-{UUID}")
    assert not now.owns(Identity(subject="alice"), f"{now.tag(TENANT)}-{UUID}")
    assert Owners(ONE | {"again": ONE["k1"]}).tags(TENANT) == before.tags(TENANT)


@pytest.mark.parametrize("rest", ["", UUID.upper(), f"{UUID}\n", f"{UUID}/x", "0" * 31, "x" * 32])
def test_what_is_no_id_is_nobodys(rest: str) -> None:
    owners = Owners(ONE)
    assert not owners.owns(TENANT, f"{owners.tag(TENANT)}-{rest}")


def test_a_key_makes_an_id_by_route() -> None:
    found = {rest_for_key(route, key) for route in ("a", "b") for key in ("k", "l")}
    assert len(found) == 4
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in found)


def test_seals_hold_for_one_text_and_over_a_rotation() -> None:
    mark = Owners(ONE).seal(b"text")
    assert Owners(TWO | ONE).is_sealed(b"text", mark)
    assert not Owners(ONE).is_sealed(b"other", mark)
    assert not Owners(TWO).is_sealed(b"text", mark)


def test_owners_need_a_key_and_show_none() -> None:
    with pytest.raises(ValueError, match="key"):
        Owners({})
    assert repr(Owners(ONE)) == "<Owners 1 keys>"
