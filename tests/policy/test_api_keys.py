"""The file of API keys: what it says, and where it is wrong."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest

from gateway.policy.api_keys import MAX_KEYS, ApiKeys, digest_of, new_key
from gateway.policy.identity import Identity, Verified
from gateway.settings import SettingsError

HASH = "5" * 64
FULL = f"""
[keys.gw_0123456789ab]
hash = "{HASH}"
tier = "pro"
scopes = ["events:read", "jobs:write"]
sub = "robot"
tenant = "acme"
client_ids = ["board", "é"]
created = 2026-01-31T12:00:00Z
expires = 2026-01-31T13:00:00+01:00

[keys.ci]
hash = "{"6" * 64}"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def read(file: Path, text: str) -> ApiKeys:
    file.write_text(text)
    return ApiKeys.read(file)


def test_a_table_says_whose_a_key_is(file: Path) -> None:
    keys = read(file, FULL)
    assert len(keys) == 2
    assert keys.find(bytes.fromhex(HASH)) == Verified(
        Identity(
            subject="robot",
            tenant="acme",
            tier="pro",
            scopes=frozenset(("events:read", "jobs:write")),
            client_ids=frozenset(("board", "é")),
            expires_at=1_769_860_800.0,
            jti="gw_0123456789ab",
        ),
        -math.inf,
        1_769_860_800.0,
    )


def test_a_hash_alone_gives_the_least_and_its_ids_name(file: Path) -> None:
    found = read(file, FULL).find(bytes.fromhex("6" * 64))
    assert found == Verified(Identity("ci", jti="ci"), -math.inf, math.inf)


def test_only_a_keys_own_digest_finds_it(file: Path) -> None:
    key, key_id = new_key()
    keys = read(file, f'[keys.{key_id}]\nhash = "{hashlib.sha256(key.encode()).hexdigest()}"')
    assert keys.find(digest_of(key.encode()))
    for other in (key_id, key[:-1], key + " ", key.upper(), ""):
        assert keys.find(digest_of(other.encode())) is None


def test_a_key_is_known_by_its_id(file: Path) -> None:
    keys = read(file, f'[keys.ci]\nsub = "alice"\nhash = "{"5" * 64}"')
    assert (keys.has("ci"), keys.has("alice"), keys.has("5")) == (True, False, False)


def test_new_keys_differ_and_show_their_id(file: Path) -> None:
    made = [new_key() for _ in range(100)]
    assert len({key for key, _ in made}) == len({key_id for _, key_id in made}) == 100
    for key, key_id in made:
        prefix, rest, secret = key.split("_")
        assert (prefix, f"gw_{rest}", len(rest)) == ("gw", key_id, 12)
        assert len(bytes.fromhex(secret)) == 32


def test_a_missing_or_empty_file_has_no_keys(file: Path) -> None:
    assert len(ApiKeys.read(file)) == 0
    assert len(read(file, "")) == 0
    assert len(read(file, "[keys]\n")) == 0
    assert not ApiKeys()


def test_equal_files_give_equal_keys(file: Path) -> None:
    one, other = read(file, FULL), read(file, "# later\n" + FULL)
    assert one == other
    assert hash(one) == hash(other)
    assert one != read(file, FULL.replace('"pro"', '"free"'))
    assert one != {}


TABLE = f'[keys.ci]\nhash = "{HASH}"\n'


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("[keys.ci]\n", 1, "keys.ci has no hash, expected the SHA-256 of a key"),
        (f'\n[keys."a b"]\nhash = "{HASH}"', 2, "is no id, expected 1 to 64 of A-Z"),
        (f'[keys.""]\nhash = "{HASH}"', 1, "is no id, expected 1 to 64 of A-Z"),
        (f'[keys.{"a" * 65}]\nhash = "{HASH}"', 1, "is no id, expected 1 to 64 of A-Z"),
        ('[keys.ci]\nhash = "abc"', 2, "keys.ci.hash is no SHA-256, expected 64 characters"),
        (f'[keys.ci]\nhash = "{"A" * 64}"', 2, "keys.ci.hash is no SHA-256, expected 64"),
        ("[keys.ci]\nhash = 5", 2, "keys.ci.hash is no SHA-256, expected 64 characters"),
        (TABLE + 'tier = "gold"', 3, "keys.ci.tier is 'gold', expected anonymous or free or pro"),
        (TABLE + "tier = 1", 3, "keys.ci.tier is 1, expected anonymous or free or pro or ent"),
        (TABLE + "tier = []", 3, "keys.ci.tier is [], expected anonymous or free or pro or"),
        (TABLE + 'scopes = "a"', 3, "keys.ci.scopes is 'a', expected a list of scopes"),
        (TABLE + 'scopes = ["a b"]', 3, "keys.ci.scopes is ['a b'], expected a list of scopes"),
        (TABLE + "scopes = [1]", 3, "keys.ci.scopes is [1], expected a list of scopes"),
        (TABLE + 'client_ids = ["a", ""]', 3, "keys.ci.client_ids is ['a', ''], expected a list"),
        (TABLE + "client_ids = {}", 3, "keys.ci.client_ids is {}, expected a list of texts"),
        (TABLE + 'sub = ""', 3, "keys.ci.sub is '', expected a text of 1 to 255 characters"),
        (TABLE + 'sub = "a\\nb"', 3, "keys.ci.sub is 'a\\nb', expected a text of 1 to 255"),
        (TABLE + "tenant = 7", 3, "keys.ci.tenant is 7, expected a text of 1 to 255 characters"),
        (TABLE + 'expires = "2030"', 3, "keys.ci.expires is '2030', expected a date and time"),
        (TABLE + "expires = 2030-01-31", 3, "keys.ci.expires is datetime.date(2030, 1, 31), exp"),
        (TABLE + "created = 2030-01-31T12:00:00", 3, "expected a date and time with its offset"),
        (TABLE + "\nkey = 1", 4, "keys.ci.key is unknown, expected one of hash, tier, scopes"),
        (TABLE + f'[keys.b]\nhash = "{HASH}"', 4, "keys.b.hash is that of keys.ci too, expected"),
        ("[keys.ci", 1, "expected TOML"),
        ("keys = 1", 1, "keys is 1, expected tables, such as [keys.name]"),
        ("[keys]\nci = 1", 2, "keys.ci is 1, expected a table [keys.ci]"),
        ("[services.x]\nurl = 1", 1, "services is unknown, expected tables [keys.<name>]"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(
    file: Path, text: str, line: int, what: str
) -> None:
    with pytest.raises(SettingsError) as error:
        read(file, text)
    said = str(error.value)
    assert said.startswith(f"{file}:{line}: ")
    assert what in said
    assert "\n" not in said
    assert HASH not in said


def test_a_key_in_place_of_its_hash_is_not_shown(file: Path) -> None:
    key, key_id = new_key()
    with pytest.raises(SettingsError) as error:
        read(file, f'[keys.{key_id}]\nhash = "{key}"')
    assert key.rpartition("_")[2] not in str(error.value)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected a readable file"):
        ApiKeys.read(tmp_path)


def test_there_may_be_many_keys_but_not_any_number(file: Path) -> None:
    tables = [f'[keys.k{n}]\nhash = "{n:064x}"\n' for n in range(MAX_KEYS + 1)]
    assert len(read(file, "".join(tables[:-1]))) == MAX_KEYS
    with pytest.raises(SettingsError, match=f"{MAX_KEYS + 1} keys, expected at most {MAX_KEYS}"):
        read(file, "".join(tables))


def test_showing_keys_shows_how_many(file: Path) -> None:
    assert repr(read(file, FULL)) == "<ApiKeys 2>"
