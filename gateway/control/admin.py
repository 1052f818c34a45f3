"""The gateway's own API for who runs it: services, endpoints, breakers, limits, connections,
credentials, configuration.

Thin: what happens is the desk's. Who may come here is asked first, before the method and the path;
to everyone else nothing below `/admin` exists. Every change is logged (`admin_change`: who, what)
and answered with what is so now. With several WORKERS a change of endpoints or breakers is that
worker's alone which answered; limits and revocations are everyone's.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.control import admin_bodies as bodies
from gateway.control.access import may_administer
from gateway.control.admin_desk import AdminDesk
from gateway.control.answers import Failed, body_of, identity_of
from gateway.control.state import STATE
from gateway.errors import Rejection
from gateway.policy.api_keys import ApiKeys
from gateway.policy.identity import LEEWAY_SECONDS
from gateway.policy.ratelimit import address_key
from gateway.settings import Settings, SettingsError
from sse.question_store import StoreAwayError, StoreSlowError

PREFIX: Final = "/admin/"
MOST_CONNECTIONS: Final = 1000
DEFAULT_CONNECTIONS: Final = 100

_SERVICES: Final = "/admin/services"
_SERVICE: Final = f"{_SERVICES}/{{name}}"
_RULES: Final = "/admin/limits/rules"
_WHOSE: Final = {"subject": "s:", "tenant": "t:", "address": ""}  # and how its key begins
_RETRY_SECONDS: Final = 1
_HEADERS: Final = {"Content-Type": "application/json", "Cache-Control": "no-store"}

_log = structlog.get_logger("gateway.admin")


def routes() -> list[web.RouteDef]:
    """All paths below /admin."""
    return [
        web.get(_SERVICES, services),
        web.post(f"{_SERVICE}/endpoints", add_endpoint),
        web.delete(f"{_SERVICE}/endpoints", remove_endpoint),
        web.post(f"{_SERVICE}/endpoints/drain", drain_endpoint),
        web.post(f"{_SERVICE}/breaker", breaker),
        web.get("/admin/limits", limits),
        web.get(_RULES, rules),
        web.put(_RULES, put_rule),
        web.delete(_RULES, delete_rule),
        web.get("/admin/connections", connections),
        web.post("/admin/tokens/revoke", revoke),
        web.post("/admin/reload", reload),
    ]


def paths() -> tuple[str, ...]:
    """Those paths, each once."""
    return tuple(dict.fromkeys(route.path for route in routes()))


@web.middleware
async def admins_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Authorisation before anything else: method, path, body, state."""
    if not request.path.startswith(PREFIX):
        return await handler(request)
    if not may_administer(identity_of(request), request.headers):
        raise web.HTTPNotFound
    try:
        return await handler(request)
    except (StoreAwayError, StoreSlowError) as error:
        code = "TIMEOUT" if isinstance(error, StoreSlowError) else "SERVICE_UNAVAILABLE"
        raise Failed(Rejection(code, f"{error}; try again", _RETRY_SECONDS)) from None


# Services


async def services(request: web.Request) -> web.Response:
    """Every service with its breaker, its endpoints and their pools."""
    return _json({"services": _desk(request).services()})


async def add_endpoint(request: web.Request) -> web.Response:
    """201 with the service: one endpoint more."""
    name, said = _name(request), await bodies.members(request, bodies.NEW_ENDPOINT)
    service = _desk(request).add_endpoint(name, said["url"], said["weight"])
    _tell(request, "endpoint_added", service=name, endpoint=said["url"], weight=said["weight"])
    return _json(service, 201)


async def drain_endpoint(request: web.Request) -> web.Response:
    """200 with the service: this endpoint gets no new requests."""
    name, said = _name(request), await bodies.members(request, bodies.ENDPOINT)
    service = _desk(request).drain_endpoint(name, said["url"])
    _tell(request, "endpoint_drained", service=name, endpoint=said["url"])
    return _json(service)


async def remove_endpoint(request: web.Request) -> web.Response:
    """200 with the service: the endpoint (of the body, or of `?url=`) is no longer one."""
    name, said = _name(request), await bodies.members(request, bodies.ENDPOINT, request.query)
    service = _desk(request).remove_endpoint(name, said["url"])
    _tell(request, "endpoint_removed", service=name, endpoint=said["url"])
    return _json(service)


async def breaker(request: web.Request) -> web.Response:
    """200 with the service: its breaker is held open, or closed again."""
    name, said = _name(request), await bodies.members(request, bodies.BREAKER)
    service = _desk(request).set_breaker(name, is_open=said["state"] == "open")
    _tell(request, "breaker_set", service=name, state=said["state"])
    return _json(service)


def _name(request: web.Request) -> str:
    """The service's name in the path, as it is registered: `-` and `_` are the same."""
    return request.match_info["name"].lower().replace("-", "_")


# Limits


async def limits(request: web.Request) -> web.Response:
    """How the buckets of one subject, tenant or address stand."""
    query = request.query
    if len(query) != 1 or next(iter(query)) not in _WHOSE:
        message = "say whose: ?subject=…, ?tenant=… or ?address=…"
        raise Failed(Rejection("BAD_REQUEST", message))
    ((kind, value),) = query.items()
    key: int | str = _WHOSE[kind] + value
    if kind == "address":
        try:
            key = address_key(value)
        except ValueError:
            raise Failed(Rejection("BAD_REQUEST", "address is an IPv4 or IPv6 address")) from None
    elif not 0 < len(value) <= bodies.MAX_NAME_CHARACTERS:
        message = f"{kind} has 1 to {bodies.MAX_NAME_CHARACTERS} characters"
        raise Failed(Rejection("BAD_REQUEST", message))
    return _json({kind: value, "buckets": _desk(request).buckets(key)})


async def rules(request: web.Request) -> web.Response:
    """The limits of the store."""
    return _json({"rules": [row.shown() for row in await _desk(request).rules()]})


async def put_rule(request: web.Request) -> web.Response:
    """200 with the limit of this tenant and pattern, set or replaced."""
    row = await bodies.limit_row(request)
    await _desk(request).put_rule(row, _who(request))
    _tell(request, "limit_set", **row.shown())
    return _json(row.shown())


async def delete_rule(request: web.Request) -> web.Response:
    """200: it holds no more."""
    said = await bodies.members(request, bodies.RULE_NAME, request.query)
    await _desk(request).delete_rule(said["tenant"], said["pattern"])
    _tell(request, "limit_deleted", tenant=said["tenant"], pattern=said["pattern"])
    return _json({"tenant": said["tenant"], "pattern": said["pattern"], "status": "deleted"})


# Connections, credentials, configuration


async def connections(request: web.Request) -> web.Response:
    """The live connections: counts, and some of them."""
    asked = request.query.get("limit", str(DEFAULT_CONNECTIONS))
    if not asked.isascii() or not asked.isdecimal() or not 0 <= int(asked[:8]) <= MOST_CONNECTIONS:
        message = f"limit is a whole number from 0 to {MOST_CONNECTIONS}"
        raise Failed(Rejection("BAD_REQUEST", message))
    return _json(await _desk(request).connections(int(asked)))


async def revoke(request: web.Request) -> web.Response:
    """200: a token or an API key is refused from now on. An id that the file of keys has not is
    kept all the same, since another gateway may have it, and told as not `known`.
    """
    kind, credential, until = await bodies.revoked(request)
    if until is not None and until + LEEWAY_SECONDS <= time.time():
        raise bodies.wrong(("/expires_at", "has passed: that token is refused already"))
    told_others = False  # it is refused here in any case
    try:
        await _desk(request).revoke(credential, until, _who(request))
        told_others = True
    finally:
        _tell(request, "revoked", **{kind: credential}, expires_at=until, told_others=told_others)
    told: dict[str, object] = {kind: credential, "expires_at": until, "status": "revoked"}
    if kind == "key_id":
        told["known"] = await asyncio.to_thread(_is_known, request.app[STATE].settings, credential)
    return _json(told)


async def reload(request: web.Request) -> web.Response:
    """200 with the services as they are now; 422 with `file:line: …` when nothing was changed."""
    if await body_of(request, bodies.MAX_BODY_BYTES) not in (b"", b"{}"):
        raise Failed(Rejection("BAD_REQUEST", "this takes no body"))
    told = _desk(request).reload()
    _tell(request, "reloaded")
    return _json(told)


# What all have in common


def _is_known(settings: Settings, key_id: str) -> bool:
    """Whether the file of API keys has this id; reads the file."""
    try:
        return ApiKeys.read(settings.api_keys).has(key_id)
    except (SettingsError, OSError):  # a broken file is told at check and reload
        return False


def _desk(request: web.Request) -> AdminDesk:
    desk = request.app[STATE].desk
    if desk is None:  # pragma: no cover - assemble sets it before anything listens
        raise web.HTTPServiceUnavailable
    return desk


def _tell(request: web.Request, what: str, **details: object) -> None:
    """A change into the log: who it was, what was done."""
    _log.info(
        "admin_change",
        change=what,
        who=_who(request),
        client_ip=request.headers.get("X-Gateway-Client"),
        request_id=request.headers.get("X-Request-ID"),
        **details,
    )


def _who(request: web.Request) -> str:
    return identity_of(request).name


def _json(body: dict[str, object], status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, headers=_HEADERS)
