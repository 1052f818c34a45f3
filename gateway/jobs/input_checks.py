"""What no JSON Schema can say of a job's input: its services, fields, rules and questions, the
address of a callback, and how its steps hang together. Nothing is looked up anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import orjson

from gateway.jobs import graph, processes, references
from gateway.jobs import models as m
from sse.answer_schema import AnswerSchemas, BadSchema
from sse.event import Refused, is_client_id, is_job_stream
from sse.question_body import MAX_METADATA_BYTES, QuestionReader
from sse.schema_words import sentence

Fault = tuple[str, str]

# Fields that no job holds: set by the gateway or its worker, or not for a service; `_` is `-`, as
# for the door.
NOT_HELD: Final = frozenset(
    (
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "idempotency-key",
        "keep-alive",
        "prefer",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-api-key",
        "x-correlation-id",
        "x-on-behalf-of",
        "x-request-id",
        "x-tenant-id",
        "x-user-id",
        "x-user-tier",
    )
)
NOT_HELD_STARTS: Final = ("x-forwarded-", "x-gateway-", "proxy-")
# What an answer's template may look into.
_ANSWER: Final = frozenset(("status", "headers", "body"))
_SECONDS_NOW: Final = (
    1_800_000_000_000_000  # some time, in microseconds: expiry is checked relative
)
_REFERRING: Final = "${"


class Registered(NamedTuple):
    """A registered service: its own name, and the path that its requests begin with at the gateway
    (empty: it is reached by rows only).
    """

    name: str
    base: str


class InputChecks:
    """Checks inputs. `services` are those registered now, by every name that they answer to, with
    `_` for `-`; `callback_fault` says what is wrong with an address to call, or None.
    """

    def __init__(
        self,
        services: Callable[[], Mapping[str, Registered]],
        callback_fault: Callable[[str], str | None],
    ) -> None:
        self._services = services
        self._callback_fault = callback_fault
        self._schemas = AnswerSchemas()
        self._questions = QuestionReader(self._schemas, lambda: "question", callbacks=False)

    def faults(self, given: Any, asked_by: str | None) -> Iterator[Fault]:
        """(JSON pointer, message) pairs. Sets each request's service to the service's own name;
        `asked_by` is whose questions a job asks, and who is asked where it does not say.
        """
        services = self._services()
        for at, request in requests_of(given):
            yield from _request(request, at, services)
        for at, rules in _rules_of(given):
            yield from self._rules(rules, at)
        if isinstance(given, m.OrchestrationInput):
            yield from _told(graph.faults(given))
        elif isinstance(given, m.ApiRequestInput):
            yield from _transform(given.transform)
        elif isinstance(given, m.AsyncRequestInput):
            yield from self._callback(given.callback_url)
            if given.client_id is not None and is_job_stream(given.client_id):
                yield "/client_id", "Is the stream of a job, which is told of that job only."
            # It goes with callbacks, which outlive what is kept for a job by reference.
            if len(orjson.dumps(given.metadata)) > MAX_METADATA_BYTES:
                yield "/metadata", f"At most {MAX_METADATA_BYTES} bytes as compact JSON."
        else:
            yield from _told(processes.flaws_of(given))
        if isinstance(given, m.BusinessProcessInput):
            for index, step in enumerate(given.steps):
                if step.ask is not None:
                    yield from self._ask(step.ask, asked_by, f"/steps/{index}/ask")

    def _rules(self, rules: list[m.ResultRule], at: str) -> Iterator[Fault]:
        for index, rule in enumerate(rules):
            try:
                self._schemas.read(rule.schema)
            except BadSchema as bad:
                yield from ((f"{at}/rules/{index}/schema{where}", why) for where, why in bad.faults)

    def _callback(self, url: str | None) -> Iterator[Fault]:
        fault = None if url is None else self._callback_fault(url)
        if fault is not None:
            yield "/callback_url", fault

    def _ask(self, ask: m.Ask, asked_by: str | None, at: str) -> Iterator[Fault]:
        """By the rules of questions, references standing for something that is good."""
        if not ask.client_ids:
            if asked_by is None or not is_client_id(asked_by):
                yield f"{at}/client_ids", "Whom is it shown to? Name at least one client id."
                return
            ask.client_ids = [asked_by]
        try:
            self._questions.read(_plain(ask), asked_by, _SECONDS_NOW)
        except Refused as refused:
            told = refused.details or (("", refused.message),)
            yield from ((f"{at}{where}", why) for where, why in told)


def _request(
    request: m.ServiceRequest | m.Step, at: str, services: Mapping[str, Registered]
) -> Iterator[Fault]:
    known = services.get(request.service.lower().replace("-", "_"))
    if known is None:
        names = ", ".join(sorted({each.name for each in services.values()})[:20])
        registered = f"there are: {names}" if names else "none is"
        yield f"{at}/service", f"No service of this name is registered; {registered}."
    else:
        request.service = known.name
    if references.path_climbs(request.path):
        yield f"{at}/path", "A path has no segment that is . or .."
    elif isinstance(request, m.ApiRequestInput | m.AsyncRequestInput) and (
        _REFERRING in request.path
    ):
        # Else it would hide what else stands in it from the checks: dots, blanks, a query.
        yield f"{at}/path", "Nothing is put in for references here: percent-encode $, { and }."
    for name in request.headers:
        plain = name.lower().replace("_", "-")
        if plain in NOT_HELD or plain.startswith(NOT_HELD_STARTS):
            where = f"{at}/headers/{references.escaped(name)}"
            yield where, "Is set by the gateway, or no field that a job may hold."
    if isinstance(request, m.ServiceRequest) and None not in (
        request.body,
        request.body_base64,
    ):
        yield f"{at}/body_base64", "Stands beside body: give one of both."


def _told(faults: Iterable[Fault]) -> Iterator[Fault]:
    """What the worker says within an error's text, as sentences of their own."""
    return ((at, sentence(clause)) for at, clause in faults)


def requests_of(given: Any) -> Iterator[tuple[str, Any]]:
    """Every request that stands in an input, with its JSON pointer."""
    if isinstance(given, m.OrchestrationInput):
        for index, step in enumerate(given.steps):
            yield f"/steps/{index}", step
            yield from _undoing(step, f"/steps/{index}")
    elif isinstance(given, m.BusinessProcessInput):
        for index, each in enumerate(given.steps):
            if each.request is not None:
                yield f"/steps/{index}/request", each.request
            yield from _undoing(each, f"/steps/{index}")
    elif isinstance(given, m.TenantSwitchInput):
        yield "/validate", given.validate
        for index, switch in enumerate(given.services):
            yield f"/services/{index}/request", switch.request
            yield from _undoing(switch, f"/services/{index}")
    elif isinstance(given, m.ErrorRecoveryInput):
        yield "/request", given.request
        if given.fallback is not None and given.fallback.request is not None:
            yield "/fallback/request", given.fallback.request
    else:
        yield "", given


def _undoing(step: Any, at: str) -> Iterator[tuple[str, m.ServiceRequest]]:
    if step.compensation is not None:
        yield f"{at}/compensation", step.compensation


def _rules_of(given: Any) -> Iterator[tuple[str, list[m.ResultRule]]]:
    if isinstance(given, m.OrchestrationInput | m.BusinessProcessInput):
        steps: list[Any] = [*given.steps]
        for index, step in enumerate(steps):
            yield f"/steps/{index}", step.rules


def _transform(template: Any) -> Iterator[Fault]:
    try:
        found = list(references.references(template, "/transform"))
    except references.BadTemplateError as error:
        yield from _told([(error.pointer, error.message)])
        return
    for each in found:
        if each.root is not None and each.root not in _ANSWER:
            yield each.at, f"An answer has {', '.join(sorted(_ANSWER))}, and no {each.root}."


def _plain(ask: m.Ask) -> dict[str, Any]:
    """A question's body; what is only known later is left out, or stands for something good."""
    body: dict[str, Any] = {
        "prompt": ask.prompt,
        "client_ids": [_name(each, index) for index, each in enumerate(ask.client_ids)],
        "schema": ask.schema,
        "options": ask.options,
        "approvers": [_name(each, index) for index, each in enumerate(ask.approvers)] or None,
        "policy": ask.policy,
        "forbid_self": ask.forbid_self,
        "expires_in": ask.expires_in,
        "reminders": ask.reminders or None,
        "metadata": ask.metadata or None,
    }
    if ask.has_default and not any(references.references(ask.default)):
        refers = any(_REFERRING in each for each in ask.options or ())
        body |= {} if refers else {"default": ask.default}
    return body


def _name(text: str, index: int) -> str:
    return f"reference-{index}" if _REFERRING in text else text
