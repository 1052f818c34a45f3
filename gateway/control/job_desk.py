"""What the paths of jobs ask of the running gateway; where there is Temporal `jobs/client` answers.

All raise `gateway.jobs.refusals.JobRefusedError`, with the gateway's error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from gateway.jobs.starting import NewJob, Started
from gateway.jobs.status import JobStatus
from gateway.jobs.types import JobType
from gateway.policy.identity import Identity

_OFF_SECONDS: Final = 60  # somebody has to set something, and start again


@dataclass(frozen=True, slots=True)
class JobsOff:
    """Why there are no jobs now: what to do about it, and when to ask again."""

    message: str
    retry_after_seconds: int


NOT_SET: Final = JobsOff(
    "Jobs are off: this gateway knows no Temporal. Set TEMPORAL_ADDRESS (host:port, with"
    " PAYLOAD_KEYS; or embedded, as ./start.sh does) and start it again.",
    _OFF_SECONDS,
)


class JobDesk(Protocol):
    """Jobs of the callers that it is asked for. A job of another owner does not exist."""

    async def read(self, kind: JobType, body: bytes, caller: Identity) -> Any:
        """The input of a job in a request's body."""

    async def start(self, job: NewJob) -> Started:
        """Start a job, or find the one that was started with the same key."""

    def owns(self, caller: Identity, operation_id: str) -> bool:
        """Whether a job of this id would be the caller's."""

    async def status(self, caller: Identity, operation_id: str) -> JobStatus:
        """How a job stands."""

    async def wait(self, caller: Identity, operation_id: str, seconds: float) -> JobStatus | None:
        """The status when it is over; None: it still runs. Raises NoPlaceError."""

    async def page(
        self,
        caller: Identity,
        status: str | None,
        kind: str | None,
        page_size: int,
        page_token: str | None,
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Jobs of the caller, and the token of the next page."""

    async def history(self, caller: Identity, operation_id: str) -> dict[str, Any]:
        """What happened in a job."""

    async def cancel(self, caller: Identity, operation_id: str) -> None:
        """Ask it to end, and to undo what it did."""

    async def terminate(self, caller: Identity, operation_id: str) -> JobStatus:
        """End it at once."""

    async def signal(
        self, caller: Identity, operation_id: str, name: str, args: Sequence[Any]
    ) -> None:
        """Tell it something."""

    async def update(
        self,
        caller: Identity,
        operation_id: str,
        name: str,
        args: Sequence[Any],
        update_id: str | None,
    ) -> Any:
        """Have it do something and answer."""
