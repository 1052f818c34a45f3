"""The command line: what each command prints, its exit code, and that errors are one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.cli import main
from tests.processes import run_gateway, taken_port


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("PORT", "HOST", "GATEWAY_CONFIG", "SERVICES", "RATE_LIMIT"):
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
        "listen      http://[::1]:8081",
        "workers     1",
        "rate limit  1000 in 60 s, per client address",
        "service     orders, orders_service: http://a:1, http://b:2/x",
        "warning     EVENTS_URL is not registered: /api/v1/events is the gateway's own path",
    ]
    assert err == ""


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
    assert "rate limit  off, per client address" in out
    assert "service     x (not under /api/v1/): http://x" in out


def test_routes_lists_the_gateways_own_paths_and_the_services(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORDERS_SERVICE_URL", "http://a:1")
    assert main(["routes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "GET  /health  the gateway" in lines
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
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    "arguments", [["nope"], ["worker"], ["--nope"], ["check", "--nope"], ["routes", "GET"]]
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


def test_checking_needs_none_of_the_servers_libraries() -> None:
    done = run_gateway("check", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    assert "gateway.settings" in done.stderr
    for library in ("aiohttp", "uvloop", "structlog", "ssl"):
        assert f" {library}\n" not in done.stderr
