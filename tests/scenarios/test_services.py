"""Services by name: what registers, what it answers to, its endpoints, what never is a service."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.wire import (
    Link,
    ScriptedUpstream,
    answer,
    assert_error,
    eventually,
    load_settings,
    proxied,
    request,
    start_gateway,
)


@pytest.mark.parametrize(
    ("variable", "names"),
    [
        ("ORDERS_URL", [b"orders"]),
        ("ORDERS_SERVICE_URL", [b"orders", b"orders_service", b"orders-service"]),
        ("ORDER_DESK_URL", [b"order_desk", b"order-desk"]),
    ],
)
async def test_a_variable_registers_a_service_under_its_names(
    variable: str, names: list[bytes]
) -> None:
    async with (
        ScriptedUpstream() as upstream,
        start_gateway(**{variable: upstream.url}) as gateway,
    ):
        for name in names:
            assert (await gateway.ask(request(b"GET /api/v1/" + name + b"/x"))).status == 200
        assert [r.target for r in upstream.requests] == [b"/x"] * len(names)


@pytest.mark.parametrize(
    "variable",
    [
        "TEMPORAL_URL",
        "PUBLIC_URL",
        "GATEWAY_URL",
        "JWKS_URL",
        "OTEL_EXPORTER_URL",
        "EVENTS_URL",
        "WORKFLOWS_URL",
        "QUESTIONS_URL",
        "PLUGINS_URL",
        "ADMIN_URL",
    ],
)
def test_names_of_the_gateway_itself_never_become_services(variable: str, tmp_path: Path) -> None:
    settings = load_settings(tmp_path, **{variable: "http://127.0.0.1:9"})
    assert [service.name for service in settings.services] == []


@pytest.mark.parametrize(
    "url", ["postgresql://h/x", "redis://h", "ftp://h", "not a url", "grpc://h:1", "/just/a/path"]
)
def test_only_http_and_https_values_register(url: str, tmp_path: Path) -> None:
    assert load_settings(tmp_path, SVC_URL=url).services == ()


@pytest.mark.parametrize("url", ["http://u:p@h/", "http://u@h/", "http://h/?q=1", "http://h/#f"])
def test_a_url_with_userinfo_query_or_fragment_never_registers_and_is_warned_of_once(
    url: str, tmp_path: Path
) -> None:
    settings = load_settings(tmp_path, SVC_URL=url)
    assert settings.services == ()
    assert len(settings.warnings) == 1


def test_two_different_values_for_one_service_are_an_error(tmp_path: Path) -> None:
    from gateway.settings import SettingsError

    with pytest.raises(SettingsError):
        load_settings(tmp_path, SVC_URL="http://h:1", SVC_SERVICE_URL="http://h:2")


def test_two_equal_values_for_one_service_are_one_service(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, SVC_URL="http://h:1", SVC_SERVICE_URL="http://h:1")
    assert len(settings.services) == 1


async def test_services_limits_what_registers() -> None:
    async with (
        ScriptedUpstream() as upstream,
        start_gateway(A_URL=upstream.url, B_URL=upstream.url, SERVICES="a") as gateway,
    ):
        assert (await gateway.ask(request(b"GET /api/v1/a/x"))).status == 200
        assert_error(await gateway.ask(request(b"GET /api/v1/b/x")), 404, "NOT_FOUND")


async def test_each_name_registered_is_said_at_start() -> None:
    environ = {"ORDERS_URL": "http://127.0.0.1:9", "STOCK_URL": "http://127.0.0.1:9"}
    async with start_gateway(**environ) as gateway:
        await eventually(lambda: all(name in str(gateway.log()) for name in ("orders", "stock")))


async def test_a_service_that_is_not_exposed_is_404() -> None:
    async with ScriptedUpstream() as upstream:
        config = f'[services.hidden]\nurl = "{upstream.url}"\nexposed = false\n'
        async with start_gateway(config) as gateway:
            assert_error(await gateway.ask(request(b"GET /api/v1/hidden/x")), 404, "NOT_FOUND")
        assert upstream.links == []


async def test_a_service_of_the_settings_file_is_proxied_and_the_environment_wins() -> None:
    async with ScriptedUpstream(answer(b"a")) as first, ScriptedUpstream(answer(b"b")) as second:
        config = f'[services.svc]\nurl = "{first.url}"\n'
        async with start_gateway(config) as gateway:
            assert (await gateway.ask(request(b"GET /api/v1/svc/x"))).body == b"a"
        async with start_gateway(config, SVC_URL=second.url) as gateway:
            assert (await gateway.ask(request(b"GET /api/v1/svc/x"))).body == b"b"


async def test_several_endpoints_take_turns() -> None:
    async with ScriptedUpstream(answer(b"a")) as first, ScriptedUpstream(answer(b"b")) as second:
        async with start_gateway(SVC_URL=f"{first.url},{second.url}") as gateway:
            bodies = [(await gateway.ask(request(b"GET /api/v1/svc/x"))).body for _ in range(6)]
        assert sorted(bodies) == [b"a"] * 3 + [b"b"] * 3
        assert bodies[:2] == bodies[2:4] == bodies[4:]


async def test_several_endpoints_may_be_a_list_in_the_file() -> None:
    async with ScriptedUpstream(answer(b"a")) as first, ScriptedUpstream(answer(b"b")) as second:
        config = f'[services.svc]\nurl = ["{first.url}", "{second.url}/base"]\n'
        async with start_gateway(config) as gateway:
            bodies = [(await gateway.ask(request(b"GET /api/v1/svc/x"))).body for _ in range(2)]
        assert sorted(bodies) == [b"a", b"b"]
        assert second.requests[0].target == b"/base/x"


async def test_limits_and_time_outs_may_be_set_for_one_service() -> None:
    async def silent(link: Link) -> None:
        await link.request()
        await link.closed()

    async with ScriptedUpstream(silent) as slow, ScriptedUpstream() as quick:
        config = (
            f'[services.slow]\nurl = "{slow.url}"\nhead_timeout = 0.3\n'
            f'[services.quick]\nurl = "{quick.url}"\nmax_body_bytes = 10\n'
        )
        async with start_gateway(config) as gateway:
            response = await gateway.ask(request(b"GET /api/v1/slow/x"))
            assert_error(response, 504, "TIMEOUT")
            response = await gateway.ask(request(b"POST /api/v1/quick/x", body=b"b" * 11))
            assert_error(response, 413, "PAYLOAD_TOO_LARGE")


async def test_many_clients_at_once_get_each_their_own_answer() -> None:
    async def echo(link: Link) -> None:
        while not link.ended:
            message = await link.request()
            link.send(answer(message.target))

    async with proxied(echo) as (gateway, _):
        targets = [b"/x%d" % number for number in range(100)]
        answers = await asyncio.gather(
            *(gateway.ask(request(b"GET /api/v1/svc" + target)) for target in targets)
        )
        assert [response.body for response in answers] == targets
