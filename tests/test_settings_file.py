"""Settings files: what they say, what wins over them, and the line that an error names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.settings import RateLimit, ServiceSettings, Settings, SettingsError, load
from gateway.settings_file import read_file, read_tables
from tests.loading import refusal, urls

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(content: str, name: str = "gateway.toml") -> Path:
        file = tmp_path / name
        file.write_text(content)
        return file

    return write_file


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def service(settings: Settings, name: str) -> ServiceSettings:
    return next(service for service in settings.services if service.name == name)


def test_a_file_says_settings_and_services(write: Write) -> None:
    file = write(
        """
        port = 8080
        rate_limit = "5/second"
        access_log = false
        head_timeout = 2.5
        trusted_proxies = ["10.0.0.0/8"]

        [services.orders]
        url = ["http://a:1", "http://b:2/x"]
        head_timeout = 3
        exposed = false
        upgrades = "websocket, Custom"
        max_body_bytes = "1KiB"
        max_connections = 9

        [services.My-Parser]
        url = "http://c"
        """
    )
    settings = load({}, file)
    assert (settings.port, settings.rate_limit) == (8080, RateLimit(5, 1))
    assert (settings.access_log, settings.head_timeout) == ("off", 2.5)
    assert urls(settings) == {"my_parser": ["http://c"], "orders": ["http://a:1", "http://b:2/x"]}
    orders = service(settings, "orders")
    assert (orders.aliases, orders.exposed) == (("orders",), False)
    assert orders.upgrades == ("websocket", "custom")
    assert (orders.head_timeout, orders.max_body_bytes, orders.max_connections) == (3, 1024, 9)
    assert service(settings, "my_parser").head_timeout == 2.5


def test_the_environment_wins_over_the_file(write: Write) -> None:
    file = write('port = 1\n[services.x]\nurl = "http://file"\nhead_timeout = 3\n')
    settings = load({"PORT": "2", "X_SERVICE_URL": "http://env", "GATEWAY_CONFIG": str(file)})
    assert settings.port == 2
    (only,) = settings.services
    assert (str(only.endpoints[0]), only.head_timeout) == ("http://env", 3)
    assert only.aliases == ("x", "x_service")


def test_a_table_without_a_url_needs_one_from_the_environment(write: Write) -> None:
    file = write("\n[services.x]\nhead_timeout = 3\n")
    assert load({"X_URL": "http://env"}, file).services[0].head_timeout == 3
    assert refusal({}, file).startswith(f"{file}:2: services.x has no url, expected http://")


def test_services_limits_files_too(write: Write) -> None:
    file = write('[services.x]\nurl = "http://x"\n[services.y]\nurl = "http://y"\n')
    assert urls(load({"SERVICES": "y"}, file)) == {"y": ["http://y"]}


def test_one_variable_cannot_mean_two_tables(write: Write) -> None:
    file = write('[services.x]\nurl = "http://x"\n[services.x_service]\nurl = "http://y"\n')
    assert len(load({}, file).services) == 2
    line = refusal({"X_SERVICE_URL": "http://a"}, file)
    assert line.startswith(f"{file}:3: services.x_service and services.x are one service")


def test_a_default_file_is_found_and_may_be_missing(tmp_path: Path) -> None:
    assert load({}).port == 8081
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "gateway.toml").write_text("port = 5\n")
    assert load({}).port == 5


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        ("port = 1\nnope = 2\n", 2, "nope is unknown, expected a setting"),
        ('orders_url = "http://h"\n', 1, "expected a table [services.orders] with url"),
        ("\n\nport = 'x'\n", 3, "port is 'x', expected a whole number"),
        ("port = true\n", 1, "port is True, expected a whole number"),
        ("head_timeout = true\n", 1, "head_timeout is True"),
        ("head_timeout = [1]\n", 1, "head_timeout is [1]"),
        ("max_body_bytes = true\n", 1, "max_body_bytes is True"),
        ("max_body_bytes = 1.5\n", 1, "max_body_bytes is 1.5"),
        ("trusted_proxies = 5\n", 1, "trusted_proxies is 5, expected a text with commas"),
        ("host = ''\n", 1, "host is '', expected a text"),
        ("host = 'a'\nport =\n", 2, "Invalid value, expected TOML"),
        ("host = 'a'\n\nport = [1,\n", 3, "expected TOML"),
        ("services = 5\n", 1, "services is 5, expected tables"),
        ("[services]\nx = 5\n", 2, "services.x is 5, expected a table [services.x]"),
        ("[services.x]\nurl = 'http://h'\nspeed = 1\n", 3, "services.x.speed is unknown"),
        ("[services.x]\nurl = 'ftp://h'\n", 2, "services.x.url is 'ftp://h', expected http://"),
        ("[services.x]\nurl = 'http://u:p@h'\n", 2, "services.x.url holds user information"),
        ("[services.x]\nurl = ''\n", 2, "services.x.url is ''"),
        ("[services.x]\nurl = 5\n", 2, "services.x.url is 5"),
        ("[services.x]\nurl = 'http://h'\nexposed = 'maybe'\n", 3, "expected true or false"),
        ("[services.x]\nurl = 'http://h'\nupgrades = 'h2c'\n", 3, "other than h2c and TLS"),
        ("[services.x]\nurl = 'http://h'\nupgrades = 'TLS/1.0'\n", 3, "other than h2c and TLS"),
        ("[services.events]\nurl = 'http://h'\n", 1, "services.events cannot be a service"),
        ("[services.'a b']\nurl = 'http://h'\n", 1, "services.a b is no service name"),
        ("[services.x-y]\nurl='http://h'\n[services.x_y]\nurl='http://h'\n", 3, "a table already"),
        ("services = {x = {speed = 1}}\n", 1, "services.x.speed is unknown"),
        ("services.x.speed = 1\n", 1, "services.x.speed is unknown"),
        ("host = '''a\nnope = 1'''\nnope = 2\n", 3, "nope is unknown"),
        ("include = 5\n", 1, "include is 5"),
        ("include = ['gone.toml']\n", 1, "gone.toml, which is missing"),
        ("port = 1\ninclude = ['gateway.toml']\n", 2, "leads back to"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(
    write: Write, content: str, line: int, problem: str
) -> None:
    file = write(content)
    said = refusal({}, file)
    assert said.startswith(f"{file}:{line}: ")
    assert problem in said


def test_switches_are_read_from_words(write: Write) -> None:
    file = write(
        "[services.x]\nurl = 'http://h'\nexposed = 'no'\n"
        "[services.y]\nurl = 'http://h'\nexposed = 'yes'\n"
    )
    assert [s.exposed for s in load({}, file).services] == [False, True]


def test_a_named_file_that_is_missing_is_an_error() -> None:
    assert refusal({"GATEWAY_CONFIG": "gone.toml"}) == (
        "gone.toml: No such file or directory, expected a readable file"
    )


def test_a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(b"host = '\xff'\n")
    assert refusal({}, file) == f"{file}:1: not UTF-8, expected a TOML file"


def test_a_file_wins_over_what_it_includes(write: Write) -> None:
    write(
        "port = 1\nhost = 'one'\n[services.x]\nurl = 'http://one'\nhead_timeout = 1\n",
        "one.toml",
    )
    write("host = 'two'\ninclude = 'three.toml'\n", "two.toml")
    write("log_level = 'debug'\nhost = 'three'\n", "three.toml")
    file = write("include = ['one.toml', 'two.toml']\nport = 9\n[services.x]\nurl = 'http://top'\n")
    settings = load({}, file)
    assert (settings.port, settings.host, settings.log_level) == (9, "two", "debug")
    assert urls(settings) == {"x": ["http://top"]}
    assert settings.services[0].head_timeout == 1


def test_an_error_in_an_included_file_names_that_file(write: Write, tmp_path: Path) -> None:
    write("port = 'x'\n", "other.toml")
    file = write("include = 'other.toml'\n")
    assert refusal({}, file).startswith(f"{tmp_path / 'other.toml'}:1: port is 'x'")


def test_tables_and_rows_of_all_kinds_know_where_they_stand(write: Write, tmp_path: Path) -> None:
    write(
        "[tiers.free]\nper_minute = 1\n[abuse]\nrefusals = 5\n[[limits]]\nper_day = 1\n", "in.toml"
    )
    file = write(
        "include = 'in.toml'\n"
        "[tiers.free]\nburst = 2\n"
        "[tiers.pro]\n"
        "[abuse]\n"
        "[[limits]]\ntenant = 'a'\n"
        "[[limits]]\n  tenant = 'b'\n"
        "[limits.inner]\nx = 1\n"
        "[[ 'limits' ]]\n"
    )
    values = read_file(file)
    included = tmp_path / "in.toml"
    free = values.tiers["free"]
    assert (free["per_minute"].where, free["burst"].where) == (f"{included}:2", f"{file}:3")
    assert (free[""].where, values.tiers["pro"][""].where) == (f"{file}:2", f"{file}:4")
    assert (values.abuse["refusals"].raw, values.abuse[""].where) == (5, f"{file}:5")
    assert [row[""].where for row in values.limits] == [
        f"{included}:5",
        f"{file}:6",
        f"{file}:8",
        f"{file}:12",
    ]
    second = values.limits[2]
    assert (second["tenant"].name, second["tenant"].where) == ("limits.tenant", f"{file}:9")
    inner = second["inner"].raw
    assert isinstance(inner, dict)
    assert (inner["x"].name, inner["x"].raw, inner["x"].where) == (
        "limits.inner.x",
        1,
        f"{file}:11",
    )


def test_rows_in_one_line_stand_where_their_key_does(write: Write) -> None:
    file = write("\nlimits = [\n  { tenant = 'a' },\n  { tenant = 'b' },\n]\n")
    rows = read_file(file).limits
    assert [row["tenant"].where for row in rows] == [f"{file}:2", f"{file}:2"]


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        ("tiers = 5\n", 1, "tiers is 5, expected tables, such as [tiers.free]"),
        ("[tiers]\nfree = 5\n", 2, "tiers.free is 5, expected a table [tiers.free]"),
        ("abuse = 5\n", 1, "abuse is 5, expected a table [abuse]"),
        ("limits = 5\n", 1, "limits is 5, expected tables [[limits]]"),
        ("limits = [5]\n", 1, "limits is [5], expected tables [[limits]]"),
        ("[limits]\nx = 1\n", 1, "expected tables [[limits]]"),
    ],
)
def test_what_should_be_tables_and_is_none_is_an_error(
    write: Write, content: str, line: int, problem: str
) -> None:
    file = write(content)
    with pytest.raises(SettingsError) as caught:
        read_file(file)
    assert str(caught.value).startswith(f"{file}:{line}: ")
    assert problem in str(caught.value)


def test_a_file_of_one_kind_of_tables_is_read_alone(write: Write, tmp_path: Path) -> None:
    file = write("[keys.one]\ntier = 'pro'\n[keys.two]\n", "keys.toml")
    found = read_tables(file, "keys")
    assert list(found) == ["one", "two"]
    assert (found["one"]["tier"].name, found["one"]["tier"].where) == (
        "keys.one.tier",
        f"{file}:2",
    )
    assert found["two"][""].where == f"{file}:3"
    assert read_tables(write("", "none.toml"), "keys") == {}
    for content, problem in (
        ("\nport = 1\n", "keys.toml:2: port is unknown, expected tables [keys.<name>]"),
        ("keys = 5\n", "keys.toml:1: keys is 5, expected tables, such as [keys.name]"),
        ("[keys]\none = 5\n", "keys.toml:2: keys.one is 5, expected a table [keys.one]"),
        ("x", "keys.toml:1: Expected"),
    ):
        with pytest.raises(SettingsError, match=re.escape(problem)):
            read_tables(write(content, "keys.toml"), "keys")
    with pytest.raises(SettingsError, match="No such file or directory"):
        read_tables(tmp_path / "gone.toml", "keys")
