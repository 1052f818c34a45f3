"""Settings: the environment and TOML files become one frozen `Settings`, or a `SettingsError` of
one line.

The only module that knows the environment. `SETTINGS` is the table that the README and
`.env.example` are tested against. Readers of single values are in `settings_values`, files in
`settings_file`, services in `settings_services`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gateway.settings_file import FileValues, read_file
from gateway.settings_jobs import WorkflowSettings, build_workflows, check_temporal
from gateway.settings_limits import (
    AbuseSettings,
    LimitSettings,
    TierSettings,
    build_abuse,
    build_limits,
    build_tiers,
)
from gateway.settings_questions import ForwardSettings, build_forward
from gateway.settings_routes import RouteSettings, build_routes
from gateway.settings_services import (
    EndpointUrl,
    ServiceSettings,
    build_services,
    canonical,
    from_environment,
    parse_endpoints,
)
from gateway.settings_table import SETTINGS, Setting
from gateway.settings_values import (
    ENVIRONMENT,
    Network,
    RateLimit,
    SettingsError,
    Value,
    switch,
    whole,
    words,
)

__all__ = [
    "SETTINGS",
    "EndpointUrl",
    "ForwardSettings",
    "RateLimit",
    "ServiceSettings",
    "Setting",
    "Settings",
    "SettingsError",
    "environment",
    "file_of",
    "load",
    "with_service",
]

DEFAULT_FILE = Path("config/gateway.toml")
DEFAULT_RATE_LIMIT = RateLimit(1000, 60)
DEFAULT_STATE_DIR = Path(".state")
DEFAULT_API_KEYS = Path("config/keys.toml")


@dataclass(frozen=True, slots=True)
class Settings:
    """All that can be set: durations in seconds, sizes in bytes; the table is `SETTINGS`."""

    host: str = "127.0.0.1"
    port: int = 8081
    services: tuple[ServiceSettings, ...] = ()
    questions_forward: ForwardSettings | None = None
    routes: tuple[RouteSettings, ...] = ()
    tiers: tuple[TierSettings, ...] = ()
    limits: tuple[LimitSettings, ...] = ()
    abuse: AbuseSettings | None = None
    warnings: tuple[str, ...] = ()
    file: Path | None = None  # that was read
    rate_limit: RateLimit | None = DEFAULT_RATE_LIMIT
    rate_limit_keys: int = 1_000_000
    trusted_proxies: tuple[Network, ...] = ()
    admin_from: tuple[Network, ...] = ()
    cors_origins: tuple[str, ...] = ()
    cors_methods: tuple[str, ...] = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    cors_headers: tuple[str, ...] = (
        "Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-API-Key",
        "X-Correlation-ID", "X-Request-ID",
    )  # fmt: skip
    cors_max_age: int = 600
    security_headers: bool = True
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_min_version: str = "1.2"
    upstream_ca: Path | None = None
    redis_url: str | None = field(default=None, repr=False)
    backplane: str = "strict"
    database_url: str | None = field(default=None, repr=False)
    request_log: str = "off"
    request_log_days: int = 30
    state_dir: Path = DEFAULT_STATE_DIR
    jwt_secret: str | None = field(default=None, repr=False)
    jwt_public_key: str | None = None
    jwks_url: str | None = field(default=None, repr=False)  # its query may hold a secret
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    auth_default: str = "optional"
    api_keys: Path = DEFAULT_API_KEYS
    allow_anonymous: bool = False
    cookie_secret: str | None = field(default=None, repr=False)
    webhook_secret: tuple[bytes, ...] = field(default=(), repr=False)
    callback_allow: tuple[str, ...] = ()
    temporal_address: str | None = None
    temporal_namespace: str = "default"
    temporal_task_queue: str = "gateway-jobs"
    temporal_tls: bool = False
    temporal_tls_ca: Path | None = None
    temporal_tls_cert: Path | None = None
    temporal_tls_key: Path | None = None
    temporal_tls_server_name: str | None = None
    temporal_api_key: str | None = field(default=None, repr=False)
    payload_keys: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)
    gateway_url: str | None = None
    service_token: str | None = field(default=None, repr=False)
    worker_port: int = 8091
    jobs_per_owner: int = 1000
    workflows: tuple[WorkflowSettings, ...] = ()
    embedded: bool = False  # this is the worker that a gateway with an embedded Temporal started
    streams_per_client: int = 64
    streams_per_job: int = 1000
    streams_per_address: int = 256
    max_streams: int = 18_000
    heartbeat_seconds: float = 30.0
    history_events: int = 100
    history_seconds: float = 300.0
    history_bytes: int = 1 << 30
    workers: int = 1
    worker: int = 0  # which of several processes this is, from 1; 0: the only one, or their parent
    max_connections: int = 25_000
    max_body_bytes: int = 16 << 20
    max_request_line_bytes: int = 8192
    max_header_line_bytes: int = 8192
    max_headers_bytes: int = 65_536
    max_header_count: int = 128
    min_body_rate: int = 240
    connect_timeout: float = 5.0
    head_timeout: float = 30.0
    idle_timeout: float = 60.0
    stream_idle_timeout: float = 300.0
    client_head_timeout: float = 10.0
    keepalive_timeout: float = 75.0
    upstream_idle_connections: int = 100
    upstream_idle_timeout: float = 90.0
    upstream_max_connections: int = 4096
    upstream_queue: int = 1024
    upstream_queue_timeout: float = 5.0
    drain_grace_seconds: float = 2.0
    drain_seconds: float = 25.0
    log_level: str = "info"
    log_format: str = "auto"
    trace_sample: float = 0.0
    access_log: str = "on"


def environment() -> dict[str, str]:
    """A copy of the process's environment, for `load` and for processes that are started."""
    return dict(os.environ)


def load(environ: Mapping[str, str], argv_config: Path | None = None) -> Settings:
    """Read the settings from `environ` and the file it names (`argv_config` before that), the
    environment winning.

    Raises SettingsError, one line, when any of them is wrong.
    """
    values = _file_values(environ, argv_config)
    _reject_unknown(values.top)
    warnings: list[str] = []
    read: dict[str, Any] = {}
    for setting in SETTINGS:
        value = _written(setting, environ, values.top, warnings)
        if value is not None:
            read[setting.key] = setting.read(value)
    read["embedded"] = switch(
        Value("GATEWAY_EMBEDDED", environ.get("GATEWAY_EMBEDDED", "0"), ENVIRONMENT)
    )
    read["worker"] = whole(0, 256)(
        Value("GATEWAY_WORKER", environ.get("GATEWAY_WORKER", "0"), ENVIRONMENT)
    )
    settings = Settings(**read)
    _check_together(settings)
    warnings += check_temporal(
        address=settings.temporal_address,
        cert=settings.temporal_tls_cert,
        key=settings.temporal_tls_key,
        keys=settings.payload_keys,
    )
    wanted = _wanted(environ)
    services = _services(settings, environ, values, wanted, warnings)
    forward = build_forward(values.forward, services, wanted, warnings)
    return replace(
        settings,
        services=services,
        questions_forward=forward,
        routes=build_routes(values.routes, services, wanted, warnings),
        tiers=build_tiers(values.tiers),
        limits=build_limits(values.limits),
        abuse=build_abuse(values.abuse),
        workflows=build_workflows(values.workflows),
        warnings=tuple(warnings),
        file=file_of(environ, argv_config),
    )


def with_service(settings: Settings, name: str, url: str) -> Settings:
    """`settings` with one more service, under the limits that hold for all; its requests may become
    jobs."""
    endpoints = parse_endpoints(Value(name, url, "built in"))
    service = replace(
        _service_defaults(settings), name=name, aliases=(name,), endpoints=endpoints, durable=True
    )
    return replace(settings, services=(*settings.services, service))


def file_of(environ: Mapping[str, str], argv_config: Path | None = None) -> Path | None:
    """The file that `load` reads; None: there is none."""
    named = environ.get("GATEWAY_CONFIG", "").strip()
    if argv_config is None and not named and not DEFAULT_FILE.is_file():
        return None
    return argv_config or (Path(named) if named else DEFAULT_FILE)


def _file_values(environ: Mapping[str, str], argv_config: Path | None) -> FileValues:
    file = file_of(environ, argv_config)
    return FileValues() if file is None else read_file(file)


def _reject_unknown(top: Mapping[str, Value]) -> None:
    known = {setting.key for setting in SETTINGS}
    for key, value in top.items():
        if key in known:
            continue
        if key.endswith("_url"):
            raise value.error(
                "is unknown", f"a table [services.{key.removesuffix('_url')}] with url"
            )
        raise value.error("is unknown", "a setting of the README's table in lower case")


def _written(
    setting: Setting, environ: Mapping[str, str], top: Mapping[str, Value], warnings: list[str]
) -> Value | None:
    """Where a setting is written: the environment before the files; a blank variable is as good as
    none.
    """
    names = [name for name in (setting.name, setting.also) if environ.get(name, "").strip()]
    if len(names) == 2 and environ[names[0]].strip() != environ[names[1]].strip():
        warnings.append(f"{names[0]} and {names[1]} differ: {names[0]} is used")
    if names:
        return Value(names[0], environ[names[0]], ENVIRONMENT)
    return top.get(setting.key)


def _check_together(settings: Settings) -> None:
    """What one value allows another; these may come from two places, so no line is said."""
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise SettingsError(
            "settings: only one of TLS_CERT and TLS_KEY is set, expected both or none"
        )
    if settings.workers > 1 and settings.redis_url is None:
        raise SettingsError(
            f"settings: WORKERS is {settings.workers} without REDIS_URL, "
            "expected REDIS_URL, which the workers share limits through"
        )
    if settings.workers > 1 and settings.port == 0:
        raise SettingsError("settings: PORT is 0 with several WORKERS, expected one port to share")


def _service_defaults(settings: Settings) -> ServiceSettings:
    return ServiceSettings(
        name="",
        aliases=(),
        endpoints=(),
        connect_timeout=settings.connect_timeout,
        head_timeout=settings.head_timeout,
        idle_timeout=settings.idle_timeout,
        stream_idle_timeout=settings.stream_idle_timeout,
        max_body_bytes=settings.max_body_bytes,
        max_connections=settings.upstream_max_connections,
        queue=settings.upstream_queue,
        queue_timeout=settings.upstream_queue_timeout,
    )


def _wanted(environ: Mapping[str, str]) -> frozenset[str]:
    """The services that `SERVICES` limits all others to; none: no limit."""
    listed = words(Value("SERVICES", environ.get("SERVICES", ""), ENVIRONMENT))
    return frozenset(canonical(name) for name in listed)


def _services(
    settings: Settings,
    environ: Mapping[str, str],
    values: FileValues,
    wanted: frozenset[str],
    warnings: list[str],
) -> tuple[ServiceSettings, ...]:
    found = from_environment(environ, wanted, warnings.append)
    services = build_services(found, values.services, wanted, _service_defaults(settings))
    answered = {alias for service in services for alias in service.aliases}
    warnings.extend(
        f"SERVICES names {name}, but nothing registers it" for name in sorted(wanted - answered)
    )
    return services
