"""One server process: its loop, its signals, the demo beside it, and what is said when it cannot
start.

SIGTERM drains with the grace, SIGINT without, a SIGINT while draining stops at once; SIGHUP reads
the settings again. What a server consists of is in `assemble`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import ssl
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import structlog
import uvloop

from gateway.assemble import Gateway, build_server
from gateway.demo import Demo, start_demo
from gateway.exits import EXIT_DONE, EXIT_STOPPED_AT_ONCE
from gateway.listener_url import listener_url
from gateway.settings import Settings, SettingsError, with_service

# More than any sensible number of connections; without any limit at all setrlimit may refuse.
OPEN_FILES_AT_MOST = 1 << 20
PARENT_CHECK_SECONDS = 1.0


class StartError(Exception):
    """The server cannot start; the text is one clear line."""


@dataclass(slots=True)
class StopRequest:
    """What the signals have asked for so far."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: asyncio.Event = field(default_factory=asyncio.Event)
    grace: bool = True

    def terminate(self) -> None:
        """SIGTERM: drain, and go on accepting for the grace; a second one changes nothing."""
        self.asked.set()

    def interrupt(self) -> None:
        """SIGINT: drain without the grace; while draining already: stop at once."""
        if self.asked.is_set():
            self.at_once.set()
        else:
            self.grace = False
            self.asked.set()


def raise_open_files() -> None:
    """Raise the soft limit of open files to the hard one: every connection is a file or two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_AT_MOST if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_AT_MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            pass  # a system with an odd idea of its limits: the soft one then stands


def run(settings: Settings, load_again: Callable[[], Settings], *, demo: bool) -> int:
    """Run a server on uvloop until a signal ends it; the exit code.

    `load_again` gives the settings of a SIGHUP. Raises StartError and SettingsError.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, load_again, demo=demo))


async def _serve(settings: Settings, load_again: Callable[[], Settings], *, demo: bool) -> int:
    loop = asyncio.get_running_loop()
    stop = StopRequest()
    parent = os.getppid()  # before anyone is told that it listens, and may end on that
    loop.add_signal_handler(signal.SIGTERM, stop.terminate)
    loop.add_signal_handler(signal.SIGINT, stop.interrupt)
    shown = await start_demo() if demo and not settings.services else None
    try:
        again = _checked(load_again, shown)
        reloaded = partial(_pass_on_reload, parent) if settings.worker else None
        gateway = await _started(_with_demo(settings, shown), again, reloaded)
        loop.add_signal_handler(signal.SIGHUP, lambda: _reload(gateway, again))
        if shown is not None and settings.worker <= 1:
            url = listener_url(settings, *gateway.address, here=True)
            print(shown.invitation(url), file=sys.stderr, flush=True)  # noqa: T201 - for a person
        watch = (
            asyncio.ensure_future(_stop_without_parent(stop, parent)) if settings.worker else None
        )
        try:
            return await _drained(gateway, stop, shown)
        finally:
            if watch is not None:
                watch.cancel()
    finally:
        if shown is not None:
            await shown.close()


def _with_demo(settings: Settings, shown: Demo | None) -> Settings:
    if shown is None or settings.services:
        return settings
    return with_service(settings, "demo", shown.url)


def _checked(load_again: Callable[[], Settings], shown: Demo | None) -> Callable[[], Settings]:
    """Reads the settings anew; raises SettingsError for what can't be used."""

    def again() -> Settings:
        settings = _with_demo(load_again(), shown)
        try:
            check_tls(settings)
        except StartError as error:
            raise SettingsError(str(error)) from None
        return settings

    return again


async def _started(
    settings: Settings, again: Callable[[], Settings], reloaded: Callable[[], None] | None
) -> Gateway:
    """A listening server; raises StartError."""
    check_tls(settings)
    try:
        gateway = await build_server(settings, again=again, on_reloaded=reloaded)
        await gateway.start()
    except OSError as error:
        raise StartError(_why_not(settings, error)) from error
    return gateway


def check_tls(settings: Settings) -> None:
    """Load the listener's certificate and key, and the services' CA, once. Raises StartError."""
    cert, key, ca = settings.tls_cert, settings.tls_key, settings.upstream_ca
    if cert is not None and key is not None:
        try:
            # A password given here keeps OpenSSL from asking for one on the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
        except OSError as error:
            raise StartError(
                f"settings: TLS_CERT {cert} and TLS_KEY {key} cannot be used ({_reason(error)}), "
                "expected a PEM certificate and its unencrypted key"
            ) from None
    if ca is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca)
        except OSError as error:
            raise StartError(
                f"settings: UPSTREAM_CA {ca} cannot be used ({_reason(error)}), "
                "expected PEM certificates"
            ) from None


def _why_not(settings: Settings, error: OSError) -> str:
    where = f"{settings.host} port {settings.port}"
    if error.errno == errno.EADDRINUSE:
        return f"cannot listen on {where}: it is in use, expected a free one (PORT)"
    if error.errno == errno.EACCES:
        return f"cannot listen on {where}: not permitted, expected a port from 1024 (PORT)"
    return f"cannot listen on {where}: {_reason(error)}, expected an address of this machine (HOST)"


def _reason(error: OSError) -> str:
    """What the system or OpenSSL says, in a few words."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return error.strerror or str(error)


def _reload(gateway: Gateway, again: Callable[[], Settings]) -> None:
    """Take new settings; wrong ones are said and the old ones stay."""
    try:
        gateway.reload(again())
    except (SettingsError, OSError) as error:
        structlog.get_logger("gateway.serve").error("reload_refused", error=str(error))
    except Exception as error:
        structlog.get_logger("gateway.serve").exception("reload_refused", error=repr(error))


def _pass_on_reload(supervisor: int) -> None:
    """A worker was asked to reload over HTTP: its supervisor lets all of them do so."""
    if os.getppid() == supervisor:  # else it has ended, and that id may be anyone's
        with suppress(ProcessLookupError):
            os.kill(supervisor, signal.SIGHUP)


async def _drained(gateway: Gateway, stop: StopRequest, shown: Demo | None) -> int:
    """Wait for a signal, then drain until everything is closed or a second SIGINT comes."""
    await stop.asked.wait()
    if shown is not None:
        shown.end_streams()
    draining = asyncio.ensure_future(gateway.drain(grace=stop.grace))
    at_once = asyncio.ensure_future(stop.at_once.wait())
    await asyncio.wait({draining, at_once}, return_when=asyncio.FIRST_COMPLETED)
    at_once.cancel()
    if draining.done():
        draining.result()
        return EXIT_DONE
    draining.cancel()
    return EXIT_STOPPED_AT_ONCE


async def _stop_without_parent(stop: StopRequest, parent: int) -> None:
    """A worker whose supervisor is gone would hold the port for ever: it drains instead."""
    while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells a process that its parent ended
        await asyncio.sleep(PARENT_CHECK_SECONDS)
    stop.terminate()
