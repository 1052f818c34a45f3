"""The command line: what each command prints, its exit code, and that errors are one line."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import jwt
import pytest

from gateway.cli import main
from gateway.policy.auth import Authenticator, Credentials, Identity
from gateway.settings import SETTINGS, Settings
from tests.policy.keys import SECRET, ec_key, private_pem, public_pem
from tests.processes import run_gateway, taken_port


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for setting in SETTINGS:
        monkeypatch.delenv(setting.name, raising=False)
    for name in ("GATEWAY_CONFIG", "SERVICES"):
        monkeypatch.delenv(name, raising=False)


def test_check_says_what_would_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOST", "::1")
    monkeypatch.setenv("ORDERS_SERVICE_URL", "http://a:1,http://b:2/x")
    monkeypatch.setenv("EVENTS_URL", "http://c")
    assert main(["check"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "file        none",
        "listen      http://[::1]:8081",
        "workers     1",
        "rate limit  1000 in 60 s, per caller",
        "abuse       off",
        "tokens      none",
        "auth        optional, where a service or a row says nothing else",
        "cors        off",
        "redis       none",
        "database    SQLite in .state",
        "requests    not kept",
        "jobs        off: TEMPORAL_ADDRESS is not set",
        "service     orders, orders_service: http://a:1, http://b:2/x",
        "warning     EVENTS_URL is not registered: /api/v1/events is the gateway's own path",
        "warning     no signing key is set (JWT_SECRET or JWT_PUBLIC_KEY): "
        "reading is open, and so is writing from this machine",
    ]
    assert err == ""


def test_check_shows_what_is_set_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.toml"
    file.write_text(
        'auth_default = "required"\ncors_origins = ["https://a.test", "https://b.test"]\n'
        'request_log = "database"\nrequest_log_days = 7\n'
        "[abuse]\nbad_credentials = 5\nrefusals = 0\nclose_max_seconds = 90\n"
    )
    monkeypatch.setenv("GATEWAY_CONFIG", str(file))
    monkeypatch.setenv("REDIS_URL", "redis://:hidden@h")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hidden@h/d")
    assert main(["check"]) == 0
    out = capsys.readouterr().out
    assert "hidden" not in out
    for line in (
        f"file        {file}",
        "abuse       5 bad credentials in 60 s shut an address out for 60 s to 90 s",
        "auth        required, where a service or a row says nothing else",
        "cors        https://a.test, https://b.test",
        "redis       set, strict",
        "database    PostgreSQL",
        "requests    a row of each in the database, for 7 days",
    ):
        assert line in out.splitlines()


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"TEMPORAL_ADDRESS": "t.test:7233"}, "off: PAYLOAD_KEYS is not set"),
        (
            {"TEMPORAL_ADDRESS": "t.test:7233", "PAYLOAD_KEYS": f"k1:{'A' * 43}="},
            "at Temporal t.test:7233, namespace default, queue gateway-jobs; "
            "needs a worker (gateway worker)",
        ),
        (
            {"TEMPORAL_ADDRESS": "embedded", "TEMPORAL_NAMESPACE": "acme"},
            "embedded: the gateway runs Temporal and its worker; "
            "namespace acme, queue gateway-jobs",
        ),
    ],
)
def test_check_says_where_jobs_are_and_what_they_need(
    said: dict[str, str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert main(["check"]) == 0
    out = capsys.readouterr().out
    assert f"jobs        {line}" in out.splitlines()
    assert "AAA" not in out
    assert not Path(".state").exists()  # nothing is made by asking


def test_check_names_every_queue_and_the_services_whose_requests_may_become_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.toml").write_text(
        "[workflows.async_request_workflow]\ntask_queue = 'heavy'\n"
        "[services.a]\nurl = 'http://a'\ndurable = true\nexposed = false\n"
        "[services.b]\nurl = 'http://b'\ndurable = true\n"
    )
    monkeypatch.setenv("TEMPORAL_ADDRESS", "embedded")
    assert main(["check", "--config", "x.toml"]) == 0
    out = capsys.readouterr().out
    assert "namespace default, queues gateway-jobs, heavy\n" in out
    assert "service     a (not under /api/v1/, requests may become jobs): http://a\n" in out
    assert "service     b (requests may become jobs): http://b\n" in out


def test_check_finds_that_spans_could_not_be_exported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACE_SAMPLE", "0.5")
    assert main(["check"]) == 0
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert main(["check"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "TRACE_SAMPLE is 0.5 without OpenTelemetry" in err


def test_check_names_the_file_and_line_of_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.toml"
    file.write_text("port = 1\nspeed = 2\n")
    assert main(["check", "--config", str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"gateway: {file}:2: speed is unknown, expected ")
    assert err.count("\n") == 1


def test_check_tries_the_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.pem").write_text("nothing\n")
    monkeypatch.setenv("UPSTREAM_CA", "x.pem")
    assert main(["check"]) == 1
    assert "UPSTREAM_CA x.pem cannot be used" in capsys.readouterr().err


def test_check_shows_what_is_off_or_hidden(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.toml"
    file.write_text("rate_limit = 'off'\n[services.x]\nurl = 'http://x'\nexposed = false\n")
    assert main(["check", "--config", str(file)]) == 0
    out = capsys.readouterr().out
    assert "rate limit  off, per caller" in out
    assert "service     x (not under /api/v1/): http://x" in out


def test_routes_lists_the_gateways_own_paths_and_the_services(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORDERS_SERVICE_URL", "http://a:1")
    assert main(["routes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "GET, HEAD  /health  the gateway" in lines
    assert lines[-1] == "ANY  /api/v1/orders/…, /api/v1/orders_service/…  http://a:1"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            "/api/v1/orders/a%20b?c=d",
            "route     /api/v1/{service}\n"
            "service   orders\n"
            "endpoint  http://a:1/base/a%20b?c=d\n"
            "endpoint  http://b/a%20b?c=d\n",
        ),
        ("/health", "GET /health: the gateway itself\n"),
        ("/nothing", "GET /nothing: 404, no service and no path of the gateway\n"),
        ("/api/v1/orders/../x", "GET /api/v1/orders/../x: 400, a dot segment in the path\n"),
    ],
)
def test_routes_says_where_a_request_would_lead(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], target: str, said: str
) -> None:
    monkeypatch.setenv("ORDERS_URL", "http://a:1/base,http://b")
    assert main(["routes", "GET", target]) == 0
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize(
    "arguments", [["nope"], ["workers"], ["--nope"], ["check", "--nope"], ["routes", "GET"]]
)
def test_wrong_usage_prints_the_usage(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("usage: gateway [server]")


def test_help_and_version_exit_0(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--help", "-h", "--version"):
        with pytest.raises(SystemExit) as left:
            main([option])
        assert left.value.code == 0
    assert "gateway check" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(["token", "--help"])
    assert left.value.code == 0
    assert "signed with JWT_SECRET" in capsys.readouterr().out


def test_a_port_in_use_is_one_line() -> None:
    with taken_port() as port:
        done = run_gateway(PORT=str(port))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"gateway: cannot listen on 127.0.0.1 port {port}: "
        "it is in use, expected a free one (PORT)\n"
    )


def test_a_bad_setting_is_one_line() -> None:
    done = run_gateway("server", RATE_LIMIT="many")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "gateway: environment: RATE_LIMIT is 'many', "
        "expected N, N/second, N/minute, N/hour or off\n"
    )


def test_check_verifies_the_keys_of_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JWT_SECRET", "short")
    (tmp_path / "key.pem").write_text(public_pem(ec_key()))
    monkeypatch.setenv("JWT_PUBLIC_KEY", "key.pem")
    assert main(["check"]) == 0
    out = capsys.readouterr().out
    assert "tokens      ES256, HS256, HS384, HS512\n" in out
    assert "warning     JWT_SECRET is shorter than 32 bytes" in out
    (tmp_path / "key.pem").write_text(private_pem(ec_key()))
    assert main(["check"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("gateway: settings: JWT_PUBLIC_KEY is a private key, expected ")


def test_a_bad_key_is_one_line_also_with_several_workers() -> None:
    done = run_gateway(
        WORKERS="2", PORT="18081", REDIS_URL="redis://h", JWT_SECRET='{"kty": "oct"}'
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "gateway: settings: JWT_SECRET is a key in PEM, DER or JWK, expected a secret text "
        "(a public key goes to JWT_PUBLIC_KEY)\n"
    )


def given_token(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    return out.strip()


def test_token_prints_a_token_that_the_gateway_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JWT_SECRET", SECRET)
    before = int(time.time())
    arguments = ["--sub", "alice", "--tier", "pro", "--scope", "events:read", "--tenant", "acme"]
    assert main(["token", *arguments, "--client-id", "a", "--client-id", "b"]) == 0
    printed = given_token(capsys)
    field = Credentials(authorization=[f"Bearer {printed}".encode()])
    found = Authenticator(Settings(jwt_secret=SECRET)).identify(field, time.time())
    assert isinstance(found, Identity)
    assert (found.subject, found.tenant, found.tier) == ("alice", "acme", "pro")
    assert found.scopes == {"events:read"}
    assert found.client_ids == {"a", "b"}
    assert found.expires_at is not None
    assert before + 3600 <= found.expires_at <= time.time() + 3600


@pytest.mark.parametrize(
    "scopes",
    [
        ["--scope", "events:read events:write"],
        ["--scope", "events:read", "events:write"],
        ["--scope", "events:read", "--scope", "events:write"],
        ["--scope", "events:read,events:write"],
        ["--scope", "events:read, events:write,"],
    ],
)
def test_token_takes_scopes_as_one_writes_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], scopes: list[str]
) -> None:
    monkeypatch.setenv("JWT_SECRET", SECRET)
    assert main(["token", "--sub", "alice", *scopes]) == 0
    claims = jwt.decode(given_token(capsys), SECRET, ["HS256"])
    assert claims["scope"] == "events:read events:write"


def test_token_says_only_what_it_was_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JWT_SECRET", SECRET)
    assert main(["token", "--sub", "alice", "--expires-in", "60"]) == 0
    claims = jwt.decode(given_token(capsys), SECRET, ["HS256"])
    assert set(claims) == {"sub", "iat", "exp"}
    assert claims["exp"] - claims["iat"] == 60


def test_token_adds_issuer_and_audience_where_they_are_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JWT_SECRET", SECRET)
    file = tmp_path / "x.toml"
    file.write_text("jwt_issuer = 'us'\njwt_audience = 'gateway'\n")
    assert main(["token", "--sub", "alice", "--config", str(file)]) == 0
    claims = jwt.decode(given_token(capsys), SECRET, ["HS256"], audience="gateway", issuer="us")
    assert claims["sub"] == "alice"


def test_token_without_a_secret_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "--sub", "alice"]) == 2
    assert capsys.readouterr() == (
        "",
        "gateway: settings: JWT_SECRET is not set, expected the secret to sign with\n",
    )


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--sub", ""], "its sub claim is no text"),
        (["--sub", "a\nb"], "its sub claim is no text"),
        (["--sub", "\udcff"], "the token can't be made"),
        (["--sub", "a", "--scope", 'x"y'], "its scope claim is no text of scopes"),
        (["--sub", "a", "--client-id", ""], "its client_ids claim is no list of texts"),
    ],
)
def test_token_prints_none_that_the_gateway_would_refuse(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    what: str,
) -> None:
    monkeypatch.setenv("JWT_SECRET", SECRET)
    assert main(["token", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert what in err


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["--sub"], ["alice"], ["--sub", "a", "--tier", "gold"], ["--sub", "a", "--nope"]),
        *(["--sub", "a", "--expires-in", seconds] for seconds in ("0", "-1", "1.5", "x", "", "²")),
    ],
)
def test_wrong_usage_of_token_prints_its_usage(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["token", *arguments])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("usage: gateway token ")


def test_a_bad_key_keeps_no_token_from_being_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JWT_SECRET", public_pem(ec_key()))
    assert main(["token", "--sub", "alice"]) == 2
    assert capsys.readouterr().err.startswith("gateway: settings: JWT_SECRET is a key in PEM")


def test_help_needs_none_of_the_servers_libraries() -> None:
    done = run_gateway("--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    assert "gateway.settings" in done.stderr
    for library in ("aiohttp", "uvloop", "structlog", "ssl"):
        assert f" {library}\n" not in done.stderr
