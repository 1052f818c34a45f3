"""A gateway with rows of routes, for the scenarios of policies; and what they all look at.

The settings file and the file of the rows are written for the test and go with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from tests.connection import PATIENCE_SECONDS, holds
from tests.messages import Message, request
from tests.streams import SECRET, who
from tests.wire import Link, RunningGateway, ScriptedUpstream, answer, start_gateway

PROXIES = {"TRUSTED_PROXIES": "127.0.0.0/8"}
ADMIN = who("root", "admin")
OK = answer(b"ok")


class Mood:
    """How a scripted service feels: what it answers one request after the other, the last of it to
    all that follow; None: nothing at all.
    """

    def __init__(self, *says: bytes | None) -> None:
        self.says(*says)

    def says(self, *says: bytes | None) -> None:
        """From now on."""
        self._says = list(says)

    async def __call__(self, link: Link) -> None:
        """Answers on one connection."""
        while True:
            await link.request()
            said = self._says.pop(0) if len(self._says) > 1 else self._says[0]
            if said is None:
                await link.closed(60)
            else:
                link.send(said)


def mood(upstream: ScriptedUpstream) -> Mood:
    """That of a service that has one."""
    assert isinstance(upstream.script, Mood)
    return upstream.script


def service(name: str, upstreams: Iterable[ScriptedUpstream], *lines: str) -> str:
    """The table of a service in the settings file."""
    listed = ", ".join(f'"{upstream.url}"' for upstream in upstreams)
    return "\n".join([f"[services.{name}]", f"url = [{listed}]", *lines, ""])


def row(path: str, *lines: str, to: str = "svc") -> str:
    """A row of the routes."""
    return "\n".join(["[[routes]]", f'path = "{path}"', f'service = "{to}"', *lines, ""])


@contextlib.asynccontextmanager
async def governed(config: str = "", *rows: str, **environ: Any) -> AsyncIterator[RunningGateway]:
    """A gateway with these settings and rows, and a key that tokens are signed with."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "settings.toml"
        if rows:
            (Path(name) / "rows.toml").write_text("\n".join(rows))
            config = 'routes = ["rows.toml"]\n' + config
        file.write_text(config)
        names: dict[str, Any] = {"GATEWAY_CONFIG": file, "JWT_SECRET": SECRET}
        async with start_gateway(**(names | environ)) as gateway:
            yield gateway


@contextlib.asynccontextmanager
async def in_front(
    config: str = "",
    *rows: str,
    script: Any = OK,
    lines: Iterable[str] = (),
    **environ: Any,
) -> AsyncIterator[tuple[RunningGateway, ScriptedUpstream]]:
    """The same in front of one service, `svc`; `lines` are of its table."""
    async with (
        ScriptedUpstream(script) as upstream,
        governed(config + service("svc", [upstream], *lines), *rows, **environ) as gateway,
    ):
        yield gateway, upstream


def at(address: str) -> bytes:
    """The field with which a trusted proxy names its client."""
    return b"X-Forwarded-For: " + address.encode()


async def get(gateway: RunningGateway, path: str, *fields: bytes) -> Message:
    """What a GET on a connection of its own is answered."""
    return await gateway.ask(request(b"GET " + path.encode(), *fields))


async def statuses(gateway: RunningGateway, count: int, path: str, *fields: bytes) -> list[int]:
    """The statuses of so many of them, one after the other on one connection."""
    data = request(b"GET " + path.encode(), *fields)
    async with gateway.connect() as client:
        return [(await client.ask(data)).status for _ in range(count)]


def quotas(response: Message) -> dict[int, int]:
    """Every bucket's quota and what is left of it, from the RateLimit fields of the draft -10."""
    policy = rb'"([^"]+)";q=([0-9]+);w=([0-9]+)'
    limit = rb'"([^"]+)";r=([0-9]+);t=([0-9]+)'
    said = response.get("ratelimit-policy") or b""
    left = response.get("ratelimit") or b""
    assert re.fullmatch(policy + b"(, *" + policy + b")*", said), response.head
    assert re.fullmatch(limit + b"(, *" + limit + b")*", left), response.head
    names = {name: int(quota) for name, quota, _ in re.findall(policy, said)}
    remaining = {name: int(rest) for name, rest, _ in re.findall(limit, left)}
    assert set(names) == set(remaining), response.head
    return {quota: remaining[name] for name, quota in names.items()}


async def health_of(gateway: RunningGateway, name: str) -> dict[str, Any]:
    """What `/health` says of a service."""
    body = (await get(gateway, "/health")).json()
    (found,) = [each for each in body["services"] if each["name"] == name]
    known: dict[str, Any] = found
    return known


async def asks_until(gateway: RunningGateway, data: bytes, status: int) -> Message:
    """Asks until that is the status: for what only time brings."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (response := await gateway.ask(data)).status != status:
            await holds(lambda: True, 0.05)
    return response
