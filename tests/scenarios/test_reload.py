"""Reading the configuration again: what is new is there, what has gone is gone, nothing is cut."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway.settings import RateLimit
from tests.streams import SECRET, quiet, subscribe, who
from tests.wire import (
    Link,
    RunningGateway,
    ScriptedUpstream,
    answer,
    assert_error,
    eventually,
    load_settings,
    request,
    start_gateway,
)

GET = b"GET /api/v1/svc/x"
WRITER = who("svc", "events:write")


class Halves:
    """An upstream that sends half an answer, and the rest when it is told."""

    def __init__(self) -> None:
        self.rest = asyncio.Event()

    async def __call__(self, link: Link) -> None:
        await link.request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        await self.rest.wait()
        link.send(b"after")
        await link.closed(60)


async def test_the_same_configuration_again_changes_nothing(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, start_gateway(SVC_URL=upstream.url) as gateway:
        async with gateway.connect() as client:
            assert (await client.ask(request(GET))).status == 200
            gateway.gateway.reload(load_settings(tmp_path, SVC_URL=upstream.url))
            assert (await client.ask(request(GET))).status == 200
        assert (await gateway.ask(request(GET))).status == 200
        assert len(upstream.links) == 1


async def test_a_new_service_is_served_and_an_old_one_is_404(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(answer(b"old")) as old,
        ScriptedUpstream(answer(b"new")) as new,
        start_gateway(OLD_URL=old.url) as gateway,
        gateway.connect() as client,
    ):
        assert (await client.ask(request(b"GET /api/v1/old/x"))).body == b"old"
        gateway.gateway.reload(load_settings(tmp_path, NEW_URL=new.url))
        assert (await client.ask(request(b"GET /api/v1/new/x"))).body == b"new"
        assert_error(await client.ask(request(b"GET /api/v1/old/x")), 404, "NOT_FOUND")


async def test_a_moved_service_is_asked_at_its_new_place(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(answer(b"old")) as old,
        ScriptedUpstream(answer(b"new")) as new,
        start_gateway(SVC_URL=old.url) as gateway,
    ):
        assert (await gateway.ask(request(GET))).body == b"old"
        gateway.gateway.reload(load_settings(tmp_path, SVC_URL=new.url))
        for _ in range(3):
            assert (await gateway.ask(request(GET))).body == b"new"


async def test_an_answer_under_way_is_finished_across_reloads(tmp_path: Path) -> None:
    halves = Halves()
    async with (
        ScriptedUpstream(halves) as upstream,
        ScriptedUpstream() as other,
        start_gateway(SVC_URL=upstream.url) as gateway,
        gateway.connect() as client,
    ):
        client.send(request(GET))
        await client.until(lambda: b"first" in client.received, "the first half")
        gateway.gateway.reload(load_settings(tmp_path, SVC_URL=upstream.url, OTHER_URL=other.url))
        gateway.gateway.reload(load_settings(tmp_path, OTHER_URL=other.url))
        halves.rest.set()
        assert (await client.response()).body == b"firstafter"
        assert (await client.ask(request(b"GET /api/v1/other/x"))).status == 200
        await upstream.links[0].closed()


async def test_a_limit_that_is_set_anew_is_kept(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, start_gateway(SVC_URL=upstream.url) as gateway:
        assert (await gateway.ask(request(GET))).status == 200
        settings = load_settings(tmp_path, SVC_URL=upstream.url, RATE_LIMIT="1/hour")
        gateway.gateway.reload(settings)
        statuses = [(await gateway.ask(request(GET))).status for _ in range(2)]
        assert statuses == [200, 429]


def said(gateway: RunningGateway, message: str) -> list[dict[str, Any]]:
    """The lines of the log with this message."""
    return [line for line in gateway.log() if line["message"] == message]


async def test_a_reload_that_fails_half_way_has_changed_nothing(tmp_path: Path) -> None:
    row = '[[routes]]\npath = "/r/*"\nservice = "svc"\n'
    (tmp_path / "rows.toml").write_text(row)
    async with (
        ScriptedUpstream() as upstream,
        ScriptedUpstream() as other,
        start_gateway(SVC_URL=upstream.url) as gateway,
        gateway.connect() as client,
    ):
        assert (await client.ask(request(GET))).status == 200
        good = load_settings(tmp_path, 'routes = ["rows.toml"]', SVC_URL=other.url)
        bad = replace(good, services=(), rate_limit=RateLimit(1, 3600))
        with pytest.raises(KeyError):
            gateway.gateway.reload(bad)
        for _ in range(3):
            assert (await client.ask(request(GET))).status == 200
        assert len(upstream.links) == 1
        assert said(gateway, "reloaded") == []


async def test_what_only_a_restart_can_change_is_said_and_stays(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, start_gateway(SVC_URL=upstream.url) as gateway:
        state = gateway.settings.state_dir
        changed: dict[str, Any] = {
            "HISTORY_EVENTS": 7,
            "ACCESS_LOG": "off",
            "STATE_DIR": state,
            "WORKERS": 1,
        }
        gateway.gateway.reload(load_settings(tmp_path, SVC_URL=upstream.url, **changed))
        await eventually(lambda: said(gateway, "reloaded"), "a reload")
        told = [line["setting"] for line in said(gateway, "needs_restart")]
        assert told == ["ACCESS_LOG", "HISTORY_EVENTS"]
        assert gateway.gateway.context.settings.history_events == 100
        gateway.gateway.reload(load_settings(tmp_path, SVC_URL=upstream.url, STATE_DIR=state))
        await eventually(lambda: len(said(gateway, "reloaded")) == 2, "a reload")
        assert len(said(gateway, "needs_restart")) == 2


async def test_tls_that_is_turned_on_waits_for_a_restart(tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("127.0.0.1")
    files: dict[str, Any] = {"TLS_CERT": tmp_path / "cert.pem", "TLS_KEY": tmp_path / "cert.key"}
    issued.cert_chain_pems[0].write_to_path(files["TLS_CERT"])
    issued.private_key_pem.write_to_path(files["TLS_KEY"])
    async with start_gateway() as gateway:
        state = gateway.settings.state_dir
        gateway.gateway.reload(load_settings(tmp_path, STATE_DIR=state, **files))
        await eventually(lambda: said(gateway, "reloaded"), "a reload")
        assert [line["setting"] for line in said(gateway, "needs_restart")] == ["TLS_CERT"]
        told = await gateway.ask(request(b"GET /health/live"))
        assert told.get("strict-transport-security") is None


async def test_a_warning_is_said_again_when_it_is_another(tmp_path: Path) -> None:
    async with start_gateway(JWT_SECRET=SECRET) as gateway:
        assert said(gateway, "settings") == []
        for _ in range(2):
            gateway.gateway.reload(load_settings(tmp_path))
        await eventually(lambda: len(said(gateway, "reloaded")) == 2, "two reloads")
        (warned,) = said(gateway, "settings")
        assert "reading is open" in warned["warning"]


async def test_tokens_that_were_verified_are_known_after_a_reload_without_new_keys(
    tmp_path: Path,
) -> None:
    async with ScriptedUpstream() as upstream, start_gateway(JWT_SECRET=SECRET) as gateway:
        context = gateway.gateway.context
        before = context.authenticator
        gateway.gateway.reload(load_settings(tmp_path, JWT_SECRET=SECRET, SVC_URL=upstream.url))
        assert context.authenticator is before
        gateway.gateway.reload(load_settings(tmp_path, JWT_SECRET=SECRET, JWT_ISSUER="me"))
        assert context.authenticator is not before


def keys_file(directory: Path, *names: str) -> Path:
    """A file of API keys; each key is `gw_` and its name."""
    file = directory / "keys.toml"
    file.write_text(
        "".join(
            f'[keys.{name}]\nhash = "{sha256(b"gw_" + name.encode()).hexdigest()}"\n'
            'scopes = ["events:read"]\n'
            for name in names
        )
    )
    return file


def with_key(name: str) -> bytes:
    """The field with that key."""
    return b"Authorization: Bearer gw_" + name.encode()


async def test_a_new_api_key_sends_nobody_away_and_one_that_went_only_its_own(
    tmp_path: Path,
) -> None:
    environ: dict[str, Any] = {"JWT_SECRET": SECRET, "API_KEYS": keys_file(tmp_path, "a")}
    async with (
        start_gateway(**environ) as gateway,
        subscribe(gateway, "alice", who()) as alice,
        subscribe(gateway, "bob", with_key("a")) as bob,
    ):
        keys_file(tmp_path, "a", "b")
        gateway.gateway.reload(load_settings(tmp_path, **environ))
        async with subscribe(gateway, "carol", with_key("b")) as carol:
            keys_file(tmp_path, "b")
            gateway.gateway.reload(load_settings(tmp_path, **environ))
            assert [event.type for event in await bob.rest()] == ["stream.expired"]
            assert await quiet(alice, gateway, "alice", WRITER) == []
            assert await quiet(carol, gateway, "carol", WRITER) == []


async def test_another_key_of_tokens_sends_all_away(tmp_path: Path) -> None:
    async with (
        start_gateway(JWT_SECRET=SECRET) as gateway,
        subscribe(gateway, "alice", who()) as alice,
    ):
        gateway.gateway.reload(load_settings(tmp_path, JWT_SECRET=SECRET + "x"))
        assert [event.type for event in await alice.rest()] == ["stream.closing"]


async def test_other_bounds_of_heads_hold_for_the_answers_of_services(tmp_path: Path) -> None:
    long = answer(b"ok").replace(b"\r\n", b"\r\n" + b"X-More: a\r\n" * 12, 1)
    async with ScriptedUpstream(long) as upstream, start_gateway(SVC_URL=upstream.url) as gateway:
        assert (await gateway.ask(request(GET))).status == 200
        smaller = load_settings(tmp_path, SVC_URL=upstream.url, MAX_HEADER_COUNT=10)
        gateway.gateway.reload(smaller)
        assert_error(await gateway.ask(request(GET)), 502, "PROXY_ERROR")


async def test_who_waits_in_a_line_that_is_taken_away_goes_on(tmp_path: Path) -> None:
    halves = Halves()
    async with ScriptedUpstream(halves) as upstream:
        config = f'[services.svc]\nurl = "{upstream.url}"\n'
        async with (
            start_gateway(config + "max_requests = 1\nqueue = 1\n") as gateway,
            gateway.connect() as first,
            gateway.connect() as second,
        ):
            first.send(request(GET))
            await first.until(lambda: b"first" in first.received, "the first half")
            second.send(request(GET))
            line = gateway.gateway.context.lines["svc"]
            await eventually(lambda: line.waiting == 1, "one in line")
            gateway.gateway.reload(load_settings(tmp_path, config))
            await second.until(lambda: b"first" in second.received, "the first half")
            halves.rest.set()
            assert (await first.response()).body == (await second.response()).body
