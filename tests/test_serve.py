"""A server process: starting, what signals do, reloading, TLS files, why it cannot start."""

from __future__ import annotations

import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from gateway.serve import (
    StartError,
    StopRequest,
    _pass_on_reload,
    _reload,
    check_tls,
    raise_open_files,
)
from gateway.settings import Settings
from tests.processes import Running, get, run_gateway
from tests.wire import eventually, request, start_gateway


async def test_a_second_interrupt_stops_at_once_a_second_sigterm_does_not() -> None:
    stop = StopRequest()
    stop.terminate()
    stop.terminate()
    assert (stop.asked.is_set(), stop.grace, stop.at_once.is_set()) == (True, True, False)
    stop.interrupt()
    assert stop.at_once.is_set()


async def test_an_interrupt_drains_without_the_grace() -> None:
    stop = StopRequest()
    stop.interrupt()
    assert (stop.asked.is_set(), stop.grace, stop.at_once.is_set()) == (True, False, False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_0_without_a_word(number: signal.Signals) -> None:
    with Running() as gateway:
        assert get(gateway.port(), "/health/live")[0] == 200
        gateway.send(number)
        assert gateway.end() == (0, "")
        assert gateway.lines[-1]["message"] == "stopped"


def test_a_second_interrupt_ends_a_request_under_way() -> None:
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        url = f"http://127.0.0.1:{upstream.getsockname()[1]}"
        with (
            Running(SLOW_URL=url) as gateway,
            socket.create_connection(("127.0.0.1", gateway.port())) as client,
        ):
            client.sendall(b"GET /api/v1/slow/ HTTP/1.1\r\nHost: gateway\r\n\r\n")
            with upstream.accept()[0] as connection:
                assert connection.recv(1)
                gateway.send(signal.SIGINT)
                gateway.wait_for("draining")
                gateway.send(signal.SIGINT)
                assert gateway.end() == (130, "")


def test_sighup_takes_new_settings_and_refuses_wrong_ones(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("")
    with Running(GATEWAY_CONFIG=str(file)) as gateway:
        port = gateway.port()
        assert get(port, "/api/v1/later/")[0] == 404
        file.write_text("[services.later]\nurl = 'http://127.0.0.1:1'\n")
        gateway.send(signal.SIGHUP)
        gateway.wait_for("reloaded")
        assert get(port, "/api/v1/later/")[0] == 503
        file.write_text("speed = 1\n")
        gateway.send(signal.SIGHUP)
        assert f"{file}:1: speed is unknown" in gateway.wait_for("reload_refused")["error"]
        assert get(port, "/api/v1/later/")[0] == 503
        gateway.send(signal.SIGTERM)
        assert gateway.end() == (0, "")


async def test_a_reload_that_meets_a_bug_is_refused_and_the_server_goes_on() -> None:
    def again() -> Settings:
        raise ZeroDivisionError("a bug")

    async with start_gateway() as running:
        _reload(running.gateway, again)
        await eventually(lambda: "reload_refused" in str(running.log()), "a line")
        (refused,) = [line for line in running.log() if line["message"] == "reload_refused"]
        assert "ZeroDivisionError" in refused["error"]
        assert (await running.ask(request(b"GET /health/live"))).status == 200


def test_nobody_but_the_supervisor_of_the_start_is_told_of_a_reload() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        _pass_on_reload(other.pid)  # as when the parent has ended and its id is another's now
        other.communicate(b"\n")
        assert other.returncode == 0


def test_the_demo_runs_when_nothing_is_configured_and_survives_a_reload() -> None:
    with Running("--demo") as gateway:
        port = gateway.port()
        assert get(port, "/api/v1/demo/json")[0] == 200
        gateway.send(signal.SIGHUP)
        gateway.wait_for("reloaded")
        assert get(port, "/api/v1/demo/json")[0] == 200
        gateway.send(signal.SIGINT)
        code, said = gateway.end()
    assert code == 0
    assert said.count("    curl ") == 3
    assert f"Open http://127.0.0.1:{port}/api/v1/demo/ or try" in said


def test_the_demo_stays_away_when_a_service_is_configured() -> None:
    with Running("--demo", X_URL="http://127.0.0.1:1") as gateway:
        assert get(gateway.port(), "/api/v1/demo/json")[0] == 404
        gateway.send(signal.SIGINT)
        assert gateway.end() == (0, "")


def test_an_open_stream_of_the_demo_does_not_hold_up_the_end() -> None:
    with Running("--demo") as gateway:
        with socket.create_connection(("127.0.0.1", gateway.port())) as client:
            client.sendall(b"GET /api/v1/demo/events HTTP/1.1\r\nHost: gateway\r\n\r\n")
            with client.makefile("rb") as answer:
                assert any(line.startswith(b"id: 1") for line in answer)
                gateway.send(signal.SIGINT)
                assert answer.read().endswith(b"0\r\n\r\n")
        assert gateway.end()[0] == 0


def test_a_worker_drains_when_its_parent_is_gone() -> None:
    shell = ("sh", "-c", '"$@" & read line', "sh", sys.executable, "-m", "gateway")
    with Running(command=shell, GATEWAY_WORKER="1") as gateway:
        gateway.wait_for("listening")
        assert gateway.process.stdin is not None
        gateway.process.stdin.close()
        gateway.process.stdin = None
        gateway.wait_for("stopped")


def test_a_warning_is_said_at_start() -> None:
    with Running(X_URL="http://user@host") as gateway:
        gateway.port()
        assert any("X_URL is not registered" in str(line) for line in gateway.lines)


@pytest.mark.parametrize(
    ("host", "reason"),
    [("192.0.2.1", "Cannot assign requested address"), ("name.invalid", "")],
)
def test_an_address_that_is_not_ours_is_one_line(host: str, reason: str) -> None:
    done = run_gateway(HOST=host)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"gateway: cannot listen on {host} port 0: {reason}")
    assert done.stderr.count("\n") == 1


def test_open_files_are_raised_to_the_hard_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        raise_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 512
        raise_open_files()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- TLS files


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    for name in ("one", "two"):
        issued = authority.issue_cert("127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(directory / f"{name}.pem")
        issued.private_key_pem.write_to_path(directory / f"{name}.key")
    key = load_pem_private_key((directory / "one.key").read_bytes(), None)
    locked = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    (directory / "locked.key").write_bytes(locked)
    (directory / "nothing.pem").write_text("nothing\n")
    return directory


def test_usable_tls_files_pass(tls: Path) -> None:
    check_tls(Settings())
    check_tls(
        Settings(tls_cert=tls / "one.pem", tls_key=tls / "one.key", upstream_ca=tls / "ca.pem")
    )


@pytest.mark.parametrize(
    ("cert", "key", "reason"),
    [
        ("one.pem", "two.key", "key values mismatch"),
        ("one.pem", "locked.key", ""),
        ("nothing.pem", "one.key", ""),
        ("one.pem", "gone.key", "No such file or directory"),
    ],
)
def test_an_unusable_certificate_or_key_is_named(
    tls: Path, cert: str, key: str, reason: str
) -> None:
    with pytest.raises(StartError) as caught:
        check_tls(Settings(tls_cert=tls / cert, tls_key=tls / key))
    line = str(caught.value)
    assert line.startswith(
        f"settings: TLS_CERT {tls / cert} and TLS_KEY {tls / key} cannot be used"
    )
    assert reason in line
    assert "\n" not in line


def test_an_unusable_ca_is_named(tls: Path) -> None:
    with pytest.raises(StartError, match=r"UPSTREAM_CA .*nothing\.pem cannot be used"):
        check_tls(Settings(upstream_ca=tls / "nothing.pem"))


def test_a_tls_listener_says_https(tls: Path) -> None:
    files = {"TLS_CERT": str(tls / "one.pem"), "TLS_KEY": str(tls / "one.key")}
    with Running("--demo", **files) as gateway:
        port = gateway.port()
        gateway.send(signal.SIGTERM)
        assert f"https://127.0.0.1:{port}/api/v1/demo/" in gateway.end()[1]
