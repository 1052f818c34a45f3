"""The only place where objects meet: from settings to a running gateway, and down again."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import structlog
from aiohttp import web

from gateway import __version__
from gateway.assemble_admin import RunningDesk
from gateway.assemble_events import EventRoom
from gateway.assemble_jobs import JobRoom, Surroundings, job_keys, worker_token
from gateway.assemble_policies import PolicyRoom
from gateway.assemble_routing import ServiceRoom, head_limits
from gateway.control.app import ControlState, build_app
from gateway.edge.admission import nothing_here
from gateway.edge.context import EdgeContext
from gateway.edge.deadlines import Deadlines
from gateway.edge.exchange import Exchange
from gateway.edge.headers import Ids
from gateway.edge.listener import BACKLOG, accept_queued, open_sockets, tls_context
from gateway.edge.mount import memory_connector
from gateway.edge.outbox import Outbox
from gateway.edge.server import EdgeServer
from gateway.edge.tunnel import Tunnel
from gateway.listener_url import listener_url
from gateway.observe.access import AccessLog, RecordWriter, Timestamps
from gateway.observe.agents import Agents
from gateway.observe.log import configure
from gateway.observe.metrics import Metrics, sample_loop_lag
from gateway.observe.trace import Tracer
from gateway.routing.services import Service
from gateway.settings import EndpointUrl, ServiceSettings, Settings, SettingsError
from gateway.store import Database

# What is built into a running gateway: a reload leaves it as it is, and says so.
_FIXED: Final = (
    "host", "port", "tls_min_version", "workers", "redis_url", "backplane", "database_url",
    "state_dir", "rate_limit_keys", "trace_sample", "log_level", "log_format", "access_log",
    "workflows", "temporal_address", "temporal_namespace", "temporal_task_queue", "temporal_tls",
    "temporal_tls_ca", "temporal_tls_cert", "temporal_tls_key", "temporal_tls_server_name",
    "temporal_api_key", "payload_keys", "gateway_url", "service_token", "worker_port",
    "heartbeat_seconds", "history_events", "history_seconds", "history_bytes", "drain_seconds",
)  # fmt: skip
# The bounds of MAX_REQUEST_LINE_BYTES, MAX_HEADERS_BYTES and MAX_HEADER_COUNT.
_MOST_LINE_BYTES, _MOST_HEADER_BYTES, _MOST_HEADERS = 1 << 20, 1 << 24, 10_000
MOUNTED = "gateway"  # the service label of what the gateway answers itself
LAG_INTERVAL_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 320.0  # a long-poll for a question may take 300 (events.md)
LAST_HANDSHAKE_SECONDS = 2.0  # for TLS clients taken out of the queue when a drain closes it


class Gateway:
    """One running server. `start` once, then `drain` once; `reload` in between."""

    def __init__(
        self,
        settings: Settings,
        *,
        log_fd: int = 1,
        again: Callable[[], Settings] | None = None,
        on_reloaded: Callable[[], None] | None = None,
    ) -> None:
        """Needs a running event loop. `again` reads the settings anew, for `/admin/reload`; it
        raises SettingsError. `on_reloaded` is told when that was done.

        Raises SettingsError, OSError or ssl.SSLError for keys and TLS files that can't be used.
        """
        self._again = again
        self._on_reloaded = on_reloaded
        self._said: tuple[str, ...] = ()  # warnings about the settings
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        console = settings.log_format == "console" or (
            settings.log_format == "auto" and os.isatty(log_fd)
        )
        self._writer = RecordWriter(log_fd, self._loop.call_later)
        self._restore_log = configure(self._writer, settings.log_level, console=console)
        self._log = structlog.get_logger("gateway")
        self._tls = _listener_tls(settings)
        self._started_wall = time.time()
        self._state = "starting"
        self._metrics = Metrics(__version__)
        self._metrics.log_records_dropped(lambda: self._writer.dropped)
        self._tracer = Tracer.open(settings.trace_sample, __version__)
        self._deadlines = Deadlines(time.monotonic, self._loop.call_later)
        self._database = Database(settings.database_url, settings.state_dir)
        keys = job_keys(settings)
        self._policies = PolicyRoom(
            settings, self._metrics, self._database, service_token=worker_token(settings, keys)
        )
        self._services = ServiceRoom(settings, self._metrics, self._deadlines)
        room = self._room = EventRoom(
            settings,
            self._metrics,
            self._database,
            self._policies.revocations,
            self._services.tls,
        )
        self._jobs = JobRoom(
            settings,
            keys,
            Surroundings(room.hub, room.door, room.publish, self._database, room.questions),
        )
        room.on_decided(self._jobs.wake)
        self._context = self._build_context(console)
        self._policies.attach(self._context)
        self._policies.on_revoked = self._end_revoked
        self._room.attach(self._context)
        self._jobs.attach(self._context)
        self._server = EdgeServer(self._context)
        self._asked = self._control_state()
        self._jobs.attend(self._asked)
        self._control = web.AppRunner(
            build_app(self._asked),
            access_log=None,
            handler_cancellation=True,  # a long-poll whose client left gives up its place
            # The door has checked sizes before, by settings that a reload may change: these are the
            # largest that can be set, and room for the fields that it adds.
            max_line_size=_MOST_LINE_BYTES + 1024,
            max_field_size=_MOST_HEADER_BYTES + 1024,
            max_headers=_MOST_HEADERS + 32,
        )
        self._runner = web.ServerRunner(self._server, shutdown_timeout=settings.drain_seconds)
        self._sockets: list[socket.socket] = []
        self._spares: list[socket.socket] = []  # the same, to accept the last from at a drain
        self._hurry = asyncio.Event()
        self._stopped = asyncio.Event()
        self._lag: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Gateway {self._state} {self._server!r}>"

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, once started."""
        name = self._sockets[0].getsockname()
        return name[0], name[1]

    @property
    def context(self) -> EdgeContext:
        """What the door's connections share."""
        return self._context

    async def start(self) -> None:
        """Listen; raises OSError (a port in use) before anything is accepted."""
        settings = self._settings
        try:
            self._sockets = open_sockets(
                settings.host, settings.port, share_port=settings.worker > 0
            )
        except OSError:
            self._writer.close()
            self._restore_log()
            raise
        self._spares = [listener.dup() for listener in self._sockets]
        await self._room.start()
        await self._policies.start()
        self._services.start()
        await self._control.setup()
        control = self._control.server
        if control is None:  # pragma: no cover - setup made it
            raise RuntimeError("the control application did not start")
        self._services.mount(self._context.mounted, memory_connector(control))
        await self._runner.setup()
        for listener in self._sockets:
            site = web.SockSite(self._runner, listener, ssl_context=self._tls, backlog=BACKLOG)
            await site.start()
        self._lag = self._loop.create_task(sample_loop_lag(self._metrics, LAG_INTERVAL_SECONDS))
        self._state = "ready"
        host, port = self.address
        self._jobs.start(listener_url(settings, host, port, here=True))
        for service in settings.services:
            self._log.info(
                "service",
                name=service.name,
                endpoints=[str(url) for url in service.endpoints],
                names=list(service.aliases),
            )
        self._warn()
        self._log.info(
            "listening", host=host, port=port, tls=self._tls is not None, version=__version__
        )

    async def drain(self, *, grace: bool) -> None:
        """Stop without failing a request: not ready at once, accepting for the grace.

        Called again it waits for the first to end; without `grace` it ends that one's.
        """
        if not grace:
            self._hurry.set()
        if self._state in ("draining", "stopped"):
            await self._stopped.wait()
            return
        self._state = "draining"
        self._context.draining = True
        self._room.hub.draining = True
        self._log.info("draining", connections=len(self._server.connections), grace=grace)
        resting = asyncio.ensure_future(self._jobs.rest())
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_grace_seconds):
                await self._hurry.wait()
        [fault] = await asyncio.gather(resting, return_exceptions=True)
        if fault is not None:
            self._log.error("worker_rest_failed", exc_info=fault)  # all else ends as ever
        await self._close_listeners()
        self._room.drain()
        self._jobs.drain()
        await self._runner.cleanup()
        await self._jobs.close()
        await self._room.close()
        await self._services.close()
        await self._control.cleanup()
        await self._policies.close()  # with the request log: what ended above is in it
        await self._database.close()
        if self._tracer is not None:
            await self._tracer.close()
        if self._lag is not None:
            self._lag.cancel()
            with suppress(asyncio.CancelledError):
                await self._lag
        self._log.info("stopped")
        self._state = "stopped"
        self._writer.close()
        self._restore_log()
        self._stopped.set()

    async def _close_listeners(self) -> None:
        for site in self._runner.sites:
            await site.stop()
        last: list[socket.socket] = []
        for spare in self._spares:
            with suppress(OSError):  # out of descriptors, say: the drain goes on
                last += accept_queued(spare)
        timeout = LAST_HANDSHAKE_SECONDS if self._tls is not None else None
        await asyncio.gather(
            *(
                self._loop.connect_accepted_socket(
                    self._server, connection, ssl=self._tls, ssl_handshake_timeout=timeout
                )
                for connection in last
            ),
            return_exceptions=True,  # a handshake that fails is its client's
        )
        for listener in self._sockets:
            listener.close()

    def reload(self, settings: Settings) -> None:
        """Take new settings; requests in flight keep what they have, equal endpoints their
        connections. What only a restart can change stays as it was, and is said.

        Raises SettingsError, OSError or ssl.SSLError, and ValueError for what no settings should
        lead to; then nothing has changed.
        """
        settings, later = _settings_now(self._settings, settings)
        _listener_tls(settings)  # a context of its own: whether the files can be used
        services = self._services.prepare(settings)
        policies = self._policies.prepare(settings)
        events = self._room.prepare(settings, services.tls)
        # From here on all is changed. First what fails if a file has changed since.
        if self._tls is not None and settings.tls_cert and settings.tls_key:
            self._tls.load_cert_chain(settings.tls_cert, settings.tls_key)
        before = self._policies.now
        self._room.take(events, new_keys=policies.judged_by != before.judged_by)
        self._policies.take(policies)
        self._services.take(services)
        self._settings = self._asked.settings = settings
        self._jobs.take(settings)
        context = self._context
        context.settings, context.limits = settings, head_limits(settings)
        context.mounted.settings = _mounted_settings(settings)
        context.table = self._services.table
        gone = before.keys.not_in(policies.keys)
        if gone:
            self._end_opened_by(lambda jti: jti in gone)
        for name in later:
            self._log.warning("needs_restart", setting=name)
        self._warn()
        self._log.info("reloaded", services=sorted(self._services.services))

    def _reload_again(self) -> None:
        """Read the configuration anew, for an operator who asks over HTTP."""
        if self._again is None:
            raise SettingsError("this gateway was built without a way to read its settings again")
        self.reload(self._again())
        if self._on_reloaded is not None:
            self._on_reloaded()

    def _warn(self) -> None:
        """Say what is doubtful about the settings and was not so the last time."""
        found = (*self._settings.warnings, *self._policies.now.authenticator.warnings())
        for warning in found:
            if warning not in self._said:
                self._log.warning("settings", warning=warning)
        self._said = found

    # Credentials that are over before their time

    def _end_revoked(self) -> None:
        self._end_opened_by(self._policies.revocations.is_revoked)

    def _end_opened_by(self, is_over: Callable[[str | None], bool]) -> None:
        """End the streams and tunnels of credentials, by their ids. Answers under way go on: they
        end by themselves, and what was sent of them can't be taken back.
        """
        self._room.end_opened_by(is_over)
        for tunnel in list(self._server.tunnels):
            owner = tunnel.owner if isinstance(tunnel, Tunnel) else None
            identity = owner.identity if isinstance(owner, Exchange) else None
            if identity is not None and is_over(identity.jti):
                tunnel.close("revoked")

    # Building

    def _build_context(self, console: bool) -> EdgeContext:
        settings = self._settings
        return EdgeContext(
            settings=settings,
            limits=head_limits(settings),
            table=self._services.table,
            mounted=Service(_mounted_settings(settings), self._metrics.service(MOUNTED)),
            limiter=self._policies.now.limits,
            agents=Agents.shipped(),
            pools=self._services.pools,
            lines=self._services.lines,
            metrics=self._metrics,
            access=AccessLog(self._writer, settings.access_log, console),
            timestamps=Timestamps(),
            deadlines=self._deadlines,
            outbox=Outbox(self._loop.call_soon),
            ids=Ids(os.urandom),
            via=_pseudonym(settings),
            clock=time.monotonic,
            wall=time.time,
            log=structlog.get_logger("gateway.edge"),
            tracer=self._tracer,
        )

    # What the control application asks

    def _control_state(self) -> ControlState:
        return ControlState(
            settings=self._settings,
            metrics=self._metrics,
            ready=lambda: self._state,
            services=self._services.figures,
            started_wall=self._started_wall,
            tickets=self._room.door.tickets,
            questions=self._room.questions,
            dependencies=lambda: (
                self._room.dependencies | self._policies.dependencies | self._jobs.dependencies
            ),
            desk=self._desk(),
            nothing_here=lambda: nothing_here(self._context),
        )

    def _desk(self) -> RunningDesk:
        policies, services = self._policies, self._services
        return RunningDesk(
            server=self._server,
            clock=time.monotonic,
            services=lambda: services.services,
            pools=lambda: services.pools,
            open_pool=services.open_pool,
            retire=services.retire,
            limits=lambda: policies.now.limits,
            revocations=policies.revocations,
            rules=policies.rules,
            revoked=policies.revoked,
            look=policies.watch.look,
            reload=self._reload_again,
            on_revoked=self._end_revoked,
        )


async def build_server(
    settings: Settings,
    *,
    log_fd: int = 1,
    again: Callable[[], Settings] | None = None,
    on_reloaded: Callable[[], None] | None = None,
) -> Gateway:
    """A gateway that is not started yet; log lines and access records go to `log_fd`."""
    return Gateway(settings, log_fd=log_fd, again=again, on_reloaded=on_reloaded)


def _settings_now(old: Settings, new: Settings) -> tuple[Settings, list[str]]:
    """`new` as far as a gateway that runs by `old` can take it, and the names of the rest."""
    kept = [name for name in _FIXED if getattr(old, name) != getattr(new, name)]
    later = [name.upper() for name in kept]
    if (old.tls_cert is None) != (new.tls_cert is None):
        kept += ["tls_cert", "tls_key"]
        later.append("TLS_CERT")
    changes: dict[str, Any] = {name: getattr(old, name) for name in kept}
    return replace(new, **changes), later


def _listener_tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return tls_context(settings.tls_cert, settings.tls_key, settings.tls_min_version)


def _mounted_settings(settings: Settings) -> ServiceSettings:
    return ServiceSettings(
        name=MOUNTED,
        aliases=(),
        endpoints=(EndpointUrl("http", "gateway", 80, ""),),
        upgrades=(),
        head_timeout=LONGEST_WAIT_SECONDS,
        max_body_bytes=settings.max_body_bytes,
        breaker=None,  # an answer of the gateway's own says nothing about a back end
        outlier=None,
    )


def _pseudonym(settings: Settings) -> bytes:
    """This gateway's name in Via: the same after a restart and in all its processes, no other's."""
    here = f"{socket.gethostname()} {settings.host} {settings.port}"
    return b"gateway-" + hashlib.sha256(here.encode()).hexdigest()[:8].encode()
