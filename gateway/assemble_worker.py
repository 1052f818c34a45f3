"""A worker, built from settings: what activities are made of, the ways to Temporal, the gateway and
the database, its own small HTTP server; and all of it down again in order.

A part of `assemble` for another process. What is away at the start is waited for; what is set wrong
is a SettingsError (what must be set at all is in `jobs/needs`).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, TypeVar

import structlog
from temporalio.client import Client
from temporalio.runtime import Runtime
from temporalio.service import RPCError

from gateway import __version__
from gateway.callbacks import Allowed, Lookups, Sender
from gateway.callbacks.address import AddressRefused, target
from gateway.callbacks.retries import retry_after
from gateway.callbacks.sending import NotSent, Outgoing
from gateway.callbacks.signature import signed_fields
from gateway.edge.listener import upstream_tls_context
from gateway.jobs.activities import activities
from gateway.jobs.activities.parts import CallbackOutcome, Parts, Publisher
from gateway.jobs.activities.publishing import HttpPublisher
from gateway.jobs.codec import JobCodec, data_converter
from gateway.jobs.connect import WORKER_PATIENCE_SECONDS, connect, tls_of, why
from gateway.jobs.gateway_http import GatewayHttp, NoAnswerError, new_session
from gateway.jobs.namespace import NoNamespaceError, prepare
from gateway.jobs.needs import needed, queues_of
from gateway.jobs.payload_purge import PayloadPurge, known_to
from gateway.jobs.redis_publisher import RedisPublisher
from gateway.jobs.types import JOB_TYPES
from gateway.jobs.worker import JobWorker
from gateway.jobs.worker_http import WorkerHttp
from gateway.jobs.worker_metrics import WorkerMetrics, sdk_runtime
from gateway.jobs.workflows.registered import WORKFLOWS
from gateway.observe.access import RecordWriter
from gateway.observe.log import configure
from gateway.policy.on_behalf import PURPOSE, Assertions
from gateway.settings import Settings
from gateway.store import Database, JobPayloads, StoreError
from sse.event import uuid7
from sse.ring import HistoryLimits

T = TypeVar("T")

# Between two tries to reach what is away.
RETRY_SECONDS: Final = 2.0
HEALTH_SECONDS: Final = 10.0
# Of DRAIN_SECONDS, for what is closed after the activities have ended.
LAST_SECONDS: Final = 2.0
# What requests under way get of the 5 s that a gateway gives its embedded worker to end: its other
# end is that gateway, which is ending too.
EMBEDDED_GRACE_SECONDS: Final = 2.0
LOOPBACK: Final = "127.0.0.1"
_ADMISSION: Final = "/internal/jobs/admission"


class RefusedError(Exception):
    """The worker can't work as it is set up; the text is one clear line."""


class WorkerProcess:
    """One worker. `listen`, then `run` once."""

    def __init__(
        self,
        settings: Settings,
        queues: Sequence[str] = (),
        *,
        log_fd: int = 1,
        health_seconds: float = HEALTH_SECONDS,
    ) -> None:
        """`queues`: those to work on; none: all that the settings name. `health_seconds`: between
        two looks at Temporal. Needs a running event loop. Raises SettingsError.
        """
        self._settings = settings
        self._health_seconds = health_seconds
        self._needed = needed(settings)
        tls_of(settings)  # its files are read again at each connection
        self.queues = tuple(dict.fromkeys(queues or queues_of(settings)))
        loop = asyncio.get_running_loop()
        console = settings.log_format == "console" or (
            settings.log_format == "auto" and os.isatty(log_fd)
        )
        self._writer = RecordWriter(log_fd, loop.call_later)
        self._restore_log = configure(self._writer, quiet(settings.log_level), console=console)
        self._log = structlog.get_logger("gateway.worker")
        self._state = "starting"
        self._temporal: dict[str, object] = {"state": "unhealthy", "error": "not connected"}
        self._database = Database(settings.database_url, settings.state_dir)
        self._payloads = JobPayloads(self._database, settings.temporal_namespace)
        self._converter = data_converter(self._needed.keys, self._payloads)
        self._runtime: Runtime
        self._runtime, sdk_address = sdk_runtime()
        self._metrics = WorkerMetrics(__version__, JOB_TYPES)
        self._http = GatewayHttp(
            self._needed.gateway_url,
            self._needed.token,
            Assertions(self._needed.keys.derive(PURPOSE)),
            wall=time.time,
            new_request_id=lambda: uuid7(time.time()),
            session_factory=lambda: new_session(upstream_tls_context(settings.upstream_ca)),
        )
        self._redis: RedisPublisher | None = None
        if settings.redis_url is not None:
            history = HistoryLimits(
                events=settings.history_events, seconds=settings.history_seconds
            )
            log = structlog.get_logger("gateway.backplane")
            self._redis = RedisPublisher(settings.redis_url, history, log)
        self._server = WorkerHttp(
            metrics=self._metrics,
            sdk_address=sdk_address,
            state=lambda: self._state,
            checks=self._checks,
            admin_from=settings.admin_from,
        )

    def __repr__(self) -> str:
        return f"<WorkerProcess {self._state} queues={list(self.queues)}>"

    @property
    def host(self) -> str:
        """Where it answers: an embedded one speaks to its gateway only."""
        return LOOPBACK if self._settings.embedded else self._settings.host

    async def listen(self) -> int:
        """Answer about health and figures; the port. Raises OSError."""
        try:
            port = await self._server.start(
                self.host, self._settings.worker_port, shared=self._settings.embedded
            )
        except OSError:
            await self._server.close()
            self._end_log()
            raise
        self._log.info("worker.listening", host=self.host, port=port, version=__version__)
        return port

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop; what is under way is finished, or given back, in DRAIN_SECONDS.

        Raises RefusedError for what waiting will not mend, WorkerEndedError when it ends by itself.
        """
        try:
            async with AsyncExitStack() as stack:
                stack.push_async_callback(self._server.close)
                stack.push_async_callback(self._database.close)
                stack.push_async_callback(self._http.close)
                if self._redis is not None:
                    stack.push_async_callback(self._redis.close)
                    await self._redis.start()
                await self._work(stop, stack)
        finally:
            self._state = "stopped"
            self._log.info("worker.stopped")
            self._end_log()

    async def _work(self, stop: asyncio.Event, stack: AsyncExitStack) -> None:
        await self._check_token()
        self._state = "connecting"
        client = await _unless(stop, self._ready_client())
        if client is None:
            return
        watch = asyncio.ensure_future(self._watch(client))
        stack.push_async_callback(_cancelled, watch)
        purge = PayloadPurge(self._payloads, known_to(client), self._log)
        purge.start()
        stack.push_async_callback(purge.close)
        worker = JobWorker(
            client,
            queues=self.queues,
            workflows=WORKFLOWS,
            activities=activities(self._parts(client)),
            retries=self._metrics,
            graceful_seconds=self._grace_seconds(),
        )
        self._state = "ready"
        self._log.info("worker.ready", queues=list(self.queues), namespace=client.namespace)
        told = asyncio.ensure_future(self._tell_draining(stop))
        try:
            await worker.run(stop)
        finally:
            await _cancelled(told)

    def _grace_seconds(self) -> float:
        seconds = max(0.0, self._settings.drain_seconds - LAST_SECONDS)
        return min(seconds, EMBEDDED_GRACE_SECONDS) if self._settings.embedded else seconds

    async def _tell_draining(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._state = "draining"
        self._log.info("worker.draining")

    # What it needs

    async def _ready_client(self) -> Client:
        """A client for a namespace that has what jobs need, and an open database."""
        await self._again(self._database.open, "database", (StoreError,))
        client = await self._again(self._connect, "temporal", (RuntimeError, RPCError))
        await self._again(lambda: self._prepare(client), "temporal", (RPCError,))
        self._temporal = {"state": "healthy", "error": None}
        return client

    async def _connect(self) -> Client:
        return await connect(
            self._needed.address,
            self._settings,
            self._converter,
            role="worker",
            patience_seconds=WORKER_PATIENCE_SECONDS,
            runtime=self._runtime,
        )

    async def _prepare(self, client: Client) -> None:
        try:
            await prepare(client, self._log)
        except NoNamespaceError as error:
            raise RefusedError(f"{error}, expected one that exists (TEMPORAL_NAMESPACE)") from None

    async def _again(
        self, attempt: Callable[[], Awaitable[T]], what: str, away: tuple[type[Exception], ...]
    ) -> T:
        """Try until it comes about, and say the first time that it did not."""
        said = ""
        while True:
            try:
                return await attempt()
            except away as error:
                if why(error) != said:
                    said = why(error)
                    self._log.warning("worker.waiting", what=what, error=said)
                if what == "temporal":
                    self._temporal = {"state": "unhealthy", "error": said}
            await asyncio.sleep(RETRY_SECONDS)

    async def _check_token(self) -> None:
        """Whether the gateway takes the token: one that it does not know gets 404 for the path. A
        gateway that is away may come: then the requests of jobs will find out.
        """
        try:
            answer = await self._http.own("POST", _ADMISSION, {})
        except NoAnswerError as error:
            self._log.warning("worker.gateway_away", error=str(error))
            return
        if answer.status in (401, 403, 404):
            raise RefusedError(
                "the gateway does not take SERVICE_TOKEN, expected the one that it has, or an API "
                "key or token with the scope internal (a key that was made after its start needs "
                "a SIGHUP there), and that it has TEMPORAL_ADDRESS"
            )

    async def _watch(self, client: Client) -> None:
        """How Temporal is, for the health page; polls mend themselves."""
        while True:
            await asyncio.sleep(self._health_seconds)
            error = None
            try:
                async with asyncio.timeout(HEALTH_SECONDS):
                    await client.service_client.check_health()
            except (RPCError, TimeoutError) as failure:
                error = why(failure)
            if (error is None) != (self._temporal["state"] == "healthy"):
                self._log.info("worker.temporal", healthy=error is None, error=error)
            self._temporal = {"state": "healthy" if error is None else "unhealthy", "error": error}

    def _checks(self) -> Mapping[str, Mapping[str, object]]:
        temporal = {"namespace": self._settings.temporal_namespace, "queues": list(self.queues)}
        checks: dict[str, Mapping[str, object]] = {
            "temporal": self._temporal | temporal,
            "database": self._database.state,
        }
        codec = self._converter.payload_codec
        if isinstance(codec, JobCodec) and codec.lacking:
            # The jobs under these wait for a worker that has them.
            checks["payload_keys"] = {"state": "degraded", "lacking": sorted(codec.lacking)}
        return checks if self._redis is None else checks | {"redis": self._redis.state}

    def _parts(self, client: Client) -> Parts:
        settings = self._settings
        publisher: Publisher = self._redis or HttpPublisher(self._http)
        callbacks = None
        if settings.webhook_secret:
            sender = Sender(Lookups().resolve, upstream_tls_context(settings.upstream_ca))
            callbacks = SignedCallbacks(
                settings.webhook_secret, Allowed(settings.callback_allow), sender, time.time
            )
        elif not settings.embedded:  # that one's gateway has none either, and takes no such job
            reason = "no callback of a job can be signed here: WEBHOOK_SECRET is not set"
            self._log.warning("worker.no_callbacks", reason=reason, expected="the gateway's")
        log = structlog.get_logger("gateway.jobs")
        return Parts(self._http, publisher, callbacks, client, self._metrics, log)

    def _end_log(self) -> None:
        self._writer.close()
        self._restore_log()


class SignedCallbacks:
    """Callbacks of jobs: signed, and sent where those of questions may go."""

    def __init__(
        self,
        keys: Sequence[bytes],
        allowed: Allowed,
        sender: Sender,
        wall: Callable[[], float],
    ) -> None:
        self._keys = tuple(keys)
        self._allowed = allowed
        self._sender = sender
        self._wall = wall

    def __repr__(self) -> str:
        return f"<SignedCallbacks keys={len(self._keys)} {self._allowed!r}>"

    async def send(self, url: str, message_id: str, body: bytes) -> CallbackOutcome:
        """Once (Standard Webhooks): 2xx is taken, 410 ends it, all else may be tried again."""
        try:
            to = target(url).url
        except AddressRefused as refused:
            return CallbackOutcome(f"the URL {refused}", final=True)
        headers = signed_fields(self._keys, message_id, self._wall(), body)
        headers["Content-Type"] = "application/json"
        try:
            answer = await self._sender.send(Outgoing("POST", to, headers, body, self._allowed))
        except NotSent as failure:
            return CallbackOutcome(str(failure))
        if 200 <= answer.status < 300:
            return CallbackOutcome()
        return CallbackOutcome(
            f"the receiver answered {answer.status}",
            final=answer.status == 410,
            retry_after_seconds=retry_after(answer.retry_after, self._wall()),
        )


def quiet(log_level: str) -> str:
    """`LOG_LEVEL` with the SDK's loggers kept low, unless they are named: they repeat what services
    said, and each failed try with its stack.
    """
    if "temporalio" in log_level:
        return log_level
    return f"{log_level},temporalio=warning,temporalio.activity=error,temporalio.workflow=error"


async def _unless(stop: asyncio.Event, work: Awaitable[T]) -> T | None:
    """What comes of it, unless it is time to stop first."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await _cancelled(stopped)
        await _cancelled(task)


async def _cancelled(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
