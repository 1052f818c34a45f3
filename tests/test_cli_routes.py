"""What `gateway check` and `gateway routes` say of routes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.cli_routes import check_lines, request_lines, table_lines
from gateway.control.app import PATHS
from gateway.settings import Settings, load

ROWS = """
[[routes]]
name = "movie"
path = "/movies/:id"
methods = "GET"
service = "a"
rewrite = "/v2/:id"
auth = "scope:movies"
limits = { per_second = 5, burst = 10, per_day = 1000 }
cost = 3
retries = { on = ["503", "connect"] }
hedge_after = 0.5
head_timeout = 1
total_timeout = 9
max_body_bytes = 10
request_headers = { set = { X-A = "secret" }, add = { X-B = "1" }, remove = "X-C" }
response_headers = { remove = "Server" }
agents = { per_minute = 4 }

[[routes]]
path = "/movies/*"
host = "*.m.test"
headers = { X-Beta = true, X-V = "2" }
service = "b"
agents = "refuse"
"""
PROFILE = """
rate_limit = "off"
routes = ["rows.toml"]
[services.a]
url = ["http://a:1/base", "http://a:2"]
auth = "required"
[services.b]
url = "http://b"
exposed = false
breaker = "off"
[services.c]
url = "http://c"
exposed = false
[[limits]]
path = "/movies/*"
per_hour = 9
[[limits]]
name = "acme"
tenant = "acme"
per_minute = 8
[[limits]]
path = "/other"
per_minute = 7
[tiers.free]
per_second = 1.5
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    Path("rows.toml").write_text(ROWS)
    Path("p.toml").write_text(PROFILE)
    return load({}, Path("p.toml"))


def test_check_counts_the_rows_and_finds_services_that_nothing_leads_to(
    settings: Settings,
) -> None:
    assert check_lines(settings) == [
        "routes      2 rows of rows.toml",
        "warning     service c is not under /api/v1/ and no row leads to it",
    ]
    assert check_lines(Settings()) == []


def test_the_table_lists_own_paths_rows_in_their_order_and_the_open_line(
    settings: Settings,
) -> None:
    lines = table_lines(settings)
    assert "GET, HEAD  /health  the gateway" in lines
    assert "GET, HEAD, POST  /api/v1/events/{client_id}  the gateway" in lines
    assert lines[len(PATHS) :] == [
        "GET  /movies/:id  a: http://a:1/base, http://a:2  (rows.toml:2)",
        "ANY  /movies/*  host=*.m.test  x-beta  x-v=2  b: http://b  (rows.toml:20)",
        "ANY  /api/v1/a/…  http://a:1/base, http://a:2",
    ]


DURABLE = """
routes = ["durable.toml"]
[services.a]
url = "http://a"
durable = true
[services.b]
url = "http://b"
"""
DURABLE_ROWS = """
[[routes]]
path = "/always"
service = "b"
durable = "always"
[[routes]]
path = "/never"
service = "a"
durable = false
[[routes]]
path = "/perhaps"
service = "b"
durable = true
"""


@pytest.fixture
def durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    Path("durable.toml").write_text(DURABLE_ROWS)
    Path("p.toml").write_text(DURABLE)
    return load({"TEMPORAL_ADDRESS": "embedded"}, Path("p.toml"))


def test_the_table_says_which_requests_become_jobs(durable: Settings) -> None:
    assert table_lines(durable)[len(PATHS) :] == [
        "ANY  /always  b: http://b  durable=always  (durable.toml:2)",
        "ANY  /never  a: http://a  (durable.toml:6)",
        "ANY  /perhaps  b: http://b  durable=allowed  (durable.toml:10)",
        "ANY  /api/v1/a/…  http://a  durable=allowed",
        "ANY  /api/v1/b/…  http://b",
    ]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/always", "always"),
        ("/never", None),
        ("/perhaps", "allowed"),
        ("/api/v1/a/x", "allowed"),
        ("/api/v1/b/x", None),
    ],
)
def test_a_request_is_told_whether_it_becomes_a_job(
    durable: Settings, path: str, said: str | None
) -> None:
    def told(settings: Settings) -> list[str]:
        lines = request_lines(settings, "POST", path)
        return [line for line in lines if line.startswith("durable")]

    assert told(durable) == ([] if said is None else [f"durable   {said}"])
    off = replace(durable, temporal_address=None)
    assert told(off) == ([] if said is None else [f"durable   {said}, but jobs are off"])


def test_check_warns_of_rows_that_need_jobs_where_there_are_none(durable: Settings) -> None:
    assert check_lines(durable) == ["routes      3 rows of durable.toml"]
    assert check_lines(replace(durable, temporal_address=None))[1:] == [
        "warning     durable.toml:2 is always durable, and jobs are off: it is answered 503"
    ]


def test_a_request_is_told_its_route_its_policies_and_its_endpoints(settings: Settings) -> None:
    assert request_lines(settings, "GET", "/movies/%41?x=1") == [
        "route     movie  (rows.toml:2)",
        "service   a",
        "endpoint  http://a:1/base/v2/%41?x=1",
        "endpoint  http://a:2/v2/%41?x=1",
        "auth      scope:movies",
        "limit     this route: 5 a second, 1000 a day, burst 10",
        "limit     /movies/*: 9 an hour, each caller",
        "limit     acme: 8 a minute, tenant acme",
        "limit     tier free: 1.5 a second",
        "cost      3",
        "breaker   20 failures and 50%, open for 3 s",
        "retries   2 tries in all, after 503, connect",
        "hedge     after 0.5 s",
        "timeouts  connect 5 s, head 1 s, idle 60 s, total 9 s",
        "body      at most 10 bytes",
        "request   sets X-A, adds X-B, removes X-C",
        "response  removes Server",
        "agents    4 a minute",
    ]


def test_a_request_on_the_open_line_meets_what_its_service_says(settings: Settings) -> None:
    lines = request_lines(settings, "POST", "/api/v1/a/x")
    assert lines[:2] == ["route     /api/v1/{service}", "service   a"]
    assert lines[2] == "endpoint  http://a:1/base/x"
    assert "auth      required" in lines
    assert "retries   off" in lines


def test_fields_of_the_request_are_looked_at(settings: Settings) -> None:
    fields = [("Host", "x.m.test"), ("X-Beta", ""), ("x-v", "2")]
    lines = request_lines(settings, "PUT", "/movies/7", fields)
    assert lines[:3] == [
        "route     /movies/*  (rows.toml:20)",
        "service   b",
        "endpoint  http://b/movies/7",
    ]
    assert {"breaker   off", "auth      optional", "agents    refused"} <= set(lines)


@pytest.mark.parametrize(
    ("method", "target", "said"),
    [
        ("GET", "/health", "the gateway itself"),
        ("POST", "/health", "405, the gateway's own path takes GET, HEAD"),
        ("GET", "/nothing", "404, no service and no path of the gateway"),
        ("PUT", "/movies/7", "405, the path takes GET, HEAD"),
        ("GET", "/api/v1/a/../x", "400, a dot segment in the path"),
        (
            "GET",
            "/movies/7/8",
            "404, the rows for this path ask for more (rows.toml:20: host=*.m.test x-beta x-v=2)",
        ),
    ],
)
def test_a_request_that_leads_nowhere_is_told_why(
    settings: Settings, method: str, target: str, said: str
) -> None:
    assert request_lines(settings, method, target) == [f"{method} {target}: {said}"]


def test_limits_may_be_off_or_the_default() -> None:
    environ = {"X_URL": "http://x", "RATE_LIMIT": "off"}
    assert "limit     none" in request_lines(load(environ), "GET", "/api/v1/x")
    environ["RATE_LIMIT"] = "5/second"
    assert "limit     default: 5 in 1 s" in request_lines(load(environ), "GET", "/api/v1/x")
