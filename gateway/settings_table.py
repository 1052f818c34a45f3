"""The table of settings: each one's name in the environment, its default, what it means, and how it
is read.

The README and `.env.example` are tested against it. What becomes of the values is in `settings`.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.settings_jobs import gateway_url, payload_keys, plain_name, temporal_address
from gateway.settings_questions import hosts_and_networks
from gateway.settings_values import (
    Reader,
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
)


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
    Setting("TEMPORAL_ADDRESS", "",
            "where Temporal runs jobs: `host:port`, or `embedded` for a development server of the "
            "gateway's own; none: jobs are off",
            temporal_address),
    Setting("TEMPORAL_NAMESPACE", "default", "namespace of the jobs", plain_name),
    Setting("TEMPORAL_TASK_QUEUE", "gateway-jobs",
            "queue of the workers; a table `[workflows.<type>]` may name another", plain_name),
    Setting("TEMPORAL_TLS", "false", "TLS to Temporal; any of the next three turns it on", switch),
    Setting("TEMPORAL_TLS_CA", "", "certificates (PEM) that Temporal's is signed by", readable),
    Setting("TEMPORAL_TLS_CERT", "", "certificate (PEM) of this client, for mutual TLS", readable),
    Setting("TEMPORAL_TLS_KEY", "", "its key (PEM)", readable),
    Setting("TEMPORAL_TLS_SERVER_NAME", "", "name in Temporal's certificate, if another", text),
    Setting("TEMPORAL_API_KEY", "", "API key at Temporal; it turns TLS on", secret),
    Setting("PAYLOAD_KEYS", "",
            "encrypt what jobs hold: `id:` and base64 of 32 bytes, several for rotation, the "
            "newest first; `embedded` keeps one in `STATE_DIR`",
            payload_keys),
    Setting("GATEWAY_URL", "",
            "gateway that workers call; an embedded worker knows it", gateway_url),
    Setting("SERVICE_TOKEN", "",
            "credential with scope `internal` that workers call it with", secret),
    Setting("WORKER_PORT", "8091", "port of a worker's health and metrics",
            whole(0, 65535)),
    Setting("JOBS_PER_OWNER", "1000",
            "jobs of one tenant (without one: of one caller) that run at once; one more is "
            "answered 429; 0: any number",
            whole(0, 10_000_000)),
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
