"""The job room, built from settings: Temporal as a child or somewhere else, the client that speaks
to it, and what of the door, of streams and of questions belongs to jobs.

A part of `assemble`. It begins beside a gateway that serves already: until it is there, and
whenever it is away, everything else works and jobs are answered 503. The worker is in
`assemble_worker`.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
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
from gateway.jobs.needs import missing_for_jobs, queues_of
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
    from gateway.jobs.staffing import Staffing

_OWNER_PURPOSE: Final = b"job owner"
# Takes back the question of a job that was terminated.
_WITHDRAWER: Final = Identity(subject="gateway", scopes=frozenset(("internal",)))
METRICS_SECONDS: Final = 1.0
# The families of `WorkerMetrics` about jobs; not its process's, nor the SDK's.
_OF_JOBS: Final = re.compile(rb"(?:# (?:HELP|TYPE) )?(?:workflow|activity)_").match
# Between two tries to reach a Temporal that is away.
RETRY_SECONDS: Final = 1.0
# What `connect` raises for a Temporal or settings that can't be used.
_FORESEEN: Final = (RuntimeError, SettingsError, ValueError, OSError)
_SECONDS: Final = 2  # until it is worth asking again whether Temporal is there
_SELDOM_SECONDS: Final = 60  # what only an operator can change
_OFF: Final = {
    "TEMPORAL_ADDRESS": "jobs are off: set TEMPORAL_ADDRESS to host:port of Temporal, or to "
    "embedded for one of the gateway's own",
    "PAYLOAD_KEYS": "jobs are off: set PAYLOAD_KEYS, which encrypt what they hold",
}


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
        self._missing = missing_for_jobs(settings)
        self._keys = keys
        self._embedded: Embedded | None = None
        self._jobs: Jobs | None = None
        self._terminated: Counter[str] = Counter()  # by type, of those that `_jobs` was before
        self._decisions: JobDecisionWorker | None = None
        self._staffing: Staffing | None = None
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
        if self._keys is not None:
            # The family of the workers, which count every other end.
            state.metrics.counter(
                "workflow_executions_total",
                "Jobs that ended.",
                ("workflow_type", "status"),
                self._ended_here,
            )

    def take(self, settings: Settings) -> None:
        """Go on with new settings: services, time-outs, callbacks. Temporal stays where it is."""
        self._settings = settings

    def off(self) -> JobsOff:
        """What is said while there are no jobs."""
        if self._missing is not None:
            return JobsOff(_OFF[self._missing], _SELDOM_SECONDS)
        if self._embedded is not None:
            said = (
                self._embedded.standing.said or f"Temporal is up, and not reached yet{self._away}"
            )
            return JobsOff(f"jobs are not there yet: {said}", self._embedded.retry_after)
        return JobsOff(f"jobs are not there yet: Temporal can't be reached{self._away}", _SECONDS)

    def _rejection(self) -> Rejection:
        off = self.off()
        return Rejection("SERVICE_UNAVAILABLE", off.message, off.retry_after_seconds)

    @property
    def dependencies(self) -> dict[str, dict[str, object]]:
        """The state of Temporal, for the health page; never one that stops the gateway."""
        if self._settings.temporal_address is None:
            return {}
        shown: dict[str, object] = {"state": "degraded", "detail": self.off().message}
        if self._jobs is not None:
            shown = dict(self._jobs.state)
            if self._staffing is not None and self._staffing.lacks:
                shown |= {"state": "degraded", "detail": self._staffing.lacks}
        if self._embedded is not None:
            child = self._embedded.dependency()
            states = {shown["state"], child["state"]}
            shown = shown | child | {"state": "healthy" if states == {"healthy"} else "degraded"}
        else:
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

    def _ended_here(self) -> list[tuple[tuple[str, ...], float]]:
        """Jobs that were terminated here, for the metrics."""
        counts = self._terminated + (Counter() if self._jobs is None else self._jobs.terminated)
        return [((kind, "terminated"), float(count)) for kind, count in counts.items()]

    # Its life

    def start(self, url: str) -> None:
        """Begin, beside the requests; `url` is where this gateway listens."""
        if self._keys is None:
            return
        if self._settings.temporal_address == EMBEDDED:
            self._embedded = self._children(url)
            self._embedded.start()
        self._work = asyncio.get_running_loop().create_task(self._run(self._keys))

    def _children(self, url: str) -> Embedded:
        from gateway.jobs.embedded import Embedded, EmbeddedSettings

        settings = self._settings
        told = {"GATEWAY_URL": settings.gateway_url or url}
        if settings.file is not None:
            told["GATEWAY_CONFIG"] = str(settings.file.absolute())
        own = EmbeddedSettings(settings.state_dir, settings.temporal_namespace, settings.worker)
        return Embedded(own, environ=os.environ, worker_environ=told, log=self._log)

    async def _run(self, keys: PayloadKeys) -> None:
        """Reach Temporal, however long it takes, and open the paths of jobs; anew, should another
        gateway have started it elsewhere.
        """
        # In a thread: loading the SDK on the loop would hold up every request for its time.
        await asyncio.to_thread(_load_sdk)
        from gateway.jobs.connect import why

        while True:
            address = self._settings.temporal_address or ""
            if self._embedded is not None:
                address = await self._embedded.ready()
            try:
                await self._open(address, keys)
            except Exception as error:
                # Whatever it is (files of TLS, a refusal, a Temporal that is away): it may be
                # mended, and what is logged once says what by. All callers see why; of a bug they
                # see its kind only, and the log has the rest.
                bug = None if isinstance(error, _FORESEEN) else error
                away = f" ({why(error) if bug is None else type(bug).__name__})"
                if away != self._away:
                    self._log.warning("temporal_away", error=why(error), exc_info=bug)
                self._away = away
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._away = ""
            self._log.info("temporal_connected", address=address)
            if self._embedded is None:
                return
            await self._embedded.elsewhere(address)
            await self._shut()

    def _callback_fault(self, url: str) -> str | None:
        return check_callback_url(url, Allowed(self._settings.callback_allow))

    async def _open(self, address: str, keys: PayloadKeys) -> None:
        """Raises whatever keeps Temporal from being used."""
        from gateway.jobs.client import Jobs
        from gateway.jobs.codec import data_converter
        from gateway.jobs.connect import connect
        from gateway.jobs.staffing import Staffing

        around = self._around
        payloads = JobPayloads(around.database, self._settings.temporal_namespace)
        converter = data_converter(keys, payloads)
        client = await connect(address, self._settings, converter, role="gateway")
        owners = Owners(keys.derive(_OWNER_PURPOSE))
        jobs = self._jobs = Jobs(
            client,
            owners,
            settings=lambda: self._settings,
            publish=around.publish,
            callback_fault=self._callback_fault,
            follow=around.hub.follow,
            withdraw=lambda question_id: around.questions.withdraw(_WITHDRAWER, question_id),
            log=self._log,
        )

        async def snapshot(operation_id: str) -> bytes | Rejection:
            try:
                return await jobs.snapshot(operation_id)
            except JobRefusedError as refused:
                return refused.rejection

        around.hub.job_ended = jobs.ended
        around.door.jobs = JobsDoor(owns=owners.owns, snapshot=snapshot)
        if self._state is not None:
            self._state.jobs = jobs
        self._decisions = JobDecisionWorker(
            Deliveries(around.database),
            jobs,
            wall=time.time,
            random=random.SystemRandom().random,
            log=structlog.get_logger("gateway.callbacks"),
        )
        self._decisions.start()
        self._staffing = Staffing(client, lambda: queues_of(self._settings), time.time)
        self._staffing.start()

    async def _shut(self) -> None:
        """The other way round; what runs goes on in the workers, or after the restart."""
        self._around.door.jobs = None
        self._around.hub.job_ended = lambda _operation_id, _data: None
        if self._state is not None:
            self._state.jobs = None
        jobs, self._jobs = self._jobs, None
        decisions, self._decisions = self._decisions, None
        staffing, self._staffing = self._staffing, None
        if staffing is not None:
            await staffing.close()
        if decisions is not None:
            await decisions.close()
        if jobs is not None:
            self._terminated.update(jobs.terminated)
            jobs.drain()
            await jobs.close()

    def wake(self) -> None:
        """A question was decided: it may be a job's."""
        if self._decisions is not None:
            self._decisions.wake()

    async def rest(self) -> None:
        """Have the gateway's own worker end, while the gateway still answers it: what its jobs
        are in the middle of would fail else, and be tried again.
        """
        if self._embedded is not None:
            await self._embedded.rest()

    def drain(self) -> None:
        """Let go who waits for a job."""
        if self._jobs is not None:
            self._jobs.drain()

    async def close(self) -> None:
        """End."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        await self._shut()
        if self._http is not None:
            await self._http.close()
        if self._embedded is not None:
            await self._embedded.close()


def _load_sdk() -> None:
    """What `_open` loads: half a second."""
    import gateway.jobs.client
    import gateway.jobs.codec
    import gateway.jobs.connect
    import gateway.jobs.staffing  # noqa: F401


def job_keys(settings: Settings) -> PayloadKeys | None:
    """The keys that jobs need; None: jobs are off. Raises SettingsError for a file of keys that
    can't be used.
    """
    return PayloadKeys(settings) if missing_for_jobs(settings) is None else None


def worker_token(settings: Settings, keys: PayloadKeys | None) -> str | None:
    """What workers show this gateway."""
    return None if keys is None else service_token(settings, keys)
