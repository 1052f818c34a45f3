"""The streams of jobs at the door: `GET …/workflows/{operation_id}/stream`.

Such a stream is one of the hub, of the client id `job:{operation_id}`; here is what it has beside
the others: who may read a job, the status that it begins with (`sse.prefaces`), and its end. The
history is followed before the status is read, so nothing falls between the two.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.edge.answer import answer
from gateway.edge.durable import READERS
from gateway.edge.events import JobsDoor, JobsRefusedError
from gateway.edge.identifying import nobodys
from gateway.edge.streaming import STREAM_FIELDS, StreamRequest, names_events
from gateway.errors import Rejection
from gateway.policy.auth import Identity, forbidden, unauthorized
from sse.event import JOB_PREFIX, is_client_id
from sse.prefaces import Preface

# The paths that the door answers so, by the names that the control application has for them.
JOB_STREAM_ROUTES: Final = (
    "/api/v1/workflows/{operation_id}/stream",
    "/api/workflows/{operation_id}/stream",
)


class JobStreamRequest(StreamRequest):
    """A GET or HEAD of a job's stream."""

    __slots__ = ()

    def _read_client_id(self) -> str | Rejection:
        """An id that no job can have is as unknown as any other."""
        segment = self._exchange.path.split(b"/")[-2]
        client_id = JOB_PREFIX + unquote_to_bytes(segment).decode("latin-1")
        return client_id if is_client_id(client_id) else no_such_job()

    @property
    def _operation_id(self) -> str:
        return self._client_id.removeprefix(JOB_PREFIX)

    def _new_cookie(self, identity: Identity) -> bytes | None:
        exchange = self._exchange
        return self._door.grants.set_cookie(
            identity,
            self._client_id,
            exchange.started_wall,
            secure=exchange.client.peer.scheme == "https",
            path=exchange.path.decode("ascii"),
        )

    def _refusal(self, identity: Identity | None) -> Rejection | None:
        """Before anyone is asked about the job: whose it is stands in its id."""
        return refusal(identity, self._operation_id, self._door.jobs)

    def _admit(self, identity: Identity) -> None:
        if self._door.jobs is None:
            self._turn_down(self._door.jobs_off())
        elif self._preface is None and not self._is_full():
            exchange = self._exchange
            failed = Rejection("INTERNAL_ERROR", "the gateway failed; it is logged")
            self._door.wait_for(self._look(identity), lambda: exchange.reject(failed))
        else:
            super()._admit(identity)

    async def _look(self, identity: Identity) -> None:
        """Find out where the job is, then open the stream, or say that it is over."""
        exchange, door = self._exchange, self._door
        with door.hub.follow(self._client_id) as follower:
            await follower.known
            found: Preface | Rejection
            try:
                found = await door.prefaces.of(self._operation_id)
            except JobsRefusedError as refused:
                found = refused.rejection
            if exchange.finished:
                return  # the client left meanwhile
            if isinstance(found, Rejection):
                self._turn_down(found)
                return
            self._preface = found
            ring = door.hub.channels.get(self._client_id).ring
            if found.is_done(ring, self._last_event_id):
                # An EventSource comes back after the end; this, and no error, stops it for good.
                answer(exchange, 204, list(STREAM_FIELDS[1:]), None)
            else:
                self._admit(identity)

    def _turn_down(self, rejection: Rejection) -> None:
        """Who was here before and comes back too early is told to come again, later: an error would
        stop an EventSource for ever.
        """
        later = rejection.retry_after_seconds is not None and self._last_event_id is not None
        if later and names_events(self._exchange):
            self._turn_away([*STREAM_FIELDS], "unavailable")
        else:
            self._exchange.reject(rejection)


def refusal(
    identity: Identity | None, operation_id: str, jobs: JobsDoor | None
) -> Rejection | None:
    """Why a caller may not read a job, by its id alone.

    A job of another tenant reads like none. A grant or token for the one client id will do.
    """
    if identity is None or (identity.subject is None and not identity.open_read):
        return unauthorized("a job's stream needs a token, an API key, a cookie or a ticket")
    if JOB_PREFIX + operation_id in identity.client_ids:
        return None
    nameless = nobodys(identity)
    if nameless is not None:
        return nameless
    if not identity.open_read and not identity.may(*READERS):
        return forbidden("this credential may not read jobs", " ".join(READERS))
    if jobs is not None and not jobs.owns(identity, operation_id):
        return no_such_job()
    return None


def no_such_job() -> Rejection:
    """Of an id that nobody has, and of one that is another's: both read the same."""
    return Rejection("NOT_FOUND", "There is no job of this id, or it is none of yours.")
