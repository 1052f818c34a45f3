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
from gateway.settings_limits import (
    AbuseSettings,
    LimitSettings,
    TierSettings,
    build_abuse,
    build_limits,
    build_tiers,
)
from gateway.settings_questions import ForwardSettings, build_forward, hosts_and_networks
from gateway.settings_routes import RouteSettings, build_routes
from gateway.settings_services import (
    EndpointUrl,
    ServiceSettings,
    build_services,
    canonical,
    from_environment,
    parse_endpoints,
)
from gateway.settings_values import (
    ENVIRONMENT,
    Network,
    RateLimit,
    Reader,
    SettingsError,
    Value,
    choice,
    database_url,
    host,
    jwks_url,
    log_level,
    networks,
    origins,
    path,
    pem,
    rate_limit,
    readable,
    redis_url,
    seconds,
    secret,
    share,
    size_bytes,
    switch,
    text,
    tokens,
    webhook_secrets,
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
class Setting:
    """A row of the table: its name in the environment (lower case in a file), the default as one
    writes it.
    """

    name: str
    default: str
    meaning: str
    read: Reader
    also: str = ""

    @property
    def key(self) -> str:
        """Its name in a file and in `Settings`."""
        return self.name.lower()


_count = whole(1, 1_000_000)
_wait = seconds()

# fmt: off
SETTINGS: tuple[Setting, ...] = (
    Setting("HOST", "127.0.0.1", "address to listen on", host, "API_GATEWAY_HOST"),
    Setting("PORT", "8081", "port to listen on; 0 takes any free one",
            whole(0, 65535), "API_GATEWAY_PORT"),
    Setting("RATE_LIMIT", "1000",
            "for each caller, by subject or else by address, whose tier has no table: `N` (a "
            "minute), `N/second`, `N/minute`, `N/hour`, `off`",
            rate_limit),
    Setting("RATE_LIMIT_KEYS", "1000000",
            "callers remembered, for each limit that holds for them; the least recently seen go "
            "first; with `REDIS_URL` at most 100000", whole(2, 100_000_000)),
    Setting("TRUSTED_PROXIES", "", "addresses and CIDRs whose forwarding fields are believed",
            networks),
    Setting("ADMIN_FROM", "", "addresses and CIDRs that may read `/metrics`, besides this machine",
            networks),
    Setting("CORS_ORIGINS", "",
            "origins whose pages may call, as browsers send them: `https://a.example`; `*`: any, "
            "without credentials",
            origins),
    Setting("CORS_METHODS", "GET, HEAD, POST, PUT, PATCH, DELETE", "methods they may use",
            tokens),
    Setting("CORS_HEADERS",
            "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-API-Key, "
            "X-Correlation-ID, X-Request-ID",
            "header fields they may send", tokens),
    Setting("CORS_MAX_AGE", "600", "seconds a browser keeps the answer to a preflight",
            whole(0, 86400)),
    Setting("SECURITY_HEADERS", "on",
            "nosniff, no framing, no referrer and, with TLS, HSTS on the gateway's own answers",
            switch),
    Setting("TLS_CERT", "", "certificate chain (PEM) of the listener; read again on SIGHUP",
            readable),
    Setting("TLS_KEY", "", "private key (PEM) of the listener", readable),
    Setting("TLS_MIN_VERSION", "1.2", "oldest TLS version accepted: `1.2` or `1.3`",
            choice("1.2", "1.3")),
    Setting("UPSTREAM_CA", "",
            "certificates (PEM) trusted for https services, besides the system's", readable),
    Setting("REDIS_URL", "", "Redis shared by several gateways or workers", redis_url),
    Setting("BACKPLANE", "strict",
            "publishing while Redis is away: `strict` answers 503, `best-effort` goes on locally",
            choice("strict", "best-effort")),
    Setting("DATABASE_URL", "",
            "database of questions, revocations, limits and the request log: `postgresql://…`, "
            "else SQLite in `STATE_DIR`",
            database_url),
    Setting("REQUEST_LOG", "off", "`database`: a row of each request in table `api_requests`",
            choice("off", "database")),
    Setting("REQUEST_LOG_DAYS", "30", "days such rows are kept", whole(1, 3650)),
    Setting("STATE_DIR", ".state", "directory of files that must survive a restart", path),
    Setting("JWT_SECRET", "", "secret that signs tokens (HS256, HS384, HS512)", secret),
    Setting("JWT_PUBLIC_KEY", "",
            "public key (PEM, or a file of it) that verifies tokens (RSA, EC or Ed25519)", pem),
    Setting("JWKS_URL", "",
            "where the issuer publishes its public keys (JWK Set): https, or http on this machine",
            jwks_url),
    Setting("JWT_ISSUER", "", "who must have issued a token (`iss`)", text),
    Setting("JWT_AUDIENCE", "", "whom a token must be for (`aud`)", text),
    Setting("AUTH_DEFAULT", "optional",
            "who may use `/api/v1/{service}/…`: `none` looks at no credential, `optional` refuses "
            "bad ones, `required` asks for one",
            choice("none", "optional", "required")),
    Setting("API_KEYS", "config/keys.toml", "file of the API keys; none when it is missing", path),
    Setting("ALLOW_ANONYMOUS", "false",
            "without a key: publishing, asking and answering also beyond this machine", switch),
    Setting("COOKIE_SECRET", "",
            "secret that signs the cookies of event streams and sticky sessions; else one is kept "
            "in `STATE_DIR`",
            secret),
    Setting("WEBHOOK_SECRET", "",
            "signs callbacks: `whsec_` and base64 of 24 to 64 bytes, several for rotation; "
            "without it none are made",
            webhook_secrets),
    Setting("CALLBACK_ALLOW", "",
            "hosts and CIDRs that callbacks may reach though private", hosts_and_networks),
    Setting("STREAMS_PER_CLIENT", "64", "open event streams of one client id", _count),
    Setting("STREAMS_PER_JOB", "1000", "the same for a client id of a job (`job:…`)", _count),
    Setting("STREAMS_PER_ADDRESS", "256", "open event streams of one client address", _count),
    Setting("MAX_STREAMS", "18000", "open event streams in all", whole(0, 10_000_000)),
    Setting("HEARTBEAT_SECONDS", "30", "silence on an event stream before a heartbeat", _wait),
    Setting("HISTORY_EVENTS", "100", "events retained per client id", whole(1, 100_000)),
    Setting("HISTORY_SECONDS", "300",
            "how long they are retained after the last event and the last reader", _wait),
    Setting("HISTORY_BYTES", "1GiB", "all retained events together", size_bytes),
    Setting("WORKERS", "1", "processes that share the port; more than one needs `REDIS_URL`",
            whole(1, 256)),
    Setting("MAX_CONNECTIONS", "25000", "client connections; one more is answered 503",
            whole(1, 10_000_000)),
    Setting("MAX_BODY_BYTES", "16MiB", "largest request body: bytes, or with KiB, MiB, GiB",
            size_bytes),
    Setting("MAX_REQUEST_LINE_BYTES", "8192", "longest request line, else 414", whole(64, 1 << 20)),
    Setting("MAX_HEADER_LINE_BYTES", "8192", "longest header line, else 431", whole(64, 1 << 20)),
    Setting("MAX_HEADERS_BYTES", "65536", "all header lines of a request, else 431",
            whole(64, 1 << 24)),
    Setting("MAX_HEADER_COUNT", "128", "header lines of a request, else 431", whole(1, 10_000)),
    Setting("MIN_BODY_RATE", "240",
            "bytes a second a client must send of a body, after 5 s; 0 for any", whole(0, 1 << 30)),
    Setting("CONNECT_TIMEOUT", "5", "seconds to connect to an endpoint", _wait),
    Setting("HEAD_TIMEOUT", "30", "seconds from the request to the head of a service's answer",
            _wait),
    Setting("IDLE_TIMEOUT", "60", "seconds without a byte while an answer is sent", _wait),
    Setting("STREAM_IDLE_TIMEOUT", "300", "the same for event streams and tunnels", _wait),
    Setting("CLIENT_HEAD_TIMEOUT", "10", "seconds a client has to send a request's head", _wait),
    Setting("KEEPALIVE_TIMEOUT", "75", "seconds an idle client connection is kept", _wait),
    Setting("UPSTREAM_IDLE_CONNECTIONS", "100", "idle connections kept, per endpoint",
            whole(0, 1_000_000)),
    Setting("UPSTREAM_IDLE_TIMEOUT", "90", "seconds they are kept", _wait),
    Setting("UPSTREAM_MAX_CONNECTIONS", "4096", "connections per endpoint", _count),
    Setting("UPSTREAM_QUEUE", "1024",
            "requests that wait for a connection, per endpoint; more: 503", whole(0, 1_000_000)),
    Setting("UPSTREAM_QUEUE_TIMEOUT", "5", "seconds they wait, then 503", _wait),
    Setting("DRAIN_GRACE_SECONDS", "2", "after SIGTERM: not ready, still accepting",
            seconds(zero=True)),
    Setting("DRAIN_SECONDS", "25", "after that: for requests under way to end", seconds(zero=True)),
    Setting("LOG_LEVEL", "info", "also for single loggers: `info,gateway.edge=debug`", log_level),
    Setting("LOG_FORMAT", "auto", "`json`, `console`; `auto`: console on a terminal",
            choice("auto", "json", "console")),
    Setting("TRACE_SAMPLE", "0",
            "share of requests, 0 to 1, exported as OpenTelemetry spans (needs its packages)",
            share),
    Setting("ACCESS_LOG", "on", "a record of each request: `on`, `off`, `sampled`",
            choice("on", "off", "sampled")),
)
# fmt: on


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
    read["worker"] = whole(0, 256)(
        Value("GATEWAY_WORKER", environ.get("GATEWAY_WORKER", "0"), ENVIRONMENT)
    )
    settings = Settings(**read)
    _check_together(settings)
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
        warnings=tuple(warnings),
    )


def with_service(settings: Settings, name: str, url: str) -> Settings:
    """`settings` with one more service, under the limits that hold for all."""
    endpoints = parse_endpoints(Value(name, url, "built in"))
    service = replace(_service_defaults(settings), name=name, aliases=(name,), endpoints=endpoints)
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
