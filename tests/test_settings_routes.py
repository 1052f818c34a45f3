"""Rows of a route table: what they may say, and the line that says what is wrong with one."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.control.app import PATHS
from gateway.settings import load
from gateway.settings_limits import LimitSettings
from gateway.settings_patterns import parse_pattern, parse_rewrite
from gateway.settings_routes import (
    MAX_ROWS,
    HeaderChanges,
    HeaderCondition,
    RetrySettings,
    RouteSettings,
)
from tests.loading import refusal

SERVICES = """
[services.a]
url = "http://a"
[services.b]
url = "http://b"
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """A profile with two services whose table of routes is what is given."""
    monkeypatch.chdir(tmp_path)

    def write_file(content: str) -> Path:
        (tmp_path / "routes").mkdir(exist_ok=True)
        (tmp_path / "routes" / "r.toml").write_text(content)
        (tmp_path / "gateway.toml").write_text('routes = ["routes/r.toml"]\n' + SERVICES)
        return tmp_path / "gateway.toml"

    return write_file


def rows(file: Path) -> tuple[RouteSettings, ...]:
    return load({}, file).routes


def wrong(write: Write, content: str) -> str:
    """What is said of a table of routes, without the directory."""
    line = refusal({}, write(content))
    return re.sub(r"^.*?/routes/", "", line)


ALL = """
[[routes]]
name = "movie"
path = "/movies/:id"
methods = ["GET", "PURGE"]
host = "*.Example.com"
headers = { X-Beta = true, x-version = "2" }
service = "A"
rewrite = "/v2/:id"
auth = "scope:movies:read,admin"
cost = 5
limits = { per_second = 5, burst = 10, per_minute = 100 }
retries = { attempts = 3, on = ["connect", "503"], try_timeout = 1, backoff = 0, backoff_max = 0.1 }
hedge_after = 0.2
head_timeout = 1
idle_timeout = 2
total_timeout = 3
max_body_bytes = "1KiB"
agents = { per_minute = 10 }
query = ["page", "q"]

[routes.request_headers]
set = { X-Stage = "prod", X-Empty = "" }
add = { Cache-Control = "no-cache, no-store" }
remove = ["Cookie", "X-Debug"]

[routes.response_headers]
remove = "Server"
"""


def test_a_row_says_all_that_a_row_can_say(write: Write, tmp_path: Path) -> None:
    pattern = parse_pattern("/movies/:id")
    file = tmp_path / "routes" / "r.toml"
    assert rows(write(ALL)) == (
        RouteSettings(
            name="movie",
            where=f"{file}:2",
            pattern=pattern,
            service="a",
            methods=("GET", "PURGE"),
            host="*.example.com",
            headers=(HeaderCondition("x-beta"), HeaderCondition("x-version", "2")),
            rewrite=parse_rewrite("/v2/:id", pattern),
            auth="scope:movies:read,admin",
            limits=LimitSettings(
                "movie", per_second=5.0, per_minute=100, burst=10, where=f"{file}:12"
            ),
            cost=5,
            retries=RetrySettings(3, frozenset(("connect", "503")), 1.0, 0.0, 0.1),
            hedge_after=0.2,
            head_timeout=1.0,
            idle_timeout=2.0,
            total_timeout=3.0,
            max_body_bytes=1024,
            request_headers=HeaderChanges(
                (("X-Stage", "prod"), ("X-Empty", "")),
                (("Cache-Control", "no-cache, no-store"),),
                ("Cookie", "X-Debug"),
            ),
            response_headers=HeaderChanges(remove=("Server",)),
            agents=LimitSettings("movie (agents)", per_minute=10, where=f"{file}:19"),
            query=("page", "q"),
        ),
    )


@pytest.mark.parametrize(
    ("said", "durable"),
    [
        ("", None),
        ("durable = true", "allowed"),
        ("durable = 'allowed'", "allowed"),
        ("durable = 'off'", "off"),
        ("durable = false", "off"),
        ("durable = 'always'", "always"),
    ],
)
def test_a_row_says_which_of_its_requests_become_jobs(
    write: Write, said: str, durable: str | None
) -> None:
    (row,) = rows(write(f'[[routes]]\npath = "/m/*"\nservice = "b"\n{said}\n'))
    assert row.durable == durable
    (row,) = rows(write(f'[defaults]\n{said}\n[[routes]]\npath = "/m/*"\nservice = "b"\n'))
    assert row.durable == durable


def test_a_row_that_says_little_has_the_defaults(write: Write) -> None:
    (row,) = rows(write('[[routes]]\npath = "/m/*"\nservice = "b"\nagents = "refuse"\n'))
    assert (row.name, row.service, row.methods, row.auth) == ("/m/*", "b", None, None)
    assert (row.cost, row.retries, row.rewrite, row.agents) == (1, None, None, "refuse")
    assert row.request_headers == HeaderChanges()


@pytest.mark.parametrize(
    "change", ["set = { X-A = 'b' }", "add = { X-A = 'b' }", "remove = 'X-A'", ""]
)
def test_a_row_may_change_fields_in_one_way(write: Write, change: str) -> None:
    content = f"[[routes]]\npath = '/m'\nservice = 'b'\nrequest_headers = {{ {change} }}\n"
    changes = rows(write(content))[0].request_headers
    pair = (("X-A", "b"),)
    assert (changes.set, changes.add, changes.remove) == (
        pair if "set" in change else (),
        pair if "add" in change else (),
        ("X-A",) if "remove" in change else (),
    )


def test_defaults_of_a_file_hold_for_rows_that_say_nothing_else(write: Write) -> None:
    first, second = rows(
        write(
            "[defaults]\nservice = 'a'\nauth = 'required'\nstrip_prefix = '/m'\n"
            "[[routes]]\npath = '/m/x'\n"
            "[[routes]]\npath = '/m/*'\nservice = 'b'\nauth = 'none'\n"
        )
    )
    assert (first.service, first.auth, second.service, second.auth) == (
        "a",
        "required",
        "b",
        "none",
    )
    assert first.rewrite is not None
    assert first.rewrite(b"/m/x") == b"/x"


def test_rows_may_stand_in_the_profile_itself_and_add_up_over_includes(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(SERVICES + "[[routes]]\npath = '/a'\nservice = 'a'\n")
    file = tmp_path / "two.toml"
    file.write_text("include = 'one.toml'\n[[routes]]\npath = '/b'\nservice = 'b'\n")
    assert [(row.name, row.where) for row in rows(file)] == [
        ("/a", f"{tmp_path / 'one.toml'}:6"),
        ("/b", f"{file}:2"),
    ]


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        ("speed = 1\n", 1, "speed is unknown, expected [defaults] and [[routes]]"),
        ("routes = 5\n", 1, "routes is 5, expected tables [[routes]]"),
        ("defaults = 5\n", 1, "defaults is 5, expected a table [defaults]"),
        ("[defaults]\npath = '/a'\n", 2, "defaults.path can't be the same for all rows"),
        ("\n[[routes]]\nservice = 'a'\n", 2, "routes has no path, expected path and service"),
        ("[[routes]]\npath = '/a'\n", 1, "routes has no service"),
        (
            "[[routes]]\npath = '/a'\nservice = 'c'\n",
            3,
            "routes.service is 'c', expected a service",
        ),
        ("[[routes]]\npath = 'a'\nservice = 'a'\n", 2, "does not begin with /"),
        ("[[routes]]\npath = 5\nservice = 'a'\n", 2, "routes.path is 5, expected a text"),
        ("[[routes]]\npath = {}\nservice = 'a'\n", 2, "routes.path is a table, expected a value"),
    ],
)
def test_a_table_of_routes_that_is_none_is_named_with_its_line(
    write: Write, content: str, line: int, problem: str
) -> None:
    said = wrong(write, content)
    assert said.startswith(f"r.toml:{line}: ")
    assert problem in said


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("speed = 1", "speed is unknown, expected one of path, name, service"),
        ("name = ' '", "expected a text"),
        ("name = 'a b'", "expected letters, digits"),
        ("methods = []", "expected methods in capitals"),
        ("methods = 'get'", "expected methods in capitals"),
        ("methods = ['TRACE']", "names TRACE, which the gateway never lets in"),
        ("methods = ['CONNECT']", "names CONNECT"),
        ("host = 'a:80'", "expected a host without a port"),
        ("host = '*'", "expected a host without a port"),
        ("host = 'a.*.b'", "expected a host without a port"),
        ("headers = 5", "expected a table of fields"),
        ("headers = { Host = 'a' }", "is none that a row can ask for"),
        ("headers = { X-User-ID = true }", "is none that a row can ask for"),
        ("headers = { X-Forwarded-For = true }", "is none that a row can ask for"),
        ("headers = { X_A = true }", "names the field 'X_A'"),
        ("headers = { X-A = false }", "expected true (the field is there) or the text"),
        ("headers = { X-A = 'a', x-a = 'b' }", "is there twice"),
        ('headers = { X-A = "a\\nb" }', "is no field value"),
        ("rewrite = '/:no'", "has no :no, expected a path in the names of the row's"),
        ("rewrite = 5", "expected a text"),
        ("rewrite = '/../x'", "in no path that is let in"),
        ("strip_prefix = '/other'", "does not begin with it"),
        ("rewrite = '/x'\nstrip_prefix = '/m'", "strip_prefix stands beside rewrite"),
        ("auth = 'maybe'", "expected none, optional, required or scope:"),
        ("auth = 'scope:'", "expected none, optional, required or scope:"),
        ("auth = 'scope:a b'", "expected none, optional, required or scope:"),
        ("cost = 0", "expected a whole number from 1"),
        ("cost = 11\nlimits = { per_minute = 10 }", "cost is 11, but a limit of the row holds 10"),
        ("cost = 3\nlimits = { per_second = 1.5 }", "cost is 3, but a limit of the row holds 2"),
        ("cost = 6\nagents = { per_hour = 9, per_day = 5 }", "cost is 6, but a limit of the row"),
        ("limits = 5", "expected a table of figures"),
        ("limits = { }", "has no figure"),
        ("limits = { per_week = 1 }", "per_week is unknown"),
        ("retries = 2", "expected a table, such as { attempts"),
        ("retries = { attempts = 1 }", "expected a whole number from 2 to 10"),
        ("retries = { on = [] }", "expected some of connect, reset, 502"),
        ("retries = { on = ['500'] }", "expected some of connect, reset, 502"),
        ("retries = { speed = 1 }", "retries.speed is unknown"),
        ("retries = { backoff_max = 0.01 }", "is less than backoff"),
        ("retries = { backoff = 1 }", "is less than backoff"),
        ("hedge_after = 0", "expected seconds, more than 0"),
        ("total_timeout = 'x'", "expected seconds, more than 0"),
        ("max_body_bytes = 0", "expected bytes"),
        ("agents = 'kill'", "expected allow, refuse or a table of figures"),
        ("query = 5", "expected a text with commas"),
        ("durable = 5", "expected true, false or always"),
        ("durable = 'never'", "expected true, false or always"),
        ("durable = ['always']", "expected true, false or always"),
        ("durable = { always = true }", "durable is a table, expected a value"),
        ("request_headers = 5", "expected a table of set, add and remove"),
        ("request_headers = { X-A = 'b' }", "X-A is unknown, expected a table of set, add"),
        ("request_headers = { set = 5 }", "expected fields"),
        ("request_headers = { set = { X_A = 'b' } }", "names the field 'X_A'"),
        ("request_headers = { set = { X-A = 5 } }", "is no field value"),
        ('request_headers = { set = { X-A = "a\\r\\nX-B: c" } }', "is no field value"),
        ('request_headers = { add = { X-A = "a\\nb" } }', "is no field value"),
        ("request_headers = { add = { X-A = 'é' } }", "is no field value"),
        ("request_headers = { add = { X-A = ' a' } }", "is no field value"),
        (f"request_headers = {{ add = {{ X-A = '{'a' * 4097}' }} }}", "has 4097 characters"),
        ('request_headers = { remove = "a\\nb" }', "names the field"),
        ("request_headers = { remove = ['X-A'], set = { x-a = '1' } }", "changes X-A again"),
        ("request_headers = { add = { X-A = '1', x-a = '1' } }", "changes x-a again"),
    ],
)  # fmt: skip
def test_a_row_that_is_wrong_is_named_with_its_line(write: Write, key: str, problem: str) -> None:
    said = wrong(write, f"\n[[routes]]\npath = '/m/*'\nservice = 'a'\n{key}\n")
    assert re.match(r"r\.toml:(5|6): ", said)
    assert problem in said


def test_a_change_in_a_table_of_its_own_is_named_with_its_own_line(write: Write) -> None:
    row = "[[routes]]\npath = '/{}'\nservice = 'a'\n"
    said = wrong(
        write,
        row.format("a")
        + row.format("b")
        + "[routes.request_headers.set]\nX-A = 'a'\nHost = 'b'\n"
        + row.format("c"),
    )
    assert said.startswith("r.toml:9: routes.request_headers.set.Host changes Host, which is the")


@pytest.mark.parametrize(
    "name",
    [
        *("Host", "connection", "Keep-Alive", "TE", "Transfer-Encoding", "Content-Length"),
        *("Upgrade", "X-User-ID", "X-Tenant-ID", "X-User-Tier", "Forwarded", "X-Forwarded-For"),
        *("X-Real-IP", "Via", "X-Request-ID", "X-Correlation-ID", "traceparent", "Expect"),
        *("X-Gateway-Client", "X-On-Behalf-Of"),
    ],
)  # fmt: skip
def test_fields_that_the_gateway_sets_for_a_service_cannot_be_changed(
    write: Write, name: str
) -> None:
    for change in (f"set = {{ {name} = 'x' }}", f"add = {{ {name} = 'x' }}", f"remove = '{name}'"):
        row = f"[[routes]]\npath = '/m'\nservice = 'a'\nrequest_headers = {{ {change} }}\n"
        assert "which is the gateway's own" in wrong(write, row)


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "Transfer-Encoding", "Content-Length", "Upgrade", "X-Request-ID", "Date"),
        *("X-RateLimit-Limit", "RateLimit", "RateLimit-Policy", "X-Gateway-Attempts", "Trailer"),
        *("Access-Control-Allow-Origin", "Access-Control-Allow-Credentials"),
    ],
)  # fmt: skip
def test_fields_that_the_gateway_sets_for_a_client_cannot_be_changed(
    write: Write, name: str
) -> None:
    row = f"[[routes]]\npath = '/m'\nservice = 'a'\nresponse_headers = {{ remove = '{name}' }}\n"
    assert "which is the gateway's own" in wrong(write, row)


@pytest.mark.parametrize("path", [re.sub(r"{(\w+)}", r":\1", path) for path in PATHS])
def test_a_row_for_a_path_of_the_gateways_own_is_an_error(write: Write, path: str) -> None:
    said = wrong(write, f"[[routes]]\npath = '{path}'\nservice = 'a'\n")
    assert said.startswith("r.toml:2: ")
    assert "which is the gateway's own path" in said


def test_rows_that_cover_the_gateways_own_paths_besides_others_are_none(write: Write) -> None:
    paths = ("/*", "/:x", "/api/v1/:x", "/api/*", "/healthy")
    content = "".join(f"[[routes]]\npath = '{path}'\nservice = 'a'\n" for path in paths)
    assert len(rows(write(content))) == len(paths)


def test_one_name_stands_for_one_row(write: Write) -> None:
    row = "[[routes]]\npath = '/{}'\nservice = 'a'\nname = 'one'\n"
    said = wrong(write, row.format("x") + row.format("y"))
    assert said.startswith("r.toml:8: routes.name is 'one', as ")


def test_rows_of_a_service_that_services_leaves_out_are_left_out(write: Write) -> None:
    row = "[[routes]]\npath = '/{0}'\nservice = '{0}'\n"
    settings = load({"SERVICES": "a"}, write(row.format("a") + row.format("b")))
    assert [route.service for route in settings.routes] == ["a"]
    assert settings.warnings == (
        "routes lead to b, which SERVICES leaves out: they are left out too",
    )


def test_a_service_is_meant_by_any_of_its_names(write: Write) -> None:
    file = write("[[routes]]\npath = '/x'\nservice = 'x-service'\n")
    assert load({"X_SERVICE_URL": "http://x"}, file).routes[0].service == "x"


def test_there_are_bounds(write: Write) -> None:
    content = "".join(f"[[routes]]\npath = '/{n}'\n" for n in range(MAX_ROWS + 1))
    assert f"has row {MAX_ROWS + 1}" in wrong(write, content)


def test_a_file_of_routes_that_is_missing_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("port = 1\nroutes = ['gone.toml']\n")
    assert refusal({}, file).startswith(f"{file}:2: routes names {tmp_path / 'gone.toml'}, which")
    file.write_text("routes = 5\n")
    assert refusal({}, file).startswith(f"{file}:1: routes is 5, expected a text with commas")


# Rows that can't be met


def settings_of(paths: tuple[str, ...]) -> str:
    content = ""
    for path in paths:
        methods, pattern, *more = path.split(" ", 2)
        keys = [f"path = '{pattern}'", "service = 'a'"]
        if methods != "ANY":
            keys.append(f"methods = '{methods}'")
        content += "[[routes]]\n" + "\n".join([*keys, *more]) + "\n"
    return content


@pytest.mark.parametrize(
    "paths",
    [
        ("ANY /a", "ANY /a"),
        ("ANY /a", "ANY /a/"),
        ("ANY /a/:x", "ANY /a/:y"),
        ("ANY /a/*", "ANY /a/*rest"),
        ("ANY /a*", "ANY /a*"),
        ("ANY /a", "ANY /%61"),
        ("GET,POST /a", "GET /a"),
        ("GET /a host = 'x.test'", "GET /a host = 'X.test'"),
        ("GET /a headers = { X-A = '1' }", "GET /a headers = { x-a = '1' }"),
        ("GET /a headers = { b = true, a = true }", "GET /a headers = { a = true, b = true }"),
    ],
)
def test_a_row_that_matches_what_another_does_is_ambiguous(
    write: Write, paths: tuple[str, ...]
) -> None:
    content = settings_of(paths)
    line = content.rindex("[[routes]]")
    said = wrong(write, content)
    assert said.startswith(f"r.toml:{content[:line].count(chr(10)) + 1}: routes '")
    assert re.search(r"matches( by GET)? what the row at \S+r.toml:1 does", said)


@pytest.mark.parametrize(
    "paths",
    [
        ("GET /a", "POST /a"),
        ("GET /a", "ANY /a"),
        ("GET /a", "HEAD /a"),
        ("ANY /a/:x", "ANY /a/b", "ANY /:x/b", "ANY /:x/:y", "ANY /a/*", "ANY /a*"),
        ("ANY /a", "ANY /a host = 'x.test'", "ANY /a host = '*.x.test'"),
        ("ANY /a headers = { X-A = '1' }", "ANY /a headers = { X-A = '2' }"),
        ("ANY /a headers = { X-A = true }", "ANY /a headers = { X-A = '2' }"),
        ("ANY /a", "ANY /a/:x", "ANY /a/*"),
        ("ANY /a", "GET /a/:x/*", "ANY /a/*"),
        ("ANY /a host = 'x.test'", "ANY /a/:x/*", "ANY /a/*"),
        ("ANY /a headers = { a = '1' }", "ANY /a/:x/*", "ANY /a/*"),
        ("ANY /a headers = { a = '1' }", "ANY /a/:x/*", "ANY /a/* headers = { a = true }"),
        ("ANY /a host = '*.x.test'", "ANY /a/:x/*", "ANY /a/* host = 'x.test'"),
        ("ANY /a host = 'x.test'", "ANY /a/:x/*", "ANY /a/* host = 'y.test'"),
        ("ANY /a", "ANY /a/b/*", "ANY /a/*"),
        ("ANY /a*", "ANY /ab*", "ANY /a/*"),
        ("ANY /a", "ANY /:x/:y/*", "ANY /a*"),
    ],
)
def test_rows_that_share_no_request_or_have_an_order_are_fine(
    write: Write, paths: tuple[str, ...]
) -> None:
    assert len(rows(write(settings_of(paths)))) == len(paths)


@pytest.mark.parametrize(
    "paths",
    [
        ("ANY /a", "ANY /a/:x/*", "ANY /a/*"),
        ("ANY /a", "ANY /a/:x", "ANY /a/:x/:y/*", "ANY /a/*"),
        ("ANY /", "ANY /:x/*", "ANY /*"),
        ("GET /a", "GET /a/:x/*", "GET /a/*"),
        ("GET /a", "GET /a/:x/*", "HEAD /a/*"),
        ("GET /a", "POST /a", "ANY /a/:x/*", "GET,POST /a/*"),
        ("ANY /a", "ANY /a/:x/*", "ANY /a/* host = 'x.test'"),
        ("ANY /a host = 'x.test'", "ANY /a/:x/*", "ANY /a/* host = 'x.test'"),
        ("ANY /a host = '*.x.test'", "ANY /a/:x/*", "ANY /a/* host = 'a.x.test'"),
        ("ANY /a headers = { a = true }", "ANY /a/:x/*", "ANY /a/* headers = { a = '1' }"),
        ("ANY /:x", "ANY /:x/:y/*", "ANY /a*"),
        ("ANY /:x/b", "ANY /a/b/:y/*", "ANY /a/b/*"),
    ],
)
def test_a_row_that_others_cover_is_out_of_reach(write: Write, paths: tuple[str, ...]) -> None:
    content = settings_of(paths)
    line = content[: content.rindex("[[routes]]")].count("\n") + 1
    said = wrong(write, content)
    assert said.startswith(f"r.toml:{line}: routes '")
    assert "is never met: the rows at " in said
    assert "r.toml:1" in said


def test_a_thousand_rows_are_checked_against_each_other(write: Write) -> None:
    chance = random.Random(5)
    kinds = ("", "/*", "/:id", "/:id/x/:y", "*")
    paths = {
        "/api/v1/" + "/".join(f"s{chance.randrange(90)}" for _ in range(chance.randrange(1, 5)))
        + chance.choice(kinds)
        for _ in range(1000)
    }  # fmt: skip
    content = "[defaults]\nservice = 'a'\n" + "".join(
        f"[[routes]]\npath = '{path}'\n" for path in sorted(paths)
    )
    assert len(rows(write(content))) == len(paths)
