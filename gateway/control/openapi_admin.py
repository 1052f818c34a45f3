"""The part of the OpenAPI document about the admin API: services, limits, connections, reload."""

from __future__ import annotations

from gateway.control.admin import DEFAULT_CONNECTIONS, MOST_CONNECTIONS
from gateway.control.admin_bodies import (
    LAST_SECOND,
    MAX_NAME_CHARACTERS,
    MAX_PATTERN_CHARACTERS,
    MAX_REQUESTS,
    MAX_URL_CHARACTERS,
    MAX_WEIGHT,
)
from gateway.control.admin_connections import KINDS
from gateway.control.openapi_terms import (
    COUNT,
    TEXT,
    Schema,
    answer,
    errors,
    head_of,
    json_body,
    listed,
    obj,
    operation,
    or_null,
    parameter,
    schema,
    strict,
)
from gateway.control.openapi_terms import parameters as refs

_SECURITY: list[Schema] = [{"bearer": []}, {}]
_FIGURE: Schema = {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_REQUESTS}
_NAME: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARACTERS}
_TENANT = or_null(_NAME) | {
    "description": "Counted as a whole; null: the limit counts each caller of any tenant."
}
_PATTERN: Schema = {
    "type": "string",
    "pattern": "^/[!-~]*$",
    "maxLength": MAX_PATTERN_CHARACTERS,
    "description": "The paths it holds for: `/a`, `/a/:name`, `/a/*`, `/a/se*`.",
}
_URL: Schema = {"type": "string", "pattern": "^[!-~]+$", "maxLength": MAX_URL_CHARACTERS}
_MOMENT: Schema = {
    "type": "number",
    "exclusiveMinimum": 0,
    "maximum": LAST_SECOND,
    "description": "Unix seconds, the `exp` claim of the token.",
}
_BODY = ("BAD_REQUEST", "PAYLOAD_TOO_LARGE", "UNPROCESSABLE")
_STORE_AWAY = ("SERVICE_UNAVAILABLE", "TIMEOUT")
_SERVICE = "/admin/services/{name}"


def paths() -> Schema:
    """Everything below /admin. NOT_FOUND is also what they get who may not come here."""
    return _service_paths() | _limit_paths() | _other_paths()


def _service_paths() -> Schema:
    by_name: Schema = {"parameters": refs("service_name")}
    changed: Schema = {"200": _json("The service, as it is now.", "Service")}
    return {
        "/admin/services": _read(
            "listServices",
            "Every service with its breaker, its endpoints and their pools",
            {"200": _json("All of them.", "ServiceList")} | _errors(),
        ),
        f"{_SERVICE}/endpoints": by_name
        | {
            "post": _change(
                "addEndpoint",
                "Let one more endpoint take requests, or one again that was drained",
                {"201": _json("The service, as it is now.", "Service")},
                "CONFLICT",
                requestBody=json_body(
                    schema("NewEndpoint"), second={"url": "http://10.0.0.7:8081", "weight": 2}
                ),
            ),
            "delete": _change(
                "removeEndpoint",
                "Let an endpoint go: it gets no new requests, and is forgotten when it has none",
                changed,
                "CONFLICT",
                parameters=refs("endpoint_url"),
                requestBody=json_body(schema("NamedEndpoint")) | {"required": False},
            ),
        },
        f"{_SERVICE}/endpoints/drain": by_name
        | {
            "post": _change(
                "drainEndpoint",
                "Give an endpoint no new requests; those under way end, streams too",
                changed,
                "CONFLICT",
                requestBody=json_body(schema("NamedEndpoint")),
            )
        },
        f"{_SERVICE}/breaker": by_name
        | {
            "post": _change(
                "setBreaker",
                "Hold the breaker open, or close it and begin anew",
                changed,
                requestBody=json_body(schema("BreakerState"), stop={"state": "open"}),
            )
        },
    }


def _limit_paths() -> Schema:
    return {
        "/admin/limits": _read(
            "showBuckets",
            "The buckets of one subject, tenant or address that are not full",
            {"200": _json("Those that somebody took from.", "BucketList")} | _errors("BAD_REQUEST"),
            parameters=refs("limit_subject", "limit_tenant", "limit_address"),
        ),
        "/admin/limits/rules": _read(
            "listLimits",
            "The limits of the store, which win over the file's for the same tenant and pattern",
            {"200": _json("All of them.", "LimitList")} | _errors(*_STORE_AWAY),
        )
        | {
            "put": _change(
                "setLimit",
                "Set a limit, for all gateways within 5 s",
                {"200": _json("The limit.", "Limit")},
                "CONFLICT",
                *_STORE_AWAY,
                requestBody=json_body(
                    schema("Limit"),
                    acme={
                        "tenant": "acme",
                        "pattern": "/api/v1/search*",
                        "requests_per_minute": 600,
                    },
                ),
            ),
            "delete": _change(
                "deleteLimit",
                "Take a limit away",
                {"200": _json("It holds no more.", "LimitDeleted")},
                *_STORE_AWAY,
                parameters=refs("rule_tenant", "rule_pattern"),
                requestBody=json_body(schema("LimitName")) | {"required": False},
            ),
        },
    }


def _other_paths() -> Schema:
    return {
        "/admin/connections": _read(
            "listConnections",
            "Live connections: counts, and some of them",
            {"200": _json("This process's.", "Connections")} | _errors("BAD_REQUEST"),
            parameters=refs("connections_limit"),
        ),
        "/admin/tokens/revoke": {
            "post": _change(
                "revoke",
                "Refuse a token or an API key from now on",
                {"200": _json("Refused here at once, by all gateways within 5 s.", "Revoked")},
                *_STORE_AWAY,
                description=(
                    "While the store is away the credential is refused here all the same; 503 or"
                    " 504 say that the others were not told: repeat it."
                ),
                requestBody=json_body(
                    schema("Revocation"),
                    token={"jti": "0190f6f0-7c5e", "expires_at": 1800000000},
                    key={"key_id": "gw_k3f9"},
                ),
            )
        },
        "/admin/reload": {
            "post": _change(
                "reload",
                "Read the configuration again: all of it, or nothing when it is wrong",
                {"200": _json("In force.", "Reloaded")},
                description=(
                    "Takes no body. 422: nothing was changed; the message says `file:line: what is"
                    " wrong`. Requests and streams under way go on."
                ),
            )
        },
    }


def _json(description: str, name: str) -> Schema:
    return answer(description, "application/json", schema(name))


def _errors(*codes: str) -> Schema:
    return errors("NOT_FOUND", "METHOD_NOT_ALLOWED", *codes)


def _read(operation_id: str, summary: str, responses: Schema, **more: object) -> Schema:
    get = operation(operation_id, "admin", summary, responses, security=_SECURITY, **more)
    return {"get": get, "head": head_of(get, responses)}


def _change(operation_id: str, summary: str, ok: Schema, *codes: str, **more: object) -> Schema:
    found = ok | _errors(*_BODY, *codes)
    return operation(operation_id, "admin", summary, found, security=_SECURITY, **more)


def schemas() -> Schema:
    """What these paths take and give."""
    figures: dict[str, Schema] = {
        "requests_per_minute": _FIGURE,
        "requests_per_hour": _FIGURE,
        "requests_per_day": _FIGURE,
    }
    given = [{"required": [name], "properties": {name: {"type": "integer"}}} for name in figures]
    return {
        "ServiceList": obj(("services",), services=listed(schema("Service"))),
        "NamedEndpoint": strict(("url",), url=_URL),
        "NewEndpoint": strict(
            ("url",),
            url=_URL,
            weight={"type": "integer", "minimum": 1, "maximum": MAX_WEIGHT, "default": 1},
        ),
        "BreakerState": strict(("state",), state={"type": "string", "enum": ["open", "closed"]}),
        "BucketList": obj(
            ("buckets",),
            subject=TEXT,
            tenant=TEXT,
            address=TEXT,
            buckets=listed(
                obj(
                    ("rule", "bucket", "quota", "window_seconds", "remaining", "reset_seconds"),
                    rule=TEXT,
                    bucket=TEXT,
                    quota=COUNT,
                    window_seconds=COUNT,
                    remaining=COUNT,
                    reset_seconds={"type": "number", "description": "Until it is full again."},
                )
            ),
        ),
        "Limit": strict(("pattern",), tenant=_TENANT, pattern=_PATTERN, **figures)
        | {"anyOf": given},
        "LimitName": strict(("pattern",), tenant=_TENANT, pattern=_PATTERN),
        "LimitDeleted": obj(
            ("tenant", "pattern", "status"),
            tenant=_TENANT,
            pattern=_PATTERN,
            status={"const": "deleted"},
        ),
        "LimitList": obj(("rules",), rules=listed(schema("Limit"))),
        "Revocation": strict((), jti=_NAME, key_id=_NAME, expires_at=_MOMENT)
        | {
            "oneOf": [
                {"required": ["jti", "expires_at"], "not": {"required": ["key_id"]}},
                {"required": ["key_id"], "not": {"required": ["jti"]}},
            ]
        },
        "Revoked": obj(
            ("status", "expires_at"),
            jti=_NAME,
            key_id=_NAME,
            expires_at=or_null(_MOMENT),
            status={"const": "revoked"},
            known={
                "type": "boolean",
                "description": "With `key_id`: whether the file of API keys has that id. Where it"
                " has not, it is refused all the same.",
            },
        ),
        "Reloaded": obj(
            ("status", "services"),
            status={"const": "reloaded"},
            services=listed(schema("Service")),
        ),
        "Connections": obj(
            ("total", "kinds", "connections"),
            total=COUNT,
            kinds=obj(KINDS, **dict.fromkeys(KINDS, COUNT)),
            connections=listed(
                obj(("kind", "client_ip"), kind={"type": "string", "enum": list(KINDS)}),
                most=MOST_CONNECTIONS,
            ),
        ),
    }


def parameters() -> Schema:
    """Parameters of these paths, by names of their own: `url` is no name for all paths."""
    whose = "One of subject, tenant and address."
    most: Schema = {
        "type": "integer",
        "minimum": 0,
        "maximum": MOST_CONNECTIONS,
        "default": DEFAULT_CONNECTIONS,
    }
    return {
        "service_name": parameter("name", "path", "The service; `-` and `_` are the same."),
        "endpoint_url": parameter("url", "query", "The endpoint, where there is no body.", _URL),
        "rule_tenant": parameter("tenant", "query", "Where there is no body.", _NAME),
        "rule_pattern": parameter("pattern", "query", "Where there is no body.", _PATTERN),
        "limit_subject": parameter("subject", "query", whose, _NAME),
        "limit_tenant": parameter("tenant", "query", whose, _NAME),
        "limit_address": parameter("address", "query", whose),
        "connections_limit": parameter("limit", "query", "How many are told one by one.", most),
    }
