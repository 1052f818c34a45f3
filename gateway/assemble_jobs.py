"""The job room, built from settings: Temporal as a child or somewhere else, the client that speaks
to it, and what of the door, of streams and of questions belongs to jobs.

A part of `assemble`. It begins beside a gateway that serves already: until it is there, and
whenever it is away, everything else works and jobs are answered 503. The worker is in
`assemble_worker`.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import ClientError, ClientSession, ClientTimeout

from gateway.callbacks import Allowed, JobDecisionWorker, check_callback_url
from gateway.control.job_desk import JobsOff
from gateway.control.state import ControlState
from gateway.edge import job_admission
from gateway.edge.context import EdgeContext
from gateway.edge.events import EventsDoor, JobsDoor
from gateway.errors import Rejection
from gateway.jobs.needs import missing_for_jobs
from gateway.jobs.owners import Owners
from gateway.jobs.refusals import JobRefusedError
from gateway.policy.identity import Identity
from gateway.policy.on_behalf import PURPOSE, Assertions
from gateway.policy.payload_keys import PayloadKeys, service_token
from gateway.settings import Settings, SettingsError
from gateway.settings_jobs import EMBEDDED
from gateway.store import Database, Deliveries, JobPayloads
from sse.event import NewEvent, Published
from sse.hub import Hub
from sse.questions import Questions

if TYPE_CHECKING:
    from gateway.jobs.client import Jobs
    from gateway.jobs.embedded import Embedded

_OWNER_PURPOSE: Final = b"job owner"
# Takes back the question of a job that was terminated.
_WITHDRAWER: Final = Identity(subject="gateway", scopes=frozenset(("internal",)))
METRICS_SECONDS: Final = 1.0
_OF_JOBS: Final = re.compile(
    rb"(?:# (?:HELP|TYPE) )?(?:workflow_executions|workflow_duration_seconds|activity_retries)[_ {]"
).match
# Between two tries to reach a Temporal that is away.
RETRY_SECONDS: Final = 1.0
_UNSET: Final = (
    "jobs are off: set TEMPORAL_ADDRESS to host:port of Temporal, or to embedded for one of the "
    "gateway's own"
)
_NO_KEYS: Final = "jobs are off: set PAYLOAD_KEYS, which encrypt what they hold"
_SELDOM_SECONDS: Final = 60  # what only an operator can change


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The parts of the gateway that jobs touch."""

    hub: Hub
    door: EventsDoor
    publish: Callable[[str, Sequence[NewEvent]], Awaitable[Published]]
    database: Database
    questions: Questions


class JobRoom:
    """Jobs of one gateway. `start` once it listens, `drain`, then `close`."""

    def __init__(self, settings: Settings, keys: PayloadKeys | None, around: Surroundings) -> None:
        """`keys` as `job_keys` gives them. Temporal's SDK is not loaded here: that takes half a
        second, which `start` spends beside the requests.
        """
        self._settings = settings
        self._around = around
        self._log = structlog.get_logger("gateway.jobs")
        self._wanted = settings.temporal_address is not None
        self._keys = keys
        self._embedded: Embedded | None = None
        self._jobs: Jobs | None = None
        self._decisions: JobDecisionWorker | None = None
        self._state: ControlState | None = None
        self._away = ""
        self._http: ClientSession | None = None  # to an embedded worker
        self._work: asyncio.Task[None] | None = None
        around.door.jobs_off = self._rejection

    def __repr__(self) -> str:
        return f"<JobRoom {self._embedded!r} {self._jobs!r}>"

    def attach(self, context: EdgeContext) -> None:
        """Let the door know."""
        context.jobs_on = self._keys is not None
        if self._keys is not None:
            context.assertions = Assertions(self._keys.derive(PURPOSE))
            job_admission.attach(context)

    def attend(self, state: ControlState) -> None:
        """Let the control application know."""
        self._state = state
        state.jobs_off = self.off
        state.worker_metrics = self.worker_metrics

    def take(self, settings: Settings) -> None:
        """Go on with new settings: services, time-outs, callbacks. Temporal stays where it is."""
        self._settings = settings

    def off(self) -> JobsOff:
        """What is said while there are no jobs."""
        if not self._wanted:
            return JobsOff(_UNSET, _SELDOM_SECONDS)
        if self._keys is None:
            return JobsOff(_NO_KEYS, _SELDOM_SECONDS)
        if self._embedded is not None:
            standing = self._embedded.standing
            said = f" ({standing.detail})" if standing.detail else ""
            return JobsOff(
                f"jobs are not there yet: Temporal is {standing.phase.value}{said}",
                self._embedded.retry_after,
            )
        return JobsOff(f"jobs are not there yet: Temporal can't be reached{self._away}", 2)

    def _rejection(self) -> Rejection:
        off = self.off()
        return Rejection("SERVICE_UNAVAILABLE", off.message, off.retry_after_seconds)

    @property
    def dependencies(self) -> dict[str, dict[str, object]]:
        """The state of Temporal, for the health page; never one that stops the gateway."""
        if not self._wanted:
            return {}
        shown: dict[str, object] = {"state": "degraded", "detail": self.off().message}
        if self._jobs is not None:
            shown = dict(self._jobs.state)
        if self._embedded is not None:
            child = self._embedded.dependency()
            states = {shown["state"], child["state"]}
            shown = shown | child | {"state": "healthy" if states == {"healthy"} else "degraded"}
        elif self._settings.temporal_address is not None:
            shown["address"] = self._settings.temporal_address
        return {"temporal": shown}

    async def worker_metrics(self) -> bytes:
        """What the worker that is this gateway's own counts, so that one scrape tells all; empty
        without one, or when it does not answer at once.
        """
        port = None if self._embedded is None else self._embedded.worker_port
        if port is None:
            return b""
        if self._http is None:
            self._http = ClientSession(timeout=ClientTimeout(total=METRICS_SECONDS))
        try:
            async with self._http.get(f"http://127.0.0.1:{port}/metrics") as answer:
                text = await answer.read()
        except (ClientError, TimeoutError):
            return b""
        return b"".join(line for line in text.splitlines(keepends=True) if _OF_JOBS(line))

    # Its life

    def start(self, url: str) -> None:
        """Begin, beside the requests; `url` is where this gateway listens."""
        if self._keys is None:
            return
        if self._settings.temporal_address == EMBEDDED:
            self._embedded = self._children(url)
            self._embedded.start()
        self._work = asyncio.get_running_loop().create_task(self._begin(self._keys))

    def _children(self, url: str) -> Embedded:
        from gateway.jobs.embedded import Embedded, EmbeddedSettings

        settings = self._settings
        told = {"GATEWAY_URL": settings.gateway_url or url}
        if settings.file is not None:
            told["GATEWAY_CONFIG"] = str(settings.file.absolute())
        own = EmbeddedSettings(settings.state_dir, settings.temporal_namespace, settings.worker)
        return Embedded(own, environ=os.environ, worker_environ=told, log=self._log)

    async def _begin(self, keys: PayloadKeys) -> None:
        """Reach Temporal, however long it takes, and open the paths of jobs."""
        address = self._settings.temporal_address or ""
        if self._embedded is not None:
            address = await self._embedded.ready()
        # In a thread: loading the SDK on the loop would hold up every request for its time.
        module = await asyncio.to_thread(importlib.import_module, "gateway.jobs.client")
        connecting = await asyncio.to_thread(importlib.import_module, "gateway.jobs.connect")
        coding = await asyncio.to_thread(importlib.import_module, "gateway.jobs.codec")
        converter = coding.data_converter(
            keys, JobPayloads(self._around.database, self._settings.temporal_namespace)
        )
        while True:
            try:
                client = await connecting.connect(
                    address, self._settings, converter, role="gateway"
                )
                break
            except (RuntimeError, SettingsError, ValueError) as error:
                if not self._away:
                    self._log.warning("temporal_away", error=connecting.why(error))
                self._away = f" ({connecting.why(error)})"
                await asyncio.sleep(RETRY_SECONDS)
        self._log.info("temporal_connected", address=address)
        owners = Owners(keys.derive(_OWNER_PURPOSE))
        around = self._around
        jobs: Jobs = module.Jobs(
            client,
            owners,
            settings=lambda: self._settings,
            publish=around.publish,
            callback_fault=self._callback_fault,
            follow=around.hub.follow,
            withdraw=lambda question_id: around.questions.withdraw(_WITHDRAWER, question_id),
            log=self._log,
        )
        self._open(jobs, owners)

    def _callback_fault(self, url: str) -> str | None:
        return check_callback_url(url, Allowed(self._settings.callback_allow))

    def _open(self, jobs: Jobs, owners: Owners) -> None:
        around = self._around

        async def snapshot(operation_id: str) -> bytes | Rejection:
            try:
                return await jobs.snapshot(operation_id)
            except JobRefusedError as refused:
                return refused.rejection

        self._jobs = jobs
        around.hub.job_ended = jobs.ended
        around.door.jobs = JobsDoor(owns=owners.owns, snapshot=snapshot)
        if self._state is not None:
            self._state.jobs = jobs
            # The family of the workers, which count every other end.
            self._state.metrics.counter(
                "workflow_executions_total",
                "Jobs that ended.",
                ("workflow_type", "status"),
                lambda: [((kind, "terminated"), n) for kind, n in jobs.terminated.items()],
            )
        self._decisions = JobDecisionWorker(
            Deliveries(around.database),
            jobs,
            wall=time.time,
            random=random.SystemRandom().random,
            log=structlog.get_logger("gateway.callbacks"),
        )
        self._decisions.start()

    def wake(self) -> None:
        """A question was decided: it may be a job's."""
        if self._decisions is not None:
            self._decisions.wake()

    def drain(self) -> None:
        """Let go who waits for a job."""
        if self._jobs is not None:
            self._jobs.drain()

    async def close(self) -> None:
        """End; what runs goes on in other workers, or after the restart."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        if self._decisions is not None:
            await self._decisions.close()
        if self._jobs is not None:
            await self._jobs.close()
        if self._http is not None:
            await self._http.close()
        if self._embedded is not None:
            await self._embedded.close()


def job_keys(settings: Settings) -> PayloadKeys | None:
    """The keys that jobs need; None: jobs are off. Raises SettingsError for a file of keys that
    can't be used.
    """
    return PayloadKeys(settings) if missing_for_jobs(settings) is None else None


def worker_token(settings: Settings, keys: PayloadKeys | None) -> str | None:
    """What workers show this gateway."""
    return None if keys is None else service_token(settings, keys)


def listener_url(settings: Settings, host: str, port: int) -> str:
    """Where a worker on this machine reaches this gateway."""
    here: Mapping[str, str] = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - all addresses are also this one
    host = here.get(host, host)
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
