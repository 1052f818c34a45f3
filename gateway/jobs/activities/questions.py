"""The activities by which a job asks people: through the questions of the gateway, whose store
alone decides who answered first. All may be repeated: the question's id is the workflow's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

from temporalio import activity

from gateway.jobs import failures
from gateway.jobs.activities.failing import beating, failed
from gateway.jobs.activity_models import AskInput, Decision
from gateway.jobs.failures import KINDS
from gateway.jobs.gateway_http import GatewayHttp, NoAnswerError, OwnAnswer, refusal_of
from gateway.jobs.models import JobError

_PATH: Final = "/api/v1/questions"
_GONE: Final = frozenset((404, 410))


class Asking:
    """The activities."""

    def __init__(self, http: GatewayHttp) -> None:
        self._http = http

    def all(self) -> list[Callable[..., Any]]:
        """The activities, to be registered."""
        return [self.ask_question, self.read_question, self.withdraw_question]

    @activity.defn(name="ask_question")
    async def ask_question(self, asked: AskInput) -> Decision:
        """Ask, in the name of the job's caller. The same again is the same question."""
        subject = asked.context.caller.subject or None
        body = {name: value for name, value in asked.body.items() if value is not None}
        if "default" in asked.body:
            body["default"] = asked.body["default"]  # null is an answer
        body |= {
            "question_id": asked.question_id,
            "job": asked.context.operation_id,
            "run_id": asked.context.operation_id,
            "node_id": asked.step,
        }
        if subject is not None:
            body["asked_by"] = subject
        answer = await self._asked(asked, "POST", _PATH, body)
        if answer.status not in (200, 201):
            raise _refused(answer, asked.step)
        return _decision(asked.question_id, answer.value)

    @activity.defn(name="read_question")
    async def read_question(self, asked: AskInput) -> Decision:
        """How the question stands. One that is forgotten counts as withdrawn."""
        answer = await self._asked(asked, "GET", _path(asked))
        if answer.status in _GONE:
            return Decision(asked.question_id, "withdrawn")
        if answer.status != 200:
            raise _refused(answer, asked.step)
        return _decision(asked.question_id, answer.value)

    @activity.defn(name="withdraw_question")
    async def withdraw_question(self, asked: AskInput) -> Decision:
        """Withdraw it, or find out that it was decided before."""
        answer = await self._asked(asked, "DELETE", _path(asked))
        if answer.status == 200:
            return _decision(asked.question_id, answer.value)
        if answer.status == 409 or answer.status in _GONE:
            return await self.read_question(asked)
        raise _refused(answer, asked.step)

    async def _asked(
        self, asked: AskInput, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> OwnAnswer:
        try:
            async with beating():
                return await self._http.own(method, path, body)
        except NoAnswerError as failure:
            kind = KINDS[failure.kind]
            error = JobError(kind.code, str(failure), step=asked.step, retryable=kind.retryable)
            raise failed(kind, error, endless=True) from None


def _path(asked: AskInput) -> str:
    return f"{_PATH}/{quote(asked.question_id, safe='')}"


def _refused(answer: OwnAnswer, step: str) -> Exception:
    error = refusal_of(answer)
    error.step = step
    return failed(failures.kind_of_code(error.code, answer.status), error, endless=True)


def _decision(question_id: str, value: Any) -> Decision:
    """A question as the gateway shows it: what was decided is in `answer`, or beside it."""
    shown = value if isinstance(value, Mapping) else {}
    answer = shown.get("answer")
    told = answer if isinstance(answer, Mapping) else shown
    return Decision(
        question_id,
        str(shown.get("status", "open")),
        told.get("response"),
        told.get("answered_by"),
        told.get("answered_at"),
        shown.get("expires_at"),
    )
