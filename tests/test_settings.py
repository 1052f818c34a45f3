"""Settings: defaults, single values of the environment, and what one value asks of another."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from gateway.settings import SETTINGS, RateLimit, Setting, Settings, environment, load
from tests.loading import refusal


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_nothing_said_gives_the_defaults() -> None:
    assert load({}) == Settings()


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.default], ids=lambda s: s.name)
def test_a_default_written_out_gives_what_is_there_anyway(setting: Setting) -> None:
    name, default = setting.name, setting.default
    extra = {"REDIS_URL": "redis://127.0.0.1"}
    assert load({name: default} | extra) == load(extra)


def test_the_table_and_the_settings_have_the_same_names() -> None:
    fields = set(Settings.__dataclass_fields__) - {
        "services",
        "questions_forward",
        "routes",
        "tiers",
        "limits",
        "abuse",
        "file",
        "warnings",
        "worker",
        "embedded",
        "workflows",
    }
    assert fields == {setting.key for setting in SETTINGS}


def test_the_environment_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERS_URL", "http://h")
    copy = environment()
    assert copy.pop("ORDERS_URL") == "http://h"
    assert "ORDERS_URL" in environment()


def test_a_blank_variable_is_as_good_as_none() -> None:
    assert load({"PORT": " ", "RATE_LIMIT": "", "SERVICES": ""}) == Settings()


def test_other_variables_do_not_matter() -> None:
    environ = {
        "PATH": "/bin",
        "TEMPORAL_CLI": "temporal",
    }
    assert load(environ) == Settings()


# --- single values


def test_every_kind_of_value_is_read_from_the_environment(tmp_path: Path) -> None:
    cert = tmp_path / "cert.pem"
    cert.write_text("x")
    settings = load(
        {
            "HOST": "::1",
            "PORT": "0",
            "TRUSTED_PROXIES": "10.0.0.1/8, ::1",
            "ADMIN_FROM": "192.0.2.7",
            "TLS_CERT": str(cert),
            "TLS_KEY": str(cert),
            "TLS_MIN_VERSION": "1.3",
            "UPSTREAM_CA": str(cert),
            "REDIS_URL": "rediss://:secret@r/1",
            "STATE_DIR": "state",
            "MAX_BODY_BYTES": "2 GiB",
            "HEAD_TIMEOUT": "0.5",
            "DRAIN_GRACE_SECONDS": "0",
            "LOG_LEVEL": "Info, gateway.edge=DEBUG",
            "LOG_FORMAT": "JSON",
            "ACCESS_LOG": "sampled",
            "GATEWAY_WORKER": "3",
        }
    )
    assert (settings.host, settings.port, settings.worker) == ("::1", 0, 3)
    assert settings.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("::1"))
    assert settings.admin_from == (ip_network("192.0.2.7"),)
    assert settings.tls_cert == settings.tls_key == settings.upstream_ca == cert
    assert settings.tls_min_version == "1.3"
    assert settings.redis_url == "rediss://:secret@r/1"
    assert "secret" not in repr(settings)
    assert settings.state_dir == Path("state")
    assert settings.max_body_bytes == 2 << 30
    assert (settings.head_timeout, settings.drain_grace_seconds) == (0.5, 0)
    assert settings.log_level == "info,gateway.edge=debug"
    assert (settings.log_format, settings.access_log) == ("json", "sampled")


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("100", RateLimit(100, 60)),
        ("5/second", RateLimit(5, 1)),
        ("5/Minute", RateLimit(5, 60)),
        ("9/hour", RateLimit(9, 3600)),
        ("off", None),
    ],
)
def test_a_rate_limit_has_a_number_and_a_window(text: str, limit: RateLimit | None) -> None:
    assert load({"RATE_LIMIT": text}).rate_limit == limit


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("HOST", "bad..name", "an address or a name"),
        ("HOST", "http://h", "an address or a name"),
        ("PORT", "abc", "a whole number from 0 to 65535"),
        ("PORT", "65536", "a whole number from 0 to 65535"),
        ("PORT", "-1", "a whole number from 0 to 65535"),
        ("PORT", "8_0", "a whole number from 0 to 65535"),
        ("RATE_LIMIT", "many", "N, N/second, N/minute, N/hour or off"),
        ("RATE_LIMIT", "0", "N, N/second, N/minute, N/hour or off"),
        ("RATE_LIMIT", "5/day", "N, N/second, N/minute, N/hour or off"),
        ("TRUSTED_PROXIES", "10.0.0.0/33", "addresses or CIDRs"),
        ("TLS_CERT", "missing.pem", "a readable file"),
        ("TLS_MIN_VERSION", "1.1", "1.2 or 1.3"),
        ("MAX_BODY_BYTES", "16MB", "bytes"),
        ("MAX_BODY_BYTES", "0", "bytes"),
        ("HEAD_TIMEOUT", "0", "more than 0"),
        ("HEAD_TIMEOUT", "nan", "more than 0"),
        ("HEAD_TIMEOUT", "soon", "more than 0"),
        ("HEAD_TIMEOUT", "1e9", "at most a week"),
        ("DRAIN_SECONDS", "-1", "at least 0"),
        ("LOG_LEVEL", "loud", "debug, info"),
        ("LOG_LEVEL", "info,x=loud", "debug, info"),
        ("LOG_FORMAT", "xml", "auto or json or console"),
        ("ACCESS_LOG", "some", "on or off or sampled"),
        ("WORKERS", "0", "a whole number from 1 to 256"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(name: str, text: str, expected: str) -> None:
    line = refusal({name: text})
    assert line.startswith(f"environment: {name} is ")
    assert expected in line


def test_a_redis_address_is_never_shown() -> None:
    line = refusal({"REDIS_URL": "http://:secret@host"})
    assert "redis://" in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("localhost", "localhost"),
        ("[::1]", "::1"),
        ("::", "::"),
        ("my-host.example", "my-host.example"),
    ],
)
def test_a_host_is_an_address_or_a_name(text: str, host: str) -> None:
    assert load({"HOST": text}).host == host


def test_the_older_names_of_host_and_port_work() -> None:
    settings = load({"API_GATEWAY_HOST": "0.0.0.0", "API_GATEWAY_PORT": "9000"})
    assert (settings.host, settings.port, settings.warnings) == ("0.0.0.0", 9000, ())


def test_of_two_names_for_the_port_the_short_one_is_used_and_it_is_said() -> None:
    settings = load({"PORT": "1", "API_GATEWAY_PORT": "2"})
    assert settings.port == 1
    assert settings.warnings == ("PORT and API_GATEWAY_PORT differ: PORT is used",)
    assert load({"PORT": "1", "API_GATEWAY_PORT": "1"}).warnings == ()


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("x")
    assert "expected both or none" in refusal({"TLS_CERT": "c.pem"})
    assert "expected both or none" in refusal({"TLS_KEY": "c.pem"})


def test_several_workers_need_redis_and_a_port() -> None:
    assert "REDIS_URL" in refusal({"WORKERS": "2"})
    redis = {"REDIS_URL": "redis://127.0.0.1"}
    assert "one port to share" in refusal({"WORKERS": "2", "PORT": "0"} | redis)
    assert load({"WORKERS": "2"} | redis).workers == 2


def test_where_keys_come_from_is_not_shown_since_its_query_may_hold_a_secret() -> None:
    settings = load({"JWKS_URL": "https://issuer.test/keys?code=hidden"})
    assert settings.jwks_url is not None
    assert "hidden" not in repr(settings)
