"""Asking the control application as the door does, and what its answers are held to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from gateway.policy.identity import Identity
from tests.control.conftest import Client


@dataclass
class Page:
    """An answer as it came."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def asked(
    client: Client, method: str, path: str, who: Identity, data: Any, **headers: str
) -> Page:
    """A request as the door hands it over; the name of a field has `_` for `-`."""
    fields = {
        "X-Gateway-Identity": who.encode().decode(),
        "X-Gateway-Client": "192.0.2.1",
        "X-Request-ID": "r-1",
        "X-Correlation-ID": "c-1",
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    response = await client.request(method, path, headers=fields, data=data)
    return Page(response.status, await response.read(), dict(response.headers))


def error(page: Page, status: int, code: str, *more: str) -> dict[str, Any]:
    """The error of an answer, which has the contract's shape and `more` members."""
    assert page.status == status, page
    assert page.headers["Content-Type"] == "application/json"
    assert page.headers["Cache-Control"] == "no-store"
    told: dict[str, Any] = page.json["error"]
    assert (told["code"], told["request_id"]) == (code, "r-1")
    assert set(told) == {"code", "message", "request_id", *more}, told
    return told
