"""Services of the environment: which variables register, under which names and endpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings import EndpointUrl, load, with_service
from tests.loading import refusal, urls


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("variable", "aliases"),
    [
        ("ORDERS_URL", ("orders",)),
        ("ORDERS_SERVICE_URL", ("orders", "orders_service")),
        ("MY-ORDERS_URL", ("my_orders",)),
        ("MY_ORDERS_URL", ("my_orders",)),
        ("SERVICE_URL", ("service",)),
        ("Orders_URL", ("orders",)),
        ("X2_URL", ("x2",)),
        ("REDIS_SERVICE_URL", ("redis", "redis_service")),
        ("EVENTS_SERVICE_URL", ("events_service",)),
    ],
)
def test_a_variable_registers_its_names(variable: str, aliases: tuple[str, ...]) -> None:
    (only,) = load({variable: "http://h:1"}).services
    assert (only.name, only.aliases) == (aliases[0], aliases)


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        ("http://h", [EndpointUrl("http", "h", 80, "")]),
        ("https://h", [EndpointUrl("https", "h", 443, "")]),
        ("HTTP://Host.Example:8080/", [EndpointUrl("http", "host.example", 8080, "")]),
        ("http://a_b:1/v1//", [EndpointUrl("http", "a_b", 1, "/v1")]),
        ("http://h:/x/%2F/y", [EndpointUrl("http", "h", 80, "/x/%2F/y")]),
        ("http://[::1]:9", [EndpointUrl("http", "::1", 9, "")]),
        (
            " http://a:1 ,http://b:2/x,, http://a:1/",
            [EndpointUrl("http", "a", 1, ""), EndpointUrl("http", "b", 2, "/x")],
        ),
    ],
)
def test_a_value_gives_its_endpoints(text: str, endpoints: list[EndpointUrl]) -> None:
    assert list(load({"X_URL": text}).services[0].endpoints) == endpoints


@pytest.mark.parametrize(
    ("endpoint", "authority", "url"),
    [
        (EndpointUrl("http", "h", 80), "h", "http://h"),
        (EndpointUrl("http", "h", 443), "h:443", "http://h:443"),
        (EndpointUrl("https", "::1", 443, "/x"), "[::1]", "https://[::1]/x"),
        (EndpointUrl("https", "::1", 80, "/x"), "[::1]:80", "https://[::1]:80/x"),
    ],
)
def test_an_authority_has_no_default_port(endpoint: EndpointUrl, authority: str, url: str) -> None:
    assert (endpoint.authority, str(endpoint)) == (authority, url)


@pytest.mark.parametrize(
    "variable",
    ["REDIS_URL", "DATABASE_URL", "TEMPORAL_URL", "PUBLIC_URL", "GATEWAY_URL", "JWKS_URL",
     "OTEL_COLLECTOR_URL", "HTTP_PROXY", "http_proxy", "https_proxy", "_URL", "URL", "X_URLS",
     "orders_url"],
)  # fmt: skip
def test_some_variables_are_never_services(variable: str) -> None:
    own = {
        "REDIS_URL": "redis://h",
        "DATABASE_URL": "postgresql://h/d",
        "JWKS_URL": "https://h/keys",
    }
    value = own.get(variable, "http://h")
    assert load({variable: value}).services == ()


@pytest.mark.parametrize("value", ["", "ftp://h", "postgres://u:p@h/d?x", "true", "//h", "h:80"])
def test_what_is_not_http_is_none_of_ours(value: str) -> None:
    settings = load({"X_URL": value})
    assert (settings.services, settings.warnings) == ((), ())


@pytest.mark.parametrize(
    "value",
    [
        "http://user:secret@h",
        "http://user@h",
        "http://h/?",
        "http://h?a=secret",
        "http://h/#secret",
        "http://a,http://u:secret@b",
        "http://u:sec,ret@b",
    ],
)
def test_userinfo_query_and_fragment_never_register_and_are_said_once(value: str) -> None:
    settings = load({"X_SERVICE_URL": value})
    assert settings.services == ()
    (warning,) = settings.warnings
    assert warning.startswith("X_SERVICE_URL is not registered")
    assert "secret" not in warning


@pytest.mark.parametrize("name", ["EVENTS", "WORKFLOWS", "QUESTIONS", "PLUGINS", "ADMIN"])
def test_the_gateways_own_path_names_are_not_services(name: str) -> None:
    settings = load({f"{name}_URL": "http://h"})
    assert settings.services == ()
    assert "own path" in settings.warnings[0]


@pytest.mark.parametrize(
    "value",
    [
        "http://",
        "http://h:99999",
        "http://h:0",
        "http://h:x",
        "http://[::g]",
        "http://[:::1]",
        "http://h/a b",
        "http://h/../x",
        "http://h\\x",
        "http://h,ftp://b",
        "http://-h",
        "http://hé",
    ],
)
def test_a_broken_http_value_is_an_error(value: str) -> None:
    line = refusal({"X_URL": value})
    assert line.startswith("environment: X_URL is ")
    assert "expected http://host:port/base" in line


def test_two_values_for_one_service_are_an_error() -> None:
    line = refusal({"X_URL": "http://a", "X_SERVICE_URL": "http://b"})
    assert line == (
        "environment: X_SERVICE_URL and X_URL give service 'x' two different values, expected one"
    )
    assert "'x_y'" in refusal({"X_Y_URL": "http://a", "X-Y_URL": "http://b"})


def test_the_same_value_twice_is_one_service() -> None:
    settings = load({"X_URL": "http://a/", "X_SERVICE_URL": "http://a"})
    assert [s.aliases for s in settings.services] == [("x", "x_service")]


def test_names_that_overlap_in_a_chain_are_one_service() -> None:
    settings = load(
        {"X_SERVICE_SERVICE_URL": "http://a", "X_URL": "http://a", "X_SERVICE_URL": "http://a"}
    )
    (only,) = settings.services
    assert set(only.aliases) == {"x", "x_service", "x_service_service"}


def test_services_limits_what_is_registered_and_looked_at() -> None:
    environ = {
        "A_URL": "http://a",
        "B_SERVICE_URL": "http://b",
        "C_URL": "http://u@c",
        "D_URL": "http://broken:port",
        "SERVICES": "a, B-Service, gone",
    }
    settings = load(environ)
    assert urls(settings) == {"a": ["http://a"], "b": ["http://b"]}
    assert settings.warnings == ("SERVICES names gone, but nothing registers it",)


def test_a_service_has_the_limits_that_hold_for_all() -> None:
    environ = {
        "X_URL": "http://a",
        "HEAD_TIMEOUT": "7",
        "MAX_BODY_BYTES": "10",
        "UPSTREAM_MAX_CONNECTIONS": "3",
    }
    only = load(environ).services[0]
    assert (only.head_timeout, only.max_body_bytes, only.max_connections) == (7, 10, 3)
    assert (only.exposed, only.upgrades) == (True, ("websocket",))


def test_a_built_in_service_is_added_under_the_same_limits() -> None:
    settings = with_service(load({"IDLE_TIMEOUT": "9"}), "demo", "http://127.0.0.1:4")
    assert urls(settings) == {"demo": ["http://127.0.0.1:4"]}
    assert settings.services[0].idle_timeout == 9
