"""How a job stands: the status body of the contract, put together from what is known of the job.
Pure.

A job's own workflow knows most (its tracker); Temporal knows whether it still runs, and how it
ended where the workflow had no say. Where both speak of the end, who ended the job wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

PATH: Final = "/api/v1/workflows"
STATUSES: Final = (
    "pending",
    "running",
    "waiting",
    "completed",
    "failed",
    "cancelled",
    "terminated",
    "timed_out",
)
OPEN: Final = frozenset(STATUSES[:3])
MEMBERS: Final = (
    "operation_id",
    "workflow_type",
    "status",
    "progress",
    "current_step",
    "steps",
    "question",
    "attempts",
    "result",
    "error",
    "started_at",
    "updated_at",
    "ended_at",
)
# Members of an end's event that say where a part stands which was too large for it.
_LEFT_OUT: Final = ("result_url", "status_url")


@dataclass(frozen=True, slots=True)
class Facts:
    """What Temporal knows of a job. `status` is open, or how it closed; `state` is what lists find
    it by: pending, running, waiting, and timed_out where the job's own time was over.
    """

    operation_id: str
    workflow_type: str
    status: str
    state: str | None
    started: datetime
    closed: datetime | None

    @property
    def shown(self) -> str:
        """The status of the contract, as far as Temporal can tell."""
        if self.status == "open":
            return self.state if self.state in OPEN else "running"
        timed_out = self.status == "failed" and self.state == "timed_out"
        return "timed_out" if timed_out else self.status


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a closed job ended, by its history: its result, or the error of the status body."""

    result: Any = None
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A status body: `data` is its JSON, `status` one of STATUSES. `whole` is false where parts are
    left out, as an event had no room for them.
    """

    operation_id: str
    status: str
    data: bytes
    whole: bool = True

    @classmethod
    def of(cls, body: Mapping[str, Any], *, whole: bool = True) -> JobStatus:
        """Of a body that has all members."""
        return cls(body["operation_id"], body["status"], orjson.dumps(body), whole)

    @property
    def ended(self) -> bool:
        """Whether nothing changes any more."""
        return self.status not in OPEN

    @property
    def body(self) -> dict[str, Any]:
        """Its members."""
        members: dict[str, Any] = orjson.loads(self.data)
        return members


def links(operation_id: str) -> dict[str, str]:
    """What a 202 tells of a job: its id, and where to look."""
    at = f"{PATH}/{operation_id}"
    return {
        "operation_id": operation_id,
        "status_url": f"{at}/status",
        "stream_url": f"{at}/stream",
        "result_url": f"{at}/result",
    }


def of_event(operation_id: str, data: bytes) -> JobStatus | None:
    """The status that the event of a job's end tells; None where it tells none."""
    try:
        told = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(told, dict) or told.get("operation_id") != operation_id:
        return None
    if told.get("status") not in STATUSES or told["status"] in OPEN:
        return None
    whole = not any(name in told for name in _LEFT_OUT)
    return JobStatus.of({name: told.get(name) for name in MEMBERS}, whole=whole)


def has_told_end(facts: Facts, told: Mapping[str, Any] | None) -> bool:
    """Whether the tracker has told the end that Temporal knows of: time-outs it knows better."""
    if told is None:
        return False
    status = told.get("status")
    return status == facts.shown or (status == "timed_out" and facts.status == "failed")


def together(facts: Facts, told: Mapping[str, Any] | None, outcome: Outcome | None) -> JobStatus:
    """The status: what the job's tracker told (None: no worker answered), what Temporal knows, and
    how a closed job ended (None: the tracker `has_told_end`).
    """
    body = dict.fromkeys(MEMBERS) | _first(facts)
    if told is not None:
        body |= {name: told[name] for name in MEMBERS if told.get(name) is not None}
    if facts.closed is not None and not has_told_end(facts, told):
        ended = outcome or Outcome()
        moment = _moment(facts.closed)
        body |= {
            "status": facts.shown,
            "current_step": None,
            "question": None,
            "result": ended.result,
            "error": ended.error or _error_of(facts),
            "updated_at": moment,
            "ended_at": moment,
        }
        if facts.shown == "completed":
            body["progress"] = 1.0
    return JobStatus.of(body)


def terminated(before: JobStatus, now: datetime) -> JobStatus:
    """The status of a job that was ended from outside, without its having a say."""
    moment = _moment(now)
    return JobStatus.of(
        before.body
        | {
            "status": "terminated",
            "current_step": None,
            "question": None,
            "result": None,
            "error": _said("TERMINATED"),
            "updated_at": moment,
            "ended_at": moment,
        }
    )


def summary(facts: Facts) -> dict[str, Any]:
    """A job in a list."""
    return {
        "operation_id": facts.operation_id,
        "workflow_type": facts.workflow_type,
        "status": facts.shown,
        "started_at": _moment(facts.started),
        "ended_at": None if facts.closed is None else _moment(facts.closed),
        "status_url": f"{PATH}/{facts.operation_id}/status",
    }


def error_of(code: str, message: str, details: Any) -> dict[str, Any]:
    """The error of a status body out of what a job's failure holds: `details` is what jobs raise
    (`error`, and what was reached and undone), or anything else.
    """
    known: Mapping[str, Any] = details if isinstance(details, dict) else {}
    error = known.get("error")
    found: Mapping[str, Any] = error if isinstance(error, dict) else {}
    left = {name: value for name, value in known.items() if name != "error" and value}
    return {
        "code": found.get("code") or code,
        "message": found.get("message") or message,
        "step": found.get("step"),
        "status": found.get("status"),
        "retry_after": found.get("retry_after"),
        "details": left or None,
    }


def cut(body: Mapping[str, Any], most_bytes: int) -> dict[str, Any]:
    """A status body that fits into an event; where large parts stand that are left out is said."""
    fitting = dict(body)
    at = f"{PATH}/{body['operation_id']}"
    for name, url in (("result", "result"), ("error", "status"), ("steps", "status")):
        if len(orjson.dumps(fitting)) <= most_bytes:
            break
        fitting[name] = None
        fitting[f"{url}_url"] = f"{at}/{url}"
    return fitting


def _first(facts: Facts) -> dict[str, Any]:
    started = _moment(facts.started)
    return {
        "operation_id": facts.operation_id,
        "workflow_type": facts.workflow_type,
        "status": facts.shown,
        "started_at": started,
        "updated_at": started,
    }


def _error_of(facts: Facts) -> dict[str, Any] | None:
    code = {"cancelled": "CANCELLED", "terminated": "TERMINATED", "timed_out": "TIMED_OUT"}
    return _said(code[facts.shown]) if facts.shown in code else None


def _said(code: str) -> dict[str, Any]:
    messages = {
        "CANCELLED": "the job was cancelled",
        "TERMINATED": "the job was terminated: nothing was undone",
        "TIMED_OUT": "the job took longer than it may",
    }
    return error_of(code, messages[code], None)


def _moment(at: datetime) -> str:
    """RFC 3339, UTC, milliseconds."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
